// One container of a pod: started, watched, started again by the pod's restart policy. Its processes are in a cgroup of their own and end with its first process.
import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, openSync } from "node:fs";
import { join } from "node:path";
import { killCgroup, makeCgroup } from "./cgroup.ts";
import { ended, entering } from "./command.ts";
import { tail } from "./files.ts";
import type { ContainerSpec } from "./pod-spec.ts";

export type ContainerState =
  | { readonly kind: "waiting"; readonly reason: string; readonly message: string }
  | { readonly kind: "running"; readonly pid: number; readonly startedMs: number }
  | { readonly kind: "terminated"; readonly code: number; readonly message: string };

/** Kubernetes waits 10 s, 20 s ... 300 s; a workbench is watched by somebody. */
const BACKOFF = { firstMs: 500, maxMs: 30_000, forgetMs: 30_000 } as const;

export interface ContainerRun {
  readonly spec: ContainerSpec;
  readonly argv: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly podCgroup: string;
  readonly pauseProcess: number;
  readonly logFile: string;
  readonly restart: "Always" | "OnFailure" | "Never";
  readonly changed: () => void;
}

export class Container {
  readonly name: string;
  state: ContainerState = { kind: "waiting", reason: "ContainerCreating", message: "" };
  restarts = 0;
  /** Changes at every start; results of probes carry it. */
  epoch = 0;
  started = false;
  ready = false;
  /** How its program ended last, with the last line of its output. */
  lastEnd: { readonly code: number; readonly message: string } | undefined;
  readonly #run: ContainerRun;
  readonly #cgroup: string;
  #process: ChildProcess | undefined;
  #backoffMs: number = BACKOFF.firstMs;
  #timer: NodeJS.Timeout | undefined;
  #stopping = false;
  readonly #finished: Promise<void>;
  #finish: () => void = () => undefined;

  constructor(run: ContainerRun) {
    this.name = run.spec.name;
    this.#run = run;
    this.#cgroup = join(run.podCgroup, `container-${run.spec.name}`);
    this.#finished = new Promise((resolve) => {
      this.#finish = resolve;
    });
  }

  get spec(): ContainerSpec {
    return this.#run.spec;
  }
  get cgroup(): string {
    return this.#cgroup;
  }

  /** Resolves when the container will not run again: completed, failed for good, or stopped. */
  get finished(): Promise<void> {
    return this.#finished;
  }

  start(): void {
    if (this.#stopping) return;
    const { spec, argv, env, logFile, pauseProcess } = this.#run;
    makeCgroup(this.#cgroup);
    const log = openSync(logFile, "a", 0o600);
    const place = {
      cgroup: this.#cgroup,
      pod: pauseProcess,
      capabilities: spec.capabilities,
      user: spec.user,
      cwd: spec.workingDir,
    };
    const [file = "", ...args] = entering(place, argv);
    const child = spawn(file, args, { stdio: ["ignore", log, log], env });
    closeSync(log);
    const startedMs = Date.now();
    this.#process = child;
    this.epoch++;
    this.started = spec.startup === undefined;
    this.ready = this.started && spec.readiness === undefined;
    this.state = { kind: "running", pid: child.pid ?? 0, startedMs };
    child.once("error", (e) => this.#ended(127, startedMs, e.message));
    child.once("exit", (code, signal) =>
      this.#ended(code ?? 128, startedMs, signal === null ? "" : `killed by ${signal}`),
    );
    this.#run.changed();
  }

  /** Liveness failed: end it; the restart policy does the rest. */
  async restart(reason: string, graceMs: number): Promise<void> {
    const child = this.#process;
    if (child === undefined || this.state.kind !== "running") return;
    this.#why = reason;
    child.kill("SIGTERM");
    const timer = setTimeout(() => killCgroup(this.#cgroup), graceMs);
    await ended(child);
    clearTimeout(timer);
  }
  #why = "";

  /** SIGTERM, then after the grace period everything in the container's cgroup is killed. */
  async stop(graceMs: number): Promise<void> {
    this.#stopping = true;
    clearTimeout(this.#timer);
    const child = this.#process;
    if (child === undefined || this.state.kind !== "running") {
      this.#finish();
      return;
    }
    child.kill("SIGTERM");
    const timer = setTimeout(() => killCgroup(this.#cgroup), graceMs);
    await ended(child);
    clearTimeout(timer);
    killCgroup(this.#cgroup);
    this.#finish();
  }

  /** Not started again, whatever happens to its process. */
  abandon(): void {
    this.#stopping = true;
    clearTimeout(this.#timer);
  }

  #ended(code: number, startedMs: number, signalText: string): void {
    if (this.state.kind !== "running") return;
    killCgroup(this.#cgroup); // what the program left running ends with it, as with a container's first process
    this.#process = undefined;
    this.started = false;
    this.ready = false;
    const said = tail(this.#run.logFile, 3).join(" | ").slice(-300);
    this.lastEnd = { code, message: tail(this.#run.logFile, 1).join("").slice(0, 300) || signalText };
    const cause = [
      this.#why,
      signalText === "" ? `exit code ${code}` : signalText,
      said === "" ? "" : `last output: ${said}`,
    ]
      .filter(Boolean)
      .join("; ");
    this.#why = "";
    const again =
      !this.#stopping && (this.#run.restart === "Always" || (this.#run.restart === "OnFailure" && code !== 0));
    if (!again) {
      this.state = { kind: "terminated", code, message: cause };
      this.#run.changed();
      this.#finish();
      return;
    }
    if (Date.now() - startedMs > BACKOFF.forgetMs) this.#backoffMs = BACKOFF.firstMs;
    this.state = {
      kind: "waiting",
      reason: "CrashLoopBackOff",
      message: `${cause}; starts again in ${this.#backoffMs / 1000} s`,
    };
    this.#timer = setTimeout(() => {
      this.restarts++;
      this.start();
    }, this.#backoffMs);
    this.#backoffMs = Math.min(this.#backoffMs * 2, BACKOFF.maxMs);
    this.#run.changed();
  }
}
