// Token buckets in memory that threads may share. A bucket is one number, the time at which it is full again (GCRA, "virtual scheduling" of
// ITU-T I.371), so a take is one compare-and-swap and nothing is lost with a thread that dies. A full bucket is no bucket: its place is free.
import type { TextHash } from "./text-hash.ts";

/** What a bucket gives. Made once per limit. */
export interface BucketRate {
  /** ns in which one token comes. */
  readonly intervalNs: bigint;
  /** ns in which all of them come. */
  readonly burstNs: bigint;
}

/** `perS` tokens a second (any positive number), at most `burst` (1 or more) at once. */
export function bucketRate(perS: number, burst: number): BucketRate {
  const intervalNs = BigInt(Math.max(1, Math.round(1e9 / perS)));
  return { intervalNs, burstNs: intervalNs * BigInt(Math.max(1, Math.floor(burst))) };
}

/** A bucket's name as a number of 53 bits; names that must not share a bucket differ in them but for one pair in 2^45 or so. */
export const bucketKey = ({ high, low }: TextHash): number => (low >>> 11) * 2 ** 32 + (high >>> 0);

/** So far apart two threads may be in what time it is. */
const slackNs = 1_000_000_000n;
/** Places in which a key may lie. */
const reach = 16;
export const mostBuckets = 2 ** 21;

export class SharedBuckets {
  readonly capacity: number;
  // Of the last `take`.
  /** Whole tokens that are left. */
  remaining = 0;
  /** ms until as much could be taken: 0 if it was taken, Infinity if it never can. */
  retryMs = 0;
  /** ms until the bucket is full. */
  fullMs = 0;
  readonly #fullAt: BigInt64Array;
  /** Lower half of the key that lies there; 0: nothing has yet. */
  readonly #tags: Int32Array;
  readonly #crowded: Int32Array;

  /** `capacity`: a power of two up to mostBuckets. `memory`: of bytesFor(capacity), zeroed; the same for all threads. */
  constructor(capacity: number, memory: ArrayBufferLike = new ArrayBuffer(SharedBuckets.bytesFor(capacity))) {
    if (capacity < reach || capacity > mostBuckets || !Number.isInteger(Math.log2(capacity)))
      throw new RangeError(`${capacity} buckets: must be a power of two from ${reach} to ${mostBuckets}`);
    this.capacity = capacity;
    this.#fullAt = new BigInt64Array(memory, 0, capacity);
    this.#tags = new Int32Array(memory, capacity * 8, capacity);
    this.#crowded = new Int32Array(memory, capacity * 12, 1);
  }
  static bytesFor(capacity: number): number {
    return capacity * 12 + 4;
  }

  /** How often a key found no place. */
  get crowded(): number {
    return Atomics.load(this.#crowded, 0);
  }

  /**
   * The key's bucket, full if it had none; -1 if every place that it may have holds a bucket in use (the caller decides what that means;
   * it is counted). Ask for each take: a bucket that is full again may become another key's.
   * @param key of bucketKey
   * @param nowMs monotonic, of a clock that all threads share (performance.now() is)
   */
  find(key: number, nowMs: number): number {
    const tag = key | 0 || 1;
    const mask = this.capacity - 1;
    const home = Math.floor(key / 2 ** 32) & mask;
    const now = nanoseconds(nowMs);
    let free = -1;
    for (let i = 0; i < reach; i++) {
      const place = (home + i) & mask;
      const there = Atomics.load(this.#tags, place);
      if (there === tag) return place;
      if (free < 0 && Atomics.load(this.#fullAt, place) <= now) free = place;
      // Nothing was ever put beyond the first empty place.
      if (there === 0) break;
    }
    for (let i = (free - home) & mask; free >= 0 && i < reach; i++) {
      const place = (home + i) & mask;
      const there = Atomics.load(this.#tags, place);
      if (there === tag) return place;
      if (Atomics.load(this.#fullAt, place) > now) continue;
      // Whoever loses the place looks at the next; if the winner was of the same key, the place is right.
      const before = Atomics.compareExchange(this.#tags, place, there, tag);
      if (before === there || before === tag) return place;
    }
    Atomics.add(this.#crowded, 0, 1);
    return -1;
  }

  /** Takes `cost` tokens, all or none. `remaining`, `retryMs` and `fullMs` tell more. */
  take(place: number, { intervalNs, burstNs }: BucketRate, cost: number, nowMs: number): boolean {
    const now = nanoseconds(nowMs);
    const price = cost === 1 ? intervalNs : intervalNs * BigInt(cost);
    for (;;) {
      const before = Atomics.load(this.#fullAt, place);
      const ahead = before - now;
      if (ahead > burstNs + slackNs) {
        // A limit that was lowered leaves an empty bucket, not one in debt.
        Atomics.compareExchange(this.#fullAt, place, before, now + burstNs);
        continue;
      }
      const from = ahead > 0n ? before : now;
      const after = BigInt.asIntN(64, from + price);
      if (after - now > burstNs) {
        this.#note(from - now, intervalNs, burstNs);
        this.retryMs = price > burstNs ? Number.POSITIVE_INFINITY : Number(after - now - burstNs) / 1e6;
        return false;
      }
      if (Atomics.compareExchange(this.#fullAt, place, before, after) !== before) continue;
      this.#note(after - now, intervalNs, burstNs);
      this.retryMs = 0;
      return true;
    }
  }

  /** Puts one token back that was just taken: something else refused what it was taken for. */
  giveBack(place: number, { intervalNs }: BucketRate): void {
    Atomics.sub(this.#fullAt, place, intervalNs);
  }

  /** Whole tokens in the bucket, without taking any. */
  left(place: number, { intervalNs, burstNs }: BucketRate, nowMs: number): number {
    const ahead = Atomics.load(this.#fullAt, place) - nanoseconds(nowMs);
    return wholeTokens(ahead <= 0n ? 0n : ahead, intervalNs, burstNs);
  }

  #note(ahead: bigint, intervalNs: bigint, burstNs: bigint): void {
    this.remaining = wholeTokens(ahead, intervalNs, burstNs);
    this.fullMs = Number(ahead) / 1e6;
  }
}

const wholeTokens = (ahead: bigint, intervalNs: bigint, burstNs: bigint): number =>
  ahead >= burstNs ? 0 : Number((burstNs - ahead) / intervalNs);
const nanoseconds = (ms: number): bigint => BigInt(Math.round(ms * 1e6));
