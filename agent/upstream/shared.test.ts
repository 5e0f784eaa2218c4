// What threads know together: one thread's view of it is every thread's, and a dead thread's part comes back.
import assert from "node:assert/strict";
import { test } from "node:test";
import { type Breaker, defaultBreaker, defaultOutlier, defaultPolicy, noRetry } from "../api/http-policy.ts";
import { seededRandom } from "../base/random.ts";
import { buildPicker } from "../decide/balance/build-picker.ts";
import { OutlierDetector } from "../decide/resilience/outlier.ts";
import { createSharedMemory, forgetThread, SharedUpstreams } from "./shared.ts";

const sizes = { endpoints: 128, clusters: 64 };
function setUp(threads: number) {
  const memory = createSharedMemory(threads, sizes);
  return { memory, all: Array.from({ length: threads }, (_, thread) => new SharedUpstreams(memory, thread)) };
}
const names = Array.from({ length: 10 }, (_, i) => `shop>shop/web:80>10.0.0.${i}:8080`);

for (const threads of [1, 4]) {
  const of = (all: readonly SharedUpstreams[], i: number): SharedUpstreams => all[i % threads] as SharedUpstreams;

  test(`[LB-2] [DP-25] requests under way count on every thread, and those of a dead one no more (${threads})`, () => {
    const { memory, all } = setUp(threads);
    const slots = all.map((shared) => shared.take(names[0] as string, 1000));
    assert.equal(new Set(slots).size, 1);
    const slot = slots[0] as number;
    for (let i = 0; i < 12; i++) of(all, i).stats.begin(slot);
    assert.ok(all.every(({ stats }) => stats.load(slot) === 12));
    forgetThread(memory, 0);
    assert.ok(all.every(({ stats }) => stats.load(slot) === 12 - 12 / threads));
    const back = new SharedUpstreams(memory, 0);
    assert.equal(back.take(names[0] as string, 1000), slot);
    assert.equal(back.stats.load(slot), threads === 1 ? 0 : 9, "what others have under way is not forgotten");
  });

  test(`[LB-1] [DP-25] round robin goes on from thread to thread: every endpoint as often as any other (${threads})`, () => {
    const { all } = setUp(threads);
    const endpoints = names.map((id, i) => ({
      id,
      weight: 1,
      slot: i,
      tier: 0,
      readySinceMs: Number.NEGATIVE_INFINITY,
    }));
    const pickers = all.map((shared) => {
      for (const name of names) shared.take(name, 1000);
      return buildPicker(endpoints, {
        policy: { ...defaultPolicy, balancer: { ...defaultPolicy.balancer, algorithm: "round_robin" } },
        serviceDefault: "",
        stats: shared.stats,
        nowMs: 0,
        cursor: shared.takeCell("shop>shop/web:80/4").cursor,
      });
    });
    const counts = new Array(10).fill(0);
    const random = seededRandom(1);
    for (let i = 0; i < 1000; i++) counts[pickers[(i * 7) % threads]?.pick(random, 0, -1) as number]++;
    assert.deepEqual(counts, new Array(10).fill(100));
  });

  test(`[RES-4] [DP-25] failures that different threads see open one breaker; a place that is another's begins closed (${threads})`, () => {
    const { all } = setUp(threads);
    const slot = all.map((shared) => shared.take(names[0] as string, 1000))[0] as number;
    const policy: Breaker = { ...defaultBreaker, failures: 5 };
    for (let i = 0; i < 5; i++) of(all, i).breakers.report(slot, true, policy, 0);
    assert.ok(all.every(({ breakers, stats }) => breakers.state(slot) === "open" && stats.gates[slot] !== 0));
    for (const shared of all) shared.give(names[0] as string);
    assert.equal(all[0]?.take(names[0] as string, 1000), slot);
    assert.ok(all.every(({ breakers, stats }) => breakers.state(slot) === "closed" && stats.gates[slot] === 0));
  });

  test(`[RES-5] [DP-25] all threads have one budget of retries, and one count of requests under way (${threads})`, () => {
    const { memory, all } = setUp(threads);
    const cells = all.map((shared) => shared.takeCell("web"));
    const given = { ...noRetry, budgetPercent: 10, budgetMinPerS: 0 };
    for (let i = 0; i < 200; i++) cells[i % threads]?.budget.countRequest(1000);
    let taken = 0;
    for (let i = 0; i < 100; i++) if (cells[i % threads]?.budget.take(given, 1500)) taken++;
    assert.equal(taken, 20);
    for (let i = 0; i < 8; i++) {
      cells[i % threads]?.addRequests(1);
      cells[i % threads]?.addRetries(1);
    }
    assert.deepEqual([cells[0]?.requests, cells[0]?.retries], [8, 8]);
    forgetThread(memory, 0);
    const left = 8 - 8 / threads;
    assert.deepEqual([cells.at(-1)?.requests, cells.at(-1)?.retries], [left, left]);
  });

  test(`[RES-7] [DP-25] errors in a row eject whoever sees them, together no more than allowed; any thread lets back in (${threads})`, () => {
    const { all } = setUp(threads);
    const slots = all.map((shared) => names.map((name) => shared.take(name, 1000)))[0] as number[];
    const policy = { ...defaultOutlier, consecutiveErrors: 4, maxEjectionPercent: 20, baseEjectionMs: 1000 };
    const detectors = all.map(
      (shared) => new OutlierDetector(policy, slots, shared.stats, 0, shared.outliers, shared.takeCell("web").swept),
    );
    const detector = (i: number): OutlierDetector => detectors[i % threads] as OutlierDetector;
    for (const slot of slots) for (let i = 0; i < 4; i++) detector(i).report(slot, true, 1, 0);
    assert.ok(detectors.every(({ ejected }) => ejected === 2));
    assert.equal(slots.filter((slot) => all[0]?.stats.gates[slot] !== 0).length, 2);
    detector(3).sweep(1000);
    assert.ok(detectors.every(({ ejected }) => ejected === 0));
    assert.ok(slots.every((slot) => all[0]?.stats.gates[slot] === 0));
  });

  test(`[RES-7] [DP-25] one thread compares the endpoints once per interval, by what all have seen (${threads})`, () => {
    const { all } = setUp(threads);
    const slots = all.map((shared) => names.map((name) => shared.take(name, 1000)))[0] as number[];
    const policy = { ...defaultOutlier, successRateStdev: 1.5, minRequests: 100, minEndpoints: 5, intervalMs: 10_000 };
    const detectors = all.map(
      (shared) => new OutlierDetector(policy, slots, shared.stats, 0, shared.outliers, shared.takeCell("web").swept),
    );
    const bad = slots[3] as number;
    // No thread alone sees enough requests.
    for (const slot of slots)
      for (let i = 0; i < 100; i++) detectors[i % threads]?.report(slot, slot === bad && i % 2 === 0, 1, 0);
    const ejections = detectors.flatMap((detector) => detector.sweep(10_000));
    assert.deepEqual(
      ejections.map(({ slot, reason }) => [slot, reason]),
      [[bad, "success_rate"]],
    );
    assert.deepEqual(
      detectors.flatMap((detector) => detector.sweep(10_050)),
      [],
    );
  });
}

test("[DP-25] where there is no room for a cluster, a thread counts for itself", () => {
  const { all } = setUp(2);
  const [a, b] = all as [SharedUpstreams, SharedUpstreams];
  for (let i = 0; i < sizes.clusters; i++) a.takeCell(`cluster ${i}`).addRequests(1);
  const more = a.takeCell("one more");
  more.addRequests(1);
  assert.equal(more.requests, 1);
  a.giveCell("one more");
  a.giveCell("cluster 5");
  assert.equal(b.takeCell("another").requests, 0, "nothing of the one before");
});
