// The enricher: what is believed of a caller, what is counted, scored and limited, and that nothing grows without bound.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { member, mesh, workload } from "../../test/kit/mesh.ts";
import { defaultEnricher, type EnricherSettings, type MeshAnomaly, meshAnomalies, meshKeys } from "../api/enricher.ts";
import type { SpiffeId } from "../api/names.ts";
import type { RequestHead } from "../http.ts";
import { type CallMemo, type Enriched, Enricher } from "./enricher.ts";
import { createPairMemory, PairCounts } from "./pairs.ts";
import { scoreOf } from "./score.ts";
import { Tally } from "./tally.ts";
import { meshValue } from "./values.ts";

const web = workload("shop", "web", "10.244.2.1", { services: [member("shop", "web", 80, 8080)] });
const client = workload("shop", "client-1", "10.244.1.5", {
  serviceAccount: "client",
  labels: { app: "client" },
  zone: "eu-1",
  services: [member("shop", "client", 80, 80)],
});
const gateway = workload("edge", "gw-1", "10.244.1.9", { serviceAccount: "gw", labels: { app: "gw" } });
const clientId = "spiffe://cluster.local/ns/shop/sa/client" as SpiffeId;
const gatewayId = "spiffe://cluster.local/ns/edge/sa/gw" as SpiffeId;

const head = (headers: Readonly<Record<string, string>> = {}): RequestHead => ({
  method: "GET",
  scheme: "http",
  authority: "web",
  path: "/",
  header: (name) => headers[name],
  headers: () => Object.entries(headers).flat(),
});
const on = (more: Partial<EnricherSettings> = {}): EnricherSettings => ({
  ...defaultEnricher,
  enable_mesh_enricher: true,
  ...more,
});

interface From {
  readonly identity?: SpiffeId | null;
  readonly sourceIp?: string;
}
/** A server's node; `ask` is a request on a connection that stays open per caller. */
function node(settings: EnricherSettings) {
  const state = mesh({ workloads: [web, client, gateway], settings: { enricher: settings } });
  const enricher = new Enricher(createPairMemory([5, 6]));
  const memos = new Map<string, CallMemo>();
  const ask = (nowMs: number, { identity = clientId, sourceIp = "10.244.1.5" }: From = {}, request = head()) => {
    const call = { destination: web, port: 8080, identity, sourceIp };
    const key = `${identity} ${sourceIp}`;
    const memo = enricher.memo(state, call, nowMs, memos.get(key));
    if (memo === undefined) return undefined;
    memos.set(key, memo);
    return enricher.enrich(memo, request, nowMs);
  };
  const set = (next: EnricherSettings): void =>
    void state.apply({
      changed: [{ kind: "MeshSettings", value: { ...state.settings, enricher: next } }],
      removed: [],
    });
  return { state, enricher, ask, set };
}
const forged = {
  "x-k8s-namespace": "admin",
  "x-k8s-workload": "root",
  "x-k8s-service": "root",
  "x-k8s-pod": "root-1",
  "x-k8s-zone": "mars",
  "x-mesh-source": "spiffe://cluster.local/ns/admin/sa/root",
};

test("[ENR-1] off by default, with the defaults of its description; a change of settings acts on the next request", () => {
  const { enable_mesh_enricher, mesh_cache_ttl_seconds, mesh_pair_window_seconds, mesh_score_weights } =
    defaultEnricher;
  assert.deepEqual([enable_mesh_enricher, mesh_cache_ttl_seconds, mesh_pair_window_seconds], [false, 300, 3600]);
  assert.deepEqual(mesh_score_weights, {
    cross_namespace: 0.3,
    risky_namespace: 0.3,
    unusual_pair: 0.3,
    missing_headers: 0.1,
  });
  assert.deepEqual(Object.keys(defaultEnricher.mesh_header_map).sort(), [...meshKeys].sort());
  const { ask, set } = node(defaultEnricher);
  assert.equal(ask(0), undefined);
  set(on());
  assert.equal(ask(0)?.score, 0.3);
  set(on({ mesh_risky_namespaces: ["shop"] }));
  assert.equal(ask(0)?.score, 0.6);
  set(defaultEnricher);
  assert.equal(ask(0), undefined);
});

test("[ENR-2] a proven identity and what discovery has for it win; forged headers of a peer that is not trusted count for nothing", () => {
  const { ask } = node(on());
  assert.deepEqual(ask(0, {}, head(forged))?.mesh, {
    namespace: "shop",
    workload: "client",
    service: "client",
    pod: "client-1",
    zone: "eu-1",
    mesh_source: clientId,
  });
  // Another identity at a known address: discovery's record of that address is not believed.
  assert.deepEqual(ask(0, { identity: gatewayId }, head(forged))?.mesh, { namespace: "edge", mesh_source: gatewayId });
  assert.equal(ask(0, { identity: null, sourceIp: "192.0.2.1" }, head(forged))?.mesh, undefined);
});

test("[ENR-2] headers of a trusted peer are read by the map, by identity or by address; they fill in what is not proven", () => {
  const byIdentity = node(on({ mesh_trusted_peers: ["cluster.local/ns/edge/sa/*"] }));
  const said = byIdentity.ask(0, { identity: gatewayId, sourceIp: "10.244.1.9" }, head(forged))?.mesh;
  assert.deepEqual(said, {
    // Proven of the gateway itself, and known of its pod.
    namespace: "edge",
    mesh_source: gatewayId,
    workload: "gw",
    pod: "gw-1",
    // What only the headers tell.
    service: "root",
    zone: "mars",
  });
  const byAddress = node(
    on({ mesh_trusted_peers: ["192.0.2.0/24"], mesh_header_map: { namespace: "x-ns", workload: "x-wl" } }),
  );
  const plain = { identity: null, sourceIp: "192.0.2.7" };
  const named = head({ ...forged, "x-ns": "  Partner ", "x-wl": "Api.V2" });
  assert.deepEqual(byAddress.ask(0, plain, named)?.mesh, { namespace: "partner", workload: "api.v2" });
  assert.deepEqual(byAddress.ask(0, plain, head({ "x-ns": "not a name", "x-wl": "-a" }))?.mesh, undefined);
  assert.equal(byAddress.ask(0, { ...plain, sourceIp: "192.0.3.7" }, named)?.mesh, undefined);
});

test("[ENR-2] what was found out about a caller is kept for the cache's lifetime", () => {
  const { ask, state } = node(on({ mesh_cache_ttl_seconds: 10 }));
  assert.equal(ask(0)?.mesh?.zone, "eu-1");
  state.apply({ changed: [{ kind: "Workload", value: { ...client, zone: "eu-2" } }], removed: [] });
  assert.equal(ask(9_999)?.mesh?.zone, "eu-1");
  assert.equal(ask(10_000)?.mesh?.zone, "eu-2");
});

test("[ENR-3] the trace id is taken from anyone, of traceparent its own part; nothing is said where nothing is known", () => {
  const stranger = { identity: null, sourceIp: "192.0.2.1" };
  const plain = node(on());
  assert.deepEqual(plain.ask(0, stranger, head({ "x-request-id": " r-1 " }))?.mesh, { trace_id: "r-1" });
  assert.equal("mesh" in (plain.ask(0, stranger) as Enriched), false);
  const w3c = node(on({ mesh_header_map: { trace_id: "traceparent" } }));
  const trace = "4bf92f3577b34da6a3ce929d0e0e4736";
  assert.equal(w3c.ask(0, {}, head({ traceparent: `00-${trace}-00f067aa0ba902b7-01` }))?.mesh?.trace_id, trace);
  assert.equal(
    w3c.ask(0, {}, head({ traceparent: `00-${"0".repeat(32)}-00f067aa0ba902b7-01` }))?.mesh?.trace_id,
    undefined,
  );
});

test("[ENR-2] whatever a header says, its value is a clean name or nothing, and cleaning it again changes nothing", () => {
  const near = fc.oneof(
    fc.string(),
    fc.string({ unit: "binary" }),
    fc.stringMatching(/^[ \t]*[A-Za-z0-9./:_-]{0,300}[ \t]*$/),
  );
  fc.assert(
    fc.property(fc.constantFrom(...meshKeys), near, (key, raw) => {
      const value = meshValue(key, "x-h", raw);
      if (value === undefined) return;
      assert.match(value, /^[A-Za-z0-9._:/-]{1,253}$/);
      if (key === "namespace" || key === "service") assert.match(value, /^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/);
      assert.equal(meshValue(key, "x-h", value), value);
      assert.equal(meshValue(key, "x-h", `\t ${value} `), value);
    }),
    { numRuns: 1000 },
  );
});

test("[ENR-4] anomalies are those that hold, and the score is the sum of their weights", () => {
  const { ask } = node(on({ mesh_risky_namespaces: ["edge"], mesh_unusual_pair_count: 2 }));
  const from = { identity: gatewayId, sourceIp: "10.244.1.9" };
  const scores = [1, 2, 3].map((at) => ask(at, from));
  assert.deepEqual(scores[0]?.anomalies, ["cross_namespace", "risky_namespace", "unusual_pair"]);
  assert.deepEqual(
    scores.map((s) => s?.score),
    [0.9, 0.9, 0.6],
  );
  assert.deepEqual(ask(4, { identity: null, sourceIp: "192.0.2.1" })?.anomalies, ["missing_headers"]);
  assert.equal(ask(5, { identity: null, sourceIp: "192.0.2.1" })?.score, 0.1);
  // A pair that was not called for a window is unusual again.
  assert.equal(ask(3_600_001, from)?.score, 0.9);
  fc.assert(
    fc.property(
      fc.subarray([...meshAnomalies]),
      fc.array(fc.integer({ min: 0, max: 1000 }), { minLength: 4, maxLength: 4 }),
      (found, w) => {
        const weights = Object.fromEntries(meshAnomalies.map((a, i) => [a, (w[i] as number) / 1000])) as Record<
          MeshAnomaly,
          number
        >;
        const sum = found.reduce((total, a) => total + Math.round(weights[a] * 1000), 0) / 1000;
        assert.equal(scoreOf(on({ mesh_score_weights: weights }), found), sum);
      },
    ),
  );
});

test("[ENR-4] threads count pairs together, each pair for itself, anew in each window", () => {
  const memory = createPairMemory([1, 2]);
  let runs = 0;
  const threads = [new PairCounts(memory), new PairCounts(memory)] as const;
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.nat(1), fc.nat(3), fc.nat(4_000)), { maxLength: 100 }), (calls) => {
      const windows = new Map<string, { ends: number; count: number }>();
      let now = 1_000_000;
      const run = String(runs++);
      for (const [thread, pair, gap] of calls) {
        now += gap;
        const counts = threads[thread] as PairCounts;
        const name = `${run} ${pair}`;
        const known = windows.get(name);
        const nowS = Math.floor(now / 1000);
        const expected =
          known === undefined || known.ends <= nowS
            ? { ends: nowS + 10, count: 1 }
            : { ...known, count: known.count + 1 };
        windows.set(name, expected);
        assert.equal(counts.countPair(counts.pairKey("a/a", name), now, 10), expected.count);
      }
    }),
    { numRuns: 50 },
  );
});

test("[ENR-5] over a pair's limit what is too much is refused, not everything; blocking lasts to the minute's end", () => {
  const limited = node(on({ mesh_pair_rpm_limit: 60 }));
  const passed = (ask: typeof limited.ask, count: number, nowMs: number, from?: From): number => {
    let through = 0;
    for (let i = 0; i < count; i++) if (ask(nowMs, from)?.limited === undefined) through++;
    return through;
  };
  assert.equal(passed(limited.ask, 100, 0), 60);
  assert.deepEqual(limited.ask(0)?.limited, { by: "pair", action: "limit", retryAfterS: 1 });
  assert.equal(passed(limited.ask, 100, 10_000), 10, "one a second");
  assert.equal(passed(limited.ask, 10, 0, { identity: gatewayId }), 10, "another pair has its own");
  const blocking = node(on({ mesh_pair_rpm_limit: 60, mesh_limit_action: "block" }));
  assert.equal(passed(blocking.ask, 100, 0), 60);
  assert.equal(passed(blocking.ask, 100, 59_000), 0);
  assert.deepEqual(blocking.ask(59_000)?.limited, { by: "pair", action: "block", retryAfterS: 1 });
  assert.equal(passed(blocking.ask, 10, 60_000), 10);
});

test("[ENR-5] a namespace's quota holds over all its callers, and for no other namespace", () => {
  const { ask } = node(on({ mesh_namespace_rpm_quota: 10 }));
  const other = "spiffe://cluster.local/ns/shop/sa/other" as SpiffeId;
  let through = 0;
  for (let i = 0; i < 20; i++) if (ask(0, i % 2 === 0 ? {} : { identity: other })?.limited === undefined) through++;
  assert.equal(through, 10);
  assert.deepEqual(ask(0)?.limited, { by: "namespace", action: "limit", retryAfterS: 6 });
  assert.equal(ask(0, { identity: gatewayId })?.limited, undefined);
});

test("[ENR-6] counters by namespace, service and anomaly; however many pairs, what is kept and told is bounded", () => {
  const { ask, enricher } = node(on());
  assert.equal(enricher.flush(), undefined);
  for (let i = 0; i < 10; i++) ask(i);
  for (let i = 0; i < 3; i++) ask(i, { identity: gatewayId });
  const told = enricher.flush();
  assert.deepEqual(told?.namespaces, [
    ["shop", 10],
    ["edge", 3],
  ]);
  assert.deepEqual(told?.services, [["shop/web", 13]]);
  assert.deepEqual(Object.fromEntries(told?.anomalies ?? []), {
    unusual_pair: 8,
    cross_namespace: 3,
    missing_headers: 3,
  });
  assert.deepEqual(
    told?.pairs.map(({ source, destination, requests, score }) => [source, destination, requests, score]),
    [
      ["shop/client", "shop/web", 5, 0.3],
      ["edge/gw", "shop/web", 3, 0.7],
    ],
  );
  const tally = new Tally();
  for (let i = 0; i < 5_000; i++) {
    tally.request(`ns-${i}`, `svc-${i}`, []);
    tally.pair(`a/${i}`, "b/b", 0.3, ["unusual_pair"]);
  }
  const many = tally.flush();
  assert.equal(many?.namespaces.length, 201);
  assert.equal(many?.services.length, 201);
  assert.equal(many?.pairs.length, 100);
  assert.equal(many?.otherPairs, 4_900);
  assert.equal(
    many?.namespaces.reduce((sum, [, n]) => sum + n, 0),
    5_000,
  );
});

test("[ENR-6] pairs that find no room are said to be so, and are not taken for unusual", () => {
  const settings = on({ mesh_trusted_peers: ["*"] });
  const { ask, enricher } = node(settings);
  let uncounted = 0;
  for (let i = 0; i < 40_000; i++) {
    const got = ask(1, { identity: gatewayId }, head({ "x-k8s-service": `s-${i}` }));
    if (got?.anomalies.includes("unusual_pair") === false) uncounted++;
  }
  assert.equal(enricher.flush()?.crowded, uncounted);
  assert.ok(uncounted >= 40_000 - 16_384);
});
