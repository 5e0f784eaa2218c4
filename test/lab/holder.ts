// The process that holds a pod's mount namespace for the pod's whole life: own /etc/hosts, resolv.conf and /tmp (Kubernetes has a pause container for this).
import { type ChildProcess, spawn } from "node:child_process";
import { join } from "node:path";
import { makeCgroup } from "./cgroup.ts";
import { entering } from "./command.ts";
import { makeDir } from "./files.ts";
import { PROJECT_DIR } from "./paths.ts";

export interface HolderPlace {
  readonly key: string;
  readonly cgroup: string;
  readonly netns: string;
  /** Folder with `hosts` and `resolv.conf`; `tmp` is made in it. */
  readonly dir: string;
}

// A checkout that lies under /tmp stays visible in the pod: its programs may be run there.
const script = `
mount --bind "$1/hosts" /etc/hosts
mount --bind "$1/resolv.conf" /etc/resolv.conf
mount -t tmpfs -o mode=1777 tmpfs "$1/tmp"
case "$2" in /tmp/*) below=$1/tmp\${2#/tmp}; mkdir -p "$below"; mount --rbind "$2" "$below" ;; esac
mount --rbind "$1/tmp" /tmp
echo ready
exec sleep infinity`;

/** Resolves when the namespaces are there. @throws Error with what mount(8) said */
export async function startHolder(place: HolderPlace): Promise<ChildProcess> {
  makeCgroup(place.cgroup);
  makeDir(join(place.dir, "tmp"), 0o755);
  const program = [
    "unshare",
    "--mount",
    "--propagation",
    "slave",
    "/bin/sh",
    "-ec",
    script,
    "pause",
    place.dir,
    PROJECT_DIR,
  ];
  const [file = "", ...args] = entering({ cgroup: place.cgroup, netns: place.netns }, program);
  const child = spawn(file, args, { stdio: ["ignore", "pipe", "pipe"] });
  let said = "";
  child.stderr.on("data", (b: Buffer) => {
    said += b.toString();
  });
  await new Promise<void>((resolve, reject) => {
    child.stdout.once("data", () => resolve());
    child.once("error", reject);
    child.once("exit", (code) =>
      reject(new Error(`its namespaces could not be made (exit code ${code}): ${said.trim()}`)),
    );
  });
  child.removeAllListeners("exit");
  child.stdout.destroy();
  child.stderr.destroy();
  return child;
}
