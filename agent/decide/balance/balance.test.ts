import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { requestHead } from "../../../test/kit/http-heads.ts";
import { countPicks, endpointsOf, even, everyAlgorithm, pickerFor } from "../../../test/kit/pickers.ts";
import { defaultPolicy } from "../../api/http-policy.ts";
import { seededRandom } from "../../base/random.ts";
import { buildPicker, type ChosenAlgorithm, nextWarmingMs } from "./build-picker.ts";
import { EndpointStats, gateBits } from "./endpoint-stats.ts";
import { hashText } from "./hash.ts";
import { keyOf } from "./keys.ts";
import { subsetFor, tierLoads, tierOf } from "./locality.ts";
import type { Picker } from "./picker.ts";

const chosen = everyAlgorithm;
const keyed: readonly ChosenAlgorithm[] = ["ring_hash", "maglev", "rendezvous"];
const random = seededRandom(42);
const counts = (picker: Picker, picks: number, n: number): number[] => countPicks(picker, picks, n, random);

test("[LB-1] round robin: N requests over N endpoints hit each once, also across a swap and 32-bit turns", () => {
  for (const n of [1, 2, 7, 100, 1000]) {
    for (const start of [0, 5, 2 ** 31 - n]) {
      const cursor = Int32Array.of(start);
      assert.deepEqual(counts(pickerFor("round_robin", endpointsOf(even(n)), { cursor }), n, n), even(n));
      assert.deepEqual(counts(pickerFor("round_robin", endpointsOf(even(n)), { cursor }), n, n), even(n));
    }
  }
});

test("[LB-3] weighted: exact over a cycle, within 5 % over 1,000 requests, 0 gets none, and smooth", () => {
  const weights = [5, 1, 1, 0];
  const picker = pickerFor("weighted", endpointsOf(weights));
  const order = Array.from({ length: 7 }, () => picker.pick(random, 0, -1));
  assert.deepEqual(
    [0, 1, 2, 3].map((i) => order.filter((p) => p === i).length),
    weights,
  );
  assert.ok(!/[12],[12]/.test(order.join()), `${order} is smooth`);
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 0, max: 100 }), { minLength: 1, maxLength: 8 }), (given) => {
      const sum = given.reduce((a, b) => a + b, 0);
      const got = counts(pickerFor("weighted", endpointsOf(given)), 1000, given.length);
      for (const [i, weight] of given.entries()) {
        assert.ok(weight > 0 || got[i] === 0);
        if (sum > 0)
          assert.ok(
            Math.abs((got[i] ?? 0) - (1000 * weight) / sum) <= Math.max(2, (50 * weight) / sum),
            `${got} of ${given}`,
          );
      }
    }),
  );
});

test("[LB-3] every algorithm respects weights", () => {
  const weights = [1, 2, 4];
  // EWMA with all idle knows no shares: it compares latencies.
  for (const algorithm of chosen.filter((a) => a !== "ewma")) {
    const balancer = { virtualNodes: 2000 };
    const got = counts(pickerFor(algorithm, endpointsOf(weights), { balancer }), 70_000, 3);
    const tolerance = algorithm === "least_request" ? 0.35 : 0.08;
    // Power of two draws by weight without replacement, which evens shares out.
    for (const [i, weight] of weights.entries()) {
      const ratio = (got[i] ?? 0) / (weight * 10_000);
      assert.ok(Math.abs(ratio - 1) < tolerance, `${algorithm}: ${got}`);
    }
  }
});

test("[LB-2] least connections: the one with fewer in flight; every begin has its end", () => {
  const stats = new EndpointStats(2);
  const picker = pickerFor("least_request", endpointsOf(even(2)), { stats });
  for (let i = 0; i < 100; i++) {
    const loads = [stats.load(0), stats.load(1)] as const;
    const index = picker.pick(random, 0, -1);
    assert.ok((loads[index] ?? 0) <= Math.min(...loads), `${index} of ${loads}`);
    stats.begin(index);
  }
  assert.deepEqual([stats.load(0), stats.load(1)], [50, 50]);
  for (let i = 0; i < 50; i++) stats.end(0);
  assert.equal(stats.load(0), 0);
  assert.equal(picker.pick(random, 0, -1), 0);
});

test("[LB-2] a slow endpoint among ten gets little of the load", () => {
  const stats = new EndpointStats(10);
  const picker = pickerFor("least_request", endpointsOf(even(10)), { stats });
  const got = new Array<number>(10).fill(0);
  const ends: { at: number; slot: number }[] = [];
  for (let now = 0; now < 20_000; now++) {
    for (let i = ends.length - 1; i >= 0; i--)
      if ((ends[i]?.at ?? 0) <= now) stats.end(ends.splice(i, 1)[0]?.slot ?? 0);
    const slot = picker.pick(random, 0, -1);
    got[slot] = (got[slot] ?? 0) + 1;
    stats.begin(slot);
    ends.push({ at: now + (slot === 3 ? 200 : 10), slot });
  }
  assert.ok((got[3] ?? 0) < 600, String(got));
});

test("[LB-5] EWMA: the lower (latency + in flight x penalty) / weight of two", () => {
  const cases: readonly {
    ms: readonly [number, number];
    load: readonly [number, number];
    weights: readonly number[];
    best: number;
  }[] = [
    { ms: [10, 20], load: [0, 0], weights: [1, 1], best: 0 },
    { ms: [10, 20], load: [3, 0], weights: [1, 1], best: 1 },
    { ms: [10, 20], load: [1, 0], weights: [1, 1], best: 0 },
    { ms: [10, 20], load: [0, 0], weights: [1, 3], best: 1 },
  ];
  for (const { ms, load, weights, best } of cases) {
    const stats = new EndpointStats(2);
    for (const slot of [0, 1] as const) {
      stats.observe(slot, ms[slot], 0);
      for (let i = 0; i < load[slot]; i++) stats.begin(slot);
    }
    const picker = pickerFor("ewma", endpointsOf(weights), { stats });
    for (let i = 0; i < 20; i++) assert.equal(picker.pick(random, 0, -1), best, JSON.stringify({ ms, load, weights }));
  }
});

test("[LB-5] latencies: seeded by a probe, peaks at once, better ones and silence fade in", () => {
  const stats = new EndpointStats(1);
  stats.reset(0, 1000);
  assert.equal(stats.latency(0), 0);
  stats.seed(0, 30, 0);
  stats.seed(0, 90, 0);
  assert.equal(stats.latency(0), 30);
  stats.observe(0, 100, 10);
  stats.nowMs = 10;
  assert.equal(stats.latency(0), 100);
  stats.observe(0, 0, 1010);
  stats.nowMs = 1010;
  assert.ok(Math.abs(stats.latency(0) - 100 / Math.E) < 1e-6);
  stats.nowMs = 11_010;
  assert.ok(stats.latency(0) < 0.01);
  stats.reset(0);
  stats.seed(0, 7, 0);
  stats.nowMs = 0;
  assert.equal(stats.latency(0), 7);
});

test("[LB-4] few keys move when an endpoint leaves: none of the others' with ring and rendezvous", () => {
  const keys = Array.from({ length: 20_000 }, (_, i) => hashText(`user-${i}`));
  for (const algorithm of keyed) {
    const all = endpointsOf(even(20));
    const before = pickerFor(algorithm, all);
    const after = pickerFor(
      algorithm,
      all.filter((_, i) => i !== 7).map((endpoint, slot) => ({ ...endpoint, slot })),
    );
    const rest = all.filter((_, i) => i !== 7);
    let moved = 0;
    let strays = 0;
    for (const key of keys) {
      const from = all[before.pick(random, key, -1)]?.id;
      const to = rest[after.pick(random, key, -1)]?.id;
      if (from === to) continue;
      moved++;
      if (from !== all[7]?.id) strays++;
    }
    // Maglev lets a few keys of the others move (§5.3 of its paper) for even shares.
    assert.ok(strays <= (algorithm === "maglev" ? keys.length * 0.03 : 0), `${algorithm}: ${strays} strays`);
    assert.ok(moved / keys.length < 1.5 / 20, `${algorithm}: ${moved} moved`);
  }
});

test("[LB-4] keys of a closed endpoint go where they will when it is gone, and come back", () => {
  const keys = Array.from({ length: 2000 }, (_, i) => hashText(`user-${i}`));
  const all = endpointsOf(even(10));
  for (const algorithm of ["ring_hash", "rendezvous"] as const) {
    const stats = new EndpointStats(10);
    const picker = pickerFor(algorithm, all, { stats });
    const open = keys.map((key) => picker.pick(random, key, -1));
    stats.close(3, gateBits.outlier);
    const gone = pickerFor(
      algorithm,
      all.map((e, i) => (i === 3 ? { ...e, weight: 0 } : e)),
    );
    assert.deepEqual(
      keys.map((key) => picker.pick(random, key, -1)),
      keys.map((key) => gone.pick(random, key, -1)),
    );
    stats.open(3, gateBits.outlier);
    assert.deepEqual(
      keys.map((key) => picker.pick(random, key, -1)),
      open,
    );
  }
});

test("[LB-4] shares by key: 150 virtual nodes within 30 %, Maglev within 5 %", () => {
  for (const [algorithm, tolerance] of [
    ["ring_hash", 0.3],
    ["maglev", 0.05],
    ["rendezvous", 0.05],
  ] as const) {
    const got = counts(pickerFor(algorithm, endpointsOf(even(10))), 100_000, 10);
    for (const count of got) assert.ok(Math.abs(count / 10_000 - 1) < tolerance, `${algorithm}: ${got}`);
  }
});

test("[LB-4] keys come from source, header, cookie or query; without one a request goes anywhere", () => {
  const head = requestHead({ path: "/?user=ann", headers: { "x-user": "ann", cookie: "a=1; user=ann" } });
  const of = (hashOn: "source" | "header" | "cookie" | "query", hashName: string) =>
    keyOf({ hashOn, hashName }, head, "ann", random);
  const same = [of("source", ""), of("header", "x-user"), of("cookie", "user"), of("query", "user")];
  assert.deepEqual(same, new Array(4).fill(hashText("ann")));
  assert.notEqual(of("header", "x-none"), of("header", "x-none"));
});

test("[LB-6] slow start: under every algorithm a new endpoint's share grows to its own", () => {
  const window = 10_000;
  const balancer = { slowStartMs: window, slowStartMinPercent: 10, virtualNodes: 500 };
  for (const algorithm of chosen) {
    const shares = [0, 5000, 10_000].map((nowMs) => {
      const endpoints = endpointsOf(even(10), (i) => (i === 0 ? { readySinceMs: 0 } : {}));
      const stats = new EndpointStats(10);
      // All equally fast and busy, so that only warmth tells them apart.
      for (let slot = 0; slot < 10; slot++) stats.observe(slot, 10, 0);
      const got = counts(pickerFor(algorithm, endpoints, { balancer, nowMs, stats }), 50_000, 10);
      return (got[0] ?? 0) / 5000;
    });
    const [cold = 0, half = 0, warm = 0] = shares;
    // EWMA also scores the warming one lower, which keeps it below its share in draws.
    const [atCold, atHalf] = algorithm === "ewma" ? [0, 0] : [0.05, 0.4];
    assert.ok(cold >= atCold && cold < 0.2 && half >= atHalf && half < 0.75, `${algorithm}: ${shares}`);
    assert.ok(Math.abs(warm - 1) < 0.3, `${algorithm}: ${shares}`);
    assert.ok(cold <= half && half < warm, `${algorithm}: ${shares}`);
  }
  assert.equal(
    nextWarmingMs(
      endpointsOf([1], () => ({ readySinceMs: 0 })),
      { slowStartMs: window },
      0,
    ),
    1000,
  );
  assert.equal(
    nextWarmingMs(
      endpointsOf([1], () => ({ readySinceMs: 0 })),
      { slowStartMs: window },
      window,
    ),
    undefined,
  );
});

test("[LB-7] near endpoints take the load, and what they are too unhealthy for flows over", () => {
  const place = (node: string, zone: string, region: string) => ({ node, zone, region });
  const own = place("n1", "z1", "r1");
  const others = [own, place("n2", "z1", "r1"), place("n3", "z2", "r1"), place("n4", "z3", "r2"), place("", "", "")];
  assert.deepEqual(
    others.map((other) => tierOf("node", own, other)),
    [0, 1, 2, 3, 3],
  );
  assert.deepEqual(
    others.map((other) => tierOf("zone", own, other)),
    [0, 0, 1, 2, 2],
  );
  assert.deepEqual(
    others.map((other) => tierOf("", own, other)),
    [0, 0, 0, 0, 0],
  );
  assert.deepEqual(tierLoads([1, 1], 1.4), [1, 0]);
  assert.deepEqual(
    tierLoads([0.5, 1], 1.4).map((load) => Math.round(load * 100)),
    [70, 30],
  );
  assert.deepEqual(
    tierLoads([0.25, 0.25], 1.4).map((load) => Math.round(load * 100)),
    [50, 50],
  );
  assert.deepEqual(tierLoads([0, 0], 1.4), [0, 0]);

  const endpoints = endpointsOf(even(8), (i) => ({ tier: i < 4 ? 0 : 1 }));
  const stats = new EndpointStats(8);
  for (const algorithm of chosen) {
    for (let slot = 0; slot < 8; slot++) stats.reset(slot);
    const near = (picker: Picker) =>
      counts(picker, 10_000, 8)
        .slice(0, 4)
        .reduce((a, b) => a + b, 0) / 10_000;
    const healthy = pickerFor(algorithm, endpoints, { stats });
    assert.equal(near(healthy), 1, algorithm);
    for (const slot of [0, 1]) stats.close(slot, gateBits.health);
    assert.ok(Math.abs(near(pickerFor(algorithm, endpoints, { stats })) - 0.7) < 0.03, algorithm);
    for (const slot of [2, 3]) stats.close(slot, gateBits.health);
    // The old picker as well: what closed since it was made is not picked.
    assert.equal(near(healthy), 0, algorithm);
    assert.equal(
      counts(healthy, 100, 8).reduce((a, b) => a + b, 0),
      100,
      algorithm,
    );
  }
});

test("[LB-7] a node uses the same few endpoints always, and nodes spread over all", () => {
  const ids = Array.from({ length: 100 }, (_, i) => `10.0.0.${i}:80`);
  assert.deepEqual(subsetFor("n1", ids, 0).length, 100);
  assert.deepEqual(subsetFor("n1", ids, 10), subsetFor("n1", ids, 10));
  const used = new Set(Array.from({ length: 100 }, (_, i) => subsetFor(`n${i}`, ids, 10)).flat());
  assert.ok(used.size > 95);
});

test("[LB-8] the algorithm is the policy's, else the service's, else the mesh's, changed by a swap", () => {
  const build = (algorithm: "" | ChosenAlgorithm, serviceDefault: string) =>
    buildPicker(endpointsOf(even(3)), {
      policy: { ...defaultPolicy, balancer: { ...defaultPolicy.balancer, algorithm } },
      serviceDefault,
      stats: new EndpointStats(3),
      nowMs: 0,
      cursor: new Int32Array(1),
    }).constructor.name;
  assert.equal(build("maglev", "random"), "MaglevPicker");
  assert.equal(build("", "random"), "RandomPicker");
  assert.equal(build("", ""), "EwmaPicker");
  assert.equal(build("", "unheard of"), "EwmaPicker");
});
