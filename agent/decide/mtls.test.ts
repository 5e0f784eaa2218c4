// PeerAuthentication: which mode holds for a port, by Istio's precedence.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { mesh, trafficPolicy, workload } from "../../test/kit/mesh.ts";
import type { MtlsMode, TrafficPolicy } from "../api/policy.ts";
import { mtlsFor, mtlsTrials } from "./mtls.ts";

const db = workload("shop", "db", "10.0.0.9");
const meshWide = (mode: MtlsMode) => trafficPolicy("mesh", { namespace: "root", scope: "mesh", mode });
const namespaceWide = (mode: MtlsMode) => trafficPolicy("ns", { mode });
const own = (mode: MtlsMode, ports: readonly (readonly [number, MtlsMode])[] = []) =>
  trafficPolicy("own", { scope: "workload", selector: { app: "db" }, mode, portModes: new Map(ports) });
const modeOf = (policies: readonly TrafficPolicy[], port = 80): string =>
  mtlsFor(mesh({ trafficPolicies: policies }), db, port).mode;

test("[IDN-8] the default is PERMISSIVE; mesh < namespace < workload < port", () => {
  assert.equal(modeOf([]), "permissive");
  assert.equal(modeOf([meshWide("strict")]), "strict");
  assert.equal(modeOf([meshWide("strict"), namespaceWide("disable")]), "disable");
  assert.equal(modeOf([meshWide("strict"), namespaceWide("disable"), own("permissive")]), "permissive");
  assert.equal(modeOf([meshWide("strict"), own("permissive", [[80, "disable"]])]), "disable");
  assert.equal(modeOf([meshWide("strict"), own("permissive", [[80, "disable"]])], 81), "permissive");
});

test("[IDN-8] UNSET inherits, on every level", () => {
  assert.equal(modeOf([meshWide("strict"), namespaceWide("unset")]), "strict");
  assert.equal(modeOf([namespaceWide("strict"), own("unset")]), "strict");
  assert.equal(modeOf([own("strict", [[80, "unset"]])]), "strict");
});

test("[IDN-8] a policy of another namespace or another workload does not apply", () => {
  assert.equal(modeOf([trafficPolicy("x", { namespace: "other" })]), "permissive");
  assert.equal(modeOf([trafficPolicy("x", { scope: "workload", selector: { app: "web" } })]), "permissive");
});

test("[IDN-8] the decision names the policy that set the mode", () => {
  const decided = mtlsFor(mesh({ trafficPolicies: [meshWide("strict"), namespaceWide("unset")] }), db, 80);
  assert.equal(decided.policy?.name, "mesh");
});

test("[SEC-10] a policy in dry run sets nothing, and is told with the mode that it would set; one that would be overruled is not", () => {
  const trial = (more: Partial<TrafficPolicy>) => trafficPolicy("trial", { dryRun: true, ...more });
  const tried = (policies: readonly TrafficPolicy[], port = 80) =>
    mtlsTrials(mesh({ trafficPolicies: policies }), db, port).map(({ mode, policy }) => `${policy.name} ${mode}`);
  assert.equal(modeOf([trial({})]), "permissive");
  assert.deepEqual(tried([trial({})]), ["trial strict"]);
  assert.deepEqual(tried([namespaceWide("permissive"), meshWide("strict")]), []);
  // A narrower policy holds over it, and it over a wider one.
  assert.deepEqual(tried([trial({}), own("disable")]), []);
  assert.deepEqual(tried([trial({}), meshWide("permissive")]), ["trial strict"]);
  assert.deepEqual(tried([trial({ mode: "unset" })]), []);
  const ports = {
    scope: "workload",
    selector: { app: "db" },
    portModes: new Map<number, MtlsMode>([[81, "disable"]]),
  } as const;
  assert.deepEqual([tried([trial(ports)], 80), tried([trial(ports)], 81)], [["trial strict"], ["trial disable"]]);
  // Each is tried alone.
  const two = [trial({ scope: "mesh" }), trafficPolicy("second", { dryRun: true, mode: "permissive" })];
  assert.deepEqual(tried(two).sort(), ["second permissive", "trial strict"]);
});

test("[IDN-8] every combination agrees with the precedence said in one line", () => {
  const mode = fc.constantFrom<MtlsMode>("unset", "permissive", "strict", "disable");
  fc.assert(
    fc.property(mode, mode, mode, mode, (atMesh, atNamespace, atWorkload, atPort) => {
      const policies = [meshWide(atMesh), namespaceWide(atNamespace), own(atWorkload, [[80, atPort]])];
      const expected = [atPort, atWorkload, atNamespace, atMesh].find((m) => m !== "unset") ?? "permissive";
      assert.equal(modeOf(policies), expected);
    }),
  );
});

test("[IDN-8] of several policies on one level the oldest holds; where no age is known, the strictest", () => {
  const policy = (name: string, mode: MtlsMode, createdMs: number) => trafficPolicy(name, { mode, createdMs });
  assert.equal(modeOf([policy("a", "strict", 2000), policy("b", "permissive", 1000)]), "permissive");
  assert.equal(modeOf([policy("a", "disable", 1000), policy("b", "strict", 2000)]), "disable");
  assert.equal(modeOf([policy("a", "disable", 0), policy("b", "strict", 0)]), "strict");
  assert.equal(
    modeOf([policy("a", "strict", 0), policy("b", "permissive", 1000)]),
    "permissive",
    "unknown is youngest",
  );
  assert.equal(modeOf([policy("a", "unset", 500), policy("b", "strict", 1000)]), "strict", "unset sets nothing");
});
