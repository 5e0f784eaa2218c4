// Limits of connections out of ResiliencePolicies: which connections have one, under which key.
import assert from "node:assert/strict";
import { test } from "node:test";
import { localPod, mesh, service, workload } from "../../test/kit/mesh.ts";
import { defaultPolicy, noLimits, noTimeouts } from "../api/http-policy.ts";
import type { HttpRouting } from "../api/http-routing.ts";
import type { ServiceName } from "../api/names.ts";
import { connectionLimits } from "./connection-limits.ts";
import { routeOf } from "./route.ts";

const redis = service("shop", "redis", "10.96.0.7", [{ port: 6379, nodePort: 0, protocol: "" }]);
const client = localPod(workload("edge", "client", "10.244.1.5"));
const pods = { byName: () => client, byAddress: () => undefined };

function limitsOf(policy: Partial<typeof defaultPolicy> | undefined, ip = "10.96.0.7") {
  const routing: HttpRouting = {
    namespace: "shop",
    name: "redis",
    policy: { ...defaultPolicy, ...policy, sources: ["shop/few"] },
    routes: [],
  };
  const routings = policy === undefined ? [] : [routing];
  const state = mesh({ services: [redis], routings });
  return connectionLimits(state, "edge", routeOf(state, pods, { ip, port: 6379 }));
}

test("[TRF-6] [DIS-10] connections to the pods of a headless Service have its policy's limits, whichever pod it is", () => {
  const ports = [{ servicePort: 6379, targetPort: 6380 }];
  const headless = (name: string) => ({ ...service("shop", name, "", redis.ports), addresses: [], headless: true });
  const routing = (name: string, maxConnections: number): HttpRouting => ({
    namespace: "shop",
    name,
    policy: { ...defaultPolicy, limits: { ...noLimits, maxConnections }, sources: [`shop/${name}`] },
    routes: [],
  });
  const names = ["shop/redis", "shop/nodes-b", "shop/nodes-a", "shop/nodes"] as const;
  const members = names.map((name) => ({ service: name as ServiceName, ports }));
  const pod = (ip: string) => workload("shop", `redis-${ip.at(-1)}`, ip, { services: members });
  const services = [redis, ...["nodes", "nodes-a", "nodes-b"].map(headless)];
  const routings = [routing("redis", 1), routing("nodes-b", 2), routing("nodes-a", 3)];
  const state = mesh({ services, routings, workloads: [pod("10.244.2.1"), pod("10.244.2.2")] });
  const limits = (ip: string, port: number) => connectionLimits(state, "edge", routeOf(state, pods, { ip, port }));
  for (const ip of ["10.244.2.1", "10.244.2.2"])
    assert.deepEqual(limits(ip, 6380), {
      key: "edge>shop/nodes-a:6379",
      maxConnections: 3,
      maxPending: 0,
      policy: "shop/nodes-a",
    });
  assert.equal(limits("10.244.2.1", 6379), undefined, "another port of the pod");
  // A pod of this node is known by the node itself, which knows of no service.
  const own = localPod({ ...pod("10.244.2.1"), services: [] });
  const here = routeOf(state, { ...pods, byAddress: () => own }, { ip: "10.244.2.1", port: 6380 });
  assert.equal(connectionLimits(state, "edge", here)?.policy, "shop/nodes-a", "on this node");
  const before = mesh({ services: [redis], routings, workloads: [pod("10.244.2.1")] });
  const asked = routeOf(before, pods, { ip: "10.244.2.1", port: 6380 });
  assert.equal(connectionLimits(before, "edge", asked), undefined, "no headless Service: nobody asked for a service");
});

test("[TRF-6] connections to a service have its policy's limits, counted by the client's namespace; others have none", () => {
  const limits = { ...noLimits, maxConnections: 3, maxPending: 2 };
  const timeouts = { ...noTimeouts, connectMs: 250 };
  assert.deepEqual(limitsOf({ limits, timeouts }), {
    key: "edge>shop/redis:6379",
    maxConnections: 3,
    maxPending: 2,
    connectTimeoutMs: 250,
    policy: "shop/few",
  });
  assert.equal(limitsOf({ limits })?.connectTimeoutMs, undefined);
  assert.equal(limitsOf({ timeouts })?.maxConnections, 0, "a timeout alone");
  assert.equal(limitsOf({ limits: { ...noLimits, maxPending: 2 } }), undefined, "nothing to wait for");
  assert.equal(limitsOf(undefined), undefined);
  assert.equal(limitsOf({ limits }, "192.0.2.1"), undefined, "not to a service");
});
