// Gives out places in EndpointStats by name: one name has one place for as long as somebody holds it.
import type { EndpointStats } from "./endpoint-stats.ts";

export interface SlotBook {
  /** -1: all are taken. `decayMs`: for a slot that is new. */
  take(name: string, decayMs: number): number;
  /** Once for each take. */
  give(name: string): void;
}

export class Slots implements SlotBook {
  readonly #stats: EndpointStats;
  readonly #held = new Map<string, { readonly slot: number; holders: number }>();
  readonly #free: number[] = [];
  #next = 0;

  constructor(stats: EndpointStats) {
    this.#stats = stats;
  }

  take(name: string, decayMs: number): number {
    const held = this.#held.get(name);
    if (held !== undefined) {
      held.holders++;
      return held.slot;
    }
    const slot = this.#free.pop() ?? (this.#next < this.#stats.capacity ? this.#next++ : -1);
    if (slot < 0) return -1;
    this.#stats.reset(slot, decayMs);
    this.#held.set(name, { slot, holders: 1 });
    return slot;
  }

  give(name: string): void {
    const held = this.#held.get(name);
    if (held === undefined || --held.holders > 0) return;
    this.#held.delete(name);
    this.#free.push(held.slot);
  }
}
