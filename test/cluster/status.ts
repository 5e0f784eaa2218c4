// What runs of a cluster, with versions and addresses: from control groups and the API server, not from what somebody once wrote down.
import { readText } from "../lab/files.ts";
import { controlPlanePrograms } from "./kubernetes/control-plane.ts";
import { adminApi, apiServerUrl } from "./kubernetes/credentials.ts";
import { initProgram, nodePrograms } from "./kubernetes/node.ts";
import { readyNodes } from "./kubernetes/objects.ts";
import { type Hierarchies, hierarchies } from "./machine/groups.ts";
import { ageSeconds, mainProcess, type Program } from "./machine/programs.ts";
import { nodeAddress, nodePods, ranges } from "./machine/ranges.ts";
import { type ClusterPaths, nodePaths } from "./paths.ts";
import { type ClusterState, readState } from "./state.ts";
import { leftOf } from "./teardown.ts";

export interface ProgramStatus {
  readonly name: string;
  /** As the machine counts; null if it does not run. */
  readonly pid: number | null;
  readonly ageSeconds: number | null;
  readonly memoryMib: number | null;
  readonly log: string;
}

export interface NodeStatus {
  readonly name: string;
  readonly address: string;
  readonly pods: string;
  readonly netns: string;
  /** Control group below each hierarchy's mount point. */
  readonly group: string;
  readonly ready: boolean;
}

export interface ClusterStatus {
  readonly name: string;
  /** "up": everything that belongs to it runs and answers; "broken": not all of it; "down": there is nothing. */
  readonly state: "up" | "broken" | "down";
  readonly server: string;
  readonly kubeconfig: string;
  readonly machineAddress: string;
  readonly versions: Readonly<Record<string, string>>;
  readonly nodes: readonly NodeStatus[];
  readonly programs: readonly ProgramStatus[];
  /** Why it is broken, one sentence each. */
  readonly problems: readonly string[];
}

/** All programs of a cluster. */
export function clusterPrograms(h: Hierarchies, cluster: ClusterPaths, state: ClusterState): readonly Program[] {
  const numbers = Array.from({ length: state.nodes }, (_, i) => i + 1);
  return [
    ...controlPlanePrograms(cluster, state),
    ...numbers.flatMap((n) => [
      initProgram({ cluster, state, programsDir: "" }, n),
      ...nodePrograms(h, cluster, state, n),
    ]),
  ];
}

function programStatus(h: Hierarchies, program: Program): ProgramStatus {
  const pid = mainProcess(h, program);
  const kib = /^VmRSS:\s+(\d+)/m.exec(pid === undefined ? "" : readText(`/proc/${pid}/status`))?.[1];
  return {
    name: program.name,
    pid: pid ?? null,
    ageSeconds: (pid === undefined ? undefined : ageSeconds(pid)) ?? null,
    memoryMib: kib === undefined ? null : Math.round(Number(kib) / 1024),
    log: program.log,
  };
}

export async function clusterStatus(cluster: ClusterPaths): Promise<ClusterStatus> {
  const h = hierarchies();
  const state = readState(cluster);
  const common = { name: cluster.name, kubeconfig: cluster.kubeconfig };
  if (state === undefined) {
    const left = leftOf(h, cluster);
    const problems = left ? ["leftovers of a cluster that was not taken down whole: take it down"] : [];
    const nothing = { server: "", machineAddress: "", versions: {}, nodes: [], programs: [], problems };
    return { ...common, ...nothing, state: left ? "broken" : "down" };
  }
  const programs = clusterPrograms(h, cluster, state).map((p) => programStatus(h, p));
  const problems = programs.filter((p) => p.pid === null).map((p) => `${p.name} does not run; its log: ${p.log}`);
  let ready: readonly string[] = [];
  try {
    ready = await readyNodesOf(cluster, state);
  } catch (error) {
    problems.push(`the API server does not answer: ${(error as Error).message}`);
  }
  const nodes = Array.from({ length: state.nodes }, (_, i): NodeStatus => {
    const { name, netns, group } = nodePaths(cluster, i + 1);
    const address = nodeAddress(state.block, i + 1);
    return { name, address, pods: nodePods(state.block, i + 1), netns, group, ready: ready.includes(name) };
  });
  for (const node of nodes) if (!node.ready) problems.push(`node ${node.name} is not Ready`);
  return {
    ...common,
    state: problems.length === 0 ? "up" : "broken",
    server: apiServerUrl(state.block),
    machineAddress: ranges(state.block).machine,
    versions: Object.fromEntries(Object.entries(state.built).map(([name, b]) => [name, b.version])),
    nodes,
    programs,
    problems,
  };
}

async function readyNodesOf(cluster: ClusterPaths, state: ClusterState): Promise<string[]> {
  const api = adminApi(cluster, state.block);
  try {
    await api.ready();
    return state.nodes === 0 ? [] : await readyNodes(api);
  } finally {
    api.close();
  }
}
