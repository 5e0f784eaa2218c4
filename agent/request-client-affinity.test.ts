// Requests of clients that their Service keeps with one endpoint (`sessionAffinity: ClientIP`), and of Services for one node only.
import assert from "node:assert/strict";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { type TestContext, test } from "node:test";
import { client, endpoint, lane, web } from "../test/kit/request-lane.ts";
import { defaultBalancer, defaultPolicy, type HttpPolicy } from "./api/http-policy.ts";
import type { NodeName } from "./api/names.ts";
import type { Service } from "./api/service.ts";
import type { Workload } from "./api/workload.ts";

/** Servers that say their number, each a pod of web.shop. */
async function behind(t: TestContext, service: Service, count: number, policy?: Partial<HttpPolicy>) {
  const at: Record<string, number> = {};
  for (let i = 0; i < count; i++) {
    const server = createServer((_, response) => response.end(`${i}`));
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    t.after(() => {
      server.close();
      server.closeAllConnections();
    });
    at[`10.244.2.${i + 1}`] = (server.address() as AddressInfo).port;
  }
  const workloads = Object.keys(at).map((ip, i) => endpoint(`e${i}`, ip));
  const routing = { name: "web", namespace: "shop", routes: [], policy: { ...defaultPolicy, ...policy } };
  const routings = policy === undefined ? [] : [routing];
  const made = await lane(t, { parts: { services: [service], workloads, routings }, at });
  const bodies = async (requests: number): Promise<string[]> => {
    const all: string[] = [];
    for (let i = 0; i < requests; i++) all.push((await made.get("/")).body);
    return all;
  };
  const put = (workload: Workload): void =>
    void made.replica.take({ say: "mesh", changed: [{ kind: "Workload", value: workload }], removed: [] });
  return { ...made, workloads, bodies, put };
}
const sticky = { ...web, clientAffinityS: 2 };
const turns = { balancer: { ...defaultBalancer, algorithm: "round_robin" as const } };

test("[DIS-10] requests of a client stay with one endpoint, also when more come, and go elsewhere once it is gone", async (t) => {
  const { bodies, put, workloads } = await behind(t, sticky, 6, turns);
  for (const one of workloads.slice(3)) put({ ...one, ready: false });
  const [own = "", ...rest] = await bodies(8);
  assert.ok(rest.every((body) => body === own));
  for (const one of workloads.slice(3)) put(one);
  assert.deepEqual(new Set(await bodies(12)), new Set([own]), "newcomers take no client away");
  put({ ...(workloads[Number(own)] as Workload), ready: false });
  const after = new Set(await bodies(12));
  assert.equal(after.size, 1);
  assert.ok(!after.has(own));
});

test("[DIS-10] a policy's own session or consistent hash has its way before the Service's affinity", async (t) => {
  const byHeader = { ...turns.balancer, algorithm: "maglev" as const, hashOn: "header" as const, hashName: "x-user" };
  const { get } = await behind(t, sticky, 4, { balancer: byHeader });
  const seen = new Set<string>();
  for (let i = 0; i < 40; i++) seen.add((await get("/", "GET", { "x-user": `u${i}` })).body);
  assert.ok(seen.size > 1, `${[...seen]}`);
  const cookie = { kind: "cookie" as const, name: "s", lifetimeS: 0, absoluteS: 0, idleS: 0 };
  const session = await behind(t, sticky, 4, { ...turns, affinity: cookie });
  assert.equal(new Set(await session.bodies(12)).size, 4, "no cookie was sent back");
});

test("[DIS-10] requests at a node-local address are answered 503 with the reason where this node has no endpoint", async (t) => {
  const local = { ...web, nodeLocalAddresses: web.addresses };
  const { get, put, workloads } = await behind(t, local, 2);
  for (const one of workloads) put({ ...one, node: "node2" as NodeName });
  const { status, body } = await get("/");
  assert.deepEqual([status, body], [503, "no way to the service: no_local_endpoint\n"]);
  put({ ...(workloads[1] as Workload), node: client.node });
  assert.equal((await get("/")).body, "1");
});

test("[DIS-10] [LB-7] requests go to endpoints that hints name for the client's zone, and where a policy prefers the zone, by its registry's record", async (t) => {
  const { bodies, put, workloads } = await behind(t, web, 3);
  put({ ...client, zone: "a" });
  for (const [i, one] of workloads.entries())
    put({ ...one, services: one.services.map((m) => ({ ...m, forZones: [i === 2 ? "a" : "b"] })) });
  assert.deepEqual(new Set(await bodies(12)), new Set(["2"]));
  const near = await behind(t, web, 3, { locality: { ...defaultPolicy.locality, prefer: "zone" } });
  near.put({ ...client, zone: "a", region: "r" });
  for (const [i, one] of near.workloads.entries()) near.put({ ...one, region: "r", zone: i === 1 ? "a" : "b" });
  assert.deepEqual(new Set(await near.bodies(12)), new Set(["1"]));
});
