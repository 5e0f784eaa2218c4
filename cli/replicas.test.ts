// One answer out of those of several replicas of the controller.
import assert from "node:assert/strict";
import { test } from "node:test";
import { joinReplicas } from "./replicas.ts";

const agent = (node: string, connectedAt: string): object => ({ node, connectedAt });

test("[OPS-3] [DIS-8] agents of every replica are shown, each once and with the replica that serves it; objects are the leader's", () => {
  const joined = joinReplicas([
    {
      name: "leader",
      status: {
        objects: [{ name: "web" }],
        agents: [agent("n2", "2026-01-01T10:00:00.000Z"), agent("n1", "2026-01-01T09:00:00.000Z")],
      },
    },
    {
      name: "other",
      status: {
        objects: [],
        agents: [agent("n3", "2026-01-01T08:00:00.000Z"), agent("n1", "2026-01-01T09:30:00.000Z")],
      },
    },
  ]);
  assert.ok(joined);
  const { status, replicas, silent } = joined;
  assert.deepEqual(status.objects, [{ name: "web" }]);
  assert.deepEqual(
    (status.agents as readonly { node: string; replica: string }[]).map(({ node, replica }) => [node, replica]),
    [
      ["n1", "other"],
      ["n2", "leader"],
      ["n3", "other"],
    ],
  );
  assert.deepEqual(replicas, [
    { name: "leader", agents: 1 },
    { name: "other", agents: 2 },
  ]);
  assert.deepEqual(silent, []);
});

test("[OPS-3] a replica that does not answer is named, and another speaks for it; with none there is no answer", () => {
  const joined = joinReplicas([
    { name: "leader", error: "no answer within 15 s" },
    { name: "other", status: { objects: [{ name: "web" }], agents: [agent("n1", "")] } },
  ]);
  assert.deepEqual(joined?.silent, ["controller leader: no answer within 15 s"]);
  assert.deepEqual(joined?.replicas, [
    { name: "leader", error: "no answer within 15 s" },
    { name: "other", agents: 1 },
  ]);
  assert.deepEqual(joined?.status.objects, [{ name: "web" }]);
  assert.equal(joinReplicas([{ name: "leader", error: "gone" }]), undefined);
});
