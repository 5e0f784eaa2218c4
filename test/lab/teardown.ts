// Removes everything of one lab, knowing only its name: used by an orderly `down`, by the watchdog after a crash, and by the next `up`.
import { existsSync, readdirSync, rmdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { cgroupProcesses, killCgroup, removeCgroup } from "./cgroup.ts";
import { finish } from "./command.ts";
import { removePath } from "./files.ts";
import { namespacesOf, removeNamespace } from "./network.ts";
import { cgroup2Mount, type LabPaths, labPaths } from "./paths.ts";

/** What was left over, for the message. */
export interface Removed {
  readonly processes: number;
  readonly namespaces: number;
}

/**
 * Kills the lab's processes (not those in the groups named by `spare`), then removes namespaces with their links, pins, cgroups and,
 * unless `keepLog`, its folder.
 */
export async function tearDown(
  lab: LabPaths,
  options: { readonly spare?: readonly string[]; readonly keepLog?: boolean } = {},
): Promise<Removed> {
  const spare = options.spare ?? [];
  let processes = 0;
  const groups = existsSync(lab.cgroup)
    ? readdirSync(lab.cgroup, { withFileTypes: true })
        .filter((e) => e.isDirectory())
        .map((e) => join(lab.cgroup, e.name))
    : [];
  for (const group of groups) {
    if (spare.includes(group)) continue;
    processes += cgroupProcesses(group).length;
    killCgroup(group);
  }
  await Promise.all(groups.filter((g) => !spare.includes(g)).map((g) => removeCgroup(g)));
  const namespaces = await namespacesOf(lab.netnsPrefix);
  for (const netns of namespaces) await removeNamespace(netns);
  removePath(lab.pinDir);
  removeIfEmpty(dirname(lab.pinDir));
  await unmountBelow(lab.dir);
  if (options.keepLog === true) {
    for (const entry of existsSync(lab.dir) ? readdirSync(lab.dir) : [])
      if (entry !== "supervisor.log") removePath(join(lab.dir, entry));
  } else {
    removePath(lab.dir);
    removeIfEmpty(dirname(lab.dir));
  }
  return { processes, namespaces: namespaces.length };
}

/** The folder that all labs share goes with the last of them. */
function removeIfEmpty(dir: string): void {
  try {
    rmdirSync(dir);
  } catch {
    // another lab is in it, or it is gone
  }
}

/** Agents may have put a tmpfs on their run folder. */
async function unmountBelow(dir: string): Promise<void> {
  const mounts = await finish(["findmnt", "-rno", "TARGET"]);
  const below = mounts.stdout.split("\n").filter((m) => m.startsWith(`${dir}/`));
  for (const mount of below.reverse()) await finish(["umount", "-l", mount]);
}

/** Last step of a process that sits in the lab's own groups: leaves them, so that they can be removed. */
export async function leaveAndRemoveCgroups(lab: LabPaths): Promise<void> {
  const root = dirname(dirname(lab.cgroup));
  try {
    writeFileSync(join(root, "cgroup.procs"), "0");
  } catch {
    return; // no right to leave: the empty groups stay, the next `up` removes them
  }
  await removeCgroup(lab.cgroup, 2000);
  removeIfEmpty(dirname(lab.cgroup));
}

/** Entry for the watchdog: `node teardown.ts NAME`, after the supervisor went without saying goodbye. */
async function main(): Promise<void> {
  const name = process.argv[2] ?? "";
  const cgroup2 = cgroup2Mount();
  if (!cgroup2.ok) throw new Error(cgroup2.error);
  const lab = labPaths(name, cgroup2.value);
  await tearDown(lab, { spare: [lab.watchdogCgroup], keepLog: true });
  await leaveAndRemoveCgroups(lab);
}

if (import.meta.main) await main();
