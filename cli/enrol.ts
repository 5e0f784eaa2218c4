// `fairlead enrol`: takes a namespace, or one pod, into the mesh or out of it, by its label, and waits until the agents have done it.

import { setTimeout as sleep } from "node:timers/promises";
import { meshLabel } from "../agent/api/labels.ts";
import { showFault } from "../agent/kubernetes/fault.ts";
import type { Cluster } from "./cluster/connect.ts";
import { withCluster } from "./cluster/load.ts";
import { clusterOptions, placeOf } from "./cluster/options.ts";
import { type Call, type Command, Failure, UsageError, wholeNumber } from "./command.ts";
import { didYouMean } from "./nearest.ts";
import { cell, table } from "./table.ts";
import type { MeshView, PodView } from "./view.ts";

/** Pods without which no agent or controller could start. */
const neverMeshed = ["kube-system", "kube-public", "kube-node-lease"];
const againMs = 500;

export const enrol: Command = {
  name: "enrol",
  usage: "enrol NAMESPACE[/POD] [--off | --inherit] [--wait SECONDS] [--context NAME] [--json]",
  summary: "Takes a namespace or a pod into the mesh (--off: out of it), without a restart, and waits until it is so.",
  details: `Sets the label ${meshLabel} (enabled, or with --off disabled); --inherit removes a pod's own label. A pod's label wins over its namespace's.\nLabels of running pods are gone with the pod: put them into the Deployment's template to keep them.`,
  options: {
    off: { type: "boolean", help: "out of the mesh" },
    inherit: { type: "boolean", help: "as the namespace says: removes the label" },
    wait: { type: "string", value: "SECONDS", help: "how long the agents have for it (default 60)" },
    ...clusterOptions,
    json: { type: "boolean", help: "print one JSON document" },
  },
  run: async (call) => {
    const [target, ...more] = call.words;
    if (target === undefined || more.length > 0) throw new UsageError("name one NAMESPACE or NAMESPACE/POD");
    if (call.flag("off") && call.flag("inherit")) throw new UsageError("--off and --inherit: give one of them");
    const waitMs = wholeNumber(call, "wait", 60, 0, 3600) * 1000;
    return withCluster(placeOf(call), (cluster) => change(cluster, target, waitMs, call));
  },
};

async function change(cluster: Cluster, target: string, waitMs: number, call: Call): Promise<number> {
  const [namespace = "", pod] = target.split("/");
  if (neverMeshed.includes(namespace) || namespace === cluster.namespace)
    throw new Failure(`namespace ${namespace} is never in the mesh: the cluster or Fairlead itself starts from it`);
  const path = `/api/v1/namespaces/${namespace}${pod === undefined ? "" : `/pods/${pod}`}`;
  if ((await cluster.find(path)) === undefined) throw new Failure(await absent(cluster, namespace, pod));
  const value = call.flag("inherit") ? null : call.flag("off") ? "disabled" : "enabled";
  const answer = await cluster.api.send({
    method: "PATCH",
    path,
    contentType: "application/merge-patch+json",
    body: { metadata: { labels: { [meshLabel]: value } } },
  });
  if (!answer.ok) throw new Failure(`${target} could not be labelled: ${showFault(answer.error)}`);
  call.output.err(`${target}: label ${meshLabel} ${value === null ? "removed" : `is ${value}`}`);
  const { meshIn } = await import("./cluster/view.ts");
  const mesh = await meshIn(cluster);
  try {
    return await waited(mesh, namespace, pod, waitMs, call);
  } finally {
    mesh.close();
  }
}

async function absent(cluster: Cluster, namespace: string, pod: string | undefined): Promise<string> {
  const namespaces = (await cluster.list("/api/v1/namespaces")).map((n) => n.metadata.name);
  if (!namespaces.includes(namespace))
    return `there is no namespace ${namespace}${didYouMean(namespace, namespaces, "")}`;
  const pods = (await cluster.list(`/api/v1/namespaces/${namespace}/pods`)).map((p) => p.metadata.name);
  return `there is no pod ${namespace}/${pod}${didYouMean(pod ?? "", pods, "")}`;
}

/** True where the agents have done what the labels say. */
const isSettled = (pod: PodView): boolean => pod.meshed === (pod.enrolled === "yes");

async function waited(
  mesh: MeshView,
  namespace: string,
  pod: string | undefined,
  waitMs: number,
  call: Call,
): Promise<number> {
  const began = Date.now();
  let said = began;
  for (;;) {
    const pods = (await mesh.pods()).filter((p) => p.namespace === namespace && (pod === undefined || p.name === pod));
    const open = pods.filter((p) => !isSettled(p));
    if (open.length === 0 || Date.now() - began > waitMs) {
      show(mesh, pods, call);
      if (open.length > 0) call.output.err(`${open.length} pods are not yet as their labels say`);
      return open.length === 0 ? 0 : 1;
    }
    if (Date.now() - said > 2_000) {
      said = Date.now();
      call.output.err(`waiting for ${open.length} of ${pods.length} pods`);
    }
    await sleep(againMs);
  }
}

function show(mesh: MeshView, pods: readonly PodView[], call: Call): void {
  if (call.flag("json")) {
    call.output.out(JSON.stringify({ ...mesh.named, pods }, null, 2));
    return;
  }
  if (pods.length === 0) {
    call.output.out("no pods run there yet; those that start will be as the label says");
    return;
  }
  const rows = pods.map((p) => [
    `${p.namespace}/${p.name}`,
    p.node,
    cell(p.enrolled === "yes" ? "yes" : "no", isSettled(p) ? "green" : "yellow"),
    p.reason,
  ]);
  call.output.out(table(["POD", "NODE", "IN MESH", "REASON"], rows, call.output.colour));
}
