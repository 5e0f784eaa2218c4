// Watches folders of manifests and a folder of live Pods; turns changes into apply/delete on the sink.
// Change notices only wake it up: what counts is each file's size, times and inode, so a lost notice costs at most one poll.
import { type FSWatcher, watch } from "node:fs";
import { readdir, readFile, stat } from "node:fs/promises";
import { join, relative } from "node:path";
import { isDeepStrictEqual } from "node:util";
import { type Clock, every } from "../../agent/base/clock.ts";
import { type Logger, messageOf } from "../../agent/base/log.ts";
import { Emptied } from "./emptied.ts";
import { type FileState, merge } from "./merge.ts";
import { type ParsedFile, parseManifests } from "./parse.ts";
import { type Problem, refKey, refOf, type Source, type SourceSink } from "./types.ts";

export interface FolderOptions {
  readonly folders: readonly string[];
  /** Pods as a kubelet would report them; they take the place of a manifest's Pod of the same name. */
  readonly liveDir: string | undefined;
  /** Quiet time after a change before files are read: a writer may still be at it. */
  readonly settleMs: number;
  readonly pollMs: number;
  /** For how long the objects of an emptied file stay (emptied.ts). Absent: 1 s. */
  readonly emptyMs?: number;
}
export interface FolderSource extends Source {
  start(): Promise<void>;
  stop(): void;
  /** Folders that cannot be read at present, with the reason. */
  readonly faults: ReadonlyMap<string, string>;
}

type Entry = ParsedFile["objects"][number];
const manifestName = /[.](ya?ml|json)$/;
const maxDepth = 8;

export function createFolderSource(options: FolderOptions, sink: SourceSink, clock: Clock, log: Logger): FolderSource {
  const roots = [...options.folders, ...(options.liveDir === undefined ? [] : [options.liveDir])];
  const files = new Map<string, FileState>();
  const watchers = new Map<string, FSWatcher>();
  const faults = new Map<string, string>();
  const emptied = new Emptied(options.emptyMs ?? 1_000);
  let applied = new Map<string, Entry>();
  let stopPolling = (): void => {};
  let cancelSettle: (() => void) | undefined;
  let cancelEmpty: (() => void) | undefined;
  let running: Promise<void> | undefined;
  let isDirty = false;
  let isStopped = false;
  let isFirst = true;

  const wake = (): void => {
    if (isStopped || cancelSettle !== undefined) return;
    cancelSettle = clock.after(options.settleMs, () => {
      cancelSettle = undefined;
      void rescan();
    });
  };

  /** Every manifest below a root as path -> stamp; watches each folder on the way. */
  const listFiles = async (
    dir: string,
    depth: number,
    found: Map<string, string>,
    dirs: Set<string>,
  ): Promise<void> => {
    dirs.add(dir);
    watchFolder(dir);
    const entries = await readdir(dir, { withFileTypes: true });
    for (const entry of entries) {
      const path = join(dir, entry.name);
      // Dot names: editors' and atomic writers' temporary files, and the "..data" links of mounted volumes.
      if (entry.name.startsWith(".")) continue;
      const info = entry.isSymbolicLink() || entry.isFile() ? await stat(path).catch(() => undefined) : undefined;
      if (entry.isDirectory() || info?.isDirectory()) {
        if (depth < maxDepth) await listFiles(path, depth + 1, found, dirs).catch(() => {});
      } else if (info?.isFile() && manifestName.test(entry.name)) {
        found.set(path, `${info.mtimeMs}:${info.ctimeMs}:${info.size}:${info.ino}`);
      }
    }
  };
  const watchFolder = (dir: string): void => {
    if (watchers.has(dir)) return;
    try {
      const watcher = watch(dir, { persistent: false }, wake);
      watcher.on("error", () => forget(dir));
      watchers.set(dir, watcher);
    } catch (error) {
      log.debug("watch_unavailable", { dir, reason: messageOf(error) });
    }
  };
  const forget = (dir: string): void => {
    watchers.get(dir)?.close();
    watchers.delete(dir);
  };

  const scan = async (): Promise<void> => {
    let isChanged = isFirst;
    const dirs = new Set<string>();
    const found = new Map<string, string>();
    for (const root of roots) {
      const inRoot = new Map<string, string>();
      try {
        await listFiles(root, 0, inRoot, dirs);
        if (faults.delete(root)) isChanged = true;
      } catch (error) {
        if (!faults.has(root)) {
          log.error("folder_unreadable", {
            folder: root,
            reason: messageOf(error),
            effect: "its last good content stays in force",
          });
          isChanged = true;
        }
        faults.set(root, messageOf(error));
        for (const [path, state] of files) if (state.root === root) inRoot.set(path, state.stamp);
      }
      for (const [path, stamp] of inRoot) {
        found.set(path, stamp);
        if (files.get(path)?.stamp === stamp) continue;
        isChanged = (await readOne(root, path, stamp)) || isChanged;
      }
    }
    for (const path of files.keys()) {
      if (found.has(path)) continue;
      files.delete(path);
      emptied.forget(path);
      isChanged = true;
    }
    for (const dir of [...watchers.keys()]) if (!dirs.has(dir)) forget(dir);
    if (isChanged) publish();
    isFirst = false;
  };

  const readOne = async (root: string, path: string, stamp: string): Promise<boolean> => {
    const name = root === options.liveDir ? `live/${relative(root, path)}` : relative(root, path);
    try {
      const text = await readFile(path, "utf8");
      const hadObjects = (files.get(path)?.parsed.objects.length ?? 0) > 0;
      const leftMs = emptied.leftMs(path, text, hadObjects, clock.monotonicMs());
      if (leftMs > 0) {
        cancelEmpty?.();
        cancelEmpty = clock.after(leftMs, wake);
        return false;
      }
      const parsed = parseManifests(text, name);
      files.set(path, {
        root,
        name,
        stamp,
        isLive: root === options.liveDir,
        parsed,
        previous: keptOf(files.get(path)),
      });
      return true;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return false;
      const problem: Problem = {
        file: name,
        line: 1,
        object: undefined,
        field: "",
        message: messageOf(error),
        fix: "make the file readable",
      };
      const parsed = { objects: [], problems: [problem], ignored: [], isTorn: true };
      files.set(path, {
        root,
        name,
        stamp,
        isLive: root === options.liveDir,
        parsed,
        previous: keptOf(files.get(path)),
      });
      return true;
    }
  };
  /** What of a file was in force: its objects as merged last. */
  const keptOf = (state: FileState | undefined): FileState["previous"] => {
    if (state === undefined) return new Map();
    const kept: [string, FileState["parsed"]["objects"][number]][] = [];
    for (const entry of [...state.previous.values(), ...state.parsed.objects]) {
      const key = refKey(refOf(entry.object));
      if (applied.has(key)) kept.push([key, entry]);
    }
    return new Map(kept);
  };

  const publish = (): void => {
    const merged = merge([...files.values()]);
    const next = new Map<string, Entry>();
    for (const [key, entry] of merged.objects) {
      const before = applied.get(key);
      // A file read again holds equal objects for most of its content: the old one stays, so nobody does work for it.
      const isSame = before !== undefined && isDeepStrictEqual(before, entry);
      next.set(key, isSame ? before : entry);
      if (!isSame) sink.apply(entry.object, entry.origin);
    }
    for (const [key, { object }] of applied) if (!next.has(key)) sink.delete(refOf(object));
    applied = next;
    const unreadable = [...faults].map(
      ([folder, reason]): Problem => ({
        file: folder,
        line: 1,
        object: undefined,
        field: "",
        message: reason,
        fix: "make the folder readable",
      }),
    );
    sink.problems([...unreadable, ...merged.problems], merged.ignored);
    sink.settled();
  };

  /** One scan at a time; a change during one starts another. */
  const rescan = (): Promise<void> => {
    isDirty = true;
    running ??= (async () => {
      while (isDirty && !isStopped) {
        isDirty = false;
        await scan();
      }
    })()
      .catch((error: unknown) => log.error("folder_scan_failed", { error }))
      .finally(() => {
        running = undefined;
      });
    return running;
  };

  return {
    faults,
    rescan,
    resync: rescan,
    notReady() {
      const [fault] = faults;
      return fault === undefined ? undefined : `folder ${fault[0]}: ${fault[1]}`;
    },
    details: () => ({ source: "folder", folders: roots }),
    where: () => undefined,
    async start() {
      await rescan();
      stopPolling = every(clock, options.pollMs, () => void rescan());
    },
    stop() {
      isStopped = true;
      stopPolling();
      cancelSettle?.();
      cancelEmpty?.();
      for (const dir of [...watchers.keys()]) forget(dir);
    },
  };
}
