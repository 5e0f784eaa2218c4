// `fairlead uninstall`: takes the mesh off every node, then the objects of `fairlead install` off the cluster.
import { setTimeout as sleep } from "node:timers/promises";
import type { Cluster } from "./cluster/connect.ts";
import { withCluster } from "./cluster/load.ts";
import { type Manifest, nameOf, Objects } from "./cluster/objects.ts";
import { clusterOptions, placeOf } from "./cluster/options.ts";
import { type Call, type Command, Failure, UsageError, wholeNumber } from "./command.ts";
import { manifestsFrom, renderedNamespace, renderedText } from "./install.ts";

const againMs = 1_000;

export const uninstall: Command = {
  name: "uninstall",
  usage: "uninstall [--keep-policies] [--wait SECONDS] [--context NAME] [--json]",
  summary: "Takes the mesh off every node and its objects off the cluster; connections go on without it.",
  details:
    "Pods leave the mesh as if their labels were removed, so ports under STRICT take plain connections from then on.\nWhat Helm has installed helm uninstall removes.",
  options: {
    "keep-policies": { type: "boolean", help: "leave the mesh's own kinds and their objects" },
    wait: { type: "string", value: "SECONDS", help: "how long nodes and objects have (default 300)" },
    ...clusterOptions,
    json: { type: "boolean", help: "print one JSON document" },
  },
  run: (call) => {
    const place = placeOf(call);
    if (place.namespace !== renderedNamespace)
      throw new UsageError(`--mesh-namespace ${place.namespace}: fairlead install uses ${renderedNamespace}`);
    return withCluster(place, (cluster) => removed(cluster, call));
  },
};

async function removed(cluster: Cluster, call: Call): Promise<number> {
  const { overApi, removeMesh } = await import("./remove-mesh.ts");
  const keepPolicies = call.flag("keep-policies");
  const deadlineMs = wholeNumber(call, "wait", 300, 1, 86_400) * 1000;
  const until = Date.now() + deadlineMs;
  const left = await removeMesh(
    overApi(cluster),
    { namespace: cluster.namespace, keepPolicies, deadlineMs },
    call.output.err,
  );
  // Without their agents nobody could take off what is left on nodes.
  if (left.length > 0) throw new Failure(`not removed: ${left.join("; ")}; nothing else was touched, run it again`);
  const manifests = manifestsFrom(renderedText(), undefined, undefined)
    .filter((m) => !(keepPolicies && m.kind === "CustomResourceDefinition"))
    .toReversed();
  const objects = new Objects(cluster);
  const gone: string[] = [];
  for (const manifest of manifests) {
    if (!(await objects.remove(manifest))) continue;
    gone.push(nameOf(manifest));
    call.output.err(`${nameOf(manifest)} deleted`);
  }
  const still = await waited(cluster, objects, manifests, until);
  if (call.flag("json"))
    call.output.out(JSON.stringify({ cluster: cluster.context, deleted: gone, left: still }, null, 2));
  else call.output.out(`${gone.length} objects deleted`);
  if (still.length > 0) throw new Failure(`still being deleted: ${still.join(", ")}`);
  return 0;
}

/** What is there when the time is over. */
async function waited(
  cluster: Cluster,
  objects: Objects,
  manifests: readonly Manifest[],
  until: number,
): Promise<readonly string[]> {
  for (;;) {
    const still: string[] = [];
    for (const manifest of manifests) {
      const path = await objects.path(manifest).catch(() => undefined);
      if (path !== undefined && (await cluster.find(path)) !== undefined) still.push(nameOf(manifest));
    }
    if (still.length === 0 || Date.now() > until) return still;
    await sleep(againMs);
  }
}
