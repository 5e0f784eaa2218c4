// Which pod the process at the other end of a unix socket belongs to: by the control group that the kernel has it in, which it cannot
// choose. Its id alone proves nothing, since ids are used again: the process must be the one that connected, before and after we look.
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { err, ok, type Result } from "../base/result.ts";
import { processAt, uidOfFolder } from "./host-groups.ts";

/** A process as it connected. */
export interface PeerProcess {
  readonly pid: number;
  /** Clock ticks since the boot at which it was started. */
  readonly started: number;
  /** Names it for ever; undefined before Linux 6.5, where its start time stands in. */
  readonly pidfd: number | undefined;
}
/** How a pod is known on its host. */
export interface HostPod {
  readonly uid: string;
  /** Path of its control group; where it is not known the uid in a group's name counts. */
  readonly cgroup: string | undefined;
}
export interface ProcessPlaces {
  readonly proc: string;
  /** Where cgroup v2 is mounted. */
  readonly mount: string;
  /** Folder below which this node's groups are. */
  readonly root: string;
}

/** Looks at a process just after it connected. The error is for the log. */
export async function peerProcess(
  proc: string,
  pid: number,
  pidfd: number | undefined,
): Promise<Result<PeerProcess, string>> {
  if (pid <= 0) return err("the process is in no process namespace that the agent sees: the agent needs the host's");
  const found = await processAt(proc, pid);
  if (found === undefined) return err(`the process ${pid} has ended`);
  const peer = { pid, started: found.started, pidfd };
  return (await isStill(proc, peer)) ? ok(peer) : err(`the process ${pid} has ended`);
}

/** Whether the process still lives: nobody else has its id then. */
export async function isStill(proc: string, peer: PeerProcess): Promise<boolean> {
  if (peer.pidfd !== undefined) {
    // pidfd_open(2), "Pid:" in fdinfo: -1 once the process has ended.
    const text = await readFile(join(proc, `self/fdinfo/${peer.pidfd}`), "utf8").catch(() => "");
    if (/^Pid:\s*([0-9-]+)$/m.exec(text)?.[1] !== String(peer.pid)) return false;
  }
  return (await processAt(proc, peer.pid))?.started === peer.started;
}

/** The pod of the process among these, as of now. */
export async function podOfPeer<P extends { readonly host: HostPod }>(
  places: ProcessPlaces,
  peer: PeerProcess,
  pods: readonly P[],
): Promise<P | undefined> {
  const text = await readFile(join(places.proc, `${peer.pid}/cgroup`), "utf8").catch(() => "");
  if (!(await isStill(places.proc, peer))) return undefined;
  const path = groupPath(text);
  return path === undefined ? undefined : podOfGroup(path, places, pods);
}

/** The path in cgroup v2 (line "0::PATH" of /proc/PID/cgroup); undefined when there is none. */
export const groupPath = (text: string): string | undefined => /^0::(\/.*)$/m.exec(text)?.[1];

/**
 * `path` is that of a process's group. The outermost group that is a pod's counts: what a pod makes inside its own is its own, whatever name
 * it gives it.
 */
export function podOfGroup<P extends { readonly host: HostPod }>(
  path: string,
  { mount, root }: Pick<ProcessPlaces, "mount" | "root">,
  pods: readonly P[],
): P | undefined {
  const named = pods.find(({ host }) => host.cgroup !== undefined && insideOf(host.cgroup, mount, path) !== undefined);
  if (named !== undefined) return named;
  for (const name of (insideOf(root, mount, path) ?? path).split("/")) {
    const uid = uidOfFolder(name);
    if (uid !== undefined) return pods.find(({ host }) => host.cgroup === undefined && host.uid === uid);
  }
  return undefined;
}

/** What of `path` is below the group of this folder; undefined if it lies elsewhere. The whole tree is nobody's group. */
function insideOf(folder: string, mount: string, path: string): string | undefined {
  if (!folder.startsWith(`${mount}/`)) return undefined;
  const group = folder.slice(mount.length).replace(/\/+$/, "");
  if (group === "") return undefined;
  return path === group ? "" : path.startsWith(`${group}/`) ? path.slice(group.length) : undefined;
}
