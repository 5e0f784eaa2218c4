// Proof: agents of an earlier version and of this one in one mesh, in every pair of the two, and upgraded node by node, under load of every kind that fails nowhere.
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { type TestLab, withLab } from "../kit/lab.ts";
import { clientPod, manifest, namespace, peerAuthentication, serverPod, service } from "../kit/manifests.ts";
import { type MixedLoad, mixedPods, mixedService, startMixed } from "../kit/mixed-shop.ts";
import { holdIdle, startLoad } from "./load.ts";
import { type OldVersion, oldVersion } from "./old-version.ts";
import { plaintextBetweenNodes } from "./plaintext.ts";
import { check, type Proof } from "./proof.ts";

/** Far enough back that the two differ in what they say to each other. */
const defaultOld = "HEAD~100";
/** Of each kind from each node, a second; and for how long each pair is looked at. */
const rate = 15;
const tcpRate = 40;
const idleCount = 50;
const lookMs = 20_000;

const kinds = ["http1", "http2", "grpc"] as const;
const nodes = ["node1", "node2"] as const;
type Version = "new" | "old";
type Node = (typeof nodes)[number];
/** How the nodes begin, and whose agent is then replaced by a new one under load. */
const runs: readonly { readonly begin: Readonly<Record<Node, Version>>; readonly upgrades: readonly Node[] }[] = [
  { begin: { node1: "old", node2: "old" }, upgrades: ["node2", "node1"] },
  { begin: { node1: "new", node2: "old" }, upgrades: ["node2"] },
];

const shop = manifest(
  namespace("shop"),
  peerAuthentication("shop/strict", "STRICT"),
  clientPod("shop/one", { node: "node1" }),
  clientPod("shop/two", { node: "node2" }),
  mixedService("shop/mixed"),
  ...mixedPods("shop", 0, 0, 4),
  ...nodes.flatMap((node) => [
    serverPod(`shop/tcp-${node}`, { node }),
    service(`shop/tcp-${node}`, `tcp-${node}`, { 7000: 7000, 7001: 7001, 7002: 7002 }),
  ]),
);
/** Each asks of pods on both nodes, but for TCP, which goes to the other one. */
const clients = [
  { from: "shop/one", tcp: "tcp-node2" },
  { from: "shop/two", tcp: "tcp-node1" },
] as const;

/** Which version the agent of a node is, by the file that its process runs. */
async function versionOf(lab: TestLab, node: string, old: OldVersion): Promise<Version> {
  const { agent } = (await lab.status()).nodes.find(({ name }) => name === node) ?? {};
  const words = readFileSync(`/proc/${agent?.pid}/cmdline`, "utf8").split("\0");
  return words.some((word) => word.startsWith(`${old.dir}/`)) ? "old" : "new";
}

interface Requests {
  readonly name: string;
  readonly load: MixedLoad;
}

/** What came of the requests since the last look. @throws Error when one failed */
async function look(what: string, loads: readonly Requests[]): Promise<Record<string, unknown>> {
  const facts: Record<string, unknown> = {};
  for (const { name, load } of loads) {
    const { sent, ok, failed, reasons, servers, p50Ms, p99Ms } = await load.report();
    check(failed === 0 && ok > 0, `${what}, ${name}: ${JSON.stringify({ ok, failed, reasons })}`);
    // Two are on each node.
    check(servers > 2, `${what}, ${name}: answers of ${servers} of 4 servers, perhaps of one node alone`);
    facts[name] = { sent, ok, failed, p50Ms, p99Ms };
  }
  return facts;
}

async function upgraded(
  lab: TestLab,
  old: OldVersion,
  { begin, upgrades }: (typeof runs)[number],
  forMs: number,
  say: (line: string) => void,
): Promise<unknown> {
  const now: Record<Node, Version> = { ...begin };
  for (const node of nodes) await lab.agentOf(node, "kill-start", now[node] === "old" ? old.dir : undefined);
  const { loads, tcp, idle } = await started(lab);
  const facts: Record<string, unknown> = {};
  const seen = async (): Promise<void> => {
    const pair = `node1 ${now.node1}, node2 ${now.node2}`;
    for (const node of nodes) {
      const is = await versionOf(lab, node, old);
      check(is === now[node], `${pair}: the agent of ${node} is the ${is} one`);
    }
    await sleep(forMs);
    facts[pair] = await look(pair, loads);
    for (const held of idle) await held.prove(pair);
    say(`${pair}: no failure`);
  };
  await seen();
  for (const node of upgrades) {
    say(`the agent of ${node} is replaced by a new one`);
    await lab.agentOf(node, "replace");
    now[node] = "new";
    // What fails during the replacement counts for the pair that comes of it.
    await seen();
  }
  for (const { load } of loads) await load.stop();
  facts.tcp = await Promise.all(tcp.map((load, i) => load.stop(`TCP from ${clients[i]?.from}`)));
  for (const held of idle) await held.end();
  return facts;
}

async function started(lab: TestLab) {
  const loads: Requests[] = [];
  for (const { from } of clients)
    for (const kind of kinds) {
      const load = await startMixed(lab, from, { host: "mixed", kinds: kind });
      await load.rate(rate);
      loads.push({ name: `${kind} from ${from}`, load });
    }
  const each = <T>(start: (client: string, host: string) => Promise<T>): Promise<T[]> =>
    Promise.all(clients.map(({ from, tcp }) => start(from, tcp)));
  const tcp = await each((client, host) => startLoad(lab, { client, host, rate: tcpRate }));
  const idle = await each((client, host) => holdIdle(lab, { client, host, count: idleCount }));
  return { loads, tcp, idle };
}

export const versions: Proof = {
  name: "versions",
  about: `agents of an earlier version (--old COMMIT, default ${defaultOld}) and of this one: all four pairs, and upgrades from one to the other, under HTTP/1.1, HTTP/2, gRPC and TCP; none fails, no plaintext between nodes`,
  async run({ scale, say, old: name = defaultOld }) {
    const old = await oldVersion(name, say);
    say(`the old one is ${old.about}`);
    const facts: Record<string, unknown> = { old: old.about };
    await withLab({ "shop.yaml": shop }, { nodes: 2, agentEnv: { FAIRLEAD_DATA_THREADS: "1" } }, async (lab) => {
      for (let i = 0; i < 4; i++) await lab.ready(`shop/mixed-0-${i}`);
      for (const node of nodes) await lab.ready(`shop/tcp-${node}`);
      const watch = await plaintextBetweenNodes(lab);
      const forMs = Math.max(3_000, lookMs * scale);
      try {
        for (const [i, run] of runs.entries()) facts[`run ${i + 1}`] = await upgraded(lab, old, run, forMs, say);
      } catch (error) {
        // What the wire shows is looked at all the same, but does not hide this.
        await watch.stop().catch(() => {});
        throw error;
      }
      facts.wire = await watch.stop();
      const wire = facts.wire as { readonly plaintext: number };
      check(wire.plaintext === 0, `plaintext packets between nodes: ${JSON.stringify(wire)}`);
    });
    return facts;
  },
};
