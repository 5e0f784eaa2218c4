// The clients' connections that a data thread has, so that they can be asked to end: all of them when the agent goes, those to a pod when
// the pod goes. To end means to finish what is under way and to say that nothing more is taken (DP-19, DIS-6).
import { type PodName, parseSpiffeId, partsOf, splitPair } from "./api/names.ts";
import type { Standing } from "./forward/pools.ts";
import type { Replica } from "./replica.ts";
import type { HandedSocket } from "./threads.ts";

/** One connection, whatever is spoken on it. `drain` may be called more than once. */
export interface Drained {
  drain(): void;
}
export type HandedFacts = Pick<HandedSocket, "direction" | "pod" | "original">;

export interface HandedParts {
  readonly replica: Replica;
  /** All are asked to end, and none is left. More may come, and then it is called again. */
  readonly empty: () => void;
}

export class HandedConnections {
  readonly #parts: HandedParts;
  readonly #open = new Map<Drained, HandedFacts>();
  #waiting = 0;
  #isDraining = false;

  constructor(parts: HandedParts) {
    this.#parts = parts;
  }

  get size(): number {
    return this.#open.size + this.#waiting;
  }
  get isDraining(): boolean {
    return this.#isDraining;
  }

  /** One is here that begins later: `beginsNow` tells when, right before its `add`. Until then this is not empty. */
  willBegin(): void {
    this.#waiting++;
  }
  beginsNow(): void {
    this.#waiting--;
  }

  /** One that begins when all are to end, or whose server is going, is asked at once. */
  add(connection: Drained, facts: HandedFacts): void {
    this.#open.set(connection, facts);
    if (this.#isDraining || this.#isLeaving(facts)) connection.drain();
  }

  ended(connection: Drained): void {
    if (this.#open.delete(connection) && this.#isDraining && this.size === 0) this.#parts.empty();
  }

  drain(): void {
    this.#isDraining = true;
    for (const connection of this.#open.keys()) connection.drain();
    if (this.size === 0) this.#parts.empty();
  }

  /** What is known of workloads has changed. */
  review(): void {
    if (this.#isDraining) return;
    for (const [connection, facts] of this.#open) if (this.#isLeaving(facts)) connection.drain();
  }

  /**
   * Whether the one server that the connection leads to is going. A connection to a service outlives its endpoints: each of its requests
   * is sent to one that stays.
   */
  #isLeaving({ direction, pod, original }: HandedFacts): boolean {
    const { replica } = this.#parts;
    if (direction === "outbound") return replica.state.workloads.byAddress(original.ip)?.draining === true;
    const local = replica.byName(pod as PodName);
    // Enrolment may have let go of it before the controller said so.
    if (local === undefined || local.workload.draining) return true;
    return replica.state.workloads.byUid(local.workload.uid)?.draining === true;
  }
}

/**
 * Whose share of the thread a connection uses: its client's namespace, proven by identity; clients without one share what is theirs per
 * namespace of servers.
 */
export function tenantOf({ direction, pod, identity }: Pick<HandedSocket, "direction" | "pod" | "identity">): string {
  const [namespace] = splitPair(pod as PodName);
  if (direction === "outbound") return namespace;
  const parsed = typeof identity === "string" ? parseSpiffeId(identity) : undefined;
  const client = parsed?.ok === true ? partsOf(parsed.value) : undefined;
  return client?.kind === "workload" ? client.namespace : `unidentified>${namespace}`;
}

/** For pools: whether an endpoint's workload takes requests. */
export function standingOf({ state }: Replica, ip: string): Standing {
  const workload = state.workloads.byAddress(ip);
  if (workload === undefined) return "unknown";
  return workload.draining || !(workload.ready || workload.nodeSilent) ? "leaves" : "serves";
}
