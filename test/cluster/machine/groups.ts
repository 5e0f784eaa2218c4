// Control groups of a cluster in every hierarchy that the machine has: cgroup v2 alone, or v1 controllers with v2 beside them. A group is
// named by its path below the mount points, e.g. "fairlead-cluster/main/n1".
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { cgroupProcesses, killCgroup, makeCgroup, removeCgroup } from "../../lab/cgroup.ts";

export interface Hierarchies {
  /** Mount point of cgroup v2: what kills whole groups, and what programs are attached to. */
  readonly v2: string;
  /** Mount points of v1 controllers; empty on a machine with v2 alone. */
  readonly v1: readonly string[];
}

/** @throws Error if cgroup v2 is not mounted at all */
export function hierarchies(mounts: string = readFileSync("/proc/mounts", "utf8")): Hierarchies {
  const rows = mounts.split("\n").map((line) => line.split(" "));
  const of = (type: string): string[] => rows.filter((r) => r[2] === type).map((r) => r[1] ?? "");
  const [v2] = of("cgroup2");
  if (v2 === undefined)
    throw new Error("no cgroup2 file system is mounted; mount it: mount -t cgroup2 none /sys/fs/cgroup");
  return { v2, v1: [...new Set(of("cgroup"))] };
}

/** The group's folders, that of v2 first. */
export const groupFolders = (h: Hierarchies, group: string): string[] => [h.v2, ...h.v1].map((m) => join(m, group));

/** Makes the group and those above it; on a machine with v2 alone with every controller that the level above has. */
export function makeGroup(h: Hierarchies, group: string): void {
  for (const folder of groupFolders(h, group)) makeCgroup(folder);
  const levels = group.split("/").map((_, i, parts) => parts.slice(0, i + 1).join("/"));
  for (const level of levels) for (const mount of h.v1) inheritCpuset(join(mount, level));
  if (h.v1.length === 0) for (const level of ["", ...levels.slice(0, -1)]) delegate(join(h.v2, level));
}

/** A new group of the v1 cpuset has no processors and no memory, and takes no process until it has. */
function inheritCpuset(folder: string): void {
  for (const name of ["cpuset.cpus", "cpuset.mems"]) {
    const file = join(folder, name);
    if (!existsSync(file) || readFileSync(file, "utf8").trim() !== "") continue;
    writeFileSync(file, readFileSync(join(dirname(folder), name), "utf8").trim());
  }
}

function delegate(folder: string): void {
  const controllers = readFileSync(join(folder, "cgroup.controllers"), "utf8").trim().split(" ").filter(Boolean);
  writeFileSync(join(folder, "cgroup.subtree_control"), controllers.map((c) => `+${c}`).join(" "));
}

/** The group's share of processor time beside its siblings, as cgroup v2 counts (100 is what each has by itself). */
export function setCpuWeight(h: Hierarchies, group: string, weight: number): void {
  for (const folder of groupFolders(h, group)) {
    const [v2, v1] = [join(folder, "cpu.weight"), join(folder, "cpu.shares")];
    if (existsSync(v2)) writeFileSync(v2, String(weight));
    else if (existsSync(v1)) writeFileSync(v1, String(Math.round((weight * 1024) / 100)));
  }
}

/** Process ids in the group and below it. */
export const groupProcesses = (h: Hierarchies, group: string): number[] => cgroupProcesses(join(h.v2, group));

/** Kills everything in the group and below, and removes it. @returns how many processes there were */
export async function removeGroup(h: Hierarchies, group: string): Promise<number> {
  const count = groupProcesses(h, group).length;
  killCgroup(join(h.v2, group));
  const removed = await Promise.all(groupFolders(h, group).map((folder) => removeCgroup(folder)));
  const at = removed.indexOf(false);
  if (at >= 0) throw new Error(`processes in ${groupFolders(h, group)[at]} cannot be ended`);
  return count;
}

/** Command line that runs `command` in the group; each step is an exec. */
export const joining = (h: Hierarchies, group: string, command: readonly string[]): string[] => [
  "/bin/sh",
  "-ec",
  'while [ "$1" != -- ]; do echo 0 >"$1/cgroup.procs"; shift; done; shift; exec "$@"',
  "join",
  ...groupFolders(h, group),
  "--",
  ...command,
];
