// What a controller takes at a size: a change until the last agent has it, a restart until all agents are whole again, memory, CPU, bytes.
// Real API server and etcd, kwok's nodes and pods, the controller as a process of its own, agents that are played over real streams.
import { readFileSync, writeFileSync } from "node:fs";
import { loadavg } from "node:os";
import { parseArgs } from "node:util";
import { withApiServer } from "../cluster/kit.ts";
import { startController, type TestController } from "../kit/controller.ts";
import { rootsOf, tokenFor } from "../kit/node-agent.ts";
import { sharedNowMs } from "./scale/agents.ts";
import { type Churned, churn } from "./scale/churn.ts";
import { Fleet } from "./scale/fleet.ts";
import { World } from "./scale/world.ts";

const usage = `npm run bench:scale -- [--pods 1000] [--services 100] [--agents 20] [--nodes AGENTS] [--changes 50] [--seconds 30] [--warm-up 10]
  [--rounds 3] [--processes 2] [--json FILE]
The size that the goals are set for: --pods 10000 --services 1000 --agents 200`;
const say = (line: string): void => console.error(`scale: ${line}`);

const { values } = parseArgs({
  options: {
    pods: { type: "string", default: "1000" },
    services: { type: "string", default: "100" },
    agents: { type: "string", default: "20" },
    nodes: { type: "string" },
    changes: { type: "string", default: "50" },
    seconds: { type: "string", default: "30" },
    "warm-up": { type: "string", default: "10" },
    rounds: { type: "string", default: "3" },
    processes: { type: "string", default: "2" },
    json: { type: "string" },
    help: { type: "boolean", default: false },
  },
});
if (values.help) {
  console.log(usage);
  process.exit(0);
}
function count(name: Exclude<keyof typeof values, "json" | "help">, most: number): number {
  const n = Number(values[name] ?? values.agents);
  if (!Number.isInteger(n) || n < 1 || n > most)
    throw new Error(`--${name} ${values[name]}: use a whole number from 1 to ${most}\n${usage}`);
  return n;
}
const size = { pods: count("pods", 50_000), services: count("services", 10_000), nodes: count("nodes", 5_000) };
const agents = count("agents", 2_000);
const [changes, seconds, warmUp, rounds, processes] = [
  count("changes", 500),
  count("seconds", 600),
  count("warm-up", 600),
  count("rounds", 20),
  count("processes", 16),
];

/** User and system time that a process has used, in seconds; its memory now and at most, in MB. */
function usageOf(pid: number) {
  const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  const mb = (name: string): number =>
    Math.round(Number(new RegExp(`^${name}:\\s+(\\d+)`, "m").exec(status)?.[1] ?? 0) / 1024);
  // Clock ticks are hundredths of a second on every Linux that we know.
  return {
    cpuSeconds: (Number(fields[11]) + Number(fields[12])) / 100,
    rssMb: mb("VmRSS"),
    anonMb: mb("RssAnon"),
    peakMb: mb("VmHWM"),
  };
}
const pidOf = (controller: TestController): number => controller.process.pid ?? 0;
const round1 = (n: number): number => Math.round(n * 10) / 10;
function quantiles(all: readonly number[]) {
  const sorted = [...all].sort((a, b) => a - b);
  const at = (q: number): number =>
    round1(sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] ?? Number.NaN);
  return { n: sorted.length, p50: at(0.5), p90: at(0.9), p99: at(0.99), max: at(1) };
}

/** Of all processors, in hundredths of a second since the machine started (proc(5)): all time, and what the host gave to others when we wanted it. */
function ticks(): { readonly all: number; readonly stolen: number } {
  const [line = ""] = readFileSync("/proc/stat", "utf8").split("\n");
  const [user = 0, nice = 0, system = 0, idle = 0, wait = 0, irq = 0, soft = 0, stolen = 0] = line
    .split(/\s+/)
    .slice(1)
    .map(Number);
  return { all: user + nice + system + idle + wait + irq + soft + stolen, stolen };
}

async function oneRound(world: World, fleet: Fleet, controller: TestController) {
  const before = { ...usageOf(pidOf(controller)), ...(await fleet.count()), load: loadavg()[0], ticks: ticks() };
  const churned: Churned = await churn(world, fleet, { perSecond: changes, seconds }, say);
  const now = ticks();
  const after = { ...usageOf(pidOf(controller)), ...(await fleet.count()) };
  return {
    load: round1(before.load ?? 0),
    stolenPercent: round1((100 * (now.stolen - before.ticks.stolen)) / (now.all - before.ticks.all)),
    changesPerSecond: round1(churned.changes / churned.seconds),
    removalMs: quantiles(churned.removals),
    removalFromAnswerMs: quantiles(churned.removalsAnswered),
    returnMs: quantiles(churned.returns),
    additionMs: quantiles(churned.additions),
    cpuCores: Math.round(((after.cpuSeconds - before.cpuSeconds) / churned.seconds) * 1000) / 1000,
    rssMb: after.rssMb,
    anonMb: after.anonMb,
    peakMb: after.peakMb,
    bytesPerChangeAndAgent: round1((after.bytes - before.bytes) / churned.changes / agents),
    responsesPerSecond: round1((after.responses - before.responses) / churned.seconds),
  };
}

async function oneRestart(fleet: Fleet, controller: TestController) {
  const load = round1(loadavg()[0] ?? 0);
  const synced = fleet.expectState();
  const beganMs = sharedNowMs();
  await controller.restart();
  const readyMs = sharedNowMs();
  const { atMs } = await synced;
  return {
    load,
    startToReadyMs: Math.round(readyMs - beganMs),
    readyToSyncedMs: Math.round(atMs - readyMs),
    peakMb: usageOf(pidOf(controller)).peakMb,
  };
}

await withApiServer(async (up) => {
  await using world = await World.make(up, size, say);
  const env = {
    FAIRLEAD_SOURCE: "kubernetes",
    FAIRLEAD_KUBECONFIG: up.cluster.kubeconfig,
    FAIRLEAD_MANIFESTS: "",
    FAIRLEAD_LIVE_DIR: "",
  };
  await using controller = await startController({}, env);
  say(`the controller is ready: ${JSON.stringify(usageOf(pidOf(controller)))}`);
  const fleet = new Fleet(processes);
  try {
    const joining: { node: string; token: string }[] = [];
    for (let i = 0; i < agents; i++)
      joining.push({ node: `node-${i}`, token: await tokenFor(controller, `node-${i}`) });
    const first = await fleet.start([`127.0.0.1:${controller.ports.grpc}`], await rootsOf(controller), joining);
    say(`${agents} agents have ${first.resources} workloads: ${JSON.stringify(usageOf(pidOf(controller)))}`);
    const all = { size, agents, changes, seconds, rounds: [] as object[], restarts: [] as object[] };
    // What was just compiled, and 200 first states' worth of garbage, are no part of a steady rate.
    await churn(world, fleet, { perSecond: changes, seconds: warmUp }, (line) => say(`warming up: ${line}`));
    for (let i = 0; i < rounds; i++) {
      const result = await oneRound(world, fleet, controller);
      say(JSON.stringify(result));
      all.rounds.push(result);
    }
    for (let i = 0; i < rounds; i++) {
      const result = await oneRestart(fleet, controller);
      say(JSON.stringify(result));
      all.restarts.push(result);
    }
    console.log(JSON.stringify(all, null, 1));
    if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(all, null, 1)}\n`);
  } finally {
    fleet.close();
  }
});
