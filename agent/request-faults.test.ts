// Faults that a policy injects, and requests that routes hold or lead elsewhere, over real sockets.
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { member, service, workload } from "../test/kit/mesh.ts";
import { endpoint, lane, web, web1 } from "../test/kit/request-lane.ts";
import { backend, route, rule } from "../test/kit/routes.ts";
import type { RouteFilter } from "./api/http-filters.ts";
import { defaultPolicy } from "./api/http-policy.ts";

const noFault = { headers: [], delayMs: 0, delayPercent: 0, abortStatus: 0, abortPercent: 0, expiresMs: 0 };
const always = { headers: [], percent: 100, expiresMs: 0 };
const trap = service("shop", "trap", "10.96.0.2", [{ port: 80, nodePort: 0, protocol: "http" }]);

/** The service web behind one route with these filters, and a service trap beside it. */
async function routed(t: TestContext, filters: readonly RouteFilter[]) {
  const at = { "10.244.2.1": await web1(t, "web"), "10.244.2.9": await web1(t, "trap") };
  const services = [member("shop", "trap", 80, 8080)];
  const workloads = [endpoint("a", "10.244.2.1"), workload("shop", "t", "10.244.2.9", { tunnel: "none", services })];
  const routes = [route("r", [rule({ filters, backends: [backend("web")] })])];
  const routings = [{ name: "web", namespace: "shop", routes, policy: defaultPolicy }];
  return lane(t, { parts: { services: [web, trap], workloads, routings }, at });
}
const counted = ({ series }: Awaited<ReturnType<typeof lane>>): string[] =>
  (series.flush()?.deltas ?? []).map(({ labels }) => `${labels?.response_code} ${labels?.response_flags}`);

test("[TRF-4] an injected abort is the client's answer, told by its flag, and reaches no server", async (t) => {
  const headers = [{ name: "x-fault", kind: "exact" as const, value: "yes" }];
  const value = { ...noFault, headers, abortStatus: 503, abortPercent: 100, abortGrpc: undefined };
  const made = await routed(t, [{ kind: "fault", value }]);
  assert.equal((await made.get("/", "GET", { "x-fault": "yes" })).status, 503);
  assert.equal(made.dialled.length, 0);
  assert.deepEqual(counted(made), ["503 FI"]);
  assert.equal((await made.get("/")).body, "web GET /");
});

test("[TRF-4] an injected delay comes before the server, which then answers", async (t) => {
  const value = { ...noFault, delayMs: 400, delayPercent: 100, abortGrpc: undefined };
  const made = await routed(t, [{ kind: "fault", value }]);
  const began = performance.now();
  assert.equal((await made.get("/")).body, "web GET /");
  assert.ok(performance.now() - began >= 390, `${performance.now() - began} ms`);
  assert.equal(made.dialled.length, 1);
});

test("[TRF-8] a tarpit holds its answer back; a diverted request gets the other service's answer", async (t) => {
  const held = await routed(t, [{ kind: "tarpit", value: { ...always, holdMs: 400, status: 429 } }]);
  const began = performance.now();
  assert.equal((await held.get("/")).status, 429);
  assert.ok(performance.now() - began >= 390, `${performance.now() - began} ms`);
  assert.equal(held.dialled.length, 0);
  assert.deepEqual(counted(held), ["429 FI"]);

  const diverted = await routed(t, [{ kind: "divert", value: { ...always, backend: backend("trap") } }]);
  assert.equal((await diverted.get("/x")).body, "trap GET /x");
});
