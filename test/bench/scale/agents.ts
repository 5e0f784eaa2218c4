// A process that plays many agents toward the controller: real gRPC streams over TLS with a node's credential, every type subscribed to, every
// response acknowledged, back again after an end as agents come back. It keeps versions, not records, and says when all of its agents have seen what it was
// told to expect. Driven by messages of the process that forked it.
import { type ClientDuplexStream, credentials, makeGenericClientConstructor } from "@grpc/grpc-js";
import {
  AggregatedDiscoveryServiceService,
  DeltaDiscoveryRequest,
  DeltaDiscoveryResponse,
} from "../../../agent/api/discovery.gen.ts";
import { codecs, resourceKinds } from "../../../agent/api/resources.ts";
import { createBackoff } from "../../../agent/base/backoff.ts";
import { systemRandom } from "../../../agent/base/random.ts";
import { joinNode } from "../../kit/join-node.ts";
import type { Credential } from "../../kit/node-agent.ts";

export interface Joining {
  readonly node: string;
  readonly token: string;
}
export type ToAgents =
  | {
      readonly say: "start";
      readonly addresses: readonly string[];
      readonly rootsPem: string;
      readonly agents: readonly Joining[];
    }
  /** `expecting` is said at once, and `seen` once for this key, when every agent has heard of it since. */
  | { readonly say: "expect"; readonly key: string }
  /** `synced` is said once, when every agent has a whole state on a stream that began after now. */
  | { readonly say: "expect state" }
  | { readonly say: "count" };
export type FromAgents =
  | { readonly say: "expecting"; readonly key: string }
  | { readonly say: "seen"; readonly key: string; readonly atMs: number }
  | { readonly say: "synced"; readonly atMs: number; readonly lastResources: number }
  | { readonly say: "counted"; readonly bytes: number; readonly responses: number }
  | { readonly say: "failed"; readonly why: string };

/** Milliseconds of the clock that all processes of a machine share. */
export const sharedNowMs = (): number => Number(process.hrtime.bigint()) / 1e6;
/** What a workload is, as far as the measure tells states apart. */
export const stateKey = (name: string, state: "ready" | "unready" | "removed"): string => `${state} ${name}`;

interface Sized extends DeltaDiscoveryResponse {
  readonly bytes: number;
}
const definition = {
  deltaAggregatedResources: {
    ...AggregatedDiscoveryServiceService.deltaAggregatedResources,
    responseDeserialize: (bytes: Buffer): Sized => ({ ...DeltaDiscoveryResponse.decode(bytes), bytes: bytes.length }),
  },
};
type Stream = ClientDuplexStream<DeltaDiscoveryRequest, Sized>;
const Client = makeGenericClientConstructor(definition, "discovery");
const { typeUrl: workloadUrl } = codecs.Workload;
const typeUrls = resourceKinds.map((kind) => codecs[kind].typeUrl);

const tell = (message: FromAgents): void => void process.send?.(message);
const expected = new Map<string, Set<PlayedAgent>>();
/** Whether the record of this version says ready; the same bytes come to every agent. */
const readiness = new Map<string, boolean>();
let agents: readonly PlayedAgent[] = [];
let awaitsState = false;
let bytes = 0;
let responses = 0;

function stateOf(version: string, value: Uint8Array): "ready" | "unready" {
  let ready = readiness.get(version);
  if (ready === undefined) {
    const decoded = codecs.Workload.decode(value);
    ready = decoded.ok && decoded.value.ready && !decoded.value.draining;
    if (readiness.size > 50_000) readiness.clear();
    readiness.set(version, ready);
  }
  return ready ? "ready" : "unready";
}

class PlayedAgent {
  readonly #node: string;
  readonly #credential: Credential;
  readonly #rootsPem: string;
  readonly #addresses: readonly string[];
  readonly #versions = new Map<string, Map<string, string>>(typeUrls.map((typeUrl) => [typeUrl, new Map()]));
  readonly #backoff = createBackoff({ baseMs: 100, maxMs: 1_000 }, systemRandom);
  readonly #whole = new Set<string>();
  #attempts = 0;
  streamBegan = 0;

  constructor(node: string, credential: Credential, rootsPem: string, addresses: readonly string[]) {
    this.#node = node;
    this.#credential = credential;
    this.#rootsPem = rootsPem;
    this.#addresses = addresses;
  }
  get isWhole(): boolean {
    return this.#whole.size === typeUrls.length;
  }
  get node(): string {
    return this.#node;
  }
  forgetState(): void {
    this.#whole.clear();
  }

  connect(): void {
    const { chainPem, keyPem } = this.#credential;
    const address = this.#addresses[this.#attempts++ % this.#addresses.length] ?? "";
    const creds = credentials.createSsl(Buffer.from(this.#rootsPem), Buffer.from(keyPem), Buffer.from(chainPem));
    const client = new Client(address, creds, {
      "grpc.ssl_target_name_override": "fairlead-controller",
      "grpc.use_local_subchannel_pool": 1,
      "grpc.initial_reconnect_backoff_ms": 100,
    });
    const stream = client.deltaAggregatedResources?.() as unknown as Stream;
    let hasEnded = false;
    const end = (): void => {
      if (hasEnded) return;
      hasEnded = true;
      client.close();
      setTimeout(() => this.connect(), this.#backoff.nextMs());
    };
    stream.on("error", end);
    stream.on("end", end);
    stream.on("data", (response: Sized) => this.#take(stream, response));
    for (const typeUrl of typeUrls) {
      const initialResourceVersions = Object.fromEntries(this.#versions.get(typeUrl) ?? []);
      stream.write(DeltaDiscoveryRequest.create({ typeUrl, initialResourceVersions }));
    }
  }

  #take(stream: Stream, response: Sized): void {
    this.#backoff.reset();
    bytes += response.bytes;
    responses += 1;
    const versions = this.#versions.get(response.typeUrl);
    for (const { name, version, resource } of response.resources) {
      versions?.set(name, version);
      if (response.typeUrl === workloadUrl)
        this.#saw(stateKey(name, stateOf(version, resource?.value ?? new Uint8Array())));
    }
    for (const name of response.removedResources) {
      versions?.delete(name);
      this.#saw(stateKey(name, "removed"));
    }
    stream.write(DeltaDiscoveryRequest.create({ typeUrl: response.typeUrl, responseNonce: response.nonce }));
    if (response.systemVersionInfo === "" || this.isWhole) return;
    this.#whole.add(response.typeUrl);
    if (awaitsState && agents.every((agent) => agent.isWhole)) {
      awaitsState = false;
      tell({ say: "synced", atMs: sharedNowMs(), lastResources: this.#versions.get(workloadUrl)?.size ?? 0 });
    }
  }
  #saw(key: string): void {
    const by = expected.get(key);
    if (by === undefined) return;
    by.add(this);
    if (by.size < agents.length) return;
    expected.delete(key);
    tell({ say: "seen", key, atMs: sharedNowMs() });
  }
}

async function start(message: Extract<ToAgents, { say: "start" }>): Promise<void> {
  const { addresses, rootsPem } = message;
  const made: PlayedAgent[] = [];
  for (const { node, token } of message.agents) {
    const credential = await joinNode(addresses[0] ?? "", rootsPem, node, token);
    made.push(new PlayedAgent(node, credential, rootsPem, addresses));
  }
  agents = made;
  awaitsState = true;
  for (const agent of agents) agent.connect();
}

if (process.send !== undefined)
  process.on("message", (message: ToAgents) => {
    if (message.say === "start")
      start(message).catch((error: unknown) =>
        tell({ say: "failed", why: error instanceof Error ? error.message : String(error) }),
      );
    if (message.say === "expect") {
      expected.set(message.key, new Set());
      tell({ say: "expecting", key: message.key });
    }
    if (message.say === "expect state") {
      awaitsState = true;
      for (const agent of agents) agent.forgetState();
    }
    if (message.say === "count") tell({ say: "counted", bytes, responses });
  });
process.on("disconnect", () => process.exit(0));
