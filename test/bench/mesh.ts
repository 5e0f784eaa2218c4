// Ours: a lab with agents and a controller, with the same pods, links and servers as the bare topology, and the pods of the bypass.
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { labAsk, labDown, labStatus, labUp, pathsOf } from "../lab/client.ts";
import type { LabStatus, PodStatus } from "../lab/lab-options.ts";
import { callJson } from "../lab/unix-http.ts";
import { newConnections } from "./loads.ts";
import type { Place } from "./place.ts";
import { type Servers, startServers } from "./server.ts";
import { PODS } from "./topology.ts";
import type { Variant } from "./variants.ts";

export interface Mesh {
  readonly variants: readonly Variant[];
  readonly version: string;
  down(): Promise<void>;
}

interface PodPlan {
  readonly name: string;
  readonly node: number;
  readonly host: number;
  readonly bypass: boolean;
}

const plans: readonly PodPlan[] = [
  { name: "client", ...PODS.client, bypass: false },
  { name: "server", ...PODS.server, bypass: false },
  { name: "near", ...PODS.near, bypass: false },
  { name: "bypass-server", node: 2, host: 12, bypass: true },
  { name: "bypass-near", node: 2, host: 13, bypass: true },
];

/** Pods that only exist: the benchmark starts its programs inside them. */
function manifests(): string {
  const documents: unknown[] = [
    { apiVersion: "v1", kind: "Namespace", metadata: { name: "bench", labels: { "fairlead.dev/mesh": "enabled" } } },
    ...plans.flatMap((p) => [
      { apiVersion: "v1", kind: "ServiceAccount", metadata: { namespace: "bench", name: p.name } },
      {
        apiVersion: "v1",
        kind: "Pod",
        metadata: {
          namespace: "bench",
          name: p.name,
          annotations: {
            "fairlead.dev/lab-address": String(p.host),
            ...(p.bypass ? { "fairlead.dev/bypass": "enabled" } : {}),
          },
        },
        spec: {
          nodeName: `node${p.node}`,
          serviceAccountName: p.name,
          containers: [{ name: "wait", command: ["sleep", "infinity"] }],
        },
      },
    ]),
  ];
  return documents.map((d) => JSON.stringify(d)).join("\n---\n");
}

const orThrow = <T>(
  result: { readonly ok: true; readonly value: T } | { readonly ok: false; readonly error: string },
): T => {
  if (!result.ok) throw new Error(result.error);
  return result.value;
};

const COLD_PORTS = { first: 9001, last: 9032 } as const;

/** Brings the lab up, agents with one worker as the peers have, and starts the servers. @param dir scratch folder */
export async function startMesh(name: string, dir: string, say: (line: string) => void): Promise<Mesh> {
  const home = join(dir, "lab");
  const folder = join(home, "manifests");
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "bench.yaml"), manifests());
  const down = async (): Promise<void> => void (await labDown(name));
  try {
    const agentEnv = { FAIRLEAD_WORKERS: "1", FAIRLEAD_LOG_LEVEL: "info" };
    const status = orThrow(
      await labUp({ name, manifests: folder, nodes: 2, agents: true, agentEnv, controllerEnv: {} }, say),
    );
    return { ...(await variantsOf(name, status, home)), down };
  } catch (error) {
    await down();
    throw error;
  }
}

async function variantsOf(lab: string, status: LabStatus, home: string): Promise<Omit<Mesh, "down">> {
  const pod = (name: string): Place & { readonly ip: string } => {
    const found: PodStatus | undefined = status.pods.find((p) => p.name === name);
    if (found === undefined || !found.ready)
      throw new Error(`pod bench/${name} is not ready: ${found?.reason ?? "missing"} ${found?.message ?? ""}`);
    if (!found.meshed) throw new Error(`pod bench/${name} is not in the mesh: ${found.enrolled}`);
    return { cgroup: found.cgroup, netns: found.netns, ip: found.ips.find((ip) => !ip.includes(":")) ?? "" };
  };
  const cgroups = status.nodes.map((n) => join(n.cgroup, "agent"));
  const restart = async (): Promise<void> => {
    for (const node of status.nodes) orThrow(await labAsk(lab, "/v1/agent", { node: node.name, action: "kill-start" }));
    const http = `${pod("server").ip}:8080`;
    for (let tries = 0; ; tries++) {
      try {
        await newConnections(pod("client"), http, 1, 0.05);
        return;
      } catch (error) {
        if (tries > 50) throw error;
        await sleep(100);
      }
    }
  };
  let cold: number = COLD_PORTS.first;
  const variant = (
    variantName: "ours" | "bypass",
    near: Place,
    server: Place & { readonly ip: string },
    servers: Servers,
  ): Variant => ({
    name: variantName,
    far: pod("client"),
    near,
    http: `${server.ip}:8080`,
    stream: `${server.ip}:5201`,
    nearHttp: `${server.ip}:8080`,
    nearStream: `${server.ip}:5201`,
    // Tunnels are pooled per pair of workloads and port: a port not used before has none.
    coldHttp: () => {
      if (cold > COLD_PORTS.last) cold = COLD_PORTS.first;
      return `${server.ip}:${cold++}`;
    },
    cgroups,
    servers,
    router: status.routerNetns,
    restart,
    knowWorkloads: (count) => knowWorkloads(lab, status, count),
  });
  const web = async (name: string): Promise<Servers> => {
    mkdirSync(join(home, name), { recursive: true });
    return startServers(pod(name), join(home, name));
  };
  const ours = variant("ours", pod("near"), pod("server"), await web("server"));
  const bypass = variant("bypass", pod("bypass-near"), pod("bypass-server"), await web("bypass-server"));
  return { variants: [ours, bypass], version: "this checkout" };
}

/** Pods of a node that is not in the lab, written where a kubelet would report them. */
async function knowWorkloads(lab: string, status: LabStatus, count: number): Promise<() => Promise<void>> {
  const file = join(orThrow(pathsOf(lab)).liveDir, "bench-workloads.json");
  const pod = (i: number): unknown => ({
    apiVersion: "v1",
    kind: "Pod",
    metadata: { namespace: `team-${i % 100}`, name: `app-${i}`, uid: `bench-${i}`, labels: { app: `app-${i % 500}` } },
    spec: { nodeName: "node9", serviceAccountName: `app-${i % 500}`, containers: [{ name: "app" }] },
    status: {
      phase: "Running",
      podIPs: [{ ip: `10.200.${i >> 8}.${i & 255}` }],
      hostIPs: [{ ip: "10.250.9.2" }],
      conditions: [{ type: "Ready", status: "True" }],
    },
  });
  const namespaces = Array.from({ length: 100 }, (_, i) => ({
    apiVersion: "v1",
    kind: "Namespace",
    metadata: { name: `team-${i}`, labels: { "fairlead.dev/mesh": "enabled" } },
  }));
  const items = [...namespaces, ...Array.from({ length: count }, (_, i) => pod(i))];
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
      readonly resources?: { readonly workloads?: number };
    };
    return answer.resources?.workloads ?? Number.NaN;
  };
  for (let waited = 0; waited < 60_000; waited += 250) {
    const counts = await Promise.all(status.nodes.map((n) => known(n.adminSocket)));
    if (counts.every(enough)) return;
    await sleep(250);
  }
  throw new Error("the agents did not learn of the workloads within 60 s");
}

/** Last lines of the agents' logs, for the report of a failure. */
export async function agentLogs(lab: string): Promise<string> {
  const status = await labStatus(lab);
  if (!status.ok) return status.error;
  return status.value.nodes
    .map((n) => join(n.adminSocket, "../agent.log"))
    .map((path) => `${path}:\n${readFileSync(path, "utf8").split("\n").slice(-15).join("\n")}`)
    .join("\n");
}
