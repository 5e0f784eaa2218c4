// The folder of pod records: read whole, watched for changes. What cannot be read is reported and leaves the rest alone.
import { type FSWatcher, watch } from "node:fs";
import { access, readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { type Clock, every } from "../base/clock.ts";
import type { Logger } from "../base/log.ts";
import { err, ok } from "../base/result.ts";
import { type PodRecord, parsePodRecord } from "./pod-record.ts";
import type { PodSource, PodsRead, ToldPod } from "./pod-source.ts";

/**
 * Reads every `*.json` of the folder. A record whose namespace is gone counts as removed (DP-21: found without being told). A missing folder
 * is an empty one: the node's runtime makes it. `told` is what a runtime said of networks, by uid: it knows better than the record.
 */
export async function readPodFolder(folder: string, told: ReadonlyMap<string, ToldPod> = new Map()): Promise<PodsRead> {
  const records: PodRecord[] = [];
  const problems: { file: string; message: string }[] = [];
  let files: string[] = [];
  try {
    files = (await readdir(folder)).filter((f) => f.endsWith(".json")).sort();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT")
      problems.push({ file: folder, message: (error as Error).message });
  }
  for (const file of files) {
    const text = await readFile(join(folder, file), "utf8").catch((error: NodeJS.ErrnoException) => error);
    if (typeof text !== "string") {
      if (text.code !== "ENOENT") problems.push({ file, message: text.message }); // deleted meanwhile: as if never listed
      continue;
    }
    const parsed = parsePodRecord(text);
    if (!parsed.ok) {
      problems.push({ file, message: parsed.error });
      continue;
    }
    const record = withNetwork(parsed.value, told.get(parsed.value.uid));
    if (record.hostNetwork || (await exists(record.netns))) records.push(record);
    else problems.push({ file, message: `netns: ${record.netns} is not there: the pod has ended` });
  }
  return { records, problems };
}

const withNetwork = (record: PodRecord, told: ToldPod | undefined): PodRecord =>
  told === undefined ? record : { ...record, netns: told.netns, ips: told.ips };

const exists = (path: string): Promise<boolean> =>
  access(path).then(
    () => true,
    () => false,
  );

/**
 * Calls `changed` after changes in the folder, at most every 20 ms, and every `rescanMs` in any case: a watch can be lost (folder
 * made anew, queue overrun) without telling.
 */
export function watchPodFolder(
  folder: string,
  clock: Clock,
  log: Logger,
  changed: () => void,
  rescanMs: number,
): () => void {
  let watcher: FSWatcher | undefined;
  let cancel: (() => void) | undefined;
  const soon = (): void => {
    cancel ??= clock.after(20, () => {
      cancel = undefined;
      changed();
    });
  };
  const open = (): void => {
    try {
      watcher = watch(folder, soon);
      watcher.on("error", (error) => {
        log.warn("pod_folder_watch_lost", { folder, message: error.message });
        watcher?.close();
        watcher = undefined;
      });
    } catch {
      watcher = undefined; // not there yet; the next scan tries again
    }
  };
  open();
  const stop = every(clock, rescanMs, () => {
    if (watcher === undefined) open();
    soon();
  });
  return () => {
    stop();
    cancel?.();
    watcher?.close();
  };
}

/** Pods are files that somebody else writes; their networks may be told by a container runtime. */
export function folderSource(folder: string, clock: Clock, log: Logger, rescanMs: number): PodSource {
  const networks = new Map<string, ToldPod>();
  return {
    watch: (changed) => watchPodFolder(folder, clock, log, changed, rescanMs),
    async read() {
      const told = new Map(networks);
      const read = await readPodFolder(folder, told);
      for (const uid of told.keys()) if (!read.records.some((r) => r.uid === uid)) networks.delete(uid);
      return read;
    },
    missing: () => undefined,
    async told(pod) {
      const { records } = await readPodFolder(folder, new Map([[pod.uid, pod]]));
      const record = records.find((r) => r.uid === pod.uid && r.namespace === pod.namespace && r.name === pod.name);
      if (record === undefined)
        return err(`${folder} has no record of pod ${pod.namespace}/${pod.name} with uid ${pod.uid}`);
      networks.set(pod.uid, pod);
      return ok(record);
    },
    left: (uid) => void networks.delete(uid),
  };
}
