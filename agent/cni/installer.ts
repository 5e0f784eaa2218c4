// Puts the CNI plugin on the node and keeps it there: the program into the folder of CNI programs, and a configuration of ours that is the
// network's own with our plugin as the last one. Whatever others do to either is found (watch and scan) and put right.
import { createHash } from "node:crypto";
import { type FSWatcher, watch } from "node:fs";
import { readdir, readFile, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { type Clock, every } from "../base/clock.ts";
import { type Logger, messageOf } from "../base/log.ts";
import { replaceFile } from "../base/replace-file.ts";
import { err, ok, type Result } from "../base/result.ts";
import {
  chained,
  configFiles,
  isBeforeOurs,
  maxConfigBytes,
  ownFile,
  type PluginEntry,
  pluginType,
} from "./conflist.ts";

export interface InstallerOptions {
  /** The node's folders, as seen from here. */
  readonly confDir: string;
  readonly binDir: string;
  /** The plugin that this agent brings. */
  readonly program: string;
  readonly entry: PluginEntry;
  readonly rescanMs: number;
}
export interface InstallerParts {
  readonly clock: Clock;
  readonly log: Logger;
  /** Something was written, or could not be. */
  readonly done: (what: "program" | "config", outcome: "written" | "failed") => void;
}
export interface InstallerStatus {
  /** `waiting`: the node has no network configuration yet. */
  readonly state: "starting" | "waiting" | "installed" | "failing";
  readonly problem: string;
  /** The file that ours was made from. */
  readonly source: string;
}
/** Others write a file in several steps: looked at when it is quiet, ms. */
const quietMs = 50;

export class CniInstaller {
  readonly #options: InstallerOptions;
  readonly #parts: InstallerParts;
  readonly #watchers = new Map<string, FSWatcher>();
  #stopScan: () => void = () => {};
  #cancelSoon: (() => void) | undefined;
  #status: InstallerStatus = { state: "starting", problem: "", source: "" };
  #at: Promise<void> = Promise.resolve();
  #isStopped = false;
  /** The installed program as it was last compared: size, times and inode. */
  #seenProgram = "";

  constructor(options: InstallerOptions, parts: InstallerParts) {
    this.#options = options;
    this.#parts = parts;
  }

  get status(): InstallerStatus {
    return this.#status;
  }

  /** Installs, and goes on doing so until `stop`. Resolves after the first try, whatever came of it. */
  start(): Promise<void> {
    this.#watch();
    this.#stopScan = every(this.#parts.clock, this.#options.rescanMs, () => {
      this.#watch();
      this.#soon();
    });
    return this.reconcile();
  }
  /** What is installed stays: pods wait for the next agent (DP-22). */
  async stop(): Promise<void> {
    this.#isStopped = true;
    this.#stopScan();
    this.#cancelSoon?.();
    for (const watcher of this.#watchers.values()) watcher.close();
    this.#watchers.clear();
    await this.#at;
  }

  /** One look at everything, after those under way. */
  reconcile(): Promise<void> {
    this.#at = this.#at.then(async () => {
      if (!this.#isStopped) this.#tell(await this.#once());
    });
    return this.#at;
  }

  async #once(): Promise<InstallerStatus> {
    const failing = (problem: string, source = ""): InstallerStatus => ({ state: "failing", problem, source });
    // A configuration never names a program that is not there.
    const program = await this.#program();
    if (!program.ok) return failing(program.error);
    const { confDir, entry } = this.#options;
    let names: readonly string[];
    try {
      names = await readdir(confDir);
    } catch (error) {
      return failing(`${confDir}: ${messageOf(error)}: is the node's folder mounted here?`);
    }
    const [source] = configFiles(names);
    if (source === undefined) {
      const problem = `${confDir} has no network configuration yet`;
      return { state: "waiting", problem: names.includes(ownFile) ? `${problem} but ours` : problem, source: "" };
    }
    const text = await readBounded(join(confDir, source));
    if (!text.ok) return failing(text.error, source);
    const wanted = chained(text.value, entry);
    // Ours stays as it was: it was made from what the network's own plugin last wrote in order.
    if (!wanted.ok) return failing(`${join(confDir, source)}: ${wanted.error}`, source);
    const own = join(confDir, ownFile);
    const present = await readBounded(own);
    if (!present.ok || present.value !== wanted.value) {
      const written = await put(own, wanted.value, 0o600);
      this.#parts.done("config", written.ok ? "written" : "failed");
      if (!written.ok) return failing(written.error, source);
      this.#parts.log.info("cni_config_written", { path: own, from: source });
    }
    if (isBeforeOurs(source)) return failing(`${join(confDir, source)} stands before ${ownFile}: rename it`, source);
    return { state: "installed", problem: "", source };
  }

  async #program(): Promise<Result<void, string>> {
    const { binDir, program } = this.#options;
    const target = join(binDir, pluginType);
    const seen = await identityOf(target);
    if (seen !== undefined && seen === this.#seenProgram) return ok(undefined);
    let wanted: Buffer;
    try {
      wanted = await readFile(program);
    } catch (error) {
      return err(`FAIRLEAD_CNI_PROGRAM: ${messageOf(error)}`);
    }
    const present = await readFile(target).catch(() => undefined);
    const isExecutable = ((await stat(target).catch(() => undefined))?.mode ?? 0) & 0o100;
    if (present === undefined || !isExecutable || hashOf(present) !== hashOf(wanted)) {
      const written = await put(target, wanted, 0o755);
      this.#parts.done("program", written.ok ? "written" : "failed");
      if (!written.ok) return written;
      this.#parts.log.info("cni_program_written", { path: target });
      // What stands there now may be somebody else's already: the next look (this write makes one) compares it.
      return ok(undefined);
    }
    // As it was before it was read: what came after is compared at the next look.
    this.#seenProgram = seen ?? "";
    return ok(undefined);
  }

  /** A line for each change, none for the same trouble again. */
  #tell(status: InstallerStatus): void {
    const before = this.#status;
    this.#status = status;
    if (before.state === status.state && before.problem === status.problem && before.source === status.source) return;
    const { state, ...fields } = status;
    if (state === "failing") this.#parts.log.error("cni_not_installed", fields);
    else if (state === "waiting") this.#parts.log.warn("cni_waiting", fields);
    else this.#parts.log.info("cni_installed", { ...fields, folder: this.#options.confDir });
  }

  #watch(): void {
    for (const folder of [this.#options.confDir, this.#options.binDir]) {
      if (this.#watchers.has(folder)) continue;
      try {
        const watcher = watch(folder, () => this.#soon());
        this.#watchers.set(folder, watcher);
        watcher.on("error", () => {
          watcher.close();
          this.#watchers.delete(folder);
        });
      } catch {
        // Not there yet: the next scan tries again.
      }
    }
  }
  #soon(): void {
    this.#cancelSoon ??= this.#parts.clock.after(quietMs, () => {
      this.#cancelSoon = undefined;
      void this.reconcile();
    });
  }
}

/** Takes everything of ours off the node, the configuration first. Resolves with what was there; the error names what could not go. */
export async function uninstall(confDir: string, binDir: string): Promise<Result<readonly string[], string>> {
  const removed: string[] = [];
  const problems: string[] = [];
  for (const path of [join(confDir, ownFile), join(binDir, pluginType)])
    try {
      await rm(path);
      removed.push(path);
    } catch (error) {
      // Without its program the configuration would let no pod start.
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") {
        problems.push(messageOf(error));
        break;
      }
    }
  return problems.length === 0 ? ok(removed) : err(problems.join("; "));
}

async function put(path: string, content: string | Buffer, mode: number): Promise<Result<void, string>> {
  try {
    await replaceFile(path, content, { mode });
    return ok(undefined);
  } catch (error) {
    return err(`${path}: ${messageOf(error)}`);
  }
}

async function readBounded(path: string): Promise<Result<string, string>> {
  try {
    const { size } = await stat(path);
    if (size > maxConfigBytes) return err(`${path}: is longer than ${maxConfigBytes} bytes`);
    return ok(await readFile(path, "utf8"));
  } catch (error) {
    return err(`${path}: ${messageOf(error)}`);
  }
}

const hashOf = (bytes: Buffer): string => createHash("sha256").update(bytes).digest("hex");
const identityOf = (path: string): Promise<string | undefined> =>
  stat(path).then(
    ({ ino, size, mtimeMs, ctimeMs, mode }) => `${ino} ${size} ${mtimeMs} ${ctimeMs} ${mode}`,
    () => undefined,
  );
