// Circuit breakers, one per slot: closed -> open after failures in a row -> half-open after a time that doubles -> one probe decides.
// State lies in memory that data threads may share (DP-25); the clock is an argument. Pure otherwise.
import type { Breaker } from "../../api/http-policy.ts";
import { type EndpointStats, gateBits } from "../balance/endpoint-stats.ts";

export const breakerStates = ["closed", "open", "half_open", "probing"] as const;
export type BreakerState = (typeof breakerStates)[number];
const closed = 0;
const open = 1;
const halfOpen = 2;
const probing = 3;
/** For the moment in which its end is written down. */
const opening = 4;
/** Index of a transition's counter. */
export const transitions = { opened: 0, halfOpened: 1, probed: 2, closed: 3, reopened: 4 } as const;

export class Breakers {
  readonly #stats: EndpointStats;
  readonly #states: Int32Array;
  readonly #failures: Int32Array;
  readonly #opens: Int32Array;
  /** Monotonic ms at which the state ends by itself. */
  readonly #until: Float64Array;
  /** By transitions, over all slots. */
  readonly counts: Int32Array;

  /** `memory`: of bytesFor(capacity), zeroed, shared by all threads that share `stats`. */
  constructor(stats: EndpointStats, memory: ArrayBufferLike = new ArrayBuffer(Breakers.bytesFor(stats.capacity))) {
    const n = stats.capacity;
    this.#stats = stats;
    this.#until = new Float64Array(memory, 0, n);
    this.#states = new Int32Array(memory, n * 8, n);
    this.#failures = new Int32Array(memory, n * 12, n);
    this.#opens = new Int32Array(memory, n * 16, n);
    this.counts = new Int32Array(memory, n * 20, 5);
  }
  static bytesFor(capacity: number): number {
    return capacity * 20 + 20;
  }

  state(slot: number): BreakerState {
    return breakerStates[Atomics.load(this.#states, slot)] ?? "open";
  }
  /** Forgets all of a slot. */
  reset(slot: number): void {
    this.#failures[slot] = 0;
    this.#opens[slot] = 0;
    Atomics.store(this.#states, slot, closed);
    this.#stats.open(slot, gateBits.breaker);
  }

  /**
   * Called for the endpoint that was picked, before the request goes out: whether it may. In half-open one caller of all threads may: it
   * carries the probe, and the gate is closed behind it. A caller that may not picks again.
   */
  admit(slot: number, policy: Breaker, nowMs: number): boolean {
    const state = Atomics.load(this.#states, slot);
    if (state === closed) return true;
    if (state !== halfOpen || Atomics.compareExchange(this.#states, slot, halfOpen, probing) !== halfOpen) return false;
    // Should the probe never report (its thread died), another is let through after this time.
    this.#until[slot] = nowMs + this.#openMs(slot, policy);
    this.#stats.close(slot, gateBits.breaker);
    this.#count(transitions.probed);
    return true;
  }

  /** The outcome of a request that was admitted; those from before the breaker opened change nothing. */
  report(slot: number, isFailure: boolean, policy: Breaker, nowMs: number): void {
    const state = Atomics.load(this.#states, slot);
    if (state === closed) {
      if (!isFailure) {
        if (this.#failures[slot] !== 0) Atomics.store(this.#failures, slot, 0);
      } else if (Atomics.add(this.#failures, slot, 1) + 1 >= policy.failures) this.#open(slot, closed, policy, nowMs);
    } else if (state === probing) {
      if (isFailure) this.#open(slot, probing, policy, nowMs);
      else if (Atomics.compareExchange(this.#states, slot, probing, closed) === probing) {
        this.reset(slot);
        this.#count(transitions.closed);
      }
    }
  }

  /** Called every so often (50 ms do): breakers whose time is over become half-open, and may be picked for a probe. */
  wake(slots: Iterable<number>, nowMs: number): void {
    for (const slot of slots) {
      const state = Atomics.load(this.#states, slot);
      if ((state !== open && state !== probing) || nowMs < (this.#until[slot] as number)) continue;
      if (Atomics.compareExchange(this.#states, slot, state, halfOpen) !== state) continue;
      this.#stats.open(slot, gateBits.breaker);
      this.#count(transitions.halfOpened);
    }
  }

  #open(slot: number, from: number, policy: Breaker, nowMs: number): void {
    // No thread may see it open while an old time stands there, nor may two write one.
    if (Atomics.compareExchange(this.#states, slot, from, opening) !== from) return;
    Atomics.add(this.#opens, slot, 1);
    Atomics.store(this.#failures, slot, 0);
    this.#until[slot] = nowMs + this.#openMs(slot, policy);
    this.#stats.close(slot, gateBits.breaker);
    Atomics.store(this.#states, slot, open);
    this.#count(from === closed ? transitions.opened : transitions.reopened);
  }
  /** Doubles with each time it opens without having closed between. */
  #openMs(slot: number, { openMs, maxOpenMs }: Breaker): number {
    return Math.min(
      openMs * 2 ** Math.min(30, Math.max(0, (this.#opens[slot] as number) - 1)),
      Math.max(openMs, maxOpenMs),
    );
  }
  #count(transition: number): void {
    Atomics.add(this.counts, transition, 1);
  }
}
