// The discovery stream: delta xDS to the controller. Subscribes to everything, resumes by version, acknowledges what it applied
// and refuses single resources by name while the last good one stays in force. Comes back by itself, with growing pauses.
import type { ClientDuplexStream } from "@grpc/grpc-js";
import { DeltaDiscoveryRequest, type DeltaDiscoveryResponse } from "../api/discovery.gen.ts";
import { formatProblems } from "../api/fields.ts";
import {
  codecs,
  decodeResource,
  kindOfTypeUrl,
  type MeshResource,
  type ResourceKind,
  resourceKinds,
  resourceName,
} from "../api/resources.ts";
import { type Backoff, createBackoff } from "../base/backoff.ts";
import type { Clock } from "../base/clock.ts";
import type { Logger } from "../base/log.ts";
import type { Random } from "../base/random.ts";
import type { Result } from "../base/result.ts";
import type { MeshUpdate } from "../state/mesh-state.ts";

export type DiscoveryStream = ClientDuplexStream<DeltaDiscoveryRequest, DeltaDiscoveryResponse>;

export interface OpenedStream {
  readonly stream: DiscoveryStream;
  readonly close: () => void;
  /** Resolves with the reason if no connection comes about in time; a stream alone would wait for ever. */
  readonly unreachable: Promise<string>;
}
export interface SourceParts {
  readonly node: string;
  /** Opens a stream over a connection of its own, or says why it cannot. `close` ends both. */
  readonly open: () => Result<OpenedStream, string>;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly backoff: { readonly baseMs: number; readonly maxMs: number };
  /** Versions of everything that is known, by kind and name; kept up to date here. */
  readonly versions: Versions;
  readonly apply: (update: MeshUpdate) => void;
  readonly connected: (connected: boolean) => void;
  /** An attempt has ended, connected or not. */
  readonly lost: () => void;
  /** Called for every message from the controller, after it was applied; with the kind when that is now whole. */
  readonly heard: (kind: ResourceKind | undefined) => void;
  /** The set of resources that were refused changed. */
  readonly refusedChanged: (refused: readonly Refused[]) => void;
}
export type Versions = ReadonlyMap<ResourceKind, Map<string, string>>;
export interface Refused {
  readonly typeUrl: string;
  readonly name: string;
  readonly reason: string;
}

/** gRPC's code for a message whose content was wrong (INVALID_ARGUMENT). */
const invalidArgument = 3;

export const newVersions = (): Versions => new Map(resourceKinds.map((kind) => [kind, new Map<string, string>()]));

export class ControllerSource {
  readonly #parts: SourceParts;
  readonly #backoff: Backoff;
  readonly #refused = new Map<string, Refused>();
  #attempts = 0;
  #problem = "not connected yet";
  #isConnected = false;

  constructor(parts: SourceParts) {
    this.#parts = parts;
    this.#backoff = createBackoff(parts.backoff, parts.random);
  }

  get status() {
    return {
      connected: this.#isConnected,
      attempts: this.#attempts,
      problem: this.#isConnected ? "" : this.#problem,
      refused: [...this.#refused.values()],
    };
  }

  /** Connects again and again until the signal aborts. */
  async run(signal: AbortSignal): Promise<void> {
    const { clock, log } = this.#parts;
    while (!signal.aborted) {
      this.#attempts++;
      this.#problem = await this.#once(signal);
      if (signal.aborted) return;
      this.#parts.lost();
      const pauseMs = this.#backoff.nextMs();
      if (this.#backoff.attempts <= 2 || this.#backoff.attempts % 50 === 0)
        log.warn("controller_lost", { message: this.#problem, retryMs: Math.round(pauseMs) });
      await clock.sleep(pauseMs, signal);
    }
  }

  /** One connection from subscription to end; returns why it ended. */
  #once(signal: AbortSignal): Promise<string> {
    const opened = this.#parts.open();
    if (!opened.ok) return Promise.resolve(opened.error);
    const { stream, close, unreachable } = opened.value;
    return new Promise((resolve) => {
      let hasEnded = false;
      const end = (why: string): void => {
        if (hasEnded) return;
        hasEnded = true;
        signal.removeEventListener("abort", stop);
        stream.removeAllListeners("data");
        stream.on("error", () => {}); // what comes after the end says nothing new
        close();
        this.#setConnected(false);
        resolve(why);
      };
      const stop = (): void => end("stopped");
      signal.addEventListener("abort", stop, { once: true });
      void unreachable.then(end);
      stream.once("error", (error: Error) => end(error.message));
      stream.once("end", () => end("the controller ended the stream"));
      stream.on("data", (response: DeltaDiscoveryResponse) => {
        this.#setConnected(true);
        const answer = this.#receive(response);
        // A large state comes in parts; only the last one names the version of the whole.
        this.#parts.heard(response.systemVersionInfo === "" ? undefined : kindOfTypeUrl(response.typeUrl));
        stream.write(answer);
      });
      for (const kind of resourceKinds) stream.write(this.#subscription(kind));
    });
  }

  #subscription(kind: ResourceKind): DeltaDiscoveryRequest {
    return DeltaDiscoveryRequest.fromPartial({
      node: { id: this.#parts.node },
      typeUrl: codecs[kind].typeUrl,
      resourceNamesSubscribe: ["*"],
      // In an order that all agents have: a controller compares equal states once.
      initialResourceVersions: Object.fromEntries(
        [...(this.#parts.versions.get(kind) ?? [])].sort(([a], [b]) => (a < b ? -1 : 1)),
      ),
    });
  }

  /** Applies what is good and answers: ACK, or NACK with the name and the fault of each resource that is not. */
  #receive(response: DeltaDiscoveryResponse): DeltaDiscoveryRequest {
    const { typeUrl, nonce } = response;
    const kind = kindOfTypeUrl(typeUrl);
    const reply = { typeUrl, responseNonce: nonce };
    if (kind === undefined) {
      const message = `${typeUrl}: this agent does not know the type`;
      return DeltaDiscoveryRequest.fromPartial({ ...reply, errorDetail: { code: invalidArgument, message } });
    }
    const versions = this.#parts.versions.get(kind) ?? new Map<string, string>();
    const changed: MeshResource[] = [];
    const faults: string[] = [];
    const refusedBefore = this.#refused.size;
    for (const { name, version, resource } of response.resources) {
      const decoded = decodeResource(kind, resource?.value ?? new Uint8Array());
      const key = `${kind}/${name}`;
      const fault = decoded.ok ? misnamed(name, decoded.value) : formatProblems(decoded.error);
      if (decoded.ok && fault === undefined) {
        changed.push(decoded.value);
        // The name inside the record, not the message's copy of it.
        versions.set(resourceName(decoded.value), version);
        this.#refused.delete(key);
      } else {
        faults.push(`${name}: ${fault}`);
        this.#refused.set(key, { typeUrl, name, reason: fault ?? "" });
        this.#parts.log.warn("resource_refused", { typeUrl, name, reason: fault });
      }
    }
    const removed = response.removedResources.map((name) => ({ kind, name }));
    for (const { name } of removed) {
      versions.delete(name);
      this.#refused.delete(`${kind}/${name}`);
    }
    if (changed.length + removed.length > 0) this.#parts.apply({ changed, removed });
    if (faults.length > 0 || this.#refused.size !== refusedBefore)
      this.#parts.refusedChanged([...this.#refused.values()]);
    if (faults.length === 0) return DeltaDiscoveryRequest.fromPartial(reply);
    const errorDetail = { code: invalidArgument, message: faults.join("\n") };
    return DeltaDiscoveryRequest.fromPartial({ ...reply, errorDetail });
  }

  #setConnected(connected: boolean): void {
    if (connected) this.#backoff.reset();
    if (this.#isConnected === connected) return;
    this.#isConnected = connected;
    this.#parts.log.info(connected ? "controller_connected" : "controller_disconnected");
    this.#parts.connected(connected);
  }
}

const misnamed = (name: string, resource: MeshResource): string | undefined =>
  resourceName(resource) === name ? undefined : `is named ${resourceName(resource)} inside`;
