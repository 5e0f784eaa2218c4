// A long-lived program of the lab (controller, agent): started in its place, watched, started again when it dies without being asked to, drained by a successor.
import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, openSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { ended, entering, type Place } from "./command.ts";
import { tail } from "./files.ts";

export interface DaemonOptions {
  readonly name: string;
  /** As it is for the next start. */
  readonly argv: () => readonly string[];
  readonly place: Place;
  readonly logFile: string;
  readonly env: () => Promise<Readonly<Record<string, string>>>;
  /** True once the process with this id serves. */
  readonly ready: (pid: number) => Promise<boolean>;
  readonly changed: () => void;
}

export interface DaemonStatus {
  readonly state: "stopped" | "starting" | "ready" | "crashed";
  readonly pid: number | null;
  readonly restarts: number;
  /** Older processes that still finish what they carry. */
  readonly draining: readonly number[];
  readonly message: string;
}

const READY_DEADLINE_MS = 90_000;

const isRunning = (child: ChildProcess): boolean => child.exitCode === null && child.signalCode === null;

export class Daemon {
  readonly #options: DaemonOptions;
  #current: ChildProcess | undefined;
  readonly #old = new Set<ChildProcess>();
  #state: DaemonStatus["state"] = "stopped";
  #restarts = 0;
  #message = "";
  #wanted = false;
  #extraEnv: Readonly<Record<string, string>> = {};

  constructor(options: DaemonOptions) {
    this.#options = options;
  }

  get status(): DaemonStatus {
    return {
      state: this.#state,
      pid: this.#current?.pid ?? null,
      restarts: this.#restarts,
      draining: [...this.#old].map((c) => c.pid ?? 0),
      message: this.#message,
    };
  }
  get isReady(): boolean {
    return this.#state === "ready";
  }

  /** Starts a process and waits until it serves. @throws Error with the end of its log if it does not. */
  async start(extraEnv: Readonly<Record<string, string>> = this.#extraEnv): Promise<void> {
    this.#wanted = true;
    this.#extraEnv = extraEnv;
    const before = this.#current;
    const child = await this.#spawn();
    const deadline = Date.now() + READY_DEADLINE_MS;
    while (Date.now() < deadline) {
      if (!isRunning(child)) break;
      if (await this.#options.ready(child.pid ?? 0)) {
        if (this.#current === child) this.#set("ready", "");
        return;
      }
      await sleep(25);
    }
    const ending =
      child.exitCode !== null || child.signalCode !== null
        ? `ended with ${child.signalCode ?? `exit code ${child.exitCode}`}`
        : `not ready within ${READY_DEADLINE_MS / 1000} s`;
    child.kill("SIGKILL");
    this.#set("crashed", `${ending}; ${this.#said()}`);
    if (before !== undefined && isRunning(before)) {
      // A successor that does not come up leaves the one that serves in place.
      this.#old.delete(before);
      this.#current = before;
      this.#state = "ready";
    }
    throw new Error(`${this.#options.name} ${this.#message}`);
  }

  #said(): string {
    return `last lines of ${this.#options.logFile}: ${tail(this.#options.logFile, 5).join(" | ").slice(-800)}`;
  }

  #set(state: DaemonStatus["state"], message: string): void {
    this.#state = state;
    this.#message = message;
    this.#options.changed();
  }

  async #spawn(): Promise<ChildProcess> {
    const { argv, place, logFile, env } = this.#options;
    const all = { ...(await env()), ...this.#extraEnv };
    const log = openSync(logFile, "a", 0o600);
    const [file = "", ...args] = entering(place, argv());
    const child = spawn(file, args, { stdio: ["ignore", log, log], env: all });
    closeSync(log);
    const before = this.#current;
    if (before !== undefined && isRunning(before)) this.#old.add(before);
    this.#current = child;
    this.#set("starting", "");
    child.on("error", (e) => this.#set("crashed", e.message));
    child.on("exit", () => this.#exited(child));
    return child;
  }

  #exited(child: ChildProcess): void {
    this.#old.delete(child);
    if (this.#current !== child) {
      this.#options.changed();
      return;
    }
    this.#current = undefined;
    if (!this.#wanted) {
      this.#set("stopped", "");
      return;
    }
    const starting = this.#state === "starting";
    this.#set("crashed", `ended with ${child.signalCode ?? `exit code ${child.exitCode}`}; ${this.#said()}`);
    if (starting) return; // start() reports it
    this.#restarts++;
    void this.#again();
  }

  async #again(): Promise<void> {
    for (let wait = 200; this.#wanted && this.#current === undefined; wait = Math.min(wait * 2, 10_000)) {
      await sleep(wait);
      if (!this.#wanted || this.#current !== undefined) return;
      const started = await this.start().then(
        () => true,
        () => false,
      );
      if (started) return;
    }
  }

  /** Ends the current process and, with SIGKILL, draining ones too. */
  async stop(signal: "SIGTERM" | "SIGKILL", deadlineMs = 10_000): Promise<void> {
    this.#wanted = false;
    const all = [this.#current, ...(signal === "SIGKILL" ? this.#old : [])].filter((c) => c !== undefined);
    for (const child of all) child.kill(signal);
    const timer = setTimeout(() => {
      for (const child of all) child.kill("SIGKILL");
    }, deadlineMs);
    await Promise.all(all.map(ended));
    clearTimeout(timer);
    this.#set("stopped", "");
  }

  /** Not started again, whatever happens to its process. */
  abandon(): void {
    this.#wanted = false;
  }

  /** Starts a successor beside the current process; the successor tells it to drain. */
  async replace(extraEnv?: Readonly<Record<string, string>>): Promise<void> {
    await this.start(extraEnv ?? this.#extraEnv);
  }

  signal(signal: NodeJS.Signals): void {
    this.#current?.kill(signal);
  }
}
