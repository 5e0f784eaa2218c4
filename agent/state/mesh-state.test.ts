// The state: lookups, conflicts, what an update touches, and that a snapshot makes the same state again.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { meshResources } from "../../test/kit/arbitraries.ts";
import { authorization, member, mesh, service, workload } from "../../test/kit/mesh.ts";
import { encodeResource, resourceName } from "../api/resources.ts";
import { MeshState } from "./mesh-state.ts";

test("of two workloads with one address the one that lives wins, in any order of arrival", () => {
  const old = workload("shop", "old", "10.0.0.1", { draining: true });
  const fresh = workload("shop", "fresh", "10.0.0.1", { ready: false });
  for (const workloads of [
    [old, fresh],
    [fresh, old],
  ])
    assert.equal(mesh({ workloads }).workloads.byAddress("10.0.0.1")?.name, "fresh");
  const host = workload("kube", "proxy", "10.0.0.1", { hostNetwork: true });
  assert.equal(mesh({ workloads: [host, old] }).workloads.byAddress("10.0.0.1")?.name, "old");
});

test("of two services with one address and port the first by name has it", () => {
  const a = service("a", "x", "10.96.0.1", [{ port: 80 }]);
  const b = service("b", "x", "10.96.0.1", [{ port: 80 }, { port: 81 }]);
  const state = mesh({ services: [b, a] });
  assert.equal(state.services.byAddress("10.96.0.1", 80)?.service.namespace, "a");
  assert.equal(state.services.byAddress("10.96.0.1", 81)?.service.namespace, "b");
});

test("an update says what it touched: services left and joined, addresses before and after", () => {
  const before = workload("shop", "w", "10.0.0.1", { services: [member("shop", "a", 80, 80)] });
  const after = { ...before, addresses: ["10.0.0.2"], services: [member("shop", "b", 80, 80)] };
  const state = mesh({ workloads: [before] });
  const generation = state.generation;
  const changes = state.apply({ changed: [{ kind: "Workload", value: after }], removed: [] });
  assert.deepEqual([...changes.services].sort(), ["shop/a", "shop/b"]);
  assert.deepEqual([...changes.addresses].sort(), ["10.0.0.1", "10.0.0.2"]);
  assert.deepEqual([...state.workloads.membersOf("shop/a" as never)], []);
  assert.equal(state.generation, generation + 1);
});

test("an update that removes what is not there changes nothing", () => {
  const state = mesh({});
  const generation = state.generation;
  assert.equal(state.apply({ changed: [], removed: [{ kind: "Workload", name: "x/y/z" }] }).any, false);
  assert.equal(state.generation, generation);
});

test("policies in force come in order of name, whatever the order of arrival", () => {
  const named = ["c", "a", "b"].map((name) => authorization(name, []));
  const state = mesh({ authorizations: named });
  assert.deepEqual(
    state.authorizations.inForce(workload("shop", "w", "10.0.0.1")).map((p) => p.name),
    ["a", "b", "c"],
  );
});

test("[DIS-3] a snapshot applied to an empty state gives the same state", () => {
  fc.assert(
    fc.property(
      fc.array(meshResources, { maxLength: 30 }),
      fc.array(fc.nat(29), { maxLength: 10 }),
      (resources, removals) => {
        const state = new MeshState();
        state.apply({ changed: resources, removed: [] });
        const removed = removals
          .flatMap((i) => resources[i] ?? [])
          .map((r) => ({ kind: r.kind, name: resourceName(r) }));
        state.apply({ changed: [], removed });
        const copy = new MeshState();
        copy.apply({ changed: [...state.snapshot()], removed: [] });
        const text = (s: MeshState) =>
          [...s.snapshot()].map((r) => `${r.kind} ${Buffer.from(encodeResource(r)).toString("hex")}`).sort();
        assert.deepEqual(text(copy), text(state));
        assert.deepEqual(copy.counts(), state.counts());
      },
    ),
  );
});
