// Pod uid -> its network namespace and addresses, from the host's own view: the oldest process of a pod is the one that the runtime started
// first to hold the namespaces, and stays for as long as they do. Asks no runtime, so that one that is being restarted changes nothing.
import { readdir, readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { canonicalIp } from "../base/ip.ts";
import { type HostProcess, PodGroups, processAt, processesOf, sandboxProgram } from "./host-groups.ts";

export interface PodNetns {
  /** A name that lasts as long as the pod's network: the runtime's own mount where there is one, else that of its first process. */
  readonly path: string;
  readonly ips: readonly string[];
  /** The program that runs the pod on a kernel of its own: its sockets are out of our reach. */
  readonly sandbox: string | undefined;
}
export interface NetnsPlaces {
  /** Folder of cgroup2 below which the pods are. */
  readonly cgroup: string;
  readonly proc: string;
  /** Folders in which runtimes name namespaces. */
  readonly netnsDirs: readonly string[];
}

interface Found extends PodNetns {
  /** Of a namespace without a name of its own. */
  readonly holder: HostProcess | undefined;
}
/** Processes of one pod that are looked at: the first one is among the first. */
const maxProcesses = 512;
/** All groups of the host are looked through at most this often, ms; between, those where pods have been. */
const thoroughMs = 1_000;

export class NetnsFinder {
  readonly #places: NetnsPlaces;
  readonly #groups: PodGroups;
  readonly #found = new Map<string, Found>();
  #thoroughAtMs = Number.NEGATIVE_INFINITY;
  /** What stands in the way of finding anything, for people. */
  problem: string | undefined;

  constructor(places: NetnsPlaces) {
    this.#places = places;
    this.#groups = new PodGroups(places.cgroup);
  }

  /** What is known of these pods and still true, and what can be found of the others. `nowMs`: monotonic. */
  async find(uids: readonly string[], nowMs: number): Promise<ReadonlyMap<string, PodNetns>> {
    const wanted = new Set(uids);
    for (const uid of [...this.#found.keys()]) if (!wanted.has(uid)) this.#found.delete(uid);
    for (const [uid, found] of [...this.#found]) if (!(await this.#holds(found))) this.#found.delete(uid);
    const unknown = uids.filter((uid) => !this.#found.has(uid));
    if (unknown.length > 0) {
      const isThorough = nowMs - this.#thoroughAtMs >= thoroughMs;
      if (isThorough) this.#thoroughAtMs = nowMs;
      await this.#search(unknown, isThorough);
    }
    return this.#found;
  }
  /** The runtime has named the namespace itself. */
  tell(uid: string, path: string, ips: readonly string[]): PodNetns {
    const found = { path, ips, sandbox: undefined, holder: undefined };
    this.#found.set(uid, found);
    return found;
  }
  forget(uid: string): void {
    this.#found.delete(uid);
  }

  async #holds(found: Found): Promise<boolean> {
    const { path, holder } = found;
    if (holder === undefined) return (await inodeOf(path)) !== undefined;
    return (await processAt(this.#places.proc, holder.pid))?.started === holder.started;
  }

  async #search(uids: readonly string[], isThorough: boolean): Promise<void> {
    const folders = await this.#groups.find(isThorough);
    const { proc } = this.#places;
    const hosts = [await inodeOf(join(proc, "self/ns/net")), await inodeOf(join(proc, "1/ns/net"))];
    let names: ReadonlyMap<string, string> | undefined;
    for (const uid of uids) {
      const folder = folders.get(uid);
      if (folder === undefined) continue;
      const pids = (await processesOf(folder)).slice(0, maxProcesses);
      if (pids.includes(0)) {
        this.problem = "processes of pods are not visible: the agent needs the host's process ids (hostPID: true)";
        continue;
      }
      const holder = await this.#oldest(pids);
      if (holder === undefined) continue;
      const link = join(proc, String(holder.pid), "ns/net");
      const inode = await inodeOf(link);
      if (inode === undefined) {
        if ((await processAt(proc, holder.pid)) !== undefined)
          this.problem = `${link} cannot be read: the agent needs CAP_SYS_PTRACE`;
        continue;
      }
      this.problem = undefined;
      // Between its fork and its own namespace a runtime's child is in the host's.
      if (hosts.includes(inode)) continue;
      const ips = await addressesAt(proc, holder.pid);
      // Its network is still being made.
      if (ips.length === 0) continue;
      names ??= await this.#names();
      const path = names.get(inode);
      const sandbox = await sandboxProgram(proc, holder.pid);
      this.#found.set(uid, { path: path ?? link, ips, sandbox, holder: path === undefined ? holder : undefined });
    }
  }
  async #oldest(pids: readonly number[]): Promise<HostProcess | undefined> {
    let oldest: HostProcess | undefined;
    for (const pid of pids) {
      const process = await processAt(this.#places.proc, pid);
      if (process === undefined) continue;
      if (oldest === undefined || process.started < oldest.started) oldest = process;
    }
    return oldest;
  }
  /** Names by what they are names of. */
  async #names(): Promise<ReadonlyMap<string, string>> {
    const names = new Map<string, string>();
    for (const dir of this.#places.netnsDirs)
      for (const name of await readdir(dir).catch(() => [])) {
        const inode = await inodeOf(join(dir, name));
        if (inode !== undefined) names.set(inode, join(dir, name));
      }
    return names;
  }
}

/** Namespaces are files of one file system of the kernel: device and number name one. */
const inodeOf = (path: string): Promise<string | undefined> =>
  stat(path).then(
    ({ dev, ino }) => `${dev}:${ino}`,
    () => undefined,
  );

async function addressesAt(proc: string, pid: number): Promise<readonly string[]> {
  const read = (file: string): Promise<string> =>
    readFile(join(proc, String(pid), "net", file), "utf8").catch(() => "");
  return [...new Set([...parseFibTrie(await read("fib_trie")), ...parseIfInet6(await read("if_inet6"))])];
}

/** A namespace's own IPv4 addresses, loopback left out: leaves of the routing trie that are `/32 host LOCAL` (Linux, net/ipv4/fib_trie.c). */
export function parseFibTrie(text: string): readonly string[] {
  const addresses = new Set<string>();
  let leaf: string | undefined;
  for (const line of text.split("\n")) {
    const at = /^\s*\|-- ([0-9.]+)$/.exec(line);
    if (at !== null) leaf = at[1];
    else if (leaf !== undefined && /^\s+\/32 host LOCAL$/.test(line) && !leaf.startsWith("127.")) {
      const canonical = canonicalIp(leaf);
      if (canonical !== undefined) addresses.add(canonical);
    }
  }
  return [...addresses];
}

/** The same for IPv6, link-local ones left out too: 32 hex digits, index, prefix length, scope (0: global), flags, name. */
export function parseIfInet6(text: string): readonly string[] {
  return text.split("\n").flatMap((line) => {
    const match = /^([0-9a-f]{32}) [0-9a-f]{2} [0-9a-f]{2} 00 /.exec(line);
    const groups = match?.[1]?.match(/.{4}/g)?.join(":");
    return groups === undefined ? [] : (canonicalIp(groups) ?? []);
  });
}
