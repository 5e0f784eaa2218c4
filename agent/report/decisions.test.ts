// Counts of decisions: what a thread adds comes out of the control thread's metrics, whenever it is told, under a bounded number of labels.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { authorization } from "../../test/kit/mesh.ts";
import { endpoint, lane, web, web1 } from "../../test/kit/request-lane.ts";
import { serviceName } from "../api/names.ts";
import { silentLogger } from "../base/log.ts";
import { createMetrics } from "../base/metrics.ts";
import { DecisionCounts } from "./decisions.ts";
import { EndpointChanges } from "./endpoint-changes.ts";
import { OrchestratorMetrics } from "./orchestrator-metrics.ts";

const countOf = (text: string, name: string): number =>
  Number(new RegExp(`^${name.replaceAll(/[{}]/g, "\\$&")} (\\S+)$`, "m").exec(text)?.[1] ?? Number.NaN);

test("[OBS-1] every request, pick and probe is counted once, whenever it is told", async () => {
  const step = fc.oneof(
    fc.record({ flags: fc.constantFrom("-", "UAEX", "NR", "UH", "UF,URX", "UC", "RL", "UO", "DC") }),
    fc.record({ pool: fc.nat({ max: 2 }), isHealthy: fc.boolean() }),
    fc.record({ isGood: fc.boolean(), ms: fc.double({ min: 0, max: 10_000, noNaN: true }) }),
    fc.constant("tell" as const),
  );
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 100 }), async (steps) => {
      const metrics = createMetrics();
      const shown = new OrchestratorMetrics(metrics);
      const counts = new DecisionCounts();
      const pools = [0, 1, 2].map((n) => {
        const picks = counts.picksOf(`shop/p${n}:80`);
        picks.algorithm = "ewma";
        return picks;
      });
      const tell = (): void => {
        const told = counts.flush();
        if (told !== undefined) shown.take(told);
      };
      for (const each of steps) {
        if (each === "tell") tell();
        else if ("flags" in each) counts.request(each.flags);
        else if ("pool" in each) pools[each.pool]?.add(each.isHealthy);
        else counts.probe(each.isGood, each.ms);
      }
      tell();
      assert.equal(counts.flush(), undefined);
      const text = await metrics.text();
      const flags = steps.flatMap((each) => (each !== "tell" && "flags" in each ? [each.flags] : []));
      const probes = steps.flatMap((each) => (each !== "tell" && "isGood" in each ? [each] : []));
      assert.equal(countOf(text, "orchestrator_route_total"), flags.length);
      assert.equal(countOf(text, "orchestrator_route_denied_total"), flags.filter((f) => f === "UAEX").length);
      const errors = flags.filter((f) => ["NR", "UH", "UF,URX", "UO"].includes(f)).length;
      assert.equal(countOf(text, "orchestrator_route_error_total"), errors);
      assert.equal(countOf(text, "orchestrator_health_ok_total"), probes.filter(({ isGood }) => isGood).length);
      assert.equal(countOf(text, "orchestrator_health_bad_total"), probes.filter(({ isGood }) => !isGood).length);
      assert.equal(countOf(text, "orchestrator_health_probe_seconds_count"), probes.length);
      const half = probes.filter(({ ms }) => ms <= 500).length;
      assert.equal(countOf(text, 'orchestrator_health_probe_seconds_bucket{le="0.5"}'), half);
      for (const [pool, isHealthy] of [0, 1, 2].flatMap((n) => [[n, true] as const, [n, false] as const])) {
        const picked = steps.filter((s) => s !== "tell" && "pool" in s && s.pool === pool && s.isHealthy === isHealthy);
        const name = `orchestrator_lb_pick_total{pool="shop/p${pool}:80",algo="ewma",healthy="${isHealthy}"}`;
        const shownCount = countOf(text, name);
        assert.equal(Number.isNaN(shownCount) ? 0 : shownCount, picked.length, name);
      }
    }),
    { numRuns: 50 },
  );
});

test("[OBS-1] pools beyond the bound share a label", async () => {
  const metrics = createMetrics();
  const shown = new OrchestratorMetrics(metrics);
  const counts = new DecisionCounts();
  for (let i = 0; i < 1_000; i++) counts.picksOf(`shop/p${i}:80`).add(true);
  const told = counts.flush();
  assert.ok(told !== undefined);
  shown.take(told);
  const text = await metrics.text();
  assert.equal(text.match(/^orchestrator_lb_pick_total\{/gm)?.length, 201);
  assert.equal(countOf(text, 'orchestrator_lb_pick_total{pool="other",algo="",healthy="true"}'), 800);
});

test("[OBS-1] [RES-4] a breaker that opens counts under both names, one that closes under the newer alone", async () => {
  const metrics = createMetrics();
  const changes = new EndpointChanges(metrics, silentLogger);
  const breaker = {
    kind: "breaker",
    service: serviceName("shop", "web"),
    namespace: "shop",
    endpoint: "10.0.0.1:80",
  } as const;
  changes.take({ ...breaker, from: "closed", to: "open" });
  changes.take({ ...breaker, from: "half_open", to: "closed" });
  const text = await metrics.text();
  assert.equal(countOf(text, "orchestrator_cb_open_total"), 1);
  for (const to of ["open", "closed"]) assert.equal(countOf(text, `fairlead_breaker_changes_total{to="${to}"}`), 1);
});

test("[OBS-1] requests of the lane are counted as routed, denied or without a way, and tries by pool and algorithm", async (t) => {
  const at = { "10.244.2.1": await web1(t, "a") };
  const deny = authorization("no-admin", [{ to: [{ paths: ["/admin"] }] }], { action: "deny" });
  const server = endpoint("a", "10.244.2.1");
  const parts = { services: [web], workloads: [server], authorizations: [deny] };
  const { get, watch, replica } = await lane(t, { parts, at, localServers: true });
  assert.deepEqual([(await get("/")).status, (await get("/")).status, (await get("/admin")).status], [200, 200, 403]);
  replica.take({ say: "mesh", changed: [], removed: [{ kind: "Workload", name: server.uid }] });
  assert.equal((await get("/")).status, 503);
  const told = watch.decisions.flush();
  assert.deepEqual([told?.requests, told?.denied, told?.errors], [4, 1, 1]);
  const [row] = told?.picks ?? [];
  assert.deepEqual(row, { pool: "shop/web:80", algorithm: "ewma", healthy: 2, ill: 0 });
});
