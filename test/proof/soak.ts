// Proof: half of the load that the lane can carry, mixed and with clients that come and go, for half an hour; memory, descriptors and threads of the agents stay flat.
import { setTimeout as sleep } from "node:timers/promises";
import { type TestLab, withLab } from "../kit/lab.ts";
import { authorization, clientPod, manifest, namespace, peerAuthentication } from "../kit/manifests.ts";
import type { MixedReport } from "../kit/mixed-load.ts";
import { type MixedLoad, mixedPods, mixedService, startMixed } from "../kit/mixed-shop.ts";
import { beyond, holdings } from "./leaks.ts";
import { type Proof, Unproven } from "./proof.ts";
import { agentDescriptors, mostRise, type Reading, read, riseOf, trends } from "./soak-readings.ts";
import { type SoakFacts, writeReport } from "./soak-report.ts";

const MINUTES = 30;
/** Shorter ones are not written down, and say nothing about trends: pools and caches still fill. */
const LONG_MINUTES = 10;
/** Requests at once of each of the two clients while it is found out how many a second are possible. */
const AT_ONCE = 32;
const CALIBRATED_S = 15;
const POLICY_CHANGE_S = 15;
/** Kept on purpose when all clients have gone: idle tunnels until they age. */
const SLACK = 2;

const clients = ["shop/near", "shop/far"] as const;

const base = manifest(
  namespace("shop"),
  peerAuthentication("shop/strict", "STRICT"),
  ...clients.map((path, i) => clientPod(path, { node: `node${i + 1}` })),
  mixedService("shop/mixed"),
  ...mixedPods("shop", 0, 0, 2),
  authorization("shop/denied", { action: "DENY", rules: [{ to: [{ operation: { paths: ["/denied"] } }] }] }),
  {
    apiVersion: "mesh.fairlead.dev/v1alpha1",
    kind: "ResiliencePolicy",
    metadata: { name: "mixed", namespace: "shop" },
    spec: {
      targetRefs: [{ kind: "Service", name: "mixed" }],
      retry: { maxAttempts: 2 },
      timeout: { request: "15s" },
      circuitBreaker: {},
    },
  },
  {
    apiVersion: "mesh.fairlead.dev/v1alpha1",
    kind: "RateLimitPolicy",
    metadata: { name: "mixed", namespace: "shop" },
    spec: {
      targetRefs: [{ kind: "Service", name: "mixed" }],
      limits: [{ key: { type: "Identity" }, requests: 1_000_000, per: "1s" }],
    },
  },
);
/** Another one each time. */
const route = (turn: number): string =>
  manifest({
    apiVersion: "gateway.networking.k8s.io/v1",
    kind: "HTTPRoute",
    metadata: { name: "mixed", namespace: "shop" },
    spec: {
      parentRefs: [{ group: "", kind: "Service", name: "mixed", port: 80 }],
      rules: [
        {
          filters: [
            { type: "RequestHeaderModifier", requestHeaderModifier: { set: [{ name: "x-turn", value: `${turn}` }] } },
          ],
          backendRefs: [{ name: "mixed", port: 80 }],
        },
      ],
    },
  });

function added(reports: readonly MixedReport[]): Omit<MixedReport, "seconds"> {
  const sum = (of: (report: MixedReport) => number): number => reports.reduce((all, report) => all + of(report), 0);
  const reasons: Record<string, number> = {};
  for (const report of reports)
    for (const [reason, count] of Object.entries(report.reasons)) reasons[reason] = (reasons[reason] ?? 0) + count;
  return {
    sent: sum((r) => r.sent),
    ok: sum((r) => r.ok),
    failed: sum((r) => r.failed),
    givenUp: sum((r) => r.givenUp),
    unsent: sum((r) => r.unsent),
    connections: sum((r) => r.connections),
    reasons,
    servers: Math.max(...reports.map((r) => r.servers)),
    p50Ms: Math.max(...reports.map((r) => r.p50Ms)),
    p99Ms: Math.max(...reports.map((r) => r.p99Ms)),
  };
}

/** Requests a second that go through with both clients asking as fast as they can. */
async function possible(loads: readonly MixedLoad[]): Promise<number> {
  for (const load of loads) await load.max(AT_ONCE);
  await sleep(5_000);
  for (const load of loads) await load.report();
  await sleep(CALIBRATED_S * 1000);
  const reports = await Promise.all(loads.map((load) => load.report()));
  for (const load of loads) await load.rate(0);
  return reports.reduce((sum, { ok, seconds }) => sum + ok / seconds, 0);
}

/** Samples until the time is over, while the load runs and the route changes. */
async function watched(
  lab: TestLab,
  loads: readonly MixedLoad[],
  durationS: number,
  say: (line: string) => void,
): Promise<{ readings: readonly Reading[]; reports: MixedReport[] }> {
  const everyS = Math.min(10, durationS / 24);
  const readings: Reading[] = [];
  const reports: MixedReport[] = [];
  const beganMs = performance.now();
  const nowS = (): number => (performance.now() - beganMs) / 1000;
  for (let turn = 0, changed = 0; nowS() < durationS; turn++) {
    await sleep(Math.max(0, turn * everyS - nowS()) * 1000);
    readings.push(await read(lab, nowS()));
    reports.push(...(await Promise.all(loads.map((load) => load.report()))));
    if (nowS() > (changed + 1) * POLICY_CHANGE_S) lab.write("route.yaml", route(++changed));
    if (turn % 12 === 0) say(`${Math.round(nowS())} s: ${JSON.stringify(readings.at(-1)?.agents)}`);
  }
  return { readings, reports };
}

interface Soaked {
  readonly facts: SoakFacts;
  readonly readings: readonly Reading[];
}

async function soaked(
  lab: TestLab,
  minutes: number,
  rate: number | undefined,
  say: (line: string) => void,
): Promise<Soaked> {
  for (const i of [0, 1]) await lab.ready(`shop/mixed-0-${i}`, 120_000);
  const before = await holdings(lab);
  const kindsBefore = await agentDescriptors(lab);
  const loads = await Promise.all(clients.map((from) => startMixed(lab, from, { host: "mixed", churns: true })));
  const most = rate === undefined ? await possible(loads) : undefined;
  const perSecond = rate ?? (most ?? 0) / 2;
  const ofWhat = most === undefined ? "" : `; possible are ${Math.round(most)}`;
  say(`${Math.round(perSecond)} requests/s for ${minutes} minutes${ofWhat}`);
  for (const load of loads) {
    await load.report();
    await load.rate(perSecond / loads.length);
  }
  const { readings, reports } = await watched(lab, loads, minutes * 60, say);
  reports.push(...(await Promise.all(loads.map((load) => load.stop()))));
  const requests = added(reports);
  say(JSON.stringify(requests));
  const left = await beyond(lab, before, SLACK, 240_000);
  say(`left when all clients have gone: ${JSON.stringify(left)}`);
  const kinds = { before: kindsBefore, after: await agentDescriptors(lab) };
  if (Object.keys(left).length > 0) say(`descriptors: ${JSON.stringify(kinds)}`);
  const after = (await read(lab, 0)).agents;
  return { facts: { minutes, most, perSecond, requests, trends: trends(readings), left, kinds, after }, readings };
}

export const soak: Proof = {
  name: "soak",
  about:
    "HTTP/1.1, HTTP/2 and gRPC at half of what is possible, clients that come, go and reset, a route that changes, for 30 minutes; memory, descriptors and threads stay flat",
  async run({ scale, say, minutes = MINUTES * scale, rate }) {
    const files = { "base.yaml": base, "route.yaml": route(0) };
    let seen: Soaked | undefined;
    await withLab(files, { nodes: 2, agentEnv: { FAIRLEAD_DATA_THREADS: "1" } }, async (lab) => {
      seen = await soaked(lab, minutes, rate, say);
    });
    const { facts, readings } = seen as unknown as Soaked;
    const hours = minutes / 2 / 60;
    const isLong = minutes >= LONG_MINUTES;
    if (isLong) writeReport(facts, readings, hours);
    const why = judge(facts, hours, isLong);
    if (why !== undefined) throw new Unproven(why, { ...facts, readings });
    return { ...facts, readings };
  },
};

/** What does not hold. */
function judge(
  { requests, trends: found, left, kinds }: SoakFacts,
  hours: number,
  isLong: boolean,
): string | undefined {
  if (requests.failed > 0 || requests.ok === 0) return `requests: ${JSON.stringify(requests)}`;
  for (const [name, trend] of Object.entries(found))
    if (isLong && riseOf(name, trend) > mostRise(name, hours)) return `${name} rises: ${JSON.stringify(trend)}`;
  if (Object.keys(left).length === 0) return undefined;
  return `left when all clients have gone: ${JSON.stringify(left)}, descriptors: ${JSON.stringify(kinds)}`;
}
