// The process that owns one lab: `node supervisor.ts NAME`, started detached by `fairlead lab up`. If it dies, its watchdog removes the lab.
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdirSync } from "node:fs";
import { createServer } from "node:http";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { answer } from "./api.ts";
import { makeCgroup } from "./cgroup.ts";
import { ended, entering, run } from "./command.ts";
import { readText } from "./files.ts";
import { Lab } from "./lab.ts";
import type { LabOptions } from "./lab-options.ts";
import { BPF_FS, cgroup2Mount, type LabPaths, labPaths } from "./paths.ts";
import { leaveAndRemoveCgroups, tearDown } from "./teardown.ts";

/** Waits on its input; any end of it but the word "done" means that the supervisor died. */
function startWatchdog(lab: LabPaths): ChildProcess {
  makeCgroup(lab.watchdogCgroup);
  const script = 'read word; [ "$word" = done ] || exec "$@"';
  const cleanup = [
    process.execPath,
    "--disable-warning=ExperimentalWarning",
    fileURLToPath(new URL("teardown.ts", import.meta.url)),
    lab.name,
  ];
  const [file = "", ...args] = entering({ cgroup: lab.watchdogCgroup }, [
    "/bin/sh",
    "-c",
    script,
    "watchdog",
    ...cleanup,
  ]);
  return spawn(file, args, { stdio: ["pipe", "inherit", "inherit"], detached: true });
}

async function mountBpfFs(): Promise<void> {
  const mounted = readText("/proc/mounts")
    .split("\n")
    .some((line) => line.split(" ")[1] === BPF_FS && line.split(" ")[2] === "bpf");
  if (!mounted && existsSync(BPF_FS)) await run(["mount", "-t", "bpf", "bpf", BPF_FS]);
}

async function main(): Promise<void> {
  const cgroup2 = cgroup2Mount();
  if (!cgroup2.ok) throw new Error(cgroup2.error);
  const paths = labPaths(process.argv[2] ?? "", cgroup2.value);
  const options = JSON.parse(readText(paths.optionsFile)) as LabOptions;
  const progress: string[] = [];
  const listeners = new Set<(line: string) => void>();
  const say = (line: string): void => {
    progress.push(line);
    console.log(`${new Date().toISOString()} ${line}`);
    for (const listener of listeners) listener(line);
  };
  const watchdog = startWatchdog(paths);
  const lab = new Lab(paths, options, say);
  let stopping: Promise<void> | undefined;
  const down = (): Promise<void> => {
    stopping ??= (async () => {
      lab.close();
      await tearDown(paths, { spare: [paths.supervisorCgroup, paths.watchdogCgroup], keepLog: true });
    })();
    return stopping;
  };
  const leave = async (): Promise<void> => {
    watchdog.stdin?.write("done\n");
    watchdog.stdin?.end();
    await ended(watchdog);
    await tearDown(paths, { spare: [paths.supervisorCgroup] });
    await leaveAndRemoveCgroups(paths);
    process.exit(0);
  };
  const server = createServer(
    (request, response) => void answer({ lab, progress, listeners, down, leave }, request, response),
  );
  server.listen(paths.supervisorSocket);
  for (const signal of ["SIGTERM", "SIGINT"] as const) process.on(signal, () => void down().then(leave));
  process.on("uncaughtException", (error) => {
    console.log(`${new Date().toISOString()} uncaught: ${error.stack ?? error.message}`);
    process.exit(1); // the watchdog removes the lab
  });
  try {
    if (options.agents) await mountBpfFs();
    mkdirSync(join(paths.dir, "nodes"), { recursive: true });
    await lab.up();
    say("up");
  } catch (error) {
    lab.state = "failed";
    lab.error = (error as Error).message;
    say(`failed: ${lab.error}`);
  }
}

await main();
