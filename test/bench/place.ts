// Where programs of the benchmark run: a cgroup and a network namespace; starting, waiting, ending them; their CPU time and memory.
import { type ChildProcess, spawn } from "node:child_process";
import { openSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { cgroupProcesses, killCgroup, makeCgroup, removeCgroup } from "../lab/cgroup.ts";
import { entering, type Place as LabPlace } from "../lab/command.ts";

export type Place = LabPlace;

/** Output of a program that must end with success within `timeoutMs`. */
export async function runIn(place: Place, command: readonly string[], timeoutMs = 60_000): Promise<string> {
  const [file = "", ...args] = entering(place, command);
  const child = spawn(file, args, { stdio: ["ignore", "pipe", "pipe"], timeout: timeoutMs, killSignal: "SIGKILL" });
  const out: Buffer[] = [];
  const bad: Buffer[] = [];
  child.stdout.on("data", (b: Buffer) => out.push(b));
  child.stderr.on("data", (b: Buffer) => bad.push(b));
  const code = await new Promise<number | string | null>((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (status, signal) => resolve(status ?? signal));
  });
  const text = Buffer.concat(out).toString();
  if (code !== 0)
    throw new Error(`${command.join(" ")}: ended with ${code}: ${Buffer.concat(bad).toString().trim() || text.trim()}`);
  return text;
}

/** A program that stays; what it prints goes to `log`, its input can be a pipe. */
export function startIn(place: Place, command: readonly string[], log: string): ChildProcess {
  const [file = "", ...args] = entering(place, command);
  const output = openSync(log, "a");
  const child = spawn(file, args, { stdio: ["ignore", output, output] });
  child.on("error", () => undefined);
  return child;
}

/** A program with which one talks in lines: write to its input, await the next line of its output. */
export interface Dialogue {
  ask(line: string, timeoutMs: number): Promise<string>;
  end(): Promise<void>;
}

export function dialogueIn(place: Place, command: readonly string[]): Dialogue {
  const [file = "", ...args] = entering(place, command);
  const child = spawn(file, args, { stdio: ["pipe", "pipe", "inherit"] });
  let rest = "";
  let waiting: ((line: string) => void) | undefined;
  child.stdin.on("error", () => undefined);
  child.stdout.on("data", (b: Buffer) => {
    rest += b.toString();
    const at = rest.indexOf("\n");
    if (at < 0 || waiting === undefined) return;
    const line = rest.slice(0, at);
    rest = rest.slice(at + 1);
    const give = waiting;
    waiting = undefined;
    give(line);
  });
  const closed = new Promise<void>((resolve) => child.on("close", () => resolve()));
  return {
    async ask(line, timeoutMs) {
      const answer = new Promise<string>((resolve) => {
        waiting = resolve;
      });
      child.stdin.write(`${line}\n`);
      const limit = new AbortController();
      try {
        return await Promise.race([
          answer,
          closed.then(() => Promise.reject(new Error(`${command[0]} ended before it answered "${line}"`))),
          sleep(timeoutMs, undefined, { signal: limit.signal }).then(() =>
            Promise.reject(new Error(`${command[0]} did not answer "${line}" within ${timeoutMs} ms`)),
          ),
        ]);
      } finally {
        limit.abort();
      }
    },
    async end() {
      child.stdin.end();
      const limit = setTimeout(() => child.kill("SIGKILL"), 5000);
      await closed;
      clearTimeout(limit);
    },
  };
}

/** CPU time in µs, user and system, of everything that runs or ran in a cgroup (v2 `cpu.stat`: exact run time of the scheduler, the kernel's network work done on its behalf included). */
export function cpuMicros(cgroups: readonly string[]): number {
  let sum = 0;
  for (const group of cgroups) {
    const found = /^usage_usec (\d+)$/m.exec(readFileSync(join(group, "cpu.stat"), "utf8"));
    if (found === null) throw new Error(`${group}/cpu.stat has no usage_usec`);
    sum += Number(found[1]);
  }
  return sum;
}

export interface Memory {
  readonly rssMb: number;
  readonly anonMb: number;
  readonly threads: number;
}

/** RSS, RssAnon and threads (DP-34) of the processes in a cgroup. */
export function memoryOf(cgroup: string): Memory {
  const total = { rssMb: 0, anonMb: 0, threads: 0 };
  for (const pid of cgroupProcesses(cgroup)) {
    let status = "";
    try {
      status = readFileSync(`/proc/${pid}/status`, "utf8");
    } catch {
      continue; // ended meanwhile
    }
    const kb = (name: string): number => Number(new RegExp(`^${name}:\\s+(\\d+) kB$`, "m").exec(status)?.[1] ?? 0);
    total.rssMb += kb("VmRSS") / 1024;
    total.anonMb += kb("RssAnon") / 1024;
    total.threads += readdirSync(`/proc/${pid}/task`).length;
  }
  return total;
}

export const newCgroup = makeCgroup;

/** Ends everything in the group, then removes it. */
export async function endCgroup(path: string): Promise<void> {
  killCgroup(path);
  await removeCgroup(path);
}
