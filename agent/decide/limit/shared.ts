// The memory of all rate limits of a node, which its data threads share: buckets by key, buckets for keys that found no room, what is
// usual for a key, and what pods have at once.
import { SharedBuckets } from "../../base/shared-buckets.ts";
import { SharedTable } from "../../base/shared-table.ts";
import { seededHash, type TextHash } from "../../base/text-hash.ts";
import { baselineWords, isForgettable } from "./baseline.ts";
import { concurrencyWords, forgetThread, requestsUnderWay } from "./concurrency.ts";

/** What the control thread makes once and gives to every data thread. */
export interface LimitMemory {
  readonly buckets: SharedArrayBuffer;
  readonly overflow: SharedArrayBuffer;
  readonly baselines: SharedArrayBuffer;
  readonly pods: SharedArrayBuffer;
  readonly keys: number;
  readonly seed: readonly [number, number];
}

const overflowBuckets = 256;
const podSlots = 512;

/** @param keys how many keys have a bucket of their own at a time: a power of two */
export const createLimitMemory = (keys: number, seed: readonly [number, number]): LimitMemory => ({
  buckets: new SharedArrayBuffer(SharedBuckets.bytesFor(keys)),
  overflow: new SharedArrayBuffer(SharedBuckets.bytesFor(overflowBuckets)),
  baselines: new SharedArrayBuffer(SharedTable.bytes(keys / 4, baselineWords)),
  pods: new SharedArrayBuffer(SharedTable.bytes(podSlots, concurrencyWords)),
  keys,
  seed,
});

export class SharedLimits {
  readonly buckets: SharedBuckets;
  /** Of limits whose keys found no room: a few places by the limit's hash. */
  readonly overflow: SharedBuckets;
  readonly baselines: SharedTable;
  readonly pods: SharedTable;
  readonly thread: number;
  readonly #seed: readonly [number, number];
  #nowMs = 0;

  /** `thread`: the number of the one that uses it; what a dead thread of that number had under way is forgotten. */
  constructor(memory: LimitMemory, thread: number) {
    this.buckets = new SharedBuckets(memory.keys, memory.buckets);
    this.overflow = new SharedBuckets(overflowBuckets, memory.overflow);
    this.baselines = new SharedTable(memory.baselines, memory.keys / 4, baselineWords);
    this.pods = new SharedTable(memory.pods, podSlots, concurrencyWords);
    this.thread = thread;
    this.#seed = memory.seed;
    this.pods.each((at) => forgetThread(this.pods.words, at, thread));
  }

  startHash(): TextHash {
    return seededHash(this.#seed[0], this.#seed[1]);
  }

  /** First word of what is known of a key's usual rate; -1: no room. */
  baseline(hash: TextHash, nowMs: number): number {
    this.#nowMs = nowMs;
    return this.baselines.locate(hash.high, hash.low, this.#isStale);
  }
  /** Slot of a pod; -1: no room, its requests are not limited. */
  pod(hash: TextHash): number {
    return this.pods.locate(hash.high, hash.low, this.#isIdle);
  }

  readonly #isStale = (at: number): boolean => isForgettable(this.baselines.words, at, this.#nowMs);
  readonly #isIdle = (at: number): boolean => requestsUnderWay(this.pods.words, at) === 0;
}
