// Names and places of a lab: everything one lab owns can be found from its name alone, so that leftovers can be removed without its supervisor.
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { err, ok, type Result } from "../../agent/base/result.ts";

export const LABS_DIR = "/run/fairlead-lab";
export const BPF_FS = "/sys/fs/bpf";
/** The checkout that this lab runs: agents and the controller are started from here. */
export const PROJECT_DIR = dirname(dirname(dirname(fileURLToPath(import.meta.url))));

export interface NodePaths {
  readonly dir: string;
  readonly adminSocket: string;
  readonly runDir: string;
  readonly cacheDir: string;
  readonly podsDir: string;
  readonly agentLog: string;
  readonly accessLog: string;
  readonly tokenFile: string;
  readonly caFile: string;
  readonly netns: string;
  readonly cgroup: string;
  readonly kubeletCgroup: string;
  readonly agentCgroup: string;
  readonly pinDir: string;
}

export interface LabPaths {
  readonly name: string;
  readonly dir: string;
  readonly supervisorSocket: string;
  readonly supervisorLog: string;
  readonly supervisorCgroup: string;
  readonly watchdogCgroup: string;
  readonly optionsFile: string;
  readonly controllerSocket: string;
  readonly controllerDir: string;
  readonly controllerLog: string;
  readonly controllerCgroup: string;
  readonly manifestsDir: string;
  readonly liveDir: string;
  readonly podsDir: string;
  readonly routerNetns: string;
  readonly netnsPrefix: string;
  readonly cgroup: string;
  readonly pinDir: string;
}

/** A lab's name becomes part of namespace and folder names. No dash: the leftovers of lab "a" must not be mistaken for those of "a-b". */
export function parseLabName(text: string): Result<string, string> {
  if (/^[a-z0-9]{1,20}$/.test(text)) return ok(text);
  return err(`--name ${JSON.stringify(text)}: use 1 to 20 lower-case letters and digits, e.g. --name demo`);
}

/** The mount point of cgroup v2 (the whole tree, or `unified` beside v1), from /proc/mounts. */
export function cgroup2Mount(mounts: string = readFileSync("/proc/mounts", "utf8")): Result<string, string> {
  for (const line of mounts.split("\n")) {
    const [, point, type] = line.split(" ");
    if (type === "cgroup2" && point !== undefined) return ok(point);
  }
  return err("no cgroup2 file system is mounted; mount it: mount -t cgroup2 none /sys/fs/cgroup");
}

export const netnsPath = (name: string): string => join("/run/netns", name);

export function labPaths(name: string, cgroup2: string): LabPaths {
  const dir = join(LABS_DIR, name);
  const cgroup = join(cgroup2, "fairlead-lab", name);
  return {
    name,
    dir,
    supervisorSocket: join(dir, "supervisor.sock"),
    supervisorLog: join(dir, "supervisor.log"),
    supervisorCgroup: join(cgroup, "supervisor"),
    watchdogCgroup: join(cgroup, "watchdog"),
    optionsFile: join(dir, "options.json"),
    controllerSocket: join(dir, "controller.sock"),
    controllerDir: join(dir, "controller"),
    controllerLog: join(dir, "controller.log"),
    controllerCgroup: join(cgroup, "controller"),
    manifestsDir: join(dir, "manifests"),
    liveDir: join(dir, "live"),
    podsDir: join(dir, "pods"),
    routerNetns: `fl-${name}-net`,
    netnsPrefix: `fl-${name}-`,
    cgroup,
    pinDir: join(BPF_FS, "fairlead-lab", name),
  };
}

export function nodePaths(lab: LabPaths, node: string): NodePaths {
  const dir = join(lab.dir, "nodes", node);
  const cgroup = join(lab.cgroup, node);
  return {
    dir,
    adminSocket: join(dir, "agent.sock"),
    runDir: join(dir, "run"),
    cacheDir: join(dir, "cache"),
    podsDir: join(dir, "pods"),
    agentLog: join(dir, "agent.log"),
    accessLog: join(dir, "access.log"),
    tokenFile: join(dir, "join-token"),
    caFile: join(dir, "controller-ca.pem"),
    netns: `${lab.netnsPrefix}${node}`,
    cgroup,
    kubeletCgroup: join(cgroup, "kubelet"),
    agentCgroup: join(cgroup, "agent"),
    pinDir: join(lab.pinDir, node),
  };
}

/** File-name form of a pod, as in `pods/<ns>_<pod>.json` (neither part may hold an underscore, so it is unique). */
export const podFile = (namespace: string, name: string): string => `${namespace}_${name}`;

/** Network namespace of a pod: the hash keeps it inside the kernel's name limit however long the pod's name is. */
export function podNetns(lab: LabPaths, namespace: string, name: string): string {
  const hash = createHash("sha256").update(`${namespace}/${name}`).digest("hex").slice(0, 10);
  return `${lab.netnsPrefix}${hash}`;
}
