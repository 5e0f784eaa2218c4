// The long-running programs of a cluster: each in a control group of its own, with a log of its own, and alive without us.
import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, mkdirSync, openSync, readFileSync, readlinkSync } from "node:fs";
import { basename, dirname } from "node:path";
import { tail } from "../../lab/files.ts";
import { groupProcesses, type Hierarchies, joining, makeGroup, setCpuWeight } from "./groups.ts";

export const SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

export interface Program {
  /** As people name it, e.g. "etcd" or "n1/kubelet". */
  readonly name: string;
  readonly group: string;
  /** As `setCpuWeight` takes it; absent: as all others. */
  readonly cpuWeight?: number;
  readonly log: string;
  readonly command: readonly [string, ...string[]];
  readonly env?: Readonly<Record<string, string>>;
  /** Words that lead into namespaces, before anything else is run. @throws Error if those are not there */
  readonly entering: () => readonly string[];
}

/** Starts programs, and knows at once when one of them ends. */
export class ProgramWatch {
  readonly #h: Hierarchies;
  readonly #gone: { readonly program: Program; readonly is: () => boolean }[] = [];

  constructor(h: Hierarchies) {
    this.#h = h;
  }

  /** Starts the program if it is not running, and watches it from now on. @returns whether it had to be started */
  start(program: Program): boolean {
    const h = this.#h;
    if (mainProcess(h, program) !== undefined) {
      this.#gone.push({ program, is: () => mainProcess(h, program) === undefined });
      return false;
    }
    const child = startProgram(h, program);
    let failed = false;
    child.on("error", () => {
      failed = true;
    });
    this.#gone.push({ program, is: () => failed || child.exitCode !== null || child.signalCode !== null });
    return true;
  }

  /** @throws Error with the last words of a program that has ended */
  check(): void {
    const ended = this.#gone.find((g) => g.is())?.program;
    if (ended !== undefined) throw new Error(endedSentence(ended));
  }
}

/** Starts a program that does not run; it stays when we end. */
export function startProgram(h: Hierarchies, program: Program): ChildProcess {
  makeGroup(h, program.group);
  if (program.cpuWeight !== undefined) setCpuWeight(h, program.group, program.cpuWeight);
  mkdirSync(dirname(program.log), { recursive: true });
  const log = openSync(program.log, "a", 0o600);
  const [file = "", ...args] = [...program.entering(), ...joining(h, program.group, program.command)];
  const child = spawn(file, args, {
    stdio: ["ignore", log, log],
    detached: true,
    cwd: "/",
    env: { PATH: SYSTEM_PATH, ...program.env },
  });
  closeSync(log);
  child.on("error", () => undefined); // whoever waits for the program sees that it is not there
  child.unref();
  return child;
}

/** Id of the process that is the program itself: what it started (shims of containers) may outlive it in its group. */
export function mainProcess(h: Hierarchies, program: Pick<Program, "group" | "command">): number | undefined {
  const wanted = basename(program.command[0]);
  return groupProcesses(h, program.group).find((pid) => {
    try {
      return basename(readlinkSync(`/proc/${pid}/exe`)).replace(/ \(deleted\)$/, "") === wanted;
    } catch {
      return false; // it has ended
    }
  });
}

export function endedSentence(program: Program): string {
  const said = tail(program.log, 3).join(" | ").slice(-600);
  return `${program.name} has ended${said === "" ? "" : `: ${said}`}; its log: ${program.log}`;
}

/** Ends the program itself, by `signal`, and waits until it is gone. @returns whether it ran */
export async function stopProgram(
  h: Hierarchies,
  program: Program,
  signal: "SIGTERM" | "SIGKILL",
  timeoutMs: number,
): Promise<boolean> {
  const pid = mainProcess(h, program);
  if (pid === undefined) return false;
  process.kill(pid, signal);
  const deadline = performance.now() + timeoutMs;
  while (mainProcess(h, program) === pid) {
    if (performance.now() > deadline) process.kill(pid, "SIGKILL");
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  return true;
}

/** Seconds since the process started, or undefined if it is gone. */
export function ageSeconds(pid: number): number | undefined {
  try {
    const fields = readFileSync(`/proc/${pid}/stat`, "utf8")
      .replace(/^.*\) /s, "")
      .split(" ");
    const uptime = Number(readFileSync("/proc/uptime", "utf8").split(" ")[0]);
    return Math.max(0, Math.round(uptime - Number(fields[19]) / 100));
  } catch {
    return undefined;
  }
}
