// Control groups and processes of the host, as cgroup2 and /proc show them: which processes a pod has, and where the kubelet runs. The agent
// must share the host's process namespace, or it sees no process ids.
import { open, readdir, readFile, stat } from "node:fs/promises";
import { basename, join } from "node:path";

/** Deepest folder that is looked at below the root; pods of a Kubernetes in a container on a host of systemd are at seven. */
const maxDepth = 9;
const podName = /pod([0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12}|[0-9a-f]{32})(\.slice)?$/;

/** The uid in the name of a pod's folder, of either cgroup driver; of static pods it is a hash. */
export const uidOfFolder = (name: string): string | undefined => podName.exec(name)?.[1]?.replaceAll("_", "-");

const foldersIn = async (folder: string): Promise<readonly string[]> => {
  try {
    const entries = await readdir(folder, { withFileTypes: true });
    return entries.filter((entry) => entry.isDirectory()).map((entry) => entry.name);
  } catch {
    return []; // gone meanwhile
  }
};

/** Finds the folders of pods; remembers where such folders lie, since it is asked often and hosts have many. */
export class PodGroups {
  readonly #root: string;
  readonly #parents = new Set<string>();

  /** `root`: the folder of cgroup2 below which this node's pods are. */
  constructor(root: string) {
    this.#root = root;
  }

  /** Folder by uid. `isThorough` looks everywhere, else only where pods have been before. */
  async find(isThorough: boolean): Promise<ReadonlyMap<string, string>> {
    const found = new Map<string, string>();
    if (isThorough) await this.#walk(this.#root, 0, found);
    else for (const parent of this.#parents) await this.#look(parent, found);
    return found;
  }
  async #look(folder: string, found: Map<string, string>): Promise<readonly string[]> {
    const others: string[] = [];
    for (const name of await foldersIn(folder)) {
      const uid = uidOfFolder(name);
      if (uid === undefined) others.push(name);
      else {
        found.set(uid, join(folder, name));
        this.#parents.add(folder);
      }
    }
    return others;
  }
  async #walk(folder: string, depth: number, found: Map<string, string>): Promise<void> {
    const others = await this.#look(folder, found);
    if (depth < maxDepth) for (const name of others) await this.#walk(join(folder, name), depth + 1, found);
  }
}

/** Ids of the processes in a group, 0 for those that we cannot see. */
async function idsIn(folder: string): Promise<readonly number[]> {
  const text = await readFile(join(folder, "cgroup.procs"), "utf8").catch(() => "");
  return text.split("\n").flatMap((line) => (line === "" ? [] : [Number(line)]));
}
/** The same of a pod's containers: they are in groups of their own, some runtimes' one deeper. */
export async function processesOf(podFolder: string): Promise<readonly number[]> {
  const ids: number[] = [...(await idsIn(podFolder))];
  for (const name of await foldersIn(podFolder)) {
    ids.push(...(await idsIn(join(podFolder, name))));
    for (const inner of await foldersIn(join(podFolder, name)))
      ids.push(...(await idsIn(join(podFolder, name, inner))));
  }
  return ids;
}

export interface HostProcess {
  readonly pid: number;
  /** Clock ticks since the boot: with the id it names one process for ever. */
  readonly started: number;
}
/** undefined when there is no such process. proc_pid_stat(5): the name, in brackets, may contain anything. */
export async function processAt(proc: string, pid: number): Promise<HostProcess | undefined> {
  const text = await readFile(join(proc, String(pid), "stat"), "utf8").catch(() => "");
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  const started = Number(fields[19]);
  return fields.length > 19 && Number.isFinite(started) ? { pid, started } : undefined;
}

/** The program and its first argument, as a process was started. */
async function wordsOf(proc: string, pid: number): Promise<readonly string[]> {
  const file = await open(join(proc, String(pid), "cmdline")).catch(() => undefined);
  if (file === undefined) return [];
  try {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(512), 0, 512, 0);
    return buffer.toString("utf8", 0, bytesRead).split("\0").slice(0, 2);
  } catch {
    return [];
  } finally {
    await file.close();
  }
}
const programOf = (words: readonly string[]): string => basename(words[0] ?? "");

/** Programs that are a pod's machine or kernel, so that its sockets are not the host's (DP-11). */
const sandboxes =
  /^(runsc|runsc-sandbox|runsc-gofer|containerd-shim-kata-v2|cloud-hypervisor|firecracker|stratovirt|qemu-system-.+|qemu-kvm|qemu-lite.*|dragonball)$/;
/** The program that runs the pod on another kernel, if `pid` is one. */
export async function sandboxProgram(proc: string, pid: number): Promise<string | undefined> {
  const program = programOf(await wordsOf(proc, pid));
  return sandboxes.test(program) ? program : undefined;
}

const kubelets = /^(kubelet|k3s|k3s-server|k3s-agent|rke2|k0s|kubelite)$/;
const multicalls = /^(kube|hyperkube|k8s)$/;
const isKubelet = (words: readonly string[]): boolean =>
  kubelets.test(programOf(words)) || (multicalls.test(programOf(words)) && words[1] === "kubelet");

export interface KubeletGroup {
  readonly folder: string;
  /** The id that programs know the group by: a service that is started again has another one. */
  readonly id: string;
}
/**
 * The kubelet's control group (DP-10). A process that only has its name, in a pod, does not count; nor does a group that holds pods
 * beneath it, since then all of them would pass for the kubelet. The error says what was found instead.
 */
export async function findKubelet(proc: string, root: string): Promise<KubeletGroup | string> {
  const pods = await new PodGroups(root).find(true);
  const candidates: number[] = [];
  for (const name of await foldersIn(proc))
    if (/^[0-9]+$/.test(name) && isKubelet(await wordsOf(proc, Number(name)))) candidates.push(Number(name));
  if (candidates.length === 0) return "no process is a kubelet";
  const wanted = new Set(candidates);
  const found: string[] = [];
  const walk = async (folder: string, depth: number): Promise<void> => {
    if ((await idsIn(folder)).some((pid) => pid !== 0 && wanted.has(pid))) found.push(folder);
    if (depth >= maxDepth) return;
    for (const name of await foldersIn(folder))
      if (uidOfFolder(name) === undefined) await walk(join(folder, name), depth + 1);
  };
  await walk(root, 0);
  const [folder, ...others] = found;
  if (folder === undefined) return `the kubelet is in no group below ${root} that is not a pod's`;
  if (others.length > 0) return `kubelets are in several groups: ${found.join(", ")}`;
  if ([...pods.values()].some((pod) => pod.startsWith(`${folder}/`)))
    return `the kubelet's group ${folder} holds pods too`;
  const there = await stat(folder).catch(() => undefined);
  return there === undefined ? `the kubelet's group ${folder} has just gone` : { folder, id: String(there.ino) };
}

/** Mount point of cgroup2 as /proc/mounts has it; undefined where there is none. On a hybrid host it is beside the v1 hierarchies. */
export function cgroup2Mount(mounts: string): string | undefined {
  for (const line of mounts.split("\n")) {
    const [, folder, type] = line.split(" ");
    if (type === "cgroup2" && folder !== undefined) return folder.replaceAll("\\040", " ");
  }
  return undefined;
}
