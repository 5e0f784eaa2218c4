// Where a connection goes and how: routes, lanes, endpoints, local verdicts.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { MeshParts } from "../../test/kit/mesh.ts";
import {
  authorization,
  localPod,
  localPods,
  member,
  mesh,
  service,
  trafficPolicy,
  workload,
} from "../../test/kit/mesh.ts";
import { type NodeName, serviceName } from "../api/names.ts";
import type { Workload } from "../api/workload.ts";
import { ClientSessions } from "./client-sessions.ts";
import { decideOutbound, type OutboundDecision } from "./outbound.ts";

const client = workload("shop", "client", "10.244.1.5");
const far = (name: string, address: string, more: Partial<Workload> = {}) =>
  workload("shop", name, address, { node: "node2" as NodeName, services: [member("shop", "web", 80, 8080)], ...more });
const near = (name: string, address: string, more: Partial<Workload> = {}) =>
  far(name, address, { node: "node1" as NodeName, ...more });
const web = service("shop", "web", "10.96.0.1", [{ port: 80, nodePort: 30080, protocol: "" }]);

function decide(parts: MeshParts, ip: string, port: number, locals: readonly Workload[] = []): OutboundDecision {
  const state = mesh({ services: [web], ...parts });
  const settings = { knowledge: "fresh" as const, detectMs: 100 };
  return decideOutbound(state, localPods(client, ...locals), localPod(client), "10.244.1.5", { ip, port }, settings);
}
const forward = (decision: OutboundDecision) => {
  assert.equal(decision.kind, "forward", JSON.stringify(decision));
  return decision as Extract<OutboundDecision, { kind: "forward" }>;
};
const modes = (decision: OutboundDecision) => forward(decision).upstreams.map((u) => `${u.ip}:${u.port} ${u.mode}`);

test("a service's address leads to its endpoints on their own ports, each in its lane", () => {
  const a = near("a", "10.244.1.6");
  const workloads = [
    a,
    far("b", "10.244.2.6"),
    far("c", "10.244.2.7", { tunnel: "hbone" }),
    far("d", "10.244.2.8", { tunnel: "none" }),
  ];
  const decision = decide({ workloads }, "10.96.0.1", 80, [a]);
  assert.deepEqual(modes(decision), [
    "10.244.1.6:8080 local",
    "10.244.2.6:8080 fairlead/1",
    "10.244.2.7:8080 hbone",
    "10.244.2.8:8080 plain",
  ]);
  const [, b, c] = forward(decision).upstreams;
  assert.deepEqual(b?.identities, ["spiffe://cluster.local/ns/shop/sa/b"]);
  assert.deepEqual(c?.tunnelAddress, { ip: "10.244.2.7", port: 15008 });
});

test("[DP-6] external, load-balancer and node:port addresses lead to endpoints too", () => {
  const multi = { ...web, addresses: ["10.96.0.1", "203.0.113.5"] };
  const workloads = [far("b", "10.244.2.6")];
  const parts = { services: [multi], workloads, settings: { nodeAddresses: ["10.250.2.2"] } };
  for (const [ip, port] of [
    ["10.96.0.1", 80],
    ["203.0.113.5", 80],
    ["10.250.2.2", 30080],
  ] as const)
    assert.deepEqual(modes(decide(parts, ip, port)), ["10.244.2.6:8080 fairlead/1"], `${ip}:${port}`);
  // Another port of a node is the node's own business.
  assert.equal(forward(decide(parts, "10.250.2.2", 22)).route.kind, "passthrough");
});

test("[DP-6] a node's address that a load balancer has, too, is still the node's on every other port", () => {
  const shared = { ...web, addresses: ["10.96.0.1", "10.250.2.2"] };
  const parts = {
    services: [shared],
    workloads: [far("b", "10.244.2.6")],
    settings: { nodeAddresses: ["10.250.2.2"] },
  };
  for (const port of [80, 30080])
    assert.deepEqual(modes(decide(parts, "10.250.2.2", port)), ["10.244.2.6:8080 fairlead/1"], `${port}`);
  assert.equal(forward(decide(parts, "10.250.2.2", 22)).route.kind, "passthrough");
});

test("only ready endpoints are used; those that are ending only if nothing else is left", () => {
  const workloads = [
    far("a", "10.244.2.1", { ready: false }),
    far("b", "10.244.2.2", { draining: true }),
    far("c", "10.244.2.3"),
  ];
  assert.deepEqual(modes(decide({ workloads }, "10.96.0.1", 80)), ["10.244.2.3:8080 fairlead/1"]);
  const ending = decide({ workloads: workloads.slice(0, 2) }, "10.96.0.1", 80);
  assert.deepEqual(modes(ending), ["10.244.2.2:8080 fairlead/1"]);
  const none = decide({ workloads: workloads.slice(0, 1) }, "10.96.0.1", 80);
  assert.ok(none.kind === "refuse" && none.reason === "no_endpoints");
});

test("[DP-9] plaintext only where the destination itself asks for it", () => {
  const plain = (more: Partial<Workload>, parts: MeshParts = {}) =>
    modes(decide({ workloads: [far("a", "10.244.2.1", more)], ...parts }, "10.244.2.1", 8080))[0];
  assert.equal(plain({}), "10.244.2.1:8080 fairlead/1");
  assert.equal(plain({ tunnel: "none" }), "10.244.2.1:8080 plain");
  assert.equal(plain({ untunnelledPorts: [8080] }), "10.244.2.1:8080 plain");
  const disabled = { trafficPolicies: [trafficPolicy("off", { mode: "disable" })] };
  assert.equal(plain({}, disabled), "10.244.2.1:8080 plain");
  // Strict or not ready: the tunnel is the only way.
  assert.equal(plain({ ready: false }, { trafficPolicies: [trafficPolicy("s")] }), "10.244.2.1:8080 fairlead/1");
});

test("[DIS-7] an unknown destination goes to where the app asked, or nowhere if the mesh says so", () => {
  const decision = forward(decide({}, "198.51.100.7", 443));
  assert.deepEqual(decision.route, { kind: "passthrough", why: "unknown_host" });
  assert.deepEqual(modes(decision), ["198.51.100.7:443 plain"]);
  const closed = decide({ settings: { registryOnly: true } }, "198.51.100.7", 443);
  assert.ok(closed.kind === "refuse" && closed.reason === "unknown_destination");
});

test("a known service's address without that port leads nowhere", () => {
  const decision = decide({ workloads: [far("b", "10.244.2.6")] }, "10.96.0.1", 81);
  assert.ok(decision.kind === "refuse" && decision.reason === "unknown_destination");
});

test("[INT-13] what the mesh leaves out passes untouched, even a known service", () => {
  const workloads = [far("b", "10.244.2.6")];
  const byPort = forward(decide({ workloads, settings: { excludedPorts: [80] } }, "10.96.0.1", 80));
  assert.deepEqual(byPort.route, { kind: "passthrough", why: "excluded_by_mesh" });
  const byBlock = forward(decide({ workloads, settings: { excludedCidrs: ["10.96.0.0/16"] } }, "10.96.0.1", 80));
  assert.equal(byBlock.route.kind, "passthrough");
});

test("[DP-22] a pod of this node is known by the node before discovery has it", () => {
  const fresh = near("fresh", "10.244.1.9");
  assert.deepEqual(modes(decide({}, "10.244.1.9", 8080, [fresh])), ["10.244.1.9:8080 local"]);
});

test("[SEC-2] on this node the destination's policy is applied with the identity that enrolment knows", () => {
  const a = near("a", "10.244.1.6");
  const deny = authorization("no", [{ from: [{ serviceAccounts: ["client"] }] }], { action: "deny" });
  const decision = decide({ workloads: [a], authorizations: [deny] }, "10.96.0.1", 80, [a]);
  assert.ok(decision.kind === "refuse");
  assert.equal(decision.reason, "policy_denied");
  assert.equal(decision.policy, "shop/no");
});

test("[INT-8] a declared protocol is taken as it is; nobody waits where it is declared or the server speaks first", () => {
  const port = (more: object) => ({
    services: [service("shop", "web", "10.96.0.1", [{ port: 80, ...more }])],
    workloads: [far("b", "10.244.2.6")],
  });
  assert.equal(forward(decide(port({ protocol: "http" }), "10.96.0.1", 80)).protocol, "http");
  assert.equal(forward(decide(port({ protocol: "http" }), "10.96.0.1", 80)).detectMs, 0);
  assert.equal(forward(decide(port({ serverFirst: true }), "10.96.0.1", 80)).detectMs, 0);
  assert.equal(forward(decide(port({}), "10.96.0.1", 80)).detectMs, 100);
  assert.equal(forward(decide({}, "198.51.100.7", 3306)).detectMs, 0);
});

test("the endpoint's address is of the family that the client used", () => {
  const dual = far("b", "10.244.2.6", { addresses: ["10.244.2.6", "fd00::6"] });
  const both = { ...web, addresses: ["10.96.0.1", "fd00:96::1"] };
  const parts = { services: [both], workloads: [dual] };
  assert.deepEqual(modes(decide(parts, "fd00:96::1", 80)), ["fd00::6:8080 fairlead/1"]);
  assert.deepEqual(modes(decide(parts, "10.96.0.1", 80)), ["10.244.2.6:8080 fairlead/1"]);
});

test("[DP-6] a hostPort on its node's address leads to the pod's own port, in the family that was asked for", () => {
  const host = [
    { address: "10.250.2.2", port: 8081, targetPort: 8080 },
    { address: "fd00:250:2::2", port: 8081, targetPort: 8080 },
  ];
  const pod = far("b", "10.244.2.6", { addresses: ["10.244.2.6", "fd00:244:2::6"], hostPorts: host });
  const parts = { workloads: [pod], settings: { nodeAddresses: ["10.250.2.2", "fd00:250:2::2", "10.250.1.2"] } };
  assert.deepEqual(modes(decide(parts, "10.250.2.2", 8081)), ["10.244.2.6:8080 fairlead/1"]);
  assert.deepEqual(modes(decide(parts, "fd00:250:2::2", 8081)), ["fd00:244:2::6:8080 fairlead/1"]);
  assert.equal(forward(decide(parts, "10.250.1.2", 8081)).route.kind, "passthrough", "another node has no such port");
  assert.equal(
    forward(decide(parts, "10.250.2.2", 8080)).route.kind,
    "passthrough",
    "the pod's port is not the host's",
  );
  const local = near("b", "10.244.1.6", { hostPorts: [{ address: "10.250.1.2", port: 8081, targetPort: 8080 }] });
  assert.deepEqual(modes(decide({ ...parts, workloads: [local] }, "10.250.1.2", 8081, [local])), [
    "10.244.1.6:8080 local",
  ]);
  const denied = decide(
    { ...parts, workloads: [local], authorizations: [authorization("no", [{}], { action: "deny" })] },
    "10.250.1.2",
    8081,
    [local],
  );
  assert.equal(denied.kind, "refuse", "policy of the pod holds on this way, too");
});

test("[DIS-10] a node-local address without an endpoint here is refused with a reason of its own, never led elsewhere", () => {
  const local = { ...web, addresses: ["10.96.0.1", "203.0.113.5"], nodeLocalAddresses: ["10.96.0.1"] };
  const parts = { services: [local], workloads: [far("b", "10.244.2.6")] };
  const decision = decide(parts, "10.96.0.1", 80);
  assert.ok(decision.kind === "refuse" && decision.reason === "no_local_endpoint", JSON.stringify(decision));
  const elsewhere = decide({ ...parts, workloads: [] }, "10.96.0.1", 80);
  assert.ok(elsewhere.kind === "refuse" && elsewhere.reason === "no_endpoints");
  assert.deepEqual(modes(decide(parts, "203.0.113.5", 80)), ["10.244.2.6:8080 fairlead/1"]);
  const a = near("a", "10.244.1.6");
  const both = { ...parts, workloads: [a, ...parts.workloads] };
  assert.deepEqual(modes(decide(both, "10.96.0.1", 80, [a])), ["10.244.1.6:8080 local"]);
});

test("[DIS-10] a client that its service keeps goes to one endpoint; the others are for when that cannot be reached", () => {
  const sticky = { ...web, clientAffinityS: 60 };
  const workloads = ["10.244.2.6", "10.244.2.7", "10.244.2.8"].map((ip, i) => far(`b${i}`, ip));
  const first = forward(decide({ services: [sticky], workloads }, "10.96.0.1", 80));
  const weights = first.upstreams.map((u) => u.weight);
  assert.deepEqual([...weights].sort(), [0, 0, 1]);
  assert.equal(first.kept?.index, weights.indexOf(1));
  assert.equal(first.kept?.timeoutS, 60);
  const only = forward(decide({ services: [sticky], workloads: workloads.slice(0, 1) }, "10.96.0.1", 80));
  assert.equal(only.kept, undefined, "there is no choice");
  // Where it was is known: there it goes, whatever its address would say.
  const known = new ClientSessions(ClientSessions.createMemory());
  const other = first.upstreams.findIndex((u) => u.weight === 0);
  const kept = { client: { service: serviceName("shop", "web"), port: 80, ip: "10.244.1.5" }, timeoutS: 60 };
  known.keep({ ...kept, id: `${first.upstreams[other]?.ip}:8080` }, 5);
  const state = mesh({ services: [sticky], workloads });
  const at = (nowS: number): OutboundDecision => {
    const settings = { knowledge: "fresh" as const, detectMs: 100, sessions: { known, nowS } };
    return decideOutbound(
      state,
      localPods(client),
      localPod(client),
      "10.244.1.5",
      { ip: "10.96.0.1", port: 80 },
      settings,
    );
  };
  assert.equal(forward(at(60)).kept?.index, other);
  assert.equal(forward(at(65)).kept?.index, first.kept?.index, "forgotten");
});

test("[DIS-10] an ExternalName service has no address of its own: what its name leads to is decided by where that is", () => {
  const ext = { ...service("shop", "ext", "", []), headless: false, externalName: "api.example.com" };
  const decision = forward(decide({ services: [ext] }, "198.51.100.9", 443));
  assert.deepEqual(decision.route, { kind: "passthrough", why: "unknown_host" });
  // The same name may be another service's, which then is what clients get.
  const workloads = [far("b", "10.244.2.6")];
  assert.deepEqual(modes(decide({ services: [web, ext], workloads }, "10.96.0.1", 80)), ["10.244.2.6:8080 fairlead/1"]);
});

test("[DIS-10] a pod of a StatefulSet is reached by its own address, ready or not, past the service before it", () => {
  const heads = { ...service("shop", "web", "", [{ port: 80 }]), addresses: [] };
  const pods = [far("web-0", "10.244.2.6"), far("web-1", "10.244.2.7", { ready: false })];
  for (const { addresses } of pods) {
    const [ip = ""] = addresses;
    assert.deepEqual(modes(decide({ services: [heads], workloads: pods }, ip, 8080)), [`${ip}:8080 fairlead/1`]);
  }
});
