// Ours: the lab with agents, its pods and servers as the bare one has them, and the pods of the bypass.
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { labAsk, pathsOf } from "../lab/client.ts";
import type { LabStatus } from "../lab/lab-options.ts";
import { callJson } from "../lab/unix-http.ts";
import { newConnections } from "./loads.ts";
import { type Servers, startServers } from "./server.ts";
import { buildTopology, type PodName, TEAMS, type Topology } from "./topology.ts";
import type { Variant, VariantName } from "./variants.ts";

export interface Mesh {
  readonly variants: readonly Variant[];
  /** Last lines of the agents' logs, for the report of a failure. */
  logs(): string;
  down(): Promise<void>;
}

const orThrow = <T>(
  result: { readonly ok: true; readonly value: T } | { readonly ok: false; readonly error: string },
): T => {
  if (!result.ok) throw new Error(result.error);
  return result.value;
};

/** nginx listens on these beside 8080. */
const COLD_PORTS = { first: 9001, last: 9032 } as const;

/** Brings the lab up, agents with one worker as the peers have, and starts the servers. */
export async function startMesh(say: (line: string) => void): Promise<Mesh> {
  const topology = await buildTopology(
    { FAIRLEAD_WORKERS: "1", FAIRLEAD_LOG_LEVEL: "info", FAIRLEAD_ACCESS_LOG: "off" },
    say,
  );
  try {
    const servers = async (pod: PodName): Promise<Servers> => {
      const home = join(topology.dir, pod);
      mkdirSync(home);
      return startServers(topology.pod(pod), home);
    };
    const variants = [
      variantOf(topology, "ours", "near", "server", await servers("server")),
      variantOf(topology, "bypass", "bypass-near", "bypass-server", await servers("bypass-server")),
    ];
    return { variants, logs: () => agentLogs(topology.status), down: topology.down };
  } catch (error) {
    say(agentLogs(topology.status));
    await topology.down();
    throw error;
  }
}

function variantOf(
  topology: Topology,
  name: VariantName,
  nearPod: PodName,
  serverPod: PodName,
  servers: Servers,
): Variant {
  const { status } = topology;
  const { ip } = topology.pod(serverPod);
  const far = topology.pod("client");
  let cold: number = COLD_PORTS.first;
  return {
    name,
    far,
    near: topology.pod(nearPod),
    http: `${ip}:8080`,
    stream: `${ip}:5201`,
    nearHttp: `${ip}:8080`,
    nearStream: `${ip}:5201`,
    // Tunnels are pooled per pair of workloads and port: a port not used before has none.
    coldHttp: () => {
      if (cold > COLD_PORTS.last) cold = COLD_PORTS.first;
      return `${ip}:${cold++}`;
    },
    cgroups: status.nodes.map((n) => join(n.cgroup, "agent")),
    servers,
    router: topology.router,
    async restart() {
      for (const node of status.nodes)
        orThrow(await labAsk(topology.name, "/v1/agent", { node: node.name, action: "kill-start" }));
      for (let tries = 0; ; tries++) {
        try {
          await newConnections(far, `${ip}:8080`, 1, 0.05);
          return;
        } catch (error) {
          if (tries > 50) throw error;
          await sleep(100);
        }
      }
    },
    knowWorkloads: (count) => knowWorkloads(topology.name, status, count),
  };
}

/** Pods of a node that is not in the lab, written where a kubelet would report them. */
async function knowWorkloads(lab: string, status: LabStatus, count: number): Promise<() => Promise<void>> {
  const file = join(orThrow(pathsOf(lab)).liveDir, "bench-workloads.json");
  const pod = (i: number): unknown => ({
    apiVersion: "v1",
    kind: "Pod",
    metadata: {
      namespace: `team-${i % TEAMS}`,
      name: `app-${i}`,
      uid: `bench-${i}`,
      labels: { app: `app-${i % 500}` },
    },
    spec: { nodeName: "node9", serviceAccountName: `app-${i % 500}`, containers: [{ name: "app" }] },
    status: {
      phase: "Running",
      podIPs: [{ ip: `10.200.${i >> 8}.${i & 255}` }],
      hostIPs: [{ ip: "10.250.9.2" }],
      conditions: [{ type: "Ready", status: "True" }],
    },
  });
  const items = Array.from({ length: count }, (_, i) => pod(i));
  writeFileSync(file, JSON.stringify({ apiVersion: "v1", kind: "List", items }));
  await untilKnown(status, (n) => n >= count);
  return async () => {
    rmSync(file, { force: true });
    await untilKnown(status, (n) => n < count);
  };
}

async function untilKnown(status: LabStatus, enough: (workloads: number) => boolean): Promise<void> {
  const known = async (socket: string): Promise<number> => {
    const answer = orThrow(await callJson(socket, "/v1/status")) as {
      readonly discovery?: { readonly entries?: Readonly<Record<string, number>> };
    };
    return answer.discovery?.entries?.Workload ?? Number.NaN;
  };
  for (let waited = 0; waited < 60_000; waited += 250) {
    const counts = await Promise.all(status.nodes.map((n) => known(n.adminSocket)));
    if (counts.every(enough)) return;
    await sleep(250);
  }
  throw new Error("the agents did not learn of the workloads within 60 s");
}

function agentLogs(status: LabStatus): string {
  return status.nodes
    .map((n) => join(dirname(n.adminSocket), "agent.log"))
    .map((path) => `${path}:\n${readFileSync(path, "utf8").split("\n").slice(-15).join("\n")}`)
    .join("\n");
}
