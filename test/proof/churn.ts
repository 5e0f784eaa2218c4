// Proof: pods that start in churn on both nodes of a Kubernetes, each connecting to the other node in its first instruction (init containers
// too): all meshed, none stuck, no byte in the clear; also while agents are replaced, while containerd restarts and around a power cut.
import { setTimeout as sleep } from "node:timers/promises";
import { type TestCluster, withCluster } from "../cluster/kit.ts";
import { initProgram, nodePrograms } from "../cluster/kubernetes/node.ts";
import { hierarchies } from "../cluster/machine/groups.ts";
import { stopProgram } from "../cluster/machine/programs.ts";
import { cacheFolder } from "../cluster/paths.ts";
import { up } from "../cluster/up.ts";
import { CniCluster } from "../kit/cni-cluster.ts";
import { waitFor } from "../kit/wait.ts";
import { check, type Proof, Unproven } from "./proof.ts";

const PODS = 500;
/** On both nodes together. */
const AT_ONCE = 8;
const RESTARTS = 5;
/** What the mesh may add to a pod's start, p99. */
const ADDED_MS = 300;
const two = { nodes: 2, apiOnly: false, apiServerFlags: [] } as const;
const cache = (): string => cacheFolder(process.env);

interface Churned {
  readonly pods: number;
  readonly seconds: number;
  /** Pods that the runtime took down with itself, and that were started again. */
  readonly again?: readonly string[];
}

/**
 * Starts `count` pods, a few at a time, on the given nodes in turn; each must end well, and is removed. `mayDie`: the runtime is killed
 * meanwhile; a pod that it did not start, or that ended with it, is told apart from one whose connection failed and is started once more.
 */
async function churn(
  it: CniCluster,
  part: string,
  count: number,
  nodes: readonly number[],
  mayDie = false,
): Promise<Churned> {
  const began = performance.now();
  const names = Array.from({ length: count }, (_, i) => `${part}-${i}`);
  const left = names.map((name, i) => ({ name, node: nodes[i % nodes.length] ?? 1 }));
  const failed: string[] = [];
  const again: string[] = [];
  const worker = async (): Promise<void> => {
    for (let next = left.shift(); next !== undefined; next = left.shift()) {
      await it.startFirst(next.name, next.node);
      const phase = await it.ended(next.name);
      const killed = phase === "Succeeded" || !mayDie ? undefined : await it.endedByRuntime(next.name);
      if (killed !== undefined && !next.name.endsWith("-again")) {
        again.push(`${next.name}: ${killed}`);
        await it.remove(next.name);
        left.push({ name: `${next.name}-again`, node: next.node });
      } else if (phase !== "Succeeded")
        failed.push(`${next.name} on node ${next.node}: ${phase}: ${await it.why(next.name)}`);
      else await it.remove(next.name);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
  check(failed.length === 0, `pods whose first connection failed: ${failed.join(", ")}`);
  for (const name of mayDie ? names.flatMap((name) => [name, `${name}-again`]) : names) await it.gone(name);
  check(again.length <= AT_ONCE, `more pods than were being started ended with the runtime: ${again.join(", ")}`);
  const seconds = Math.round((performance.now() - began) / 1000);
  return { pods: count, seconds, ...(mayDie && { again }) };
}

/** Agents of both nodes are replaced in turn while pods start. */
async function whileReplaced(it: CniCluster, count: number, say: (line: string) => void): Promise<unknown> {
  let isOver = false;
  const pods = churn(it, "replaced", count, [1, 2]).finally(() => {
    isOver = true;
  });
  let restarts = 0;
  for (; restarts < RESTARTS; restarts++) {
    say(`agent restart ${restarts + 1} of ${RESTARTS}`);
    await it.newAgent(1 + (restarts % 2));
    if (!isOver) await sleep(1_000);
  }
  return { ...(await pods), restarts };
}

/** containerd is killed and comes back while pods start. */
async function whileRuntimeRestarts(it: CniCluster, count: number): Promise<unknown> {
  const h = hierarchies();
  const { cluster, state } = it.up;
  const pods = churn(it, "runtime", count, [1, 2], true);
  await sleep(2_000);
  const [containerd] = nodePrograms(h, cluster, state, 1);
  check(containerd !== undefined && (await stopProgram(h, containerd, "SIGKILL", 30_000)), "containerd has ended");
  await up(cluster, two, cache(), () => undefined);
  return pods;
}

/** The node loses its power; its pods, old and new, wait for its agent. */
async function afterPowerCut(it: CniCluster, count: number): Promise<unknown> {
  const h = hierarchies();
  const { cluster, state } = it.up;
  const init = initProgram({ cluster, state, programsDir: cache() }, 2);
  check(await stopProgram(h, init, "SIGKILL", 30_000), "node 2 has ended");
  await up(cluster, two, cache(), () => undefined);
  await it.startFirst("before-agent", 2);
  const why = await waitFor(
    "a pod of node 2 waits for the agent",
    async () => (await it.events("before-agent")).find((text) => text.includes("FAIRLEAD_AGENT_AWAY")),
    240_000,
  );
  await it.newAgent(2);
  for (const n of [1, 2]) await it.serverReady("shop", n);
  check((await it.ended("before-agent")) === "Succeeded", "the pod that waited has ended well");
  await it.remove("before-agent");
  return { ...(await churn(it, "boot", count, [1, 2])), why };
}

/** How long ADD took by the agents' logs, ms, of the pods of one part. */
function addTimes(part: string, logs: readonly string[]): readonly number[] {
  const lines = logs.flatMap((log) => log.split("\n")).filter((line) => line.includes('"event":"cni"'));
  return lines
    .map((line) => JSON.parse(line) as { command: string; outcome: string; pod: string; ms: number })
    .filter((line) => line.command === "add" && line.outcome === "ok" && line.pod.startsWith(`shop/${part}-`))
    .map((line) => line.ms)
    .sort((a, b) => a - b);
}
const quantile = (sorted: readonly number[], q: number): number =>
  sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] ?? 0;

async function prove(
  cluster: TestCluster,
  scale: number,
  say: (line: string) => void,
  facts: Record<string, unknown>,
): Promise<void> {
  await using it = await CniCluster.start(cluster);
  const part = (share: number): number => Math.max(4, Math.round(PODS * scale * share));
  const base = await Promise.all([it.namespaces(1), it.namespaces(2)]);
  const tunnels = async (): Promise<number> => (await it.tunnelled(1)) + (await it.tunnelled(2));
  const wire = await it.watchWire();

  say(`${part(0.5)} pods`);
  const before = await tunnels();
  facts.quiet = await churn(it, "quiet", part(0.5), [1, 2]);
  const added = addTimes("quiet", [it.agent(1).log, it.agent(2).log]);
  const meshed = await waitFor(
    "all connections have been counted",
    async () => {
      const now = (await tunnels()) - before;
      return now >= 2 * part(0.5) && now;
    },
    60_000,
  ).catch(async () => (await tunnels()) - before);
  facts.tunnelled = { connections: meshed, wanted: 2 * part(0.5) };
  check(meshed >= 2 * part(0.5), `of ${2 * part(0.5)} first connections ${meshed} came through tunnels`);
  facts.addedMs = {
    starts: added.length,
    ...{ median: quantile(added, 0.5), p99: quantile(added, 0.99), most: added.at(-1) ?? 0 },
  };

  facts.replaced = await whileReplaced(it, part(0.2), say);
  say("a containerd restart");
  facts.runtime = await whileRuntimeRestarts(it, part(0.15));
  say("a power cut");
  facts.powerCut = await afterPowerCut(it, part(0.15));

  facts.wire = await wire.stop();
  const { plain, control } = facts.wire as { readonly plain: number; readonly control: number };
  check(plain === 0 && control > 0, `packets in the clear: ${JSON.stringify(facts.wire)}`);
  facts.namespaces = { before: base, after: await Promise.all([it.namespaces(1), it.namespaces(2)]) };
  const after = (facts.namespaces as { readonly after: readonly number[] }).after;
  check(
    after.every((count, i) => count <= (base[i] ?? 0)),
    `network namespaces are left: ${JSON.stringify(facts.namespaces)}`,
  );
  check(quantile(added, 0.99) < ADDED_MS, `p99 of what the mesh adds to a start: ${JSON.stringify(facts.addedMs)}`);
}

export const churnProof: Proof = {
  name: "churn",
  about:
    "500 pods started in churn on a Kubernetes of two nodes, each connecting in its first instruction, also while agents, containerd and a node restart; nothing in the clear",
  async run({ scale, say }) {
    const facts: Record<string, unknown> = {};
    try {
      await withCluster({ nodes: 2 }, (cluster) => prove(cluster, scale, say, facts));
    } catch (error) {
      throw new Unproven(error instanceof Error ? error.message : String(error), facts);
    }
    return facts;
  },
};
