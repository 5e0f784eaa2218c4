// Token buckets against a plain reference, with one thread and with four.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Worker } from "node:worker_threads";
import fc from "fast-check";
import { bucketKey, bucketRate, SharedBuckets } from "./shared-buckets.ts";
import { addText, seededHash } from "./text-hash.ts";

function keyOf(name: string): number {
  const hash = seededHash(1, 2);
  addText(hash, name);
  return bucketKey(hash);
}
const place = (buckets: SharedBuckets, name: string, nowMs: number): number => buckets.find(keyOf(name), nowMs);

test("[LIM-1] [DP-25] a bucket gives its burst at once, then its rate, and says what is left and when there is more", () => {
  const buckets = new SharedBuckets(64);
  const rate = bucketRate(10, 3);
  const at = place(buckets, "a", 1000);
  const take = (nowMs: number, cost = 1) => [buckets.take(at, rate, cost, nowMs), buckets.remaining, buckets.retryMs];
  assert.deepEqual(take(1000), [true, 2, 0]);
  assert.deepEqual(take(1000), [true, 1, 0]);
  assert.deepEqual(take(1000), [true, 0, 0]);
  assert.equal(buckets.fullMs, 300);
  assert.deepEqual(take(1000), [false, 0, 100]);
  assert.deepEqual(take(1099), [false, 0, 1]);
  assert.deepEqual(take(1100), [true, 0, 0]);
  assert.deepEqual(take(1350, 2), [true, 0, 0]);
  assert.deepEqual(take(1400, 4), [false, 1, Number.POSITIVE_INFINITY]);
  assert.equal(buckets.left(at, rate, 1400), 1);
  assert.equal(buckets.left(at, rate, 9000), 3);
});

test("[LIM-1] a limit that is lowered leaves an empty bucket, not one that is in debt for an hour", () => {
  const buckets = new SharedBuckets(64);
  const at = place(buckets, "a", 0);
  const hourly = bucketRate(10 / 3600, 10);
  for (let i = 0; i < 10; i++) assert.ok(buckets.take(at, hourly, 1, 0));
  const quick = bucketRate(100, 1);
  assert.equal(buckets.take(at, quick, 1, 0), false);
  assert.equal(buckets.retryMs, 10);
  assert.equal(buckets.left(at, quick, 9), 0);
  assert.ok(buckets.take(at, quick, 1, 10));
});

test("[LIM-1] whatever is taken whenever: never more than burst and rate allow, never less than what they allow", () => {
  const step = fc.record({ waitMs: fc.nat({ max: 500 }), cost: fc.integer({ min: 1, max: 4 }) });
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 200 }),
      fc.integer({ min: 1, max: 20 }),
      fc.array(step, { maxLength: 80 }),
      (perS, burst, steps) => {
        const buckets = new SharedBuckets(16);
        const rate = bucketRate(perS, burst);
        // The reference counts tokens, in the same whole ns per token.
        const perMs = 1e6 / Number(rate.intervalNs);
        let tokens = burst;
        let now = 0;
        for (const { waitMs, cost } of steps) {
          now += waitMs;
          tokens = Math.min(burst, tokens + waitMs * perMs);
          const at = place(buckets, "x", now);
          const taken = buckets.take(at, rate, cost, now);
          if (taken) tokens -= cost;
          assert.ok(taken ? tokens > -1e-3 : tokens < cost + 1e-3, `${taken} with ${tokens} for ${cost}`);
          assert.ok(Math.abs(buckets.remaining - Math.floor(tokens)) <= 1);
        }
      },
    ),
    { numRuns: 300 },
  );
});

test("[LIM-1] a bucket that is full again gives up its place; while all are in use a key has none, and that is counted", () => {
  const buckets = new SharedBuckets(16);
  const rate = bucketRate(1, 1);
  const names = Array.from({ length: 40 }, (_, i) => `client ${i}`);
  const places = names.map((name) => {
    const at = place(buckets, name, 0);
    if (at >= 0) buckets.take(at, rate, 1, 0);
    return at;
  });
  assert.equal(new Set(places.filter((at) => at >= 0)).size, 16);
  assert.equal(buckets.crowded, 24);
  for (const [i, name] of names.entries())
    if ((places[i] as number) >= 0) assert.equal(place(buckets, name, 0), places[i], "stays where it is");
  assert.ok(names.slice(20).every((name) => place(buckets, name, 1000) >= 0));
});

test("keys of a million names fall together no more often than chance has it", () => {
  const keys = new Set<number>();
  const tags = new Set<number>();
  for (let i = 0; i < 1_000_000; i++) {
    const key = keyOf(`10.${i >> 16}.${(i >> 8) & 255}.${i & 255}|shop/web`);
    assert.ok(Number.isSafeInteger(key));
    keys.add(key);
    tags.add(key | 0);
  }
  assert.equal(keys.size, 1_000_000);
  assert.ok(tags.size > 999_700, String(tags.size));
});

test("[LIM-1] [DP-25] four threads on one bucket take together what one may take", { timeout: 120_000 }, async () => {
  const capacity = 64;
  const memory = new SharedArrayBuffer(SharedBuckets.bytesFor(capacity));
  const script = `
    import { workerData, parentPort } from "node:worker_threads";
    const { SharedBuckets, bucketRate, bucketKey } = await import(workerData.url);
    const buckets = new SharedBuckets(${capacity}, workerData.memory);
    const rate = bucketRate(1000, 5000);
    let taken = 0;
    for (let i = 0; i < 20_000; i++) {
      const now = i / 100;
      if (buckets.take(buckets.find(bucketKey({ high: 1, low: 1 }), now), rate, 1, now)) taken++;
    }
    parentPort.postMessage(taken);`;
  const url = new URL("./shared-buckets.ts", import.meta.url).href;
  const taken = await Promise.all(
    [0, 1, 2, 3].map(
      () =>
        new Promise<number>((resolve, reject) => {
          const worker = new Worker(new URL(`data:text/javascript,${encodeURIComponent(script)}`), {
            workerData: { memory, url },
          });
          worker.once("message", resolve);
          worker.once("error", reject);
        }),
    ),
  );
  // The burst and 200 ms of 1,000/s; threads whose time lags behind find less, never more.
  const sum = taken.reduce((a, b) => a + b, 0);
  assert.ok(sum >= 5000 && sum <= 5200, taken.join());
});
