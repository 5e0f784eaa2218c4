// Programs run inside pods to their end, or talked to in lines of JSON: what the demo and the test kit both need.
import type { ChildProcess } from "node:child_process";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { spawnInPod } from "./client.ts";
import { ended, exitCode, type Finished } from "./command.ts";
import { PROJECT_DIR } from "./paths.ts";

/** Command line of the traffic program (native/examples/traffic). */
export const trafficCommand = (which: "client" | "server", args: readonly string[]): string[] => [
  join(PROJECT_DIR, "native/target/release/examples/traffic"),
  which,
  ...args,
];

async function spawned(
  lab: string,
  pod: string,
  command: readonly string[],
  input: "ignore" | "pipe",
): Promise<ChildProcess> {
  const child = await spawnInPod(lab, pod, command, { stdio: [input, "pipe", "pipe"] });
  if (!child.ok) throw new Error(child.error);
  return child.value;
}

/** Runs a command in a pod to its end. */
export async function runInPod(
  lab: string,
  pod: string,
  command: readonly string[],
  timeoutMs = 60_000,
): Promise<Finished> {
  const child = await spawned(lab, pod, command, "ignore");
  const out: Buffer[] = [];
  const bad: Buffer[] = [];
  child.stdout?.on("data", (b: Buffer) => out.push(b));
  child.stderr?.on("data", (b: Buffer) => bad.push(b));
  const timer = setTimeout(() => child.kill("SIGKILL"), timeoutMs);
  const code = await new Promise<number>((resolve) => child.once("close", (c, s) => resolve(exitCode(c, s))));
  clearTimeout(timer);
  return { code, stdout: Buffer.concat(out).toString(), stderr: Buffer.concat(bad).toString() };
}

/** A program running in a pod that answers in lines of JSON. */
export class PodProgram {
  readonly child: ChildProcess;
  readonly #lines: unknown[] = [];
  #stderr = "";
  #wake: () => void = () => undefined;

  private constructor(child: ChildProcess) {
    this.child = child;
    child.stdin?.on("error", () => undefined); // its exit is what counts, and next() reports that
    if (child.stdout !== null) {
      createInterface({ input: child.stdout }).on("line", (line) => {
        this.#lines.push(JSON.parse(line));
        this.#wake();
      });
    }
    child.stderr?.on("data", (b: Buffer) => {
      this.#stderr = (this.#stderr + b.toString()).slice(-2000);
    });
  }

  static async start(lab: string, pod: string, command: readonly string[]): Promise<PodProgram> {
    return new PodProgram(await spawned(lab, pod, command, "pipe"));
  }

  /** The next line it prints. @throws Error when it says nothing in time, or has ended */
  async next(timeoutMs = 60_000): Promise<Record<string, unknown>> {
    const deadline = Date.now() + timeoutMs;
    for (let endedFor = 0; this.#lines.length === 0; ) {
      if (Date.now() > deadline) throw new Error(`program in pod said nothing within ${timeoutMs} ms; ${this.#stderr}`);
      if (this.child.exitCode !== null && endedFor++ > 2)
        throw new Error(`program in pod ended with ${this.child.exitCode}: ${this.#stderr}`);
      await Promise.race([
        sleep(100),
        new Promise<void>((resolve) => {
          this.#wake = resolve;
        }),
      ]);
    }
    return this.#lines.shift() as Record<string, unknown>;
  }

  async ask(line: string, timeoutMs?: number): Promise<Record<string, unknown>> {
    this.child.stdin?.write(`${line}\n`);
    return this.next(timeoutMs);
  }

  /** Says the last word and waits for its end. */
  async end(line: string): Promise<number> {
    this.child.stdin?.end(`${line}\n`);
    return ended(this.child);
  }
}
