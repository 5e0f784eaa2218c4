// Proofs about requests: none is lost while agents are replaced or a service rolls, and no namespace's flood slows another's by much.
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { httpService, type RequestReport, replicas, rollOut, startRequests } from "../kit/http-shop.ts";
import { type TestLab, withLab } from "../kit/lab.ts";
import { clientPod, manifest, namespace, peerAuthentication } from "../kit/manifests.ts";
import { waitFor } from "../kit/wait.ts";
import { PROJECT_DIR } from "../lab/paths.ts";
import { check, type Proof } from "./proof.ts";

const agentEnv = { FAIRLEAD_DATA_THREADS: "1" };
/** Requests a second, and replacements of agents under them. */
const RATE = 1000;
const REPLACEMENTS = 10;
const REPLICAS = 10;
const ROLLOUTS = 20;
const ROLLOUT_RATE = 500;
/** What the requests of one namespace may take longer because of another's flood on its thread. */
const SLOWER = 1.1;

const retries = {
  apiVersion: "mesh.fairlead.dev/v1alpha1",
  kind: "ResiliencePolicy",
  metadata: { name: "web", namespace: "shop" },
  spec: { targetRefs: [{ kind: "Service", name: "web" }], retry: { maxAttempts: 2 } },
};
const shop = manifest(
  namespace("shop"),
  peerAuthentication("shop/strict", "STRICT"),
  clientPod("shop/near", { node: "node1" }),
  clientPod("shop/far", { node: "node2" }),
  httpService("shop/web"),
);

async function allReady(lab: TestLab, generation: number, count: number): Promise<void> {
  for (let i = 0; i < count; i++) await lab.ready(`shop/web-${generation}-${i}`, 120_000);
}
const none = (what: string, report: RequestReport): void =>
  check(report.failed === 0 && report.ok > 0, `${what}: ${JSON.stringify(report)}`);

async function replaced(times: number, say: (line: string) => void): Promise<unknown> {
  const files = { "shop.yaml": shop, "web.yaml": manifest(...replicas("shop", 0, 0, 4)) };
  let facts: unknown;
  await withLab(files, { nodes: 2, agentEnv }, async (lab) => {
    await allReady(lab, 0, 4);
    const loads = await Promise.all(
      ["shop/near", "shop/far"].map((from) =>
        startRequests(lab, from, { url: "http://web", rate: RATE / 2, connections: 32 }),
      ),
    );
    for (let i = 0; i < times; i++) {
      await sleep(2000);
      const node = `node${1 + (i % 2)}`;
      say(`replacement ${i + 1} of ${times}: ${node}`);
      await lab.agent(node, "replace");
    }
    await sleep(2000);
    const reports = await Promise.all(loads.map((load) => load.stop()));
    for (const report of reports) none("requests while agents are replaced", report);
    const isDrained = async (): Promise<boolean> =>
      (await lab.status()).nodes.every((node) => (node.agent?.draining ?? []).length === 0);
    await waitFor("the old agents have ended", isDrained, 200_000);
    facts = { replacements: times, reports };
  });
  return facts;
}

async function rolled(times: number, withRetries: boolean, say: (line: string) => void): Promise<unknown> {
  const files = {
    "shop.yaml": shop,
    "web.yaml": manifest(...replicas("shop", 0, 0, REPLICAS)),
    ...(withRetries ? { "retries.yaml": manifest(retries) } : {}),
  };
  let facts: unknown;
  await withLab(files, { nodes: 2, agentEnv }, async (lab) => {
    await allReady(lab, 0, REPLICAS);
    const load = await startRequests(lab, "shop/near", {
      url: "http://web",
      rate: ROLLOUT_RATE,
      connections: 32,
      methods: "GET",
    });
    for (let i = 0; i < times; i++) {
      say(`rollout ${i + 1} of ${times}, retries ${withRetries ? "on" : "off"}`);
      await rollOut(lab, "shop", i, REPLICAS, 3);
    }
    const report = await load.stop();
    none(`requests during rollouts, retries ${withRetries ? "on" : "off"}`, report);
    facts = { rollouts: times, report };
  });
  return facts;
}

export const requests: Proof = {
  name: "requests",
  about:
    "1,000 requests a second while agents are replaced 10 times; 20 rollouts of 10 pods without preStop at 500/s, retries off and on; none fails",
  async run({ scale, say }) {
    const rollouts = Math.max(1, Math.round(ROLLOUTS * scale));
    return {
      replaced: await replaced(Math.max(2, Math.round(REPLACEMENTS * scale)), say),
      "rolled, retries off": await rolled(rollouts, false, say),
      "rolled, retries on": await rolled(rollouts, true, say),
    };
  },
};

const floods = [
  ["hammer", 200],
  ["loris", 1000],
  ["heads", 500],
  ["chunks", 100],
] as const;

export const isolation: Proof = {
  name: "isolation",
  about:
    "one namespace floods a data thread in four ways; what another's requests take, against the same flood of another node's agent",
  async run({ scale, say }) {
    const ms = Math.max(4_000, 20_000 * scale);
    const facts: Record<string, unknown> = {};
    const calm = ["calm", "node1"] as const;
    const pods = (of: string, node: string): unknown[] =>
      replicas(of, 0, 0, 1, 1).map((pod) => ({
        ...(pod as object),
        spec: { ...(pod as { spec: object }).spec, nodeName: node },
      }));
    const files = {
      "all.yaml": manifest(
        ...["calm", "flood", "away"].map((name) => namespace(name)),
        clientPod("calm/client", { node: "node1" }),
        clientPod("flood/client", { node: "node1" }),
        clientPod("away/client", { node: "node2" }),
        ...["calm", "flood", "away"].map((name) => httpService(`${name}/web`)),
        ...pods(...calm),
        ...pods("flood", "node1"),
        ...pods("away", "node2"),
      ),
    };
    await withLab(files, { nodes: 2, agentEnv }, async (lab) => {
      for (const name of ["calm", "flood", "away"]) await lab.ready(`${name}/web-0-0`);
      const measured = async (by: string, kind: string, count: number): Promise<RequestReport & { flood: unknown }> => {
        const command = [process.execPath, join(PROJECT_DIR, "test/kit/http-flood.ts"), "web", "80", kind, `${count}`];
        const flood = await lab.start(`${by}/client`, command);
        await flood.next();
        await sleep(2_000);
        const load = await startRequests(lab, "calm/client", {
          url: "http://web",
          rate: 100,
          connections: 8,
          answers: "short",
        });
        await sleep(ms);
        const report = await load.stop();
        return { ...report, flood: await flood.ask("stop", 60_000) };
      };
      for (const [kind, count] of floods) {
        say(`${kind}, ${count} connections`);
        const away = await measured("away", kind, count);
        const here = await measured("flood", kind, count);
        facts[kind] = { away, here, p50: here.p50Ms / away.p50Ms, p99: here.p99Ms / away.p99Ms };
        say(JSON.stringify(facts[kind]));
      }
    });
    for (const [kind, fact] of Object.entries(facts)) {
      const { here, away } = fact as Record<"here" | "away", RequestReport>;
      none(`requests beside ${kind}`, here);
      check(here.p50Ms <= away.p50Ms * SLOWER, `${kind}: ${JSON.stringify(fact)}`);
    }
    return facts;
  },
};
