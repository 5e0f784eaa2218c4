// Proof: the control plane of a two-node Kubernetes goes away piece by piece under load. The API server for five minutes, etcd for a restart,
// the controller that leads by SIGKILL again and again: traffic is unharmed, statuses are written once, another leads and serves in time.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { type TestCluster, withCluster } from "../cluster/kit.ts";
import { OutageCluster } from "../kit/outage-cluster.ts";
import { waitFor } from "../kit/wait.ts";
import { check, type Proof, Unproven } from "./proof.ts";
import { auditFlags, statusWrites } from "./status-writes.ts";

const AWAY_MS = 300_000;
const KILLS = 10;
const ROUTES = 20;
/** Requests a second of each of the two clients, each over a connection of its own. */
const RATE = 50;
const NEW_LEADER_MS = 15_000;
const SERVED_AGAIN_MS = 1_000;
/** An agent that has not lost its controller by then was served by another. */
const UNHARMED_MS = 5_000;
const PATIENCE_MS = 240_000;
const controllerUser = "system:serviceaccount:fairlead-system:fairlead-controller";

type Say = (line: string) => void;
const since = (began: number): number => Math.round(performance.now() - began);
const quantile = (values: readonly number[], q: number): number =>
  [...values].sort((a, b) => a - b)[Math.min(values.length - 1, Math.floor(q * values.length))] ?? 0;

/** How long after `began` all is as before: a leader, a status, a new pod in the mesh. */
async function whole(it: OutageCluster, began: number, pod: string): Promise<Record<string, number>> {
  const leader = waitFor("a controller leads", () => it.leader(), PATIENCE_MS).then(() => since(began));
  await it.changeRoutes(ROUTES);
  const statuses = it.statusesWritten(ROUTES).then(() => since(began));
  const newPod = it.newPod(pod).then(() => since(began));
  const [leaderMs, statusesMs, newPodMs] = await Promise.all([leader, statuses, newPod]);
  return { leaderMs, statusesMs, newPodMs };
}
const lost = (it: OutageCluster): number =>
  it.agents.reduce((sum, agent) => sum + agent.log.split('"event":"controller_disconnected"').length - 1, 0);

/** The API server is killed and stays away. Half way through another agent takes over on node 1. */
async function withoutApiServer(it: OutageCluster, awayMs: number, say: Say): Promise<unknown> {
  const lostBefore = lost(it);
  await it.stopProgram("kube-apiserver", "SIGKILL");
  const began = performance.now();
  await sleep(awayMs / 2);
  const half = await it.look("while the API server was away");
  const streamsLost = lost(it) - lostBefore;
  say("an agent is replaced meanwhile");
  const replacedFrom = performance.now();
  await it.replaceAgent(1);
  const agentReplacedMs = since(replacedFrom);
  await sleep(Math.max(0, awayMs - since(began)));
  const end = await it.look("while the API server was away");
  const awayFor = since(began);
  await it.controlPlaneUp();
  const back = performance.now();
  const after = await whole(it, back, "after-api-server");
  const load = await it.look("when the API server came back");
  check(streamsLost === 0, `${streamsLost} agents lost their controller`);
  const requests = { half: half.map((l) => l.ok), end: end.map((l) => l.ok), after: load.map((l) => l.ok) };
  return { awayMs: awayFor, streamsLost, agentReplacedMs, after, requests };
}

async function etcdRestarted(it: OutageCluster): Promise<unknown> {
  const began = performance.now();
  await it.stopProgram("etcd", "SIGTERM");
  await it.controlPlaneUp();
  const readyMs = since(began);
  const after = await whole(it, began, "after-etcd");
  await it.look("when etcd was restarted");
  return { readyMs, after };
}

interface Killed {
  readonly newLeaderMs: number;
  /** Of each agent that it served. */
  readonly servedAgainMs: readonly number[];
}
/** The leader is killed in the middle of its writing. */
async function killLeader(it: OutageCluster): Promise<Killed> {
  const leader = await waitFor("a controller leads", () => it.leader(), PATIENCE_MS);
  const holder = await it.holder();
  const nodes = await it.served(leader);
  await it.changeRoutes(ROUTES);
  await it.statusesWritten(1);
  const [began, killedAtMs] = [performance.now(), Date.now()];
  await leader.stop("SIGKILL");
  const taken = waitFor("another holds the lease", async () => (await it.holder()) !== holder, PATIENCE_MS).then(() =>
    since(began),
  );
  const again = nodes.map((node) =>
    waitFor(
      `${node} is served again`,
      (): readonly number[] | undefined => {
        const { lostMs, againMs } = it.whenServed(node, killedAtMs);
        if (againMs !== undefined) return [againMs - killedAtMs];
        // One that drains has a stream, too: then it was that one's.
        return lostMs === undefined && since(began) > UNHARMED_MS ? [] : undefined;
      },
      PATIENCE_MS,
    ),
  );
  const [newLeaderMs, served] = await Promise.all([taken, Promise.all(again)]);
  const servedAgainMs = served.flat();
  await it.statusesWritten(ROUTES);
  await it.mesh.restart(leader);
  return { newLeaderMs, servedAgainMs };
}

async function leadersKilled(it: OutageCluster, count: number, say: Say): Promise<unknown> {
  const killed: Killed[] = [];
  for (let i = 0; i < count; i++) {
    const one = await killLeader(it);
    killed.push(one);
    say(`leader ${i + 1} of ${count} killed: ${JSON.stringify(one)}`);
    await it.look("when leaders were killed");
  }
  const served = killed.flatMap((k) => k.servedAgainMs);
  const leaders = killed.map((k) => k.newLeaderMs);
  return {
    kills: count,
    newLeaderMs: { median: quantile(leaders, 0.5), most: Math.max(...leaders) },
    servedAgainMs: {
      agents: served.length,
      ...{ median: quantile(served, 0.5), p99: quantile(served, 0.99), most: Math.max(0, ...served) },
    },
  };
}

async function prove(
  cluster: TestCluster,
  auditLog: string,
  scale: number,
  say: Say,
  facts: Record<string, unknown>,
): Promise<void> {
  await using it = await OutageCluster.start(cluster, ROUTES);
  await it.startLoad(RATE);
  say(`the API server is killed, and away for ${Math.round((AWAY_MS * scale) / 1000)} s`);
  facts.apiServer = await withoutApiServer(it, AWAY_MS * scale, say);
  say(JSON.stringify(facts.apiServer));
  say("etcd is restarted");
  facts.etcd = await etcdRestarted(it);
  const kills = Math.max(2, Math.round(KILLS * scale));
  say(`${JSON.stringify(facts.etcd)}; leaders are killed, ${kills} times`);
  const leaders = await leadersKilled(it, kills, say);
  facts.leaders = leaders;
  facts.load = await it.look("at the end");
  facts.statuses = statusWrites(auditLog);
  const { twice, written } = statusWrites(auditLog);
  check(written > 0 && twice.length === 0, `of ${written} statuses these were written twice: ${twice.join(", ")}`);
  const { newLeaderMs, servedAgainMs } = leaders as {
    readonly newLeaderMs: { readonly most: number };
    readonly servedAgainMs: { readonly agents: number; readonly p99: number };
  };
  check(newLeaderMs.most <= NEW_LEADER_MS, `a new leader: ${JSON.stringify(newLeaderMs)}`);
  check(servedAgainMs.agents > 0 && servedAgainMs.p99 <= SERVED_AGAIN_MS, `served: ${JSON.stringify(servedAgainMs)}`);
}

export const controlPlane: Proof = {
  name: "control-plane",
  about:
    "an API server away for 5 minutes, etcd restarted, leaders killed on a Kubernetes of two nodes under load: nothing fails, statuses are written once",
  async run({ scale, say }) {
    const facts: Record<string, unknown> = {};
    const folder = mkdtempSync(join(tmpdir(), "fairlead-audit-"));
    const { flags, log } = auditFlags(folder, controllerUser);
    try {
      await withCluster({ nodes: 2, apiServerFlags: flags }, (cluster) => prove(cluster, log, scale, say, facts));
    } catch (error) {
      throw new Unproven(error instanceof Error ? error.message : String(error), facts);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
    return facts;
  },
};
