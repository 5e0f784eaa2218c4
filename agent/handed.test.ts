// Which connections of clients are asked to end, and when.
import assert from "node:assert/strict";
import { test } from "node:test";
import { localPod, mesh, workload } from "../test/kit/mesh.ts";
import type { Workload } from "./api/workload.ts";
import { type Drained, HandedConnections, type HandedFacts, standingOf } from "./handed.ts";
import { Replica } from "./replica.ts";

const web = workload("shop", "web", "10.0.0.1");
const far = workload("shop", "far", "10.0.0.2");
const change = (value: Workload) => ({ say: "mesh", changed: [{ kind: "Workload", value }], removed: [] }) as const;
const gone = ({ uid }: Workload) => ({ say: "mesh", changed: [], removed: [{ kind: "Workload", name: uid }] }) as const;

function setUp() {
  const replica = new Replica();
  for (const resource of mesh({ workloads: [web, far] }).snapshot())
    replica.take({ say: "mesh", changed: [resource], removed: [] });
  replica.take({ say: "pods", pods: [localPod(web)] });
  let empties = 0;
  const handed = new HandedConnections({ replica, empty: () => void empties++ });
  const open = (facts: HandedFacts): Drained & { drained: number } => {
    const connection = { drained: 0, drain: () => void connection.drained++ };
    handed.add(connection, facts);
    return connection;
  };
  const inbound = () => open({ direction: "inbound", pod: "shop/web", original: { ip: "10.0.0.1", port: 80 } });
  const outbound = (ip: string) => open({ direction: "outbound", pod: "shop/web", original: { ip, port: 80 } });
  return { replica, handed, inbound, outbound, empties: () => empties };
}

test("[DIS-6] a pod that is being deleted lets its clients go; connections to services and other pods stay", () => {
  const { replica, handed, inbound, outbound } = setUp();
  const all = [inbound(), outbound("10.96.0.1"), outbound("10.0.0.2")];
  replica.take(change({ ...web, draining: true }));
  handed.review();
  assert.deepEqual(
    all.map((c) => c.drained),
    [1, 0, 0],
  );
  assert.equal(inbound().drained, 1, "one that comes then, too");
  replica.take(change({ ...far, draining: true }));
  handed.review();
  assert.ok((all[2]?.drained ?? 0) > 0);
  assert.equal(all[1]?.drained, 0);
});

test("[DIS-6] a pod that is not enrolled any more lets its clients go", () => {
  const { replica, handed, inbound } = setUp();
  const connection = inbound();
  replica.take(gone(web));
  handed.review();
  assert.equal(connection.drained, 0, "the controller says so before the node does: its enrolment still holds");
  replica.take({ say: "pods", pods: [] });
  handed.review();
  assert.equal(connection.drained, 1);
});

test("[DP-19] when all are to end, those that come later are too, and the end of the last is told each time", () => {
  const { handed, inbound, outbound, empties } = setUp();
  const first = inbound();
  handed.ended(first);
  assert.equal(empties(), 0);
  const [second, third] = [inbound(), outbound("10.96.0.1")];
  handed.drain();
  assert.deepEqual([second.drained, third.drained], [1, 1]);
  handed.ended(second);
  assert.equal(empties(), 0);
  handed.ended(third);
  assert.equal(empties(), 1);
  const late = inbound();
  assert.equal(late.drained, 1);
  handed.ended(late);
  handed.ended(late);
  assert.equal(empties(), 2);
  handed.drain();
  assert.equal(empties(), 3);
});

test("[DIS-6] an endpoint serves, leaves, or nothing is known of it", () => {
  const { replica } = setUp();
  assert.equal(standingOf(replica, "10.0.0.2"), "serves");
  assert.equal(standingOf(replica, "10.9.9.9"), "unknown");
  for (const more of [{ ready: false }, { draining: true }]) {
    replica.take(change({ ...far, ...more }));
    assert.equal(standingOf(replica, "10.0.0.2"), "leaves");
  }
  replica.take(gone(far));
  assert.equal(standingOf(replica, "10.0.0.2"), "unknown");
});

test("[DP-19] one that waits for its namespace's turn is not forgotten by a thread that ends", () => {
  const { handed, inbound, empties } = setUp();
  handed.willBegin();
  handed.drain();
  assert.deepEqual([handed.size, empties()], [1, 0]);
  const other = inbound();
  handed.ended(other);
  assert.equal(empties(), 0, "another's end is not the last one");
  handed.beginsNow();
  const connection = inbound();
  assert.equal(connection.drained, 1);
  handed.ended(connection);
  assert.equal(empties(), 1);
});
