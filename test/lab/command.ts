// Runs the system's tools (ip, nft, mount) and builds the command line that puts a program into a cgroup and namespaces.
import { type ChildProcess, spawn } from "node:child_process";

export interface RunOptions {
  readonly input?: string;
  readonly timeoutMs?: number;
  readonly env?: Readonly<Record<string, string>>;
}

/** What a finished tool left behind; `code` is 128 + signal number for a signal, as in a shell. */
export interface Finished {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

const signalNumbers: Readonly<Record<string, number>> = {
  SIGHUP: 1,
  SIGINT: 2,
  SIGQUIT: 3,
  SIGABRT: 6,
  SIGKILL: 9,
  SIGPIPE: 13,
  SIGTERM: 15,
};
export const exitCode = (code: number | null, signal: NodeJS.Signals | null): number =>
  code ?? 128 + (signalNumbers[signal ?? ""] ?? 0);

/** Runs a tool to its end whatever its exit code; rejects only if it cannot be started. */
export function finish(argv: readonly string[], options: RunOptions = {}): Promise<Finished> {
  return new Promise((resolve, reject) => {
    const [file = "", ...args] = argv;
    const child = spawn(file, args, {
      stdio: ["pipe", "pipe", "pipe"],
      ...(options.timeoutMs === undefined ? {} : { timeout: options.timeoutMs, killSignal: "SIGKILL" as const }),
      ...(options.env === undefined ? {} : { env: options.env }),
    });
    const out: Buffer[] = [];
    const bad: Buffer[] = [];
    child.stdout.on("data", (b: Buffer) => out.push(b));
    child.stderr.on("data", (b: Buffer) => bad.push(b));
    child.on("error", reject);
    child.stdin.on("error", () => undefined); // a tool that ends without reading its input is no failure of ours
    child.on("close", (code, signal) =>
      resolve({
        code: exitCode(code, signal),
        stdout: Buffer.concat(out).toString(),
        stderr: Buffer.concat(bad).toString(),
      }),
    );
    child.stdin.end(options.input ?? "");
  });
}

/** Runs a tool that must succeed and returns its output; the error carries the command and what it said. */
export async function run(argv: readonly string[], options: RunOptions = {}): Promise<string> {
  const done = await finish(argv, options);
  if (done.code === 0) return done.stdout;
  const said = (done.stderr || done.stdout).trim();
  throw new Error(
    `${argv.join(" ").slice(0, 300)}: exit code ${done.code}${said === "" ? "" : `: ${said.slice(0, 600)}`}`,
  );
}

/** Where a program runs. The cgroup is joined first, so no instruction and no socket of it is outside. */
export interface Place {
  readonly cgroup: string;
  readonly netns?: string;
  /** Process whose mount and network namespaces are entered (a pod's holder). */
  readonly pod?: number;
  readonly cwd?: string;
  readonly capabilities?: readonly string[];
  readonly user?: { readonly uid?: number; readonly gid?: number };
}

/** The command line that runs `command` in `place`; every step is an exec, so the process id stays the program's own. */
export function entering(place: Place, command: readonly string[]): string[] {
  const argv = ["/bin/sh", "-c", 'echo 0 > "$0/cgroup.procs" && exec "$@"', place.cgroup];
  if (place.pod !== undefined) argv.push("nsenter", "--target", String(place.pod), "--mount", "--net", "--");
  else if (place.netns !== undefined) argv.push("nsenter", `--net=/run/netns/${place.netns}`, "--");
  if (place.capabilities !== undefined || place.user !== undefined) argv.push(...limits(place), "--");
  if (place.cwd !== undefined) argv.push("/bin/sh", "-c", 'cd "$0" && exec "$@"', place.cwd);
  return [...argv, ...command];
}

function limits(place: Place): string[] {
  const argv = ["setpriv"];
  if (place.capabilities !== undefined) {
    const bounding = ["-all", ...place.capabilities.map((c) => `+${c}`)].join(",");
    argv.push(`--bounding-set=${bounding}`, "--inh-caps=-all");
  }
  if (place.user?.uid !== undefined) argv.push(`--reuid=${place.user.uid}`, "--clear-groups");
  if (place.user?.gid !== undefined) argv.push(`--regid=${place.user.gid}`);
  else if (place.user?.uid !== undefined) argv.push(`--regid=${place.user.uid}`);
  return argv;
}

/** Resolves when the process has ended, also if it had ended before. */
export function ended(child: ChildProcess): Promise<number> {
  if (child.exitCode !== null || child.signalCode !== null)
    return Promise.resolve(exitCode(child.exitCode, child.signalCode));
  return new Promise((resolve) => child.once("exit", (code, signal) => resolve(exitCode(code, signal))));
}
