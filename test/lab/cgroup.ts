// Control groups of a lab (cgroup v2): made, killed whole, removed. `cgroup.kill` ends every process inside at once, also ones that are just forking.
import { mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

export function makeCgroup(path: string): void {
  mkdirSync(path, { recursive: true });
}

const children = (path: string): string[] => {
  try {
    return readdirSync(path, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map((entry) => join(path, entry.name));
  } catch {
    return [];
  }
};

/** Process ids in the group and below it. */
export function cgroupProcesses(path: string): number[] {
  let own: number[] = [];
  try {
    own = readFileSync(join(path, "cgroup.procs"), "utf8").split("\n").filter(Boolean).map(Number);
  } catch {
    return []; // the group is gone
  }
  return own.concat(children(path).flatMap(cgroupProcesses));
}

/** Kills everything in the group and below. Kernels before 5.14 have no `cgroup.kill`: each process is killed by id. */
export function killCgroup(path: string): void {
  try {
    writeFileSync(join(path, "cgroup.kill"), "1");
  } catch {
    for (const pid of cgroupProcesses(path)) {
      try {
        process.kill(pid, "SIGKILL");
      } catch {
        // it ended by itself
      }
    }
  }
}

/** Waits until no process is left, then removes the group and those below it. @returns false if processes stayed. */
export async function removeCgroup(path: string, deadlineMs = 5000): Promise<boolean> {
  for (let waited = 0; ; waited += 20) {
    const left = cgroupProcesses(path);
    if (left.length === 0 && removeTree(path)) return true;
    if (waited >= deadlineMs) return false;
    await sleep(20);
  }
}

function removeTree(path: string): boolean {
  for (const child of children(path)) if (!removeTree(child)) return false;
  try {
    rmdirSync(path);
    return true;
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    return code === "ENOENT"; // EBUSY: a process is still on its way out
  }
}
