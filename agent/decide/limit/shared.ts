// The memory of all rate limits of a node, which its data threads share: buckets by key, buckets for keys that found no room, and what
// pods have at once.
import { SharedTable } from "../../base/shared-table.ts";
import { seededHash, type TextHash } from "../../base/text-hash.ts";
import { baselineWords } from "./baseline.ts";
import { isFull } from "./bucket.ts";
import { concurrencyWords, forgetThread, requestsUnderWay } from "./concurrency.ts";

/** What the control thread makes once and gives to every data thread. */
export interface LimitMemory {
  readonly buckets: SharedArrayBuffer;
  readonly overflow: SharedArrayBuffer;
  readonly pods: SharedArrayBuffer;
  readonly keys: number;
  readonly seed: readonly [number, number];
}

/** Own words of a bucket's slot: | bucket (64 bits) | baseline ... | kept until, s | (free) |. */
const bucketWords = 2 + baselineWords + 2;
const keptUntil = 2 + baselineWords;
const overflowBuckets = 256;
const podSlots = 512;

/** @param keys how many buckets there are at most */
export const createLimitMemory = (keys: number, seed: readonly [number, number]): LimitMemory => ({
  buckets: new SharedArrayBuffer(SharedTable.bytes(keys, bucketWords)),
  overflow: new SharedArrayBuffer(overflowBuckets * 8),
  pods: new SharedArrayBuffer(SharedTable.bytes(podSlots, concurrencyWords)),
  keys,
  seed,
});

export class SharedLimits {
  readonly buckets: SharedTable;
  /** Of limits whose key found no room, by the limit's hash. */
  readonly overflow: BigInt64Array;
  readonly pods: SharedTable;
  readonly thread: number;
  readonly #seed: readonly [number, number];
  #nowNs = 0;

  /** `thread`: the number of the one that uses it; what a dead thread of that number had under way is forgotten. */
  constructor(memory: LimitMemory, thread: number) {
    this.buckets = new SharedTable(memory.buckets, memory.keys, bucketWords);
    this.overflow = new BigInt64Array(memory.overflow);
    this.pods = new SharedTable(memory.pods, podSlots, concurrencyWords);
    this.thread = thread;
    this.#seed = memory.seed;
    this.pods.each((at) => forgetThread(this.pods.words, at, thread));
  }

  startHash(): TextHash {
    return seededHash(this.#seed[0], this.#seed[1]);
  }

  /** First word of a key's slot: its bucket is `longs[at / 2]`, its baseline begins at `at + 2`. -1: no room. */
  bucket(hash: TextHash, nowNs: number): number {
    this.#nowNs = nowNs;
    return this.buckets.locate(hash.high, hash.low, this.#isForgettable);
  }
  /** Index in `overflow`. */
  overflowOf(hash: TextHash): number {
    return hash.low & (overflowBuckets - 1);
  }
  /** Slot of a pod; -1: no room, its requests are not limited. */
  pod(hash: TextHash): number {
    return this.pods.locate(hash.high, hash.low, this.#isIdle);
  }

  /** Of a key of which something was learned: it keeps its place so long although its bucket is full. */
  keep(at: number, untilMs: number): void {
    this.buckets.words[at + keptUntil] = Math.ceil(untilMs / 1000);
  }

  readonly #isForgettable = (at: number): boolean =>
    isFull(this.buckets.longs, at / 2, this.#nowNs) &&
    (this.buckets.words[at + keptUntil] as number) * 1e9 <= this.#nowNs;
  readonly #isIdle = (at: number): boolean => requestsUnderWay(this.pods.words, at) === 0;
}
