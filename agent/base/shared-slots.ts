// Places in shared memory by name: whatever threads keep about one thing, they keep at one place. A place is held by every thread that uses
// it, and is another's only when none does; a thread that dies lets go of all it held.
//
//   lock | row 0: name (2 words) | holders (a bit per thread, 2 words) | generation | row 1 ...
//
// The lock names its thread, so that one that died with it can be told. Rows stay whole whenever that happens: one that nobody holds is
// free, whatever name stands in it.
import { addText, seededHash, type TextHash } from "./text-hash.ts";

/** Numbers of threads are below it. */
export const mostThreads = 64;
const words = 5;
/** Rows in which a name may stand. */
const reach = 64;
const waitMs = 1;

export class SharedSlots {
  readonly capacity: number;
  readonly #words: Int32Array;
  readonly #thread: number;
  /** Names that this thread holds, and how often. */
  readonly #held = new Map<string, { readonly slot: number; holders: number }>();
  readonly #isNew: (slot: number) => void;

  /**
   * `memory`: shared, of bytesFor(capacity), zeroed; the same for all threads. `capacity`: a power of two. `isNew`: called, before
   * anyone uses it, for a place that nobody held: nothing is known there.
   */
  constructor(capacity: number, memory: SharedArrayBuffer, thread: number, isNew: (slot: number) => void) {
    if (capacity < reach || !Number.isInteger(Math.log2(capacity)))
      throw new RangeError(`${capacity} places: must be a power of two, at least ${reach}`);
    this.capacity = capacity;
    this.#words = new Int32Array(memory);
    this.#thread = thread;
    this.#isNew = isNew;
  }
  static bytesFor(capacity: number): number {
    return (1 + capacity * words) * 4;
  }

  /** The name's place, held once more by this thread; -1: there is no room. */
  take(name: string): number {
    const held = this.#held.get(name);
    if (held !== undefined) {
      held.holders++;
      return held.slot;
    }
    this.#lock();
    let slot: number;
    try {
      slot = this.#claim(name);
    } finally {
      this.#unlock();
    }
    if (slot >= 0) this.#held.set(name, { slot, holders: 1 });
    return slot;
  }

  /** Once for each `take` that gave a place. */
  give(name: string): void {
    const held = this.#held.get(name);
    if (held === undefined || --held.holders > 0) return;
    this.#held.delete(name);
    Atomics.and(this.#words, holdersAt(held.slot, this.#thread), ~bitOf(this.#thread));
  }

  /** Grows whenever a place becomes another thing's. */
  generation(slot: number): number {
    return Atomics.load(this.#words, rowAt(slot) + 4);
  }

  /** Called by the control thread when a thread has ended, before another takes its number. */
  static forget(memory: SharedArrayBuffer, thread: number): void {
    const all = new Int32Array(memory);
    for (let at = 1; at < all.length; at += words) Atomics.and(all, at + 2 + (thread >> 5), ~bitOf(thread));
    // The lock last: until then nobody looks for a place.
    if (Atomics.compareExchange(all, 0, thread + 1, 0) === thread + 1) Atomics.notify(all, 0);
  }

  #claim(name: string): number {
    const { high, low } = hashOf(name);
    let free = -1;
    for (let i = 0; i < reach; i++) {
      const slot = ((low >>> 0) + i) & (this.capacity - 1);
      const row = rowAt(slot);
      const isHeld = Atomics.load(this.#words, row + 2) !== 0 || Atomics.load(this.#words, row + 3) !== 0;
      if (isHeld && this.#words[row] === high && this.#words[row + 1] === low) {
        Atomics.or(this.#words, holdersAt(slot, this.#thread), bitOf(this.#thread));
        return slot;
      }
      if (!isHeld && free < 0) free = slot;
    }
    if (free < 0) return -1;
    const row = rowAt(free);
    this.#words[row] = high;
    this.#words[row + 1] = low;
    Atomics.add(this.#words, row + 4, 1);
    this.#isNew(free);
    Atomics.or(this.#words, holdersAt(free, this.#thread), bitOf(this.#thread));
    return free;
  }

  #lock(): void {
    for (;;) {
      const owner = Atomics.compareExchange(this.#words, 0, 0, this.#thread + 1);
      if (owner === 0) return;
      Atomics.wait(this.#words, 0, owner, waitMs);
    }
  }
  #unlock(): void {
    Atomics.store(this.#words, 0, 0);
    Atomics.notify(this.#words, 0, 1);
  }
}

const rowAt = (slot: number): number => 1 + slot * words;
const holdersAt = (slot: number, thread: number): number => rowAt(slot) + 2 + (thread >> 5);
const bitOf = (thread: number): number => 1 << (thread & 31);

/** 64 bits, by which names are told apart: the same in all threads. */
function hashOf(name: string): TextHash {
  const hash = seededHash(0, 0);
  addText(hash, name);
  return hash;
}
