// The folder of pod records: read whole, watched for changes. What cannot be read is reported and leaves the rest alone.
import { type FSWatcher, watch } from "node:fs";
import { access, readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { type Clock, every } from "../base/clock.ts";
import type { Logger } from "../base/log.ts";
import { type PodRecord, parsePodRecord } from "./pod-record.ts";

export interface PodFolderRead {
  readonly records: readonly PodRecord[];
  readonly problems: readonly { readonly file: string; readonly message: string }[];
}

/** Reads every `*.json` of the folder. A record whose namespace is gone counts as removed (DP-21: found without being told). A missing folder is an empty one: the node's runtime makes it. */
export async function readPodFolder(folder: string): Promise<PodFolderRead> {
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
    const record = parsePodRecord(text);
    if (!record.ok) problems.push({ file, message: record.error });
    else if (record.value.hostNetwork || (await exists(record.value.netns))) records.push(record.value);
    else problems.push({ file, message: `netns: ${record.value.netns} is not there: the pod has ended` });
  }
  return { records, problems };
}

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
