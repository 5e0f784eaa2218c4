// A discovery stream of Istio's types: all of a type, or what is asked for by name ("on demand": a workload, a service, or an address of one).
// Each change is answered by comparing what the client has with what it is to have; one response of a type waits for its acknowledgement.
import type { NodeName } from "../../agent/api/names.ts";
import type { Clock } from "../../agent/base/clock.ts";
import type { Logger } from "../../agent/base/log.ts";
import type { DiscoveryRequest } from "./request.ts";
import type { Response, Versioned } from "./response.ts";
import type { TypeSnapshot } from "./snapshot.ts";
import type { DiscoveryCall } from "./stream.ts";

/** Everything of one type, by name, and what a name that may be asked for stands for. */
export interface IstioType {
  readonly resources: TypeSnapshot;
  /** Names of the resources that answer one that was asked for; empty when there is none. */
  resolve(name: string): readonly string[];
  /** Names of what a node's ztunnel is told without asking, whatever else it wants. */
  ofNode(node: NodeName): Iterable<string>;
  /** A resource under the name that was asked for. */
  named(asked: string): Versioned | undefined;
}
export interface IstioSource {
  readonly isReady: boolean;
  readonly generation: number;
  type(typeUrl: string): IstioType | undefined;
  onChange(listener: () => void): () => void;
}
export interface IstioStreamParts {
  readonly node: NodeName;
  readonly call: DiscoveryCall;
  readonly source: IstioSource;
  readonly clock: Clock;
  readonly log: Logger;
  readonly ended: () => void;
}
const maxTypes = 16;
const maxNames = 100_000;
const maxResponseBytes = 1_048_576;
/** Changes of so long are answered together. */
const gatherMs = 20;

interface Subscription {
  isWildcard: boolean;
  readonly names: Set<string>;
  readonly has: Map<string, string>;
  /** Asked for since the last response: answered even if there is nothing. */
  readonly owed: Set<string>;
  pending: string | undefined;
  owesAnswer: boolean;
}

export class IstioStream {
  readonly #parts: IstioStreamParts;
  readonly #subscriptions = new Map<string, Subscription>();
  readonly #stopListening: () => void;
  #cancelPush: (() => void) | undefined;
  #nonce = 0;
  #isOver = false;

  constructor(parts: IstioStreamParts) {
    this.#parts = parts;
    const { call, source, clock } = parts;
    this.#stopListening = source.onChange(() => {
      this.#cancelPush ??= clock.after(gatherMs, () => {
        this.#cancelPush = undefined;
        this.#push();
      });
    });
    call.on("data", (message: DiscoveryRequest) => this.#take(message));
    for (const event of ["end", "error", "cancelled"]) call.on(event, () => this.end());
  }

  end(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#stopListening();
    this.#cancelPush?.();
    this.#parts.call.end();
    this.#parts.ended();
  }

  #take(message: DiscoveryRequest): void {
    const { typeUrl, responseNonce } = message;
    const known = this.#subscriptions.get(typeUrl);
    if (known === undefined && this.#subscriptions.size >= maxTypes) return;
    const subscription = known ?? begin(message);
    this.#subscriptions.set(typeUrl, subscription);
    if (responseNonce !== "" && responseNonce === subscription.pending) subscription.pending = undefined;
    if (message.errorDetail !== undefined)
      this.#parts.log.warn("istio_nack", { type: typeUrl, message: message.errorDetail.message.slice(0, 500) });
    for (const name of message.resourceNamesSubscribe) {
      if (name === "*") {
        subscription.isWildcard = true;
        subscription.owesAnswer = true;
      } else if (subscription.names.size < maxNames) {
        subscription.names.add(name);
        subscription.owed.add(name);
        // Asked for again: it has been lost.
        subscription.has.delete(name);
      }
    }
    for (const name of message.resourceNamesUnsubscribe) {
      if (name === "*") subscription.isWildcard = false;
      else subscription.names.delete(name);
    }
    this.#push();
  }

  #push(): void {
    if (this.#isOver || !this.#parts.source.isReady) return;
    for (const [typeUrl, subscription] of this.#subscriptions) {
      if (subscription.pending !== undefined) continue;
      const response = this.#next(typeUrl, subscription);
      if (response === undefined) continue;
      subscription.pending = response.nonce;
      this.#parts.call.write(response);
    }
  }

  #next(typeUrl: string, subscription: Subscription): Response | undefined {
    const type = this.#parts.source.type(typeUrl);
    const wanted = wantedOf(type, subscription, this.#parts.node);
    const resources: Versioned[] = [];
    const removed: string[] = [];
    let bytes = 0;
    let isWhole = true;
    for (const [name, resource] of wanted) {
      if (subscription.has.get(name) === resource.version) continue;
      if (bytes > 0 && bytes + resource.entry.length > maxResponseBytes) {
        isWhole = false;
        break;
      }
      bytes += resource.entry.length;
      resources.push(resource);
      subscription.has.set(name, resource.version);
    }
    if (isWhole) {
      for (const name of [...subscription.has.keys()])
        if (!wanted.has(name)) {
          subscription.has.delete(name);
          removed.push(name);
        }
      // Whoever asked for what there is not is told so, and waits no longer.
      for (const name of subscription.owed) if (!wanted.has(name)) removed.push(name);
      subscription.owed.clear();
    }
    if (resources.length === 0 && removed.length === 0 && !subscription.owesAnswer) return undefined;
    if (isWhole) subscription.owesAnswer = false;
    return {
      typeUrl,
      nonce: String(++this.#nonce),
      resources,
      removed: [...new Set(removed)],
      systemVersion: isWhole ? String(this.#parts.source.generation) : "",
    };
  }
}

function begin(message: DiscoveryRequest): Subscription {
  // Nothing named at first means all (xDS, "wildcard").
  const isWildcard = message.resourceNamesSubscribe.length === 0;
  const has = new Map<string, string>();
  message.initial.forEach((name, version) => {
    if (has.size < maxNames) has.set(name, version);
  });
  return {
    isWildcard,
    // A ztunnel on demand that comes back does not ask again for what it says it has, but relies on being told of it.
    names: new Set(isWildcard ? [] : has.keys()),
    has,
    owed: new Set(),
    pending: undefined,
    owesAnswer: true,
  };
}

function wantedOf(
  type: IstioType | undefined,
  { isWildcard, names }: Subscription,
  node: NodeName,
): ReadonlyMap<string, Versioned> {
  const wanted = new Map<string, Versioned>();
  if (type === undefined) return wanted;
  const add = (name: string): void => {
    const resource = type.resources.get(name);
    if (resource !== undefined) wanted.set(name, resource);
  };
  for (const name of isWildcard ? type.resources.names() : type.ofNode(node)) add(name);
  for (const name of names) {
    const own = type.named(name);
    if (own !== undefined) wanted.set(name, own);
    for (const other of type.resolve(name)) add(other);
  }
  return wanted;
}
