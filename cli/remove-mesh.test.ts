import assert from "node:assert/strict";
import { test } from "node:test";
import type { RawObject } from "../agent/kubernetes/wire.ts";
import { type RemovalCluster, removeLeftovers, removeMesh } from "./remove-mesh.ts";

const agent = (name: string, node: string, phase = "Running"): RawObject =>
  ({ metadata: { name }, spec: { nodeName: node }, status: { phase } }) as unknown as RawObject;

/** A cluster with policies that go at the second look, and agents that say `answers` one after the other. */
class Played implements RemovalCluster {
  readonly asked: string[] = [];
  agents: RawObject[] = [agent("a", "n1"), agent("b", "n2")];
  policies = new Map<string, { looksLeft: number; isLeaving: boolean }>();
  answers = new Map<string, unknown[]>();

  async find(path: string): Promise<RawObject | undefined> {
    const found = path.endsWith("v1alpha1")
      ? {
          resources: [
            { name: "resiliencepolicies", kind: "ResiliencePolicy", namespaced: true },
            { name: "resiliencepolicies/status", kind: "ResiliencePolicy", namespaced: true },
            { name: "meshsettings", kind: "MeshSettings", namespaced: false },
          ],
        }
      : { preferredVersion: { version: "v1alpha1" } };
    return found as unknown as RawObject;
  }
  async list(path: string): Promise<readonly RawObject[]> {
    if (path.endsWith("/pods")) return this.agents;
    if (!path.endsWith("/resiliencepolicies")) return [];
    const objects: RawObject[] = [];
    for (const [name, policy] of this.policies) {
      if (policy.isLeaving && policy.looksLeft-- <= 0) this.policies.delete(name);
      else
        objects.push({
          metadata: { name, namespace: "shop", ...(policy.isLeaving ? { deletionTimestamp: "now" } : {}) },
        } as unknown as RawObject);
    }
    return objects;
  }
  async remove(path: string): Promise<void> {
    this.asked.push(path);
    const policy = this.policies.get(path.slice(path.lastIndexOf("/") + 1));
    if (policy !== undefined) policy.isLeaving = true;
  }
  async leave(_namespace: string, pod: string): Promise<{ state?: string }> {
    this.asked.push(pod);
    const answers = this.answers.get(pod) ?? [{ state: "removed" }];
    const answer = answers.length > 1 ? answers.shift() : answers[0];
    if (answer instanceof Error) throw answer;
    return answer as { state?: string };
  }
}
const options = { namespace: "fairlead-system", keepPolicies: false, deadlineMs: 60_000 };
const silent = (): void => {};
/** Each look takes a quarter of a minute. */
const hurrying = (): (() => number) => {
  let nowMs = 0;
  return () => {
    nowMs += 15_000;
    return nowMs;
  };
};

test("[OPS-1] policies go first, while a controller can let them go, then every node is left", async () => {
  const cluster = new Played();
  cluster.policies.set("web", { looksLeft: 1, isLeaving: false });
  cluster.answers.set("b", [{ state: "removing", pods: 2 }, { state: "removed" }]);
  const said: string[] = [];
  assert.deepEqual(await removeMesh(cluster, options, (line) => said.push(line)), []);
  assert.deepEqual(cluster.asked.slice(0, 1), [
    "/apis/mesh.fairlead.dev/v1alpha1/namespaces/shop/resiliencepolicies/web",
  ]);
  assert.deepEqual(cluster.asked.slice(1).sort(), ["a", "b", "b"]);
  assert.deepEqual(said.slice(0, 1), ["ResiliencePolicy shop/web is removed"]);
  assert.deepEqual(said.slice(1).sort(), ["node n1: the mesh is off it", "node n2: the mesh is off it"]);
});

test("[OPS-1] policies that are to be kept are not looked at", async () => {
  const cluster = new Played();
  cluster.policies.set("web", { looksLeft: 0, isLeaving: false });
  assert.deepEqual(await removeMesh(cluster, { ...options, keepPolicies: true }, silent), []);
  assert.deepEqual(cluster.asked.sort(), ["a", "b"]);
});

test("[OPS-1] what does not go in time is named: nodes without an agent, agents that fail, policies that are held", async () => {
  const cluster = new Played();
  cluster.agents.push(agent("c", "n3", "Pending"));
  cluster.policies.set("held", { looksLeft: Number.POSITIVE_INFINITY, isLeaving: false });
  cluster.answers.set("a", [new Error("connection refused")]);
  cluster.answers.set("b", [{ state: "failed", problems: ["pin_failed: busy"] }]);
  const left = await removeMesh(cluster, options, silent, hurrying());
  assert.deepEqual([...left].sort(), [
    "ResiliencePolicy shop/held is still there: something holds it (its finalizers)",
    "node n1: connection refused",
    "node n2: pin_failed: busy",
    "node n3: its agent does not run (Pending)",
  ]);
});

test("[OPS-1] an agent that another takes the place of leaves nothing to be told of", async () => {
  const cluster = new Played();
  cluster.agents.push(agent("c", "n3", "Pending"));
  let asks = 0;
  cluster.answers.set("a", [new Error("it is being replaced")]);
  const list = cluster.list.bind(cluster);
  cluster.list = async (path) => {
    if (path.endsWith("/pods") && asks++ === 1)
      cluster.agents.splice(0, 3, agent("a2", "n1"), agent("b", "n2"), agent("c2", "n3"));
    return list(path);
  };
  assert.deepEqual(await removeMesh(cluster, options, silent, hurrying()), []);
});

test("[OPS-1] what controllers made goes when the last of them has gone, and nothing of others", async () => {
  const removed: string[] = [];
  let looks = 0;
  const named = (name: string): RawObject => ({ metadata: { name } }) as unknown as RawObject;
  const cluster = {
    async list(path: string) {
      if (path.endsWith("/pods")) return looks++ < 1 ? [named("controller-1")] : [];
      return ["kube-root-ca.crt", "fairlead-ca-root", "fairlead-agents-1", "fairlead-agents-2", "mine"].map(named);
    },
    async remove(path: string) {
      removed.push(path);
    },
  };
  const place = { namespace: "mesh", deadlineMs: 60_000 };
  assert.deepEqual(await removeLeftovers(cluster, place, silent), []);
  assert.equal(looks, 2);
  assert.deepEqual(removed, [
    "/api/v1/namespaces/mesh/configmaps/fairlead-ca-root",
    "/api/v1/namespaces/mesh/configmaps/fairlead-agents-1",
    "/api/v1/namespaces/mesh/configmaps/fairlead-agents-2",
    "/api/v1/namespaces/mesh/secrets/fairlead-ca",
    "/apis/coordination.k8s.io/v1/namespaces/mesh/leases/fairlead-controller",
  ]);
  removed.length = 0;
  looks = Number.NEGATIVE_INFINITY;
  const left = await removeLeftovers(cluster, { ...place, deadlineMs: 0 }, silent, hurrying());
  assert.deepEqual([left, removed], [["pod mesh/controller-1 is still there, and what it writes"], []]);
});
