// Removes everything of one cluster, knowing only its name: also what a crash or a reboot of the machine has left.
import { readdirSync, rmdirSync } from "node:fs";
import { dirname } from "node:path";
import { readText, removePath } from "../lab/files.ts";
import { groupFolders, type Hierarchies, removeGroup } from "./machine/groups.ts";
import { removeNetwork } from "./machine/network.ts";
import { CLUSTERS_DIR, type ClusterPaths } from "./paths.ts";

/** What there was to remove. */
export interface Removed {
  readonly processes: number;
  readonly namespaces: number;
}

export async function tearDown(h: Hierarchies, cluster: ClusterPaths): Promise<Removed> {
  const processes = await removeGroup(h, cluster.group);
  const namespaces = await removeNetwork(cluster);
  refuseMounts(cluster);
  removePath(cluster.dir);
  for (const folder of groupFolders(h, dirname(cluster.group))) removeIfEmpty(folder);
  removeIfEmpty(CLUSTERS_DIR);
  return { processes, namespaces };
}

/** A node's mounts go with its last process. Were one left, removing the folder could reach into what is mounted there. */
function refuseMounts(cluster: ClusterPaths): void {
  const points = readText("/proc/self/mounts")
    .split("\n")
    .map((line) => line.split(" ")[1] ?? "");
  const left = points.find((point) => point.startsWith(`${cluster.dir}/`));
  if (left !== undefined) throw new Error(`${left} is still mounted: umount it, then run this again`);
}

/** What all clusters share goes with the last of them. */
function removeIfEmpty(folder: string): void {
  try {
    rmdirSync(folder);
  } catch {
    // another cluster has something in it, or it is gone
  }
}

/** Whether anything of the cluster is on this machine. */
export function leftOf(h: Hierarchies, cluster: ClusterPaths): boolean {
  const has = (folder: string, name: string): boolean => {
    try {
      return readdirSync(folder).includes(name);
    } catch {
      return false;
    }
  };
  const groups = groupFolders(h, dirname(cluster.group)).some((folder) => has(folder, cluster.name));
  const links = has("/sys/class/net", cluster.machineLink);
  return groups || links || has(dirname(cluster.dir), cluster.name) || has("/run/netns", cluster.netns);
}
