// Requests of handed connections over real sockets: routed by the thread's replica, judged per request, counted.
import assert from "node:assert/strict";
import { test } from "node:test";
import { authorization, member, service, workload } from "../test/kit/mesh.ts";
import { endpoint, lane, web, web1 } from "../test/kit/request-lane.ts";
import { backend, route, rule } from "../test/kit/routes.ts";
import type { RouteMatch } from "./api/http-match.ts";
import { type Balancer, defaultBalancer, defaultPolicy, type HttpPolicy } from "./api/http-policy.ts";
import type { WorkloadUid } from "./api/names.ts";

const policyOf = (balancer: Partial<Balancer>): HttpPolicy => ({
  ...defaultPolicy,
  balancer: { ...defaultBalancer, ...balancer },
});

test("[LB-1] requests of one connection go to every endpoint of the service, and follow the mesh as it changes", async (t) => {
  const at = { "10.244.2.1": await web1(t, "a"), "10.244.2.2": await web1(t, "b") };
  const workloads = [endpoint("a", "10.244.2.1"), endpoint("b", "10.244.2.2")];
  const routing = { name: "web", namespace: "shop", routes: [], policy: policyOf({ algorithm: "round_robin" }) };
  const parts = { services: [web], workloads, routings: [routing] };
  const { get, replica, dialled } = await lane(t, { parts, at });
  const seen = { a: 0, b: 0 };
  for (let i = 0; i < 100; i++) {
    const { status, body } = await get(`/${i}`);
    assert.equal(status, 200);
    assert.equal(body.slice(2), `GET /${i}`);
    seen[body[0] as "a" | "b"]++;
  }
  assert.deepEqual(seen, { a: 50, b: 50 });
  // Connections to servers are kept: two endpoints, two connections.
  assert.equal(dialled.length, 2);

  const uid = (workloads[0] as { uid: WorkloadUid }).uid;
  replica.take({ say: "mesh", changed: [], removed: [{ kind: "Workload", name: uid }] });
  for (let i = 0; i < 20; i++) assert.equal((await get("/x")).body, "b GET /x");
  const other = (workloads[1] as { uid: WorkloadUid }).uid;
  replica.take({ say: "mesh", changed: [], removed: [{ kind: "Workload", name: other }] });
  const refused = await get("/");
  assert.deepEqual([refused.status, refused.body], [503, "no way to the service: no_endpoints\n"]);
});

test("[OBS-1] requests are counted with Istio's labels: by endpoint, status and response flags", async (t) => {
  const at = { "10.244.2.1": await web1(t, "a"), "10.244.2.2": 1 };
  const workloads = [endpoint("a", "10.244.2.1"), endpoint("b", "10.244.2.2")];
  const { get, series, replica } = await lane(t, { parts: { services: [web], workloads }, at });
  // What reached nobody is tried elsewhere, so a server that is down does not show while there is another.
  for (let i = 0; i < 40; i++) assert.equal((await get("/")).status, 200);
  const uid = (workloads[0] as { uid: WorkloadUid }).uid;
  replica.take({ say: "mesh", changed: [], removed: [{ kind: "Workload", name: uid }] });
  for (let i = 0; i < 3; i++) assert.equal((await get("/")).status, 503);
  const deltas = series.flush()?.deltas ?? [];
  const counted = new Map(
    deltas.map(({ labels, count }) => [
      `${labels?.reporter} ${labels?.destination_workload} ${labels?.response_code} ${labels?.response_flags}`,
      count,
    ]),
  );
  assert.deepEqual(
    counted,
    new Map([
      ["source a 200 -", 40],
      ["source b 503 UF,URX", 3],
    ]),
  );
  for (const { labels } of deltas) {
    assert.equal(labels?.source_workload, "client");
    assert.equal(labels?.destination_service, "web.shop.svc.cluster.local");
    assert.equal(labels?.request_protocol, "http");
  }
});

test("[SEC-1] [DP-24] policies of the server are asked about every request of a connection, and a change of them holds for the next", async (t) => {
  const at = { "10.244.2.1": await web1(t, "a") };
  const workloads = [endpoint("a", "10.244.2.1")];
  const deny = authorization("no-admin", [{ to: [{ paths: ["/admin*"] }] }], { action: "deny" });
  const { get, replica, series } = await lane(t, {
    direction: "inbound",
    parts: { services: [web], workloads, authorizations: [deny] },
    at,
    identity: "spiffe://cluster.local/ns/shop/sa/client",
  });
  assert.equal((await get("/a")).status, 200);
  const refused = await get("/admin/x");
  assert.deepEqual([refused.status, refused.body], [403, "RBAC: access denied\n"]);
  assert.equal((await get("/b")).status, 200);
  const name = `${deny.namespace}/${deny.name}`;
  replica.take({ say: "mesh", changed: [], removed: [{ kind: "Authorization", name }] });
  assert.equal((await get("/admin/x")).status, 200);
  const denied = series.flush()?.deltas.find(({ labels }) => labels?.response_code === "403");
  assert.equal(denied?.labels?.response_flags, "UAEX");
  assert.equal(denied?.labels?.source_principal, "spiffe://cluster.local/ns/shop/sa/client");
});

test("[SEC-10] a client of the mesh that asks is told in the answer which policy denied it, by which rule and input; nobody else is", async (t) => {
  const at = { "10.244.2.1": await web1(t, "a") };
  const workloads = [endpoint("a", "10.244.2.1")];
  const deny = authorization("no-admin", [{ to: [{ paths: ["/admin*"] }] }], { action: "deny" });
  const parts = { services: [web], workloads, authorizations: [deny] };
  const asks = { "x-fairlead-explain": "1" };
  const identity = "spiffe://cluster.local/ns/shop/sa/client";
  const known = await lane(t, { direction: "inbound", parts, at, identity });
  assert.equal((await known.get("/admin/x")).headers["x-fairlead-denied"], undefined);
  assert.equal((await known.get("/a", "GET", asks)).headers["x-fairlead-denied"], undefined);
  const told = await known.get("/admin/a%20b", "GET", asks);
  assert.equal(
    told.headers["x-fairlead-denied"],
    'denied; policy="shop/no-admin"; rule=0; input="path=\\"/admin/a%20b\\" (may be read as \\"/admin/a b\\")"',
  );
  const stranger = await lane(t, { direction: "inbound", parts, at });
  assert.equal((await stranger.get("/admin/x", "GET", asks)).headers["x-fairlead-denied"], undefined);
});

test("[TRF-1] a route decides by path and header, edits heads on the way, and answers what no rule matches", async (t) => {
  const at = { "10.244.2.1": await web1(t, "a"), "10.244.2.2": await web1(t, "b") };
  const canary = service("shop", "canary", "10.96.0.2", [{ port: 80, nodePort: 0, protocol: "http" }]);
  const second = workload("shop", "b", "10.244.2.2", {
    tunnel: "none",
    services: [member("shop", "canary", 80, 8080)],
  });
  const prefix = (value: string): RouteMatch => ({
    path: { kind: "prefix", value },
    headers: [],
    query: [],
    method: "",
    grpc: undefined,
  });
  const web80 = route("web", [
    rule({
      matches: [prefix("/new")],
      filters: [{ kind: "rewrite", value: { hostname: "", path: { kind: "prefix", value: "/old" } } }],
      backends: [backend("canary")],
    }),
    rule({ matches: [prefix("/shop")], backends: [backend("web")] }),
    rule({ matches: [prefix("/gone")], backends: [backend("nothing")] }),
  ]);
  const { get, replica } = await lane(t, {
    parts: { services: [web, canary], workloads: [endpoint("a", "10.244.2.1"), second] },
    at,
  });
  assert.equal((await get("/new/x")).body, "a GET /new/x");
  const routing = { name: "web", namespace: "shop", routes: [web80], policy: defaultPolicy };
  replica.take({ say: "mesh", changed: [{ kind: "HttpRouting", value: routing }], removed: [] });
  assert.equal((await get("/new/x?q=1")).body, "b GET /old/x?q=1");
  assert.equal((await get("/shop/1")).body, "a GET /shop/1");
  assert.equal((await get("/elsewhere")).status, 404);
  assert.equal((await get("/gone")).status, 503);
});

test("[DP-27] a connection that asks again after its pool was forgotten gets a new one", async (t) => {
  const at = { "10.244.2.1": await web1(t, "a") };
  const workloads = [endpoint("a", "10.244.2.1")];
  const { get, pools } = await lane(t, { parts: { services: [web], workloads }, at, forgetMs: 100 });
  assert.equal((await get("/1")).status, 200);
  pools.closeIdle();
  while (pools.size > 0) await new Promise((resolve) => setTimeout(resolve, 20));
  assert.equal((await get("/2")).status, 200);
  assert.equal(pools.size, 1);
});
