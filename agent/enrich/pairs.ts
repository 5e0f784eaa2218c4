// How often who calls whom, counted by all data threads together under "mesh_pair_count:<src>:<dst>", with what pairs and namespaces may
// call a minute. Bounded; pure: time comes in.
//
//   own words of a slot: | window ends, s | calls in it | minute | calls in the minute |
import { bucketKey, bucketRate, SharedBuckets } from "../base/shared-buckets.ts";
import { SharedTable } from "../base/shared-table.ts";
import { addText, seededHash, type TextHash } from "../base/text-hash.ts";

export interface PairMemory {
  readonly pairs: SharedArrayBuffer;
  readonly namespaces: SharedArrayBuffer;
  readonly buckets: SharedArrayBuffer;
  readonly seed: readonly [number, number];
}
const words = 4;
const pairSlots = 16_384;
const namespaceSlots = 2_048;
const bucketSlots = 8_192;
const minuteMs = 60_000;

export const createPairMemory = (seed: readonly [number, number]): PairMemory => ({
  pairs: new SharedArrayBuffer(SharedTable.bytes(pairSlots, words)),
  namespaces: new SharedArrayBuffer(SharedTable.bytes(namespaceSlots, words)),
  buckets: new SharedArrayBuffer(SharedBuckets.bytesFor(bucketSlots)),
  seed,
});

/** Where something is counted: its key as a hash. */
export type CountKey = TextHash;

export class PairCounts {
  readonly #pairs: SharedTable;
  readonly #namespaces: SharedTable;
  readonly #buckets: SharedBuckets;
  readonly #seed: readonly [number, number];
  #nowMs = 0;

  constructor(memory: PairMemory) {
    this.#pairs = new SharedTable(memory.pairs, pairSlots, words);
    this.#namespaces = new SharedTable(memory.namespaces, namespaceSlots, words);
    this.#buckets = new SharedBuckets(bucketSlots, memory.buckets);
    this.#seed = memory.seed;
  }

  pairKey(source: string, destination: string): CountKey {
    return this.#key(`mesh_pair_count:${source}:${destination}`);
  }
  namespaceKey(namespace: string): CountKey {
    return this.#key(`mesh_namespace_count:${namespace}`);
  }

  /** Counts a call of a pair. How many there were in its window, this one included; undefined: no room. */
  countPair(key: CountKey, nowMs: number, windowS: number): number | undefined {
    return this.#count(this.#pairs, key, nowMs, windowS);
  }
  countNamespace(key: CountKey, nowMs: number): number | undefined {
    return this.#count(this.#namespaces, key, nowMs, 60);
  }

  /**
   * Takes one of `perMinute` calls: "limit" spreads them over time, "block" refuses the rest of a minute in which there were too many.
   * Gives seconds until there may be one again; 0: let through.
   */
  take(key: CountKey, nowMs: number, perMinute: number, action: "limit" | "block"): number {
    if (action === "block")
      return this.#minuteCalls(key) > perMinute ? Math.ceil((minuteMs - (nowMs % minuteMs)) / 1000) : 0;
    const place = this.#buckets.find(bucketKey(key), nowMs);
    if (place < 0 || this.#buckets.take(place, bucketRate(perMinute / 60, perMinute), 1, nowMs)) return 0;
    return Math.max(1, Math.ceil(this.#buckets.retryMs / 1000));
  }

  #minuteCalls(key: CountKey): number {
    for (const table of [this.#pairs, this.#namespaces]) {
      const at = table.find(key.high, key.low);
      if (at >= 0) return table.words[at + 3] as number;
    }
    return 0;
  }

  #count(table: SharedTable, key: CountKey, nowMs: number, windowS: number): number | undefined {
    this.#nowMs = nowMs;
    const at = table.locate(key.high, key.low, table === this.#pairs ? this.#isPairOver : this.#isNamespaceOver);
    if (at < 0) return undefined;
    const { words: all } = table;
    const nowS = Math.floor(nowMs / 1000);
    const ends = Atomics.load(all, at);
    // Whoever sees the window's end first begins the next.
    if (ends <= nowS && Atomics.compareExchange(all, at, ends, nowS + windowS) === ends) Atomics.store(all, at + 1, 0);
    const minute = Math.floor(nowMs / minuteMs) + 1;
    const last = Atomics.load(all, at + 2);
    if (last !== minute && Atomics.compareExchange(all, at + 2, last, minute) === last) Atomics.store(all, at + 3, 0);
    Atomics.add(all, at + 3, 1);
    return Atomics.add(all, at + 1, 1) + 1;
  }

  readonly #isPairOver = (at: number): boolean => isOver(this.#pairs, at, this.#nowMs);
  readonly #isNamespaceOver = (at: number): boolean => isOver(this.#namespaces, at, this.#nowMs);

  #key(text: string): CountKey {
    const hash = seededHash(this.#seed[0], this.#seed[1]);
    addText(hash, text);
    return hash;
  }
}

const isOver = (table: SharedTable, at: number, nowMs: number): boolean =>
  (table.words[at] as number) <= Math.floor(nowMs / 1000);
