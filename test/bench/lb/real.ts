// The one real run: four servers of unequal speed behind a service of the lab, requests at a fixed rate through the agents, one balancer
// after the other by a ResiliencePolicy that is changed while the lab runs.
import { renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { atRate } from "../loads.ts";
import { type Place, startIn } from "../place.ts";
import { untilListening } from "../server.ts";
import { buildTopology, meshedNamespace, podDocuments } from "../topology.ts";

export const realAlgorithms = ["ewma", "least_request", "round_robin", "random"] as const;
export type RealAlgorithm = (typeof realAlgorithms)[number];
/** Mean time of a request in each server, which serves four at a time: together they can do 970 in a second. */
export const realMeansMs = [10, 10, 30, 100] as const;
export const realRate = 400;
const spelled = { ewma: "EWMA", least_request: "LeastRequest", round_robin: "RoundRobin", random: "Random" } as const;

export interface RealOutcome {
  readonly p50Ms: number;
  readonly p99Ms: number;
}

const port = 8080;
const address = "10.96.0.90";
const server = (meanMs: number): string => `let busy = 0; const line = [];
const serve = (s) => { busy++; setTimeout(() => { busy--; s.end("ok"); line.length && serve(line.shift()); }, ${meanMs} * (0.5 + Math.random())); };
require("http").createServer((q, s) => (busy < 4 ? serve(s) : line.push(s))).listen(${port}, "0.0.0.0")`;

const names = realMeansMs.map((_, i) => `s${i}`);
const documents = (): readonly unknown[] => [
  meshedNamespace("bench"),
  ...podDocuments("client", { node: 1, host: 10 }, "client"),
  ...names.flatMap((name, i) => podDocuments(name, { node: i % 2 === 0 ? 2 : 1, host: 20 + i }, "servers")),
  {
    apiVersion: "v1",
    kind: "Service",
    metadata: { namespace: "bench", name: "servers" },
    spec: { clusterIP: address, selector: { app: "servers" }, ports: [{ name: "http", port, appProtocol: "http" }] },
  },
];
const policy = (algorithm: RealAlgorithm): string =>
  JSON.stringify({
    apiVersion: "mesh.fairlead.dev/v1alpha1",
    kind: "ResiliencePolicy",
    metadata: { namespace: "bench", name: "servers" },
    spec: { targetRefs: [{ kind: "Service", name: "servers" }], loadBalancer: { algorithm: spelled[algorithm] } },
  });

/** Written beside and moved, so that no half of it is read; it acts within a second, and agents are given three. */
async function setPolicy(dir: string, algorithm: RealAlgorithm): Promise<void> {
  const file = join(dir, "manifests/policy.json");
  writeFileSync(join(dir, "policy.next"), policy(algorithm));
  renameSync(join(dir, "policy.next"), file);
  await sleep(3000);
}

/** Median and 99th percentile by balancer; needs root. Each has two seconds to learn in. */
export async function realRun(
  seconds: number,
  say: (line: string) => void,
): Promise<Readonly<Record<RealAlgorithm, RealOutcome>>> {
  const env = { FAIRLEAD_WORKERS: "1", FAIRLEAD_DATA_THREADS: "1", FAIRLEAD_ACCESS_LOG: "off" };
  const topology = await buildTopology(env, say, documents());
  try {
    for (const [i, name] of names.entries()) {
      const pod: Place = topology.pod(name);
      const command = [process.execPath, "-e", server(realMeansMs[i] ?? 10)];
      const child = startIn(pod, command, join(topology.dir, `${name}.log`));
      await untilListening(child.pid, port, name);
    }
    const client = topology.pod("client");
    const out: Partial<Record<RealAlgorithm, RealOutcome>> = {};
    for (const algorithm of realAlgorithms) {
      await setPolicy(topology.dir, algorithm);
      await atRate(client, `${address}:${port}`, realRate, 200, 2);
      const { p50Ms, p99Ms } = await atRate(client, `${address}:${port}`, realRate, 200, seconds);
      say(`real run: ${algorithm} p50 ${p50Ms.toFixed(1)} p99 ${p99Ms.toFixed(0)} ms`);
      out[algorithm] = { p50Ms, p99Ms };
    }
    return out as Record<RealAlgorithm, RealOutcome>;
  } finally {
    await topology.down();
  }
}
