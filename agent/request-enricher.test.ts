// The enricher in the flow of requests, over real sockets: asked on the server's node before its policies, which may ask for what it found.
import assert from "node:assert/strict";
import { connect } from "node:net";
import { type TestContext, test } from "node:test";
import { authorization, rateLimit } from "../test/kit/mesh.ts";
import { endpoint, type Given, lane, web, web1 } from "../test/kit/request-lane.ts";
import { linesOf, observeAll } from "../test/kit/telemetry.ts";
import { defaultEnricher, type EnricherSettings } from "./api/enricher.ts";

/** What is answered to these bytes until the end. */
const sent = (port: number, bytes: string): Promise<string> =>
  new Promise((resolve, reject) => {
    let text = "";
    const socket = connect(port, "127.0.0.1", () => socket.write(bytes));
    socket.setEncoding("latin1").on("data", (chunk) => {
      text += chunk;
    });
    socket.on("error", reject).on("end", () => resolve(text));
  });

const identity = "spiffe://cluster.local/ns/edge/sa/gw";

async function atServer(t: TestContext, enricher: Partial<EnricherSettings>, parts: Partial<Given["parts"]> = {}) {
  const settings = { enricher: { ...defaultEnricher, enable_mesh_enricher: true, ...enricher } };
  const workloads = [endpoint("a", "10.244.2.1")];
  const at = { "10.244.2.1": await web1(t, "a") };
  return lane(t, { direction: "inbound", parts: { services: [web], workloads, settings, ...parts }, at, identity });
}

test("[ENR-3] [ENR-4] a policy refuses by the score of a request, and lets it through when the call has become usual", async (t) => {
  const deny = authorization(
    "unusual",
    [{ when: [{ key: "features.mesh.score", values: [">=0.6"], notValues: [] }] }],
    {
      action: "deny",
    },
  );
  const trusted = { mesh_trusted_peers: ["cluster.local/ns/edge/*"], mesh_unusual_pair_count: 2 };
  const { get, guard } = await atServer(t, trusted, { authorizations: [deny] });
  // Cross-namespace and unusual, twice: 0.6; then only the one.
  const headers = { "x-k8s-workload": "gw" };
  const statuses: number[] = [];
  for (let i = 0; i < 4; i++) statuses.push((await get("/", "GET", headers)).status);
  assert.deepEqual(statuses, [403, 403, 200, 200]);
  const told = guard.flush()?.enriched;
  assert.deepEqual(told?.namespaces, [["edge", 4]]);
  assert.deepEqual(told?.services, [["shop/web", 4]]);
  assert.deepEqual(Object.fromEntries(told?.anomalies ?? []), { cross_namespace: 4, unusual_pair: 2 });
});

test("[ENR-5] a pair over its limit gets 429 by default, 403 where it is to be blocked, both with Retry-After", async (t) => {
  const headers = { "x-k8s-workload": "gw" };
  const limits = { mesh_trusted_peers: ["*"], mesh_pair_rpm_limit: 2 };
  const limited = await atServer(t, limits);
  const answers: [number, string | undefined][] = [];
  for (let i = 0; i < 3; i++) {
    const { status, headers: got } = await limited.get("/", "GET", headers);
    answers.push([status, got["retry-after"]]);
  }
  assert.deepEqual(answers.slice(0, 2), [
    [200, undefined],
    [200, undefined],
  ]);
  assert.equal(answers[2]?.[0], 429);
  assert.ok(Number(answers[2]?.[1]) >= 25);
  const flags = limited.series.flush()?.deltas.find(({ labels }) => labels?.response_code === "429");
  assert.equal(flags?.labels?.response_flags, "RL");
});

test("[ENR-1] what is off changes nothing; switched on it acts on a connection that is open", async (t) => {
  const { get, guard, replica } = await atServer(t, { enable_mesh_enricher: false, mesh_namespace_rpm_quota: 1 });
  for (let i = 0; i < 3; i++) assert.equal((await get("/")).status, 200);
  assert.equal(guard.flush(), undefined);
  const { settings } = replica.state;
  const enricher = { ...settings.enricher, enable_mesh_enricher: true };
  replica.take({ say: "mesh", changed: [{ kind: "MeshSettings", value: { ...settings, enricher } }], removed: [] });
  assert.deepEqual([(await get("/")).status, (await get("/")).status], [200, 429]);
});

test("[ENR-3] [LIM-1] a request's line has what the enricher found out, and names the limit's policy; without the enricher it has neither", async (t) => {
  const at = { "10.244.2.1": await web1(t, "a") };
  const settings = { enricher: { ...defaultEnricher, enable_mesh_enricher: true } };
  const rateLimits = [rateLimit("one", [{ requests: 1, windowMs: 86_400_000 }])];
  const authorizations = [authorization("all", [{}])];
  const parts = { services: [web], workloads: [endpoint("a", "10.244.2.1")], rateLimits, authorizations, settings };
  const given = { direction: "inbound" as const, parts, at, identity, observe: observeAll };
  const { get, told, watch, replica } = await lane(t, given);
  assert.equal((await get("/", "GET", { "x-request-id": "r-1" })).status, 200);
  assert.equal((await get("/")).status, 429);
  const off = { ...replica.state.settings, enricher: defaultEnricher };
  replica.take({ say: "mesh", changed: [{ kind: "MeshSettings", value: off }], removed: [] });
  await get("/");
  watch.observer.close();
  const [served, limited, plain] = linesOf(told);
  assert.deepEqual(served?.features, {
    mesh: { namespace: "edge", mesh_source: identity, trace_id: "r-1" },
    score: 0.7,
    anomalies: ["cross_namespace", "unusual_pair", "missing_headers"],
  });
  assert.equal(served?.policy, "shop/all");
  assert.deepEqual(
    [limited?.status, limited?.flags, limited?.policy, limited?.rule],
    [429, "RL", "shop/one", undefined],
  );
  assert.equal("features" in (plain ?? {}), false);
});

test("[ENR-3] denied, limited and malformed requests have a threat record with features.mesh, though no log wants requests; others have none", async (t) => {
  const at = { "10.244.2.1": await web1(t, "a") };
  const settings = { enricher: { ...defaultEnricher, enable_mesh_enricher: true, mesh_pair_rpm_limit: 1 } };
  const deny = authorization("no-admin", [{ to: [{ paths: ["/admin"] }] }], { action: "deny" });
  const parts = { services: [web], workloads: [endpoint("a", "10.244.2.1")], authorizations: [deny], settings };
  const { get, told, watch, port } = await lane(t, { direction: "inbound", parts, at, identity });
  assert.equal((await get("/fine")).status, 200);
  assert.equal((await get("/admin?x", "GET", { "x-request-id": "r-2" })).status, 403);
  assert.equal((await get("/fine")).status, 429);
  const raw = await sent(port, "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n");
  assert.match(raw, /^HTTP\/1\.1 400 /);
  watch.observer.close();
  assert.equal(linesOf(told).length, 0);
  const threats = told.flatMap((batch) => batch.threats?.lines ?? []).map((line) => JSON.parse(line));
  const mesh = { namespace: "edge", mesh_source: identity };
  assert.deepEqual(
    threats.map((r) => [r.threat, r.status, r.method, r.path, r.policy, r.features?.mesh]),
    [
      ["denied", 403, "GET", "/admin?x", "shop/no-admin", { ...mesh, trace_id: "r-2" }],
      ["limited", 429, "GET", "/fine", undefined, mesh],
      ["malformed", 400, "", "", undefined, undefined],
    ],
  );
  assert.deepEqual(
    [threats[0].features.score, threats[0].features.anomalies, threats[0]["src.identity"], threats[0].input],
    [0.7, ["cross_namespace", "unusual_pair", "missing_headers"], identity, 'path="/admin"'],
  );
  assert.deepEqual([threats[2].reason, threats[2].flags, threats[2].pod], ["host_repeated", "DPE", "shop/a"]);
});
