// The pods of the benchmark and the labs they live in: one with agents for ours, one without for "no mesh" and the peers. Links, routes and node rules are the lab's for both.
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { linkNode, nodePodGateway } from "../lab/addresses.ts";
import { labDown, labNames, labUp } from "../lab/client.ts";
import { defaultOptions, type LabStatus } from "../lab/lab-options.ts";
import { newCgroup, type Place } from "./place.ts";

export interface PodPlan {
  readonly node: 1 | 2;
  /** Host number, the same in both labs, so that addresses are too. */
  readonly host: number;
  readonly bypass?: true;
}

const pods = {
  client: { node: 1, host: 10 },
  server: { node: 2, host: 10 },
  near: { node: 2, host: 11 },
  "bypass-server": { node: 2, host: 12, bypass: true },
  "bypass-near": { node: 2, host: 13, bypass: true },
} as const satisfies Readonly<Record<string, PodPlan>>;
/** Namespaces `team-N` for workloads that only have to be known. */
export const TEAMS = 100;
export type PodName = keyof typeof pods;

/** A pod that only exists: the benchmark starts its programs inside it. */
export function podDocuments(name: string, plan: PodPlan, app = name): readonly unknown[] {
  const annotations = {
    "fairlead.dev/lab-address": String(plan.host),
    ...(plan.bypass ? { "fairlead.dev/bypass": "enabled" } : {}),
  };
  const containers = [{ name: "wait", command: ["sleep", "infinity"] }];
  return [
    { apiVersion: "v1", kind: "ServiceAccount", metadata: { namespace: "bench", name } },
    {
      apiVersion: "v1",
      kind: "Pod",
      metadata: { namespace: "bench", name, labels: { app }, annotations },
      spec: { nodeName: `node${plan.node}`, serviceAccountName: name, containers },
    },
  ];
}

export const meshedNamespace = (name: string): unknown => ({
  apiVersion: "v1",
  kind: "Namespace",
  metadata: { name, labels: { "fairlead.dev/mesh": "enabled" } },
});

function layerFourDocuments(): readonly unknown[] {
  return [
    meshedNamespace("bench"),
    ...Array.from({ length: TEAMS }, (_, team) => meshedNamespace(`team-${team}`)),
    ...Object.entries<PodPlan>(pods).flatMap(([name, plan]) => podDocuments(name, plan)),
  ];
}

export interface Topology {
  readonly name: string;
  readonly status: LabStatus;
  /** Scratch folder for configurations, certificates and logs. */
  readonly dir: string;
  /** Namespace in which all traffic between the nodes passes. */
  readonly router: string;
  pod(name: string): Place & { readonly ip: string };
  /** A place on the node itself, in a cgroup of its own. */
  onNode(node: 1 | 2, group: string): Place & { readonly ip: string; readonly podGateway: string };
  down(): Promise<void>;
}

/** "watched": agents that log and trace requests. */
export type LabKind = "bare" | "mesh" | "watched";
const labOf = (kind: LabKind): string => `bench${process.pid}${kind}`;

/** Removes labs of benchmarks that were killed before they could. */
export async function removeLeftovers(): Promise<void> {
  for (const name of labNames()) {
    const owner = /^bench(\d+)(bare|mesh|watched)$/.exec(name)?.[1];
    if (owner === undefined || Number(owner) === process.pid) continue;
    try {
      process.kill(Number(owner), 0);
    } catch {
      await labDown(name);
    }
  }
}

/**
 * @param agentEnv settings of the agents; without it the lab has neither agents nor a controller
 * @param documents manifests of namespaces, pods and what else there is; those of layer 4 if left out
 * @param kind sets labs of one run apart
 */
export async function buildTopology(
  agentEnv: Readonly<Record<string, string>> | undefined,
  say: (line: string) => void,
  documents: readonly unknown[] = layerFourDocuments(),
  kind: LabKind = agentEnv === undefined ? "bare" : "mesh",
): Promise<Topology> {
  const name = labOf(kind);
  const dir = mkdtempSync(join(tmpdir(), `fairlead-${name}-`));
  mkdirSync(join(dir, "manifests"));
  mkdirSync(join(dir, "log"));
  writeFileSync(join(dir, "manifests/bench.yaml"), documents.map((d) => JSON.stringify(d)).join("\n---\n"));
  const options = {
    ...defaultOptions,
    name,
    manifests: join(dir, "manifests"),
    nodes: 2,
    agents: agentEnv !== undefined,
    agentEnv: agentEnv ?? {},
    agentPrefix: [],
  };
  const up = await labUp(options, say);
  const down = async (): Promise<void> => {
    await labDown(name);
    rmSync(dir, { recursive: true, force: true });
  };
  if (!up.ok) {
    await down();
    throw new Error(up.error);
  }
  const status = up.value;
  const nodeOf = (node: 1 | 2) => {
    const found = status.nodes.find((n) => n.name === `node${node}`);
    if (found === undefined) throw new Error(`lab ${name} has no node${node}`);
    return found;
  };
  return {
    name,
    status,
    dir,
    router: status.routerNetns,
    pod(pod) {
      const found = status.pods.find((p) => p.name === pod);
      if (found?.ready !== true)
        throw new Error(`pod bench/${pod} is not ready: ${found?.reason ?? "missing"} ${found?.message ?? ""}`);
      if (agentEnv !== undefined && !found.meshed)
        throw new Error(`pod bench/${pod} is not in the mesh: ${found.enrolled}`);
      return { cgroup: found.cgroup, netns: found.netns, ip: found.ips.find((ip) => !ip.includes(":")) ?? "" };
    },
    onNode(node, group) {
      const cgroup = join(nodeOf(node).cgroup, group);
      newCgroup(cgroup);
      return { cgroup, netns: nodeOf(node).netns, ip: linkNode(node).v4, podGateway: nodePodGateway(node).v4 };
    },
    down,
  };
}
