// Requests of handed connections over real sockets: routed by the thread's replica, judged per request, counted.
import assert from "node:assert/strict";
import { Agent, createServer, request, type Server } from "node:http";
import { type AddressInfo, connect, createServer as createTcp, type OnReadOpts, type Socket } from "node:net";
import { type TestContext, test } from "node:test";
import type { MeshParts } from "../test/kit/mesh.ts";
import { authorization, localPod, member, mesh, service, workload } from "../test/kit/mesh.ts";
import type { RouteMatch } from "./api/http-match.ts";
import { defaultPolicy, noTimeouts } from "./api/http-policy.ts";
import type { HttpRoute, RouteRule } from "./api/http-routing.ts";
import { serviceName, type WorkloadUid } from "./api/names.ts";
import { systemClock } from "./base/clock.ts";
import { seededRandom } from "./base/random.ts";
import { err, ok, type Result } from "./base/result.ts";
import { Downstream } from "./forward/http1/downstream.ts";
import { defaultExchangeLimits } from "./forward/http1/exchange.ts";
import { Sweep } from "./forward/http1/sweep.ts";
import { Pools, type Target } from "./forward/pools.ts";
import { Replica } from "./replica.ts";
import { RequestSeriesTable } from "./report/request-series.ts";
import { RequestFlow } from "./request.ts";
import type { HandedSocket } from "./threads.ts";

const client = workload("shop", "client", "10.244.1.5");
const web = service("shop", "web", "10.96.0.1", [{ port: 80, nodePort: 0, protocol: "http" }]);
const endpoint = (name: string, address: string) =>
  workload("shop", name, address, { tunnel: "none", services: [member("shop", "web", 80, 8080)] });

interface Given {
  readonly direction?: HandedSocket["direction"];
  readonly parts: MeshParts;
  /** Pod address -> where it really listens. */
  readonly at: Readonly<Record<string, number>>;
  readonly identity?: string;
}

/** A thread's lane behind a listening socket; every connection to it is one that native has handed over. */
async function lane(t: TestContext, { direction = "outbound", parts, at, identity }: Given) {
  const replica = new Replica();
  for (const resource of mesh(parts).snapshot()) replica.take({ say: "mesh", changed: [resource], removed: [] });
  const served = direction === "inbound" ? (parts.workloads ?? []) : [];
  replica.take({ say: "pods", pods: [client, ...served].map(localPod) });
  replica.take({ say: "knowledge", knowledge: "fresh" });
  const sweep = new Sweep(systemClock);
  const dialled: Target[] = [];
  const dial = (target: Target, onread: OnReadOpts): Promise<Result<Socket, string>> =>
    new Promise((resolve) => {
      dialled.push(target);
      const socket = connect({ port: at[target.endpoint.ip] ?? 1, allowHalfOpen: true, onread });
      socket.once("connect", () => resolve(ok(socket)));
      socket.once("error", () => resolve(err("connect_refused")));
    });
  const limits = defaultExchangeLimits;
  const series = new RequestSeriesTable(100);
  const pools = new Pools({ dial, sweep, limits, forgetMs: 60_000, standing: () => "unknown" });
  const random = seededRandom(7);
  const malformed: string[] = [];
  const parts_ = { replica, pools, series, random, settings: { detectMs: 0 }, nowMs: () => systemClock.monotonicMs() };
  const flow = {
    ...parts_,
    wallMs: () => systemClock.now(),
    malformed: (refused: string) => void malformed.push(refused),
  };
  const open = new Set<Downstream>();
  const server = createTcp({ pauseOnConnect: true, allowHalfOpen: true }, (accepted) => {
    const handed: HandedSocket = {
      event: "socket",
      fd: 0,
      id: 1,
      tunnel: "plain",
      direction,
      pod: direction === "outbound" ? "shop/client" : "shop/a",
      original: direction === "outbound" ? { ip: "10.96.0.1", port: 80 } : { ip: "10.244.2.1", port: 8080 },
      source: { ip: "10.244.1.5", port: 40_000 },
      planId: 1,
      verdictId: 0,
      protocol: "http1",
      ...(identity === undefined ? {} : { identity }),
    };
    const handler = new RequestFlow(flow, handed);
    // The accepted socket stands in for the descriptor: what it reads is given to `onread` as a socket made of one would.
    const adopt = (onread: OnReadOpts): Socket => {
      accepted.on("data", (chunk: Buffer) => {
        for (let from = 0; from < chunk.length; ) {
          const buffer = typeof onread.buffer === "function" ? onread.buffer() : onread.buffer;
          const n = chunk.copy(buffer, 0, from);
          if (!onread.callback(n, buffer)) accepted.pause();
          from += n;
        }
      });
      return accepted;
    };
    const connection: Downstream = new Downstream(
      { handler, limits, sweep, closed: () => void open.delete(connection) },
      adopt,
    );
    open.add(connection);
    accepted.resume();
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  t.after(() => {
    agent.destroy();
    for (const connection of open) connection.destroy();
    pools.drain();
    sweep.stop();
    server.close();
  });
  const get = (path: string, method = "GET"): Promise<{ status: number; body: string }> =>
    new Promise((resolve, reject) => {
      const { port } = server.address() as AddressInfo;
      const ask = request({ port, path, method, agent, headers: { host: "web.shop" } }, (answer) => {
        let body = "";
        answer.on("data", (chunk: Buffer) => {
          body += chunk.toString();
        });
        answer.on("end", () => resolve({ status: answer.statusCode ?? 0, body }));
      });
      ask.on("error", reject);
      ask.end();
    });
  return { get, replica, dialled, series, malformed };
}

async function web1(t: TestContext, name: string): Promise<number> {
  const server: Server = createServer((q, s) => s.end(`${name} ${q.method} ${q.url}`));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => {
    server.close();
    server.closeAllConnections();
  });
  return (server.address() as AddressInfo).port;
}

test("[LB-1] requests of one connection go to every endpoint of the service, and follow the mesh as it changes", async (t) => {
  const at = { "10.244.2.1": await web1(t, "a"), "10.244.2.2": await web1(t, "b") };
  const workloads = [endpoint("a", "10.244.2.1"), endpoint("b", "10.244.2.2")];
  const { get, replica, dialled } = await lane(t, { parts: { services: [web], workloads }, at });
  const seen = { a: 0, b: 0 };
  for (let i = 0; i < 100; i++) {
    const { status, body } = await get(`/${i}`);
    assert.equal(status, 200);
    assert.equal(body.slice(2), `GET /${i}`);
    seen[body[0] as "a" | "b"]++;
  }
  assert.ok(seen.a > 25 && seen.b > 25, JSON.stringify(seen));
  // Connections to servers are kept: two endpoints, two connections.
  assert.equal(dialled.length, 2);

  const uid = (workloads[0] as { uid: WorkloadUid }).uid;
  replica.take({ say: "mesh", changed: [], removed: [{ kind: "Workload", name: uid }] });
  for (let i = 0; i < 20; i++) assert.equal((await get("/x")).body, "b GET /x");
  const other = (workloads[1] as { uid: WorkloadUid }).uid;
  replica.take({ say: "mesh", changed: [], removed: [{ kind: "Workload", name: other }] });
  assert.deepEqual(await get("/"), { status: 503, body: "no way to the service: no_endpoints\n" });
});

test("[OBS-1] requests are counted with Istio's labels: by endpoint, status and response flags", async (t) => {
  const at = { "10.244.2.1": await web1(t, "a"), "10.244.2.2": 1 };
  const workloads = [endpoint("a", "10.244.2.1"), endpoint("b", "10.244.2.2")];
  const { get, series } = await lane(t, { parts: { services: [web], workloads }, at });
  const statuses = new Map<number, number>();
  for (let i = 0; i < 40; i++) {
    const { status } = await get("/");
    statuses.set(status, (statuses.get(status) ?? 0) + 1);
  }
  assert.deepEqual([...statuses.keys()].sort(), [200, 503]);
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
      ["source a 200 -", statuses.get(200)],
      ["source b 503 UF", statuses.get(503)],
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
  assert.deepEqual(await get("/admin/x"), { status: 403, body: "RBAC: access denied\n" });
  assert.equal((await get("/b")).status, 200);
  const name = `${deny.namespace}/${deny.name}`;
  replica.take({ say: "mesh", changed: [], removed: [{ kind: "Authorization", name }] });
  assert.equal((await get("/admin/x")).status, 200);
  const denied = series.flush()?.deltas.find(({ labels }) => labels?.response_code === "403");
  assert.equal(denied?.labels?.response_flags, "UAEX");
  assert.equal(denied?.labels?.source_principal, "spiffe://cluster.local/ns/shop/sa/client");
});

test("[TRF-1] a route decides by path and header, edits heads on the way, and answers what no rule matches", async (t) => {
  const at = { "10.244.2.1": await web1(t, "a"), "10.244.2.2": await web1(t, "b") };
  const canary = service("shop", "canary", "10.96.0.2", [{ port: 80, nodePort: 0, protocol: "http" }]);
  const second = workload("shop", "b", "10.244.2.2", {
    tunnel: "none",
    services: [member("shop", "canary", 80, 8080)],
  });
  const backend = (name: string, port = 80) => ({
    service: serviceName("shop", name),
    port,
    weight: 1,
    filters: [],
    subset: {},
    invalid: "",
  });
  const rule = (more: Partial<RouteRule>): RouteRule => ({
    name: "",
    matches: [],
    filters: [],
    backends: [],
    timeouts: noTimeouts,
    retry: undefined,
    affinity: undefined,
    ...more,
  });
  const prefix = (value: string): RouteMatch => ({
    path: { kind: "prefix", value },
    headers: [],
    query: [],
    method: "",
    grpc: undefined,
  });
  const route: HttpRoute = {
    kind: "http",
    name: "web",
    namespace: "shop",
    createdMs: 0,
    ports: [],
    consumers: "",
    hostnames: [],
    rules: [
      rule({
        matches: [prefix("/new")],
        filters: [{ kind: "rewrite", value: { hostname: "", path: { kind: "prefix", value: "/old" } } }],
        backends: [backend("canary")],
      }),
      rule({ matches: [prefix("/shop")], backends: [backend("web")] }),
      rule({ matches: [prefix("/gone")], backends: [backend("nothing")] }),
    ],
  };
  const { get, replica } = await lane(t, {
    parts: { services: [web, canary], workloads: [endpoint("a", "10.244.2.1"), second] },
    at,
  });
  assert.equal((await get("/new/x")).body, "a GET /new/x");
  const routing = { name: "web", namespace: "shop", routes: [route], policy: defaultPolicy };
  replica.take({ say: "mesh", changed: [{ kind: "HttpRouting", value: routing }], removed: [] });
  assert.equal((await get("/new/x?q=1")).body, "b GET /old/x?q=1");
  assert.equal((await get("/shop/1")).body, "a GET /shop/1");
  assert.equal((await get("/elsewhere")).status, 404);
  assert.equal((await get("/gone")).status, 503);
});
