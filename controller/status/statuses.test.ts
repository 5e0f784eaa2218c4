import assert from "node:assert/strict";
import { test } from "node:test";
import { typeUrlOf } from "../../agent/api/resources.ts";
import type { Workload } from "../../agent/api/workload.ts";
import type { Address, Present, TimedCondition } from "../write/desired.ts";
import { type Judged, policyConditions } from "./conditions.ts";
import type { NodeView } from "./reach.ts";
import { Statuses, type TranslatedObject, type World } from "./statuses.ts";
import { appliedStatus, mergedStatus, routeStatus } from "./written.ts";

const workload = (namespace: string, node: string, tunnel = "fairlead/1"): Workload =>
  ({ namespace, node, tunnel, labels: {}, services: [] }) as unknown as Workload;
const object = { kind: "AuthorizationPolicy", namespace: "shop", name: "web" };
const condition: TranslatedObject<string> = {
  object,
  accepted: true,
  reason: "Accepted",
  message: "",
  field: "",
  fix: "",
  generation: 1,
  resources: [{ kind: "Authorization", name: "shop/web" }],
  covered: "shop",
};
const world: World<string> = {
  conditions: [condition],
  isCovered: (namespace, w) => w.namespace === namespace,
  problems: [],
  workloads: [workload("shop", "n1"), workload("shop", "n2"), workload("shop", "n3", "none"), workload("other", "n4")],
  views: new Map(),
};
/** Nodes whose agents have the resource; of these, those that cannot enforce it. */
function views(current: readonly string[], unable: readonly string[] = []): ReadonlyMap<string, NodeView> {
  return new Map(
    ["n1", "n2", "n4"].map((node) => [
      node,
      {
        node,
        stateOf: (typeUrl, name) => ({
          isCurrent: typeUrl === typeUrlOf("Authorization") && name === "shop/web" && current.includes(node),
          refusal: undefined,
        }),
        notEnforced: () => (unable.includes(node) ? "no program" : undefined),
      },
    ]),
  );
}
const shown = (judged: Judged | undefined): readonly string[] =>
  (judged === undefined ? [] : policyConditions(judged, 9)).map(
    (c) => `${c.type} ${c.status} ${c.reason}: ${c.message}`,
  );

test("[RES-8] only nodes with meshed workloads that an object is for count, and a node without an agent counts as missing", () => {
  let now = world;
  const statuses = new Statuses(["AuthorizationPolicy"], () => now);
  const judged = () => shown(statuses.judged(object.kind, object.namespace, object.name)).slice(1);
  statuses.look(0, false);
  assert.match(judged()[0] ?? "", /^Programmed False Pending: 0 of 2 nodes; n1: no agent is connected; n2: no agent/);
  now = { ...world, views: views(["n1"]) };
  statuses.look(0, false);
  assert.deepEqual(judged(), [
    "Programmed False Pending: 1 of 2 nodes; n2: the agent does not have this version yet",
    "Enforced False Pending: 1 of 2 nodes; n2: the agent does not have this version yet",
  ]);
  now = { ...world, views: views(["n1", "n2"], ["n2"]) };
  statuses.look(0, false);
  assert.deepEqual(judged(), [
    "Programmed True Programmed: 2 of 2 nodes",
    "Enforced False NotEnforced: 1 of 2 nodes; n2: no program",
  ]);
  now = { ...now, conditions: [{ ...condition, reason: "DryRun", message: "is in dry run" }] };
  statuses.look(0, false);
  assert.match(judged()[1] ?? "", /^Enforced False DryRun: 1 of 2 nodes note what it would decide/);
  now = { ...world, workloads: [] };
  statuses.look(0, false);
  assert.match(judged()[0] ?? "", /^Programmed Unknown NoNodes: 0 of 0 nodes/);
});

test("[RES-8] a turn is told at once, counts when they have come to rest or after five seconds", () => {
  let now = { ...world, views: views([]) };
  const statuses = new Statuses(["AuthorizationPolicy"], () => now);
  assert.equal(statuses.look(0, false).length, 1);
  now = { ...world, views: views(["n1"]) };
  assert.equal(statuses.look(100, false).length, 0, "a count moves");
  assert.ok(statuses.hasPending);
  assert.equal(statuses.look(200, false).length, 1, "and rests");
  now = { ...world, views: views(["n1", "n2"]) };
  assert.equal(statuses.look(300, false).length, 1, "enforced everywhere");
  now = { ...world, views: views(["n1"]) };
  assert.equal(statuses.look(400, false).length, 1, "and not any more");
  for (let ms = 500; ms < 5500; ms += 500) {
    now = { ...world, views: views(ms % 1000 === 0 ? ["n1"] : ["n2"]) };
    assert.equal(statuses.look(ms, false).length, 0, `${ms}`);
  }
  now = { ...world, views: views([]) };
  assert.equal(statuses.look(6000, false).length, 1, "restless for five seconds");
});

test("[DIS-9] an object that never made sense has a status, too; one that became bad keeps what is in force", () => {
  const problem = { file: "", line: 0, object, field: "spec.action", message: "is odd", fix: "use ALLOW" };
  let now: World<string> = { ...world, conditions: [], problems: [problem] };
  const statuses = new Statuses(["AuthorizationPolicy"], () => now);
  statuses.look(0, false);
  assert.deepEqual(statuses.names("AuthorizationPolicy"), ["shop/web"]);
  assert.deepEqual(shown(statuses.judged(object.kind, "shop", "web")), [
    "Accepted False Invalid: spec.action is odd: use ALLOW",
    "Programmed False NotAccepted: it is not in force",
    "Enforced False NotAccepted: it is not in force",
  ]);
  now = { ...world, problems: [problem], views: views(["n1", "n2"]) };
  statuses.look(0, false);
  assert.deepEqual(shown(statuses.judged(object.kind, "shop", "web")), [
    "Accepted False Invalid: spec.action is odd: use ALLOW; generation 1 stays in force",
    "Programmed True Programmed: 2 of 2 nodes",
    "Enforced True Enforced: 2 of 2 nodes",
  ]);
});

const at: Address = { group: "g", version: "v1", kind: "K", plural: "ks", namespace: "shop", name: "web" };
const judged: Judged = {
  accepted: true,
  reason: "Accepted",
  message: "",
  field: "",
  fix: "",
  generation: 1,
  problems: [],
  reach: { of: 2, programmed: 2, enforced: 2, isRefused: false, why: [] },
  isSettling: false,
};
const present = (status: unknown, generation = 1): Present => ({ metadata: { name: "web", generation }, status });
const fieldsOf = (change: ReturnType<ReturnType<typeof appliedStatus>["change"]>) =>
  change === undefined || change.kind === "delete"
    ? undefined
    : (change.fields.status as { conditions: TimedCondition[] });

test("[RES-8] a status that is there is not written again, and times change only with the status", () => {
  for (const make of [(j: Judged) => appliedStatus(at, () => j, true), (j: Judged) => mergedStatus(at, () => j)]) {
    const first = fieldsOf(make(judged).change(present(undefined), 1000));
    assert.deepEqual(
      first?.conditions.map((c) => `${c.type} ${c.status} ${c.lastTransitionTime}`),
      ["Accepted", "Programmed", "Enforced"].map((type) => `${type} True 1970-01-01T00:00:01Z`),
    );
    assert.equal(make(judged).change(present(first), 9000), undefined);
    const lost = { ...judged, reach: { of: 3, programmed: 3, enforced: 2, isRefused: false, why: ["n3: no program"] } };
    const second = make(lost).change(present(first), 9000);
    assert.deepEqual(
      fieldsOf(second)?.conditions.map((c) => `${c.type} ${c.lastTransitionTime}`),
      ["Accepted 1970-01-01T00:00:01Z", "Programmed 1970-01-01T00:00:01Z", "Enforced 1970-01-01T00:00:09Z"],
    );
    assert.deepEqual(second?.event && [second.event.type, second.event.reason], ["Warning", "NotEnforced"]);
    // A new leader does not take back what agents that are still coming have said.
    assert.equal(
      fieldsOf(make({ ...lost, isSettling: true }).change(present(first), 9000))?.conditions[2]?.status,
      "True",
    );
    assert.equal(make(judged).change(undefined, 0), undefined, "an object that is gone");
  }
  const others = [{ type: "Reconciled", status: "True" }, 7, null];
  const merged = mergedStatus(at, () => judged).change(present({ conditions: others, other: 1 }), 0);
  assert.deepEqual(fieldsOf(merged)?.conditions.slice(0, 3), others);
});

test("[TRF-1] of a route's status only our entries change, whatever else stands there", () => {
  const ref = { group: "", kind: "Service", name: "web" };
  const spec = { parentRefs: [ref, { name: "edge" }, 7] };
  const ours = {
    parentRef: ref,
    controllerName: "us",
    conditions: [{ type: "Accepted", status: "True" as const, reason: "Accepted", message: "", observedGeneration: 1 }],
  };
  const change = (parents: (typeof ours)[] | undefined, status: unknown, more: Partial<Judged> = {}) =>
    routeStatus(at, "us", () => ({ ...judged, reach: undefined, ...more, parents })).change(
      { ...present(status, 2), spec },
      0,
    );
  const parentsOf = (made: ReturnType<typeof change>) =>
    (made === undefined || made.kind === "delete"
      ? []
      : (made.fields.status as { parents: (typeof ours)[] }).parents) ?? [];
  const theirs = { parentRef: { name: "edge" }, controllerName: "them", conditions: [] };
  const stale = { parentRef: { ...ref, name: "old" }, controllerName: "us", conditions: [] };
  assert.deepEqual(
    parentsOf(change([ours], { parents: [theirs, stale] })).map((p) => [p.controllerName, p.parentRef.name]),
    [
      ["them", "edge"],
      ["us", "web"],
    ],
  );
  assert.equal(change([], { parents: [theirs] }), undefined, "nothing of ours, nothing to write");
  assert.equal(change([], undefined), undefined);
  for (const odd of [null, 7, "x", { parents: 7 }, { parents: [null, 7] }])
    assert.ok(change([ours], odd) !== undefined);
  // Known, but its namespace is not: pending for each Service that it names.
  assert.deepEqual(
    parentsOf(change(undefined, undefined)).map((p) => p.conditions.map((c) => `${c.status} ${c.reason}`)),
    [["Unknown Pending"]],
  );
  const problems = [{ file: "", line: 0, object, field: "spec.x", message: "is odd", fix: "drop it" }];
  assert.deepEqual(
    parentsOf(change(undefined, undefined, { problems })).map((p) =>
      p.conditions.map((c) => `${c.status} ${c.reason}`),
    ),
    [["False UnsupportedValue"]],
  );
  const [partial] = parentsOf(change([ours], undefined, { problems }));
  assert.match(partial?.conditions[1]?.message ?? "", /^Fall Back: spec\.x is odd: drop it/);
});
