// Proof: no namespace's flood of a data thread slows another's requests by much. The agent has a core; whoever floods it has the others, where
// the victim's client and server go before all else.
import { readdirSync, readFileSync } from "node:fs";
import { cpus } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { httpService, type RequestReport, replicas, startRequests } from "../kit/http-shop.ts";
import { type TestLab, withLab } from "../kit/lab.ts";
import { clientPod, manifest, namespace } from "../kit/manifests.ts";
import { mixedPods, mixedService } from "../kit/mixed-shop.ts";
import { finish } from "../lab/command.ts";
import { PROJECT_DIR } from "../lab/paths.ts";
import { check, type Proof, Unproven } from "./proof.ts";

const agentEnv = { FAIRLEAD_DATA_THREADS: "1" };
/** What the requests of one namespace may take longer because of another's flood on its thread. */
const SLOWER = 1.1;
const ROUNDS = 3;
const RATE = 100;

/** Kinds of floods, and with how many connections. */
export const floods = [
  ["hammer", 200],
  ["pipeline", 50],
  ["connects", 50],
  ["loris", 1000],
  ["heads", 500],
  ["chunks", 100],
  ["streams", 50],
  ["rapid-reset", 50],
  ["settings", 50],
  ["pings", 50],
  ["continuation", 50],
  ["windows", 50],
] as const;

/** The agent under test has this core; all others may use the rest. */
const TESTED = 0;
const NICE = "-10";
const hasCores = cpus().length > 1;
const rest = `1-${cpus().length - 1}`;
const onRest = (command: readonly string[]): string[] =>
  hasCores ? ["taskset", "-c", rest, ...command] : [...command];
/** Victims wait for nobody who floods: what they are slowed by is the agent. */
const before = (command: readonly string[]): string[] => onRest(["chrt", "-r", "10", ...command]);

const mayGoBefore = { capabilities: { add: ["SYS_NICE"] } };
interface PodSpec {
  readonly spec: { readonly containers: readonly { readonly command: readonly string[] }[] };
}
/** The same pod on that node and those cores. */
function placed(pod: unknown, node: string, place: (command: readonly string[]) => string[]): unknown {
  const { spec } = pod as PodSpec;
  const containers = spec.containers.map((c) => ({ ...c, command: place(c.command), securityContext: mayGoBefore }));
  return { ...(pod as object), spec: { ...spec, nodeName: node, containers } };
}

const files = {
  "all.yaml": manifest(
    ...["calm", "flood", "away"].map((name) => namespace(name)),
    clientPod("calm/client", { node: "node1", container: { securityContext: mayGoBefore } }),
    clientPod("flood/client", { node: "node1" }),
    clientPod("away/client", { node: "node2" }),
    httpService("calm/web"),
    ...replicas("calm", 0, 0, 1).map((pod) => placed(pod, "node1", before)),
    ...(["flood", "away"] as const).flatMap((name, i) => [
      mixedService(`${name}/mixed`),
      ...mixedPods(name, 0, 0, 1).map((pod) => placed(pod, `node${i + 1}`, onRest)),
    ]),
  ),
};

async function onCores(cores: string, id: string, flags = ""): Promise<void> {
  const set = await finish(["taskset", `-${flags}cp`, cores, id]);
  check(set.code === 0, `taskset: ${set.stderr}`);
}

/** Gives the tested agent's process id. Helpers of V8 are free, as anywhere. */
async function placeAgents(lab: TestLab): Promise<number> {
  const agents = new Map((await lab.status()).nodes.map((node) => [node.name, node.agent?.pid ?? 0]));
  const pid = agents.get("node1") ?? 0;
  const threads = readdirSync(`/proc/${pid}/task`);
  if (hasCores) {
    await onCores(rest, `${agents.get("node2")}`, "a");
    for (const tid of threads) if (nameOf(pid, tid) !== "node-V8Worker") await onCores(`${TESTED}`, tid);
  }
  const nice = await finish(["renice", "-n", NICE, "-p", ...threads]);
  check(nice.code === 0, `renice: ${nice.stderr}`);
  return pid;
}

const nameOf = (pid: number, tid: string): string => readFileSync(`/proc/${pid}/task/${tid}/comm`, "utf8").trim();

/** CPU time of a process by its threads' names, s. */
function threadTimes(pid: number): Map<string, number> {
  const times = new Map<string, number>();
  for (const tid of readdirSync(`/proc/${pid}/task`)) {
    const stat = readFileSync(`/proc/${pid}/task/${tid}/stat`, "utf8");
    const [user = 0, system = 0] = stat
      .slice(stat.lastIndexOf(")") + 2)
      .split(" ")
      .slice(11, 13)
      .map(Number);
    times.set(nameOf(pid, tid), (times.get(nameOf(pid, tid)) ?? 0) + (user + system) / 100);
  }
  return times;
}

interface Measured extends RequestReport {
  readonly flood: unknown;
  /** Of the tested agent's threads, shares of a core. */
  readonly cpu: Readonly<Record<string, number>>;
}

/** Requests of the victim for so long, beside a flood by the pods of that namespace; without one beside nothing. */
async function measured(lab: TestLab, pid: number, ms: number, by?: string, kind = "", count = 0): Promise<Measured> {
  const script = join(PROJECT_DIR, "test/kit/http-flood.ts");
  const command = onRest([process.execPath, script, "mixed", kind, `${count}`]);
  const flood = by === undefined ? undefined : await lab.start(`${by}/client`, command);
  await flood?.next();
  await sleep(1_500);
  const load = await startRequests(lab, "calm/client", {
    url: "http://web",
    rate: RATE,
    connections: 8,
    answers: "short",
    wrap: before,
  });
  const [times, began] = [threadTimes(pid), performance.now()];
  await sleep(ms);
  const seconds = (performance.now() - began) / 1000;
  const cpu = Object.fromEntries(
    [...threadTimes(pid)]
      .map(([name, s]): [string, number] => [name, Math.round(((s - (times.get(name) ?? 0)) / seconds) * 100) / 100])
      .filter(([, share]) => share > 0),
  );
  const report = await load.stop();
  const answer = await flood?.ask("stop", 60_000);
  await sleep(300);
  return { ...report, flood: answer, cpu };
}

const medianOf = (values: readonly number[]): number =>
  values.toSorted((a, b) => a - b)[values.length >> 1] ?? Number.NaN;
const figures = ["p50Ms", "p99Ms"] as const;
const figuresOf = (all: readonly Measured[]) =>
  Object.fromEntries(figures.map((f) => [f, medianOf(all.map((m) => m[f]))])) as Record<
    (typeof figures)[number],
    number
  >;

export const isolation: Proof = {
  name: "isolation",
  about:
    "one namespace floods a data thread in twelve ways; what another's requests take, against the same flood of another node's agent, and how far two such measurements lie apart without any flood",
  async run({ scale, say, only }) {
    const ms = Math.max(3_000, 6_000 * scale);
    const rounds = Math.max(1, Math.round(ROUNDS * scale));
    const facts: Record<string, { away: unknown; here: unknown; p50: number; p99: number; failed: number }> = {};
    await withLab(files, { nodes: 2, agentEnv }, async (lab) => {
      await lab.ready("calm/web-0-0");
      for (const name of ["flood", "away"]) await lab.ready(`${name}/mixed-0-0`);
      const pid = await placeAgents(lab);
      // What runs for the first time is slow.
      await measured(lab, pid, ms);
      const kinds = [["none", 0] as const, ...floods].filter(([kind]) => only === undefined || only.includes(kind));
      for (const [kind, count] of kinds) {
        const seen = { away: [] as Measured[], here: [] as Measured[] };
        for (let round = 0; round < rounds; round++)
          for (const where of ["away", "here"] as const) {
            const by = where === "here" ? "flood" : "away";
            seen[where].push(await measured(lab, pid, ms, kind === "none" ? undefined : by, kind, count));
          }
        const [away, here] = [figuresOf(seen.away), figuresOf(seen.here)];
        const floodsOf = (all: readonly Measured[]): unknown => all.map((m) => m.flood);
        facts[kind] = {
          away: { ...away, floods: floodsOf(seen.away) },
          here: { ...here, floods: floodsOf(seen.here), cpu: seen.here.map((m) => m.cpu) },
          p50: here.p50Ms / away.p50Ms,
          p99: here.p99Ms / away.p99Ms,
          failed: [...seen.here, ...seen.away].reduce((sum, m) => sum + m.failed, 0),
        };
        say(`${kind}: ${JSON.stringify(facts[kind])}`);
      }
    });
    const slow = Object.entries(facts).filter(([, { p50 }]) => p50 > SLOWER);
    const lost = Object.entries(facts).filter(([, { failed }]) => failed > 0);
    if (lost.length > 0) throw new Unproven(`requests failed beside ${lost.map(([kind]) => kind).join(", ")}`, facts);
    const slower = slow.map(([kind, { p50 }]) => `${kind} ${p50.toFixed(2)}`);
    if (slow.length > 0) throw new Unproven(`slowed by more than ${SLOWER}: ${slower.join(", ")}`, facts);
    return facts;
  },
};
