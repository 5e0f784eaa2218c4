// What arrives: mTLS before authorization, what to expect of a peer, and which pairs may go direct.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { MeshParts } from "../../test/kit/mesh.ts";
import {
  authorization,
  domain,
  localPod,
  localPods,
  member,
  mesh,
  rateLimit,
  service,
  trafficPolicy,
  workload,
} from "../../test/kit/mesh.ts";
import { defaultPolicy } from "../api/http-policy.ts";
import { type NodeName, workloadId } from "../api/names.ts";
import type { Knowledge } from "../flow.ts";
import { decideDirect } from "./direct-rows.ts";
import { type Arrival, decideInbound, decidePeer } from "./inbound.ts";

const db = workload("shop", "db", "10.244.1.9");
const client = workload("shop", "client", "10.244.1.5");
const far = workload("shop", "far", "10.244.2.5", { node: "node2" as NodeName });
const arrival = (more: Partial<Arrival> = {}): Arrival => ({
  destination: { ip: "10.244.1.9", port: 5432 },
  sourceIp: "10.244.2.5",
  identity: workloadId(domain, "shop", "far"),
  tunnel: "fairlead/1",
  ...more,
});
const plain = arrival({ identity: null, tunnel: "plain" });
const strict = { trafficPolicies: [trafficPolicy("strict")] };
const judge = (parts: MeshParts, at: Arrival, knowledge: Knowledge = "fresh") =>
  decideInbound(mesh(parts), localPod(db), at, knowledge);

test("[IDN-8] STRICT refuses plaintext and names the policy; PERMISSIVE and DISABLE take both", () => {
  const refused = judge(strict, plain);
  assert.deepEqual([refused.allow, refused.reason, refused.policy], [false, "plaintext_refused", "shop/strict"]);
  assert.equal(judge(strict, arrival()).allow, true);
  assert.equal(judge({}, plain).allow, true);
  assert.equal(judge({ trafficPolicies: [trafficPolicy("off", { mode: "disable" })] }, plain).allow, true);
});

test("[SEC-10] STRICT in dry run refuses nothing, and notes the plaintext that it would refuse; PERMISSIVE, what it would let in", () => {
  const trial = { trafficPolicies: [trafficPolicy("trial", { dryRun: true })] };
  const noted = { kind: "would_deny", policy: "shop/trial" };
  const verdict = judge(trial, plain);
  assert.deepEqual([verdict.allow, verdict.notes], [true, [noted]]);
  assert.deepEqual(judge(trial, arrival()).notes, []);
  // Also where a data thread will ask about each request.
  assert.deepEqual(decideInbound(mesh(trial), localPod(db), plain, "fresh", true).notes, [noted]);
  // What is refused anyhow, it would not change.
  assert.deepEqual(judge({ ...trial, authorizations: [authorization("none", [])] }, plain).notes, []);
  const open = trafficPolicy("open", { mode: "permissive", scope: "workload", selector: { app: "db" }, dryRun: true });
  const refused = judge({ trafficPolicies: [...strict.trafficPolicies, open] }, plain);
  assert.deepEqual([refused.allow, refused.notes], [false, [{ kind: "would_allow", policy: "shop/open" }]]);
});

test("[DP-20] policies past maxStale close STRICT workloads and leave the others as they are", () => {
  const verdict = judge(strict, arrival(), "expired");
  assert.deepEqual([verdict.allow, verdict.reason], [false, "policies_stale"]);
  assert.equal(judge({}, plain, "expired").allow, true);
});

test("[DP-12] without a proven identity no rule about identities matches, whatever the address is", () => {
  const only = authorization("only-far", [{ from: [{ serviceAccounts: ["far"] }] }]);
  const parts = { workloads: [far], authorizations: [only] };
  assert.equal(judge(parts, arrival()).allow, true);
  assert.equal(judge(parts, plain).allow, false);
});

test("[DP-8] how long bytes are waited for: by mode, by speaker, and not at all where the server speaks first", () => {
  const waits = { permissiveMs: 100, strictMs: 5000 };
  const pod = localPod({ ...db, services: [member("shop", "sql", 3306, 5432)] });
  const ask = (parts: MeshParts, ip: string, port = 5432) =>
    decidePeer(mesh(parts), localPods(db), pod, ip, port, waits);
  const known = { workloads: [far] };
  assert.deepEqual(ask(known, "10.244.2.5"), { speaker: true, mode: "permissive", waitMs: 100 });
  assert.deepEqual(ask({ ...known, ...strict }, "10.244.2.5"), { speaker: true, mode: "strict", waitMs: 5000 });
  assert.deepEqual(ask(known, "203.0.113.1"), { speaker: false, mode: "permissive", waitMs: 100 });
  const sql = service("shop", "sql", "10.96.0.3", [{ port: 3306, serverFirst: true }]);
  assert.equal(ask({ ...known, services: [sql] }, "203.0.113.1").waitMs, 0);
  assert.equal(ask({ ...known, services: [sql] }, "10.244.2.5").waitMs, 100);
  assert.equal(ask({}, "203.0.113.1", 25).waitMs, 0);
});

const direct = (
  parts: MeshParts,
  more: { source?: typeof client; knowledge?: Knowledge; l7Telemetry?: boolean; kernelLane?: boolean } = {},
) => {
  const pair = { source: localPod(more.source ?? client), destination: localPod(db), ip: "10.244.1.9", port: 5432 };
  return decideDirect(mesh(parts), pair, {
    knowledge: more.knowledge ?? "fresh",
    kernelLane: more.kernelLane ?? true,
    l7Telemetry: more.l7Telemetry ?? true,
  });
};
const why = (decided: ReturnType<typeof direct>) => (decided.direct ? "direct" : decided.why);

test("[DP-24] direct only when allowed and nothing at L7 applies to the destination", () => {
  assert.equal(why(direct({})), "direct");
  const denied = authorization("no", [{ from: [{ serviceAccounts: ["client"] }] }], { action: "deny" });
  assert.equal(why(direct({ authorizations: [denied] })), "denied");
  const l7 = authorization("get", [{ to: [{ methods: ["GET"] }] }, {}]);
  const decided = direct({ authorizations: [l7] });
  assert.equal(why(decided), "l7_policy");
  assert.equal(decided.verdict.allow, true);
  assert.equal(why(direct({ rateLimits: [rateLimit("all", [{}])] })), "l7_policy");
  assert.equal(why(direct({}, { source: db })), "same_pod");
});

test("[DP-24] a service with routes or a resilience policy keeps its endpoints off the direct lane, on the ports that it maps", () => {
  const routing = { name: "web", namespace: "shop", routes: [], policy: defaultPolicy };
  const mapped = { ...db, services: [member("shop", "web", 80, 5432)] };
  const other = { ...db, services: [member("shop", "web", 80, 81), member("shop", "db", 5432, 5432)] };
  assert.equal(why(direct({ workloads: [mapped], routings: [routing] })), "l7_routing");
  assert.equal(why(direct({ workloads: [other], routings: [routing] })), "direct");
});

test("[DP-24] a port declared HTTP leaves the direct lane only while something reads its requests", () => {
  const http = service("shop", "web", "10.96.0.3", [{ port: 80, protocol: "http" }]);
  const workloads = [{ ...db, services: [member("shop", "web", 80, 5432)] }];
  assert.equal(why(direct({ workloads, services: [http] })), "l7_telemetry");
  assert.equal(why(direct({ workloads, services: [http] }, { l7Telemetry: false })), "direct");
});

test("[SEC-2] a rule about addresses that denies one of the source's keeps the whole pair off the direct lane", () => {
  const two = { ...client, addresses: ["10.244.1.5", "10.244.1.6"] };
  const one = authorization("block", [{ from: [{ ipBlocks: ["10.244.1.6"] }] }], { action: "deny" });
  assert.equal(why(direct({ authorizations: [one] }, { source: two })), "denied");
  assert.equal(why(direct({ authorizations: [one] })), "direct");
});

test("[DP-20] stale policies take STRICT destinations off the direct lane", () => {
  assert.equal(why(direct(strict, { knowledge: "expired" })), "denied");
  assert.equal(why(direct(strict)), "direct");
});

test("[DP-20] before policies were ever heard nothing is let through, not even direct", () => {
  const verdict = judge({}, plain, "none");
  assert.deepEqual([verdict.allow, verdict.reason], [false, "policies_stale"]);
  assert.equal(why(direct({}, { knowledge: "none" })), "denied");
});
