// Brings labs up and asks their supervisors: the library behind `fairlead lab` and the test kit.
import { type ChildProcess, type StdioOptions, spawn } from "node:child_process";
import { closeSync, existsSync, mkdirSync, openSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { err, ok, type Result } from "../../agent/base/result.ts";
import { cgroupProcesses, makeCgroup } from "./cgroup.ts";
import { entering } from "./command.ts";
import { tail } from "./files.ts";
import type { LabOptions, LabStatus } from "./lab-options.ts";
import { cgroup2Mount, LABS_DIR, type LabPaths, labPaths, parseLabName } from "./paths.ts";
import { leaveAndRemoveCgroups, tearDown } from "./teardown.ts";
import { call, callJson } from "./unix-http.ts";

const tools = ["ip", "nsenter", "unshare", "mount", "setpriv", "nft", "findmnt"] as const;

/** Why a lab cannot run here, in one line, or undefined. */
export function missingForLab(): string | undefined {
  if (process.platform !== "linux") return "fairlead lab needs Linux (network namespaces and eBPF)";
  if (process.getuid?.() !== 0)
    return "fairlead lab needs root (network namespaces and eBPF): run it as root, e.g. sudo fairlead lab up";
  const path = (process.env.PATH ?? "").split(":").concat("/usr/sbin", "/sbin");
  const missing = tools.filter((tool) => !path.some((dir) => existsSync(join(dir, tool))));
  if (missing.length > 0)
    return `fairlead lab needs ${missing.join(", ")}: apt-get install iproute2 util-linux nftables`;
  const cgroup2 = cgroup2Mount();
  return cgroup2.ok ? undefined : cgroup2.error;
}

export function pathsOf(name: string): Result<LabPaths, string> {
  const parsed = parseLabName(name);
  if (!parsed.ok) return parsed;
  const cgroup2 = cgroup2Mount();
  return cgroup2.ok ? ok(labPaths(parsed.value, cgroup2.value)) : cgroup2;
}

/** Names of labs that are up or have left something. */
export const labNames = (): string[] => (existsSync(LABS_DIR) ? readdirSync(LABS_DIR).sort() : []);

const isAlive = (lab: LabPaths): boolean => cgroupProcesses(lab.supervisorCgroup).length > 0;

/**
 * Starts a lab's supervisor and follows it until the lab is up. `say` gets progress lines; `own` is called once this call has made the
 * lab, so that whoever interrupts it takes down no lab of somebody else.
 */
export async function labUp(
  options: LabOptions,
  say: (line: string) => void,
  own: () => void = () => {},
): Promise<Result<LabStatus, string>> {
  const missing = missingForLab();
  if (missing !== undefined) return err(missing);
  const paths = pathsOf(options.name);
  if (!paths.ok) return paths;
  const lab = paths.value;
  const manifests = resolve(options.manifests);
  if (!existsSync(manifests) || !statSync(manifests).isDirectory())
    return err(`--manifests ${options.manifests}: no such folder`);
  if (isAlive(lab))
    return err(
      `lab ${options.name} is already up; take it down first (fairlead lab down --name ${options.name}) or give another --name`,
    );
  if (existsSync(lab.dir) || existsSync(lab.cgroup)) {
    const left = await tearDown(lab);
    say(
      `removed leftovers of an earlier lab ${options.name}: ${left.processes} processes, ${left.namespaces} namespaces`,
    );
  }
  mkdirSync(dirname(lab.dir), { recursive: true, mode: 0o700 });
  try {
    mkdirSync(lab.dir, { mode: 0o700 });
  } catch {
    return err(`lab ${options.name} is being started by somebody else`);
  }
  own();
  writeFileSync(lab.optionsFile, JSON.stringify({ ...options, manifests }), { mode: 0o600 });
  const supervisor = startSupervisor(lab);
  let gone = false;
  supervisor.on("exit", () => {
    gone = true;
  });
  let last = "";
  // Its socket has a name a moment before anybody listens there.
  while (!gone && last === "") {
    await sleep(20);
    if (!existsSync(lab.supervisorSocket)) continue;
    await call(lab.supervisorSocket, "/v1/progress", {
      timeoutMs: Number.POSITIVE_INFINITY,
      onLine: (line) => {
        last = line;
        if (line !== "up" && !line.startsWith("failed: ")) say(line);
      },
    });
  }
  supervisor.removeAllListeners("exit");
  supervisor.unref();
  if (last === "up") return askStatus(lab);
  const why = last.startsWith("failed: ")
    ? last.slice(8)
    : `its supervisor ended; ${tail(lab.supervisorLog, 5).join(" | ")}`;
  await labDown(options.name);
  return err(`lab ${options.name} did not come up: ${why}`);
}

function startSupervisor(lab: LabPaths): ChildProcess {
  makeCgroup(lab.supervisorCgroup);
  const log = openSync(lab.supervisorLog, "a", 0o600);
  const program = [
    process.execPath,
    "--disable-warning=ExperimentalWarning",
    fileURLToPath(new URL("supervisor.ts", import.meta.url)),
    lab.name,
  ];
  const [file = "", ...args] = entering({ cgroup: lab.supervisorCgroup }, program);
  const child = spawn(file, args, { stdio: ["ignore", log, log], detached: true, cwd: "/" });
  closeSync(log);
  return child;
}

/** One line for a lab that is not there: which are, or how to bring one up. */
export function absentLab(name: string): string {
  const names = labNames();
  if (names.length > 0) return `there is no lab ${name}; labs here: ${names.join(", ")}`;
  return `there is no lab ${name}, nor any other; fairlead lab up --manifests DIR brings one up`;
}

async function askStatus(lab: LabPaths): Promise<Result<LabStatus, string>> {
  const status = await callJson(lab.supervisorSocket, "/v1/status");
  return status.ok ? ok(status.value as LabStatus) : status;
}

export async function labStatus(name: string): Promise<Result<LabStatus, string>> {
  const paths = pathsOf(name);
  if (!paths.ok) return paths;
  const status = await askStatus(paths.value);
  if (status.ok) return status;
  if (!existsSync(paths.value.dir)) return err(absentLab(name));
  return err(
    `the supervisor of lab ${name} is gone (${tail(paths.value.supervisorLog, 1).join("")}); fairlead lab down --name ${name} removes what it left`,
  );
}

/** Takes a lab down, with or without its supervisor's help. @returns false if there was nothing. */
export async function labDown(name: string): Promise<Result<boolean, string>> {
  const paths = pathsOf(name);
  if (!paths.ok) return paths;
  const lab = paths.value;
  const there = existsSync(lab.dir) || existsSync(lab.cgroup);
  if (!there) return ok(false);
  const answer = await call(lab.supervisorSocket, "/v1/down", { method: "POST", timeoutMs: 60_000 });
  if (answer.ok && answer.value.status === 200)
    for (let waited = 0; waited < 5000 && existsSync(lab.cgroup); waited += 20) await sleep(20);
  if (existsSync(lab.dir) || existsSync(lab.cgroup)) await tearDown(lab);
  if (existsSync(lab.cgroup)) await leaveAndRemoveCgroups(lab);
  return ok(true);
}

/** How many processes of a lab are there, its supervisor's included. */
export function labLeft(name: string): number {
  const paths = pathsOf(name);
  return paths.ok ? cgroupProcesses(paths.value.cgroup).length : 0;
}

/** Asks the supervisor to do something. */
export async function labAsk(name: string, path: string, body: unknown): Promise<Result<unknown, string>> {
  const paths = pathsOf(name);
  if (!paths.ok) return paths;
  if (!existsSync(paths.value.dir)) return err(absentLab(name));
  return callJson(paths.value.supervisorSocket, path, { method: "POST", body, timeoutMs: 120_000 });
}

/** Starts a program inside a pod as a child of this process: streams, terminal and signals are its own. */
export async function spawnInPod(
  name: string,
  pod: string,
  command: readonly string[],
  options: {
    readonly container?: string;
    readonly stdio?: StdioOptions;
    readonly env?: Readonly<Record<string, string>>;
  } = {},
): Promise<Result<ChildProcess, string>> {
  const paths = pathsOf(name);
  if (!paths.ok) return paths;
  if (!existsSync(paths.value.dir)) return err(absentLab(name));
  const query = new URLSearchParams({
    pod,
    ...(options.container === undefined ? {} : { container: options.container }),
  });
  const plan = await callJson(paths.value.supervisorSocket, `/v1/exec?${query}`);
  if (!plan.ok) return plan;
  const { argv, env } = plan.value as { readonly argv: readonly string[]; readonly env: Record<string, string> };
  const [file = "", ...args] = [...argv, ...command];
  return ok(spawn(file, args, { stdio: options.stdio ?? "inherit", env: { ...env, ...options.env } }));
}
