// A token bucket in one 64-bit number that all threads share: the time at which it will be full again (GCRA). Taking a token is one
// compare-and-swap; a full bucket is a number in the past, so an empty slot is a full bucket. Pure: time comes in.

/** How a limit fills its buckets; times in ns. */
export interface BucketRate {
  /** For one token. */
  readonly tokenNs: number;
  readonly capacity: number;
}

/** `requests` in `windowMs`, at most `burst` at once. */
export const bucketRate = (requests: number, windowMs: number, burst: number): BucketRate => ({
  tokenNs: Math.max(1, Math.round((windowMs * 1e6) / requests)),
  capacity: burst,
});

/**
 * Takes a token from the bucket at `longs[at]`. `factor` is how many usual tokens it costs: more than 1 fills and lets through slower.
 * Gives back ns: 0 or more, what is left of the time that the bucket stands for (after the token); below 0, how long until there is one.
 */
export function takeToken(longs: BigInt64Array, at: number, nowNs: number, rate: BucketRate, factor = 1): number {
  const cost = rate.tokenNs * factor;
  const whole = rate.tokenNs * rate.capacity;
  for (;;) {
    const old = Atomics.load(longs, at);
    const fullAt = Math.max(Number(old), nowNs) + cost;
    const left = nowNs + whole - fullAt;
    // A capacity below the cost would never let anything through.
    if (left < 0 && fullAt > nowNs + cost) return left;
    if (Atomics.compareExchange(longs, at, old, BigInt(Math.round(fullAt))) === old) return Math.max(0, left);
  }
}

/** Puts a token back that was taken with the same factor. */
export function returnToken(longs: BigInt64Array, at: number, rate: BucketRate, factor = 1): void {
  Atomics.sub(longs, at, BigInt(Math.round(rate.tokenNs * factor)));
}

/** Whether it is full: nothing is lost when it is forgotten. */
export const isFull = (longs: BigInt64Array, at: number, nowNs: number): boolean =>
  Number(Atomics.load(longs, at)) <= nowNs;

/** Seconds until it is full, rounded up. */
export const secondsToFull = (longs: BigInt64Array, at: number, nowNs: number): number =>
  Math.max(0, Math.ceil((Number(Atomics.load(longs, at)) - nowNs) / 1e9));
