// A process that plays many agents toward the controller: real gRPC streams over TLS with a node's credential, every type subscribed to, every
// response acknowledged, back again after an end as agents come back. It keeps versions, not records, and says when all of its agents have seen what it was
// told to expect. Driven by messages of the process that forked it.
import type { SecureContext } from "node:tls";
import { codecs, resourceKinds } from "../../../agent/api/resources.ts";
import { createBackoff } from "../../../agent/base/backoff.ts";
import { systemRandom } from "../../../agent/base/random.ts";
import { joinNode } from "../../kit/join-node.ts";
import { Had } from "./had.ts";
import {
  acknowledging,
  type Entry,
  type Heard,
  openStream,
  type Stream,
  secureContext,
  subscribing,
} from "./stream.ts";

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

const { typeUrl: workloadUrl } = codecs.Workload;
const typeUrls = resourceKinds.map((kind) => codecs[kind].typeUrl);

const tell = (message: FromAgents): void => void process.send?.(message);
const expected = new Map<string, Set<PlayedAgent>>();
let agents: readonly PlayedAgent[] = [];
let awaitsState = false;
let bytes = 0;
let responses = 0;

/** Whether a record says ready, once for all agents that hear the same. */
const readiness = new WeakMap<Entry, "ready" | "unready">();
function stateOf(entry: Entry): "ready" | "unready" {
  let state = readiness.get(entry);
  if (state === undefined) {
    const decoded = codecs.Workload.decode(entry.value);
    state = decoded.ok && decoded.value.ready && !decoded.value.draining ? "ready" : "unready";
    readiness.set(entry, state);
  }
  return state;
}
/** What agents say first of a type: those that have the same say the same. */
const firsts = new Map<string, { readonly mark: string; readonly message: Uint8Array }>();
function firstOf(typeUrl: string, had: Had): Uint8Array {
  const same = firsts.get(typeUrl);
  if (same?.mark === had.mark) return same.message;
  const message = subscribing(typeUrl, had.versions());
  firsts.set(typeUrl, { mark: had.mark, message });
  return message;
}

class PlayedAgent {
  readonly #context: SecureContext;
  readonly #addresses: readonly string[];
  readonly #had = new Map(typeUrls.map((typeUrl) => [typeUrl, new Had()]));
  readonly #backoff = createBackoff({ baseMs: 100, maxMs: 1_000 }, systemRandom);
  readonly #whole = new Set<string>();
  #attempts = 0;

  constructor(context: SecureContext, addresses: readonly string[]) {
    this.#context = context;
    this.#addresses = addresses;
  }
  get isWhole(): boolean {
    return this.#whole.size === typeUrls.length;
  }
  forgetState(): void {
    this.#whole.clear();
  }

  connect(): void {
    const address = this.#addresses[this.#attempts++ % this.#addresses.length] ?? "";
    const stream: Stream = openStream(
      address,
      this.#context,
      (response) => this.#take(stream, response),
      () => setTimeout(() => this.connect(), this.#backoff.nextMs()),
    );
    for (const [typeUrl, had] of this.#had) stream.write(firstOf(typeUrl, had));
  }

  #take(stream: Stream, response: Heard): void {
    this.#backoff.reset();
    bytes += response.bytes;
    responses += 1;
    const had = this.#had.get(response.typeUrl);
    for (const entry of response.entries) {
      had?.set(entry.name, entry.version);
      if (response.typeUrl === workloadUrl && expected.size > 0) this.#saw(stateKey(entry.name, stateOf(entry)));
    }
    for (const name of response.removed) {
      had?.delete(name);
      this.#saw(stateKey(name, "removed"));
    }
    stream.write(acknowledging(response));
    if (response.systemVersion === "" || this.isWhole) return;
    this.#whole.add(response.typeUrl);
    if (awaitsState && agents.every((agent) => agent.isWhole)) {
      awaitsState = false;
      tell({ say: "synced", atMs: sharedNowMs(), lastResources: this.#had.get(workloadUrl)?.size ?? 0 });
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
    made.push(new PlayedAgent(secureContext(rootsPem, credential), addresses));
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
