// A data thread's replica ends as what the control thread knows, whatever changes while it is being filled.
import assert from "node:assert/strict";
import { test } from "node:test";
import { setImmediate as turn } from "node:timers/promises";
import { workload } from "../../test/kit/mesh.ts";
import type { PodName, SpiffeId } from "../api/names.ts";
import type { MeshResource } from "../api/resources.ts";
import type { Workload } from "../api/workload.ts";
import type { LocalPod } from "../flow.ts";
import { Replica } from "../replica.ts";
import { MeshState, type MeshUpdate } from "../state/mesh-state.ts";
import type { ToThread } from "../threads.ts";
import { Replicas } from "./replicas.ts";

const numbered = (n: number, generation: number): Workload =>
  workload("shop", `pod-${n}`, `10.0.${n >> 8}.${n & 255}`, { labels: { generation: String(generation) } });
const put = (n: number, generation: number): MeshResource => ({ kind: "Workload", value: numbered(n, generation) });

function thread() {
  const replica = new Replica();
  let ready = false;
  const post = (message: ToThread): void => {
    const copy = structuredClone(message);
    if (copy.say === "replicated") ready = true;
    else if (copy.say === "mesh" || copy.say === "pods" || copy.say === "knowledge") replica.take(copy);
  };
  return { replica, post, isReady: () => ready };
}

test("[DP-25] a data thread's replica is what the control thread knows, though it changes while the replica is filled", async () => {
  const state = new MeshState();
  const pods: LocalPod[] = [];
  const replicas = new Replicas({ state, pods: () => pods, knowledge: () => "fresh" });
  const apply = (update: MeshUpdate): void => {
    state.apply(update);
    replicas.mesh(update);
  };
  apply({ changed: Array.from({ length: 2_600 }, (_, n) => put(n, 0)), removed: [] });
  const { replica, post, isReady } = thread();
  const detach = replicas.attach(post);
  assert.equal(isReady(), false);
  // Slices are under way: one that was sent changes, one that was not changes and goes, a new one comes.
  apply({ changed: [put(3, 1), put(2_500, 1), put(9_000, 1)], removed: [] });
  await turn();
  apply({ changed: [], removed: [{ kind: "Workload", name: "cluster.local/shop/pod-2400" }] });
  apply({ changed: [], removed: [{ kind: "Workload", name: "cluster.local/shop/pod-5" }] });
  for (let i = 0; i < 50 && !isReady(); i++) await turn();
  assert.ok(isReady());
  const known = (of: MeshState): string[] => [...of.workloads.all()].map((w) => JSON.stringify(w)).sort();
  assert.deepEqual(known(replica.state), known(state));
  assert.equal(replica.state.workloads.size, 2_599);

  detach();
  apply({ changed: [], removed: [{ kind: "Workload", name: "cluster.local/shop/pod-7" }] });
  assert.equal(replica.state.workloads.size, 2_599);
});

test("[DP-25] pods of the node and the age of what is known reach the threads; each change makes earlier verdicts void", () => {
  const pods: LocalPod[] = [];
  const replicas = new Replicas({ state: new MeshState(), pods: () => pods, knowledge: () => "none" });
  const { replica, post } = thread();
  replicas.attach(post);
  const before = replica.state.generation;
  const identity = "spiffe://cluster.local/ns/shop/sa/a" as SpiffeId;
  pods.push({ name: "shop/a" as PodName, identity, workload: numbered(1, 0) });
  replicas.pods();
  assert.equal(replica.byName("shop/a" as PodName)?.identity, identity);
  assert.equal(replica.byAddress("10.0.0.1")?.name, "shop/a");
  assert.ok(replica.state.generation > before);
  assert.equal(replica.knowledge, "none");
  replicas.knowledge("expired");
  assert.equal(replica.knowledge, "expired");
  pods.length = 0;
  replicas.pods();
  assert.equal(replica.byAddress("10.0.0.1"), undefined);
});
