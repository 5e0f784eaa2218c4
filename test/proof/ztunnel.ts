// Proof: a real ztunnel, unmodified, takes its workloads, policies and certificates from our controller, and speaks with our agent, both ways.
import { rmSync } from "node:fs";
import { join } from "node:path";
import { type TestLab, withLab } from "../kit/lab.ts";
import {
  authorization,
  clientPod,
  manifest,
  namespace,
  peerAuthentication,
  serverPod,
  service,
} from "../kit/manifests.ts";
import { waitFor } from "../kit/wait.ts";
import { Ztunnel, ztunnelBinary, ztunnelLack } from "../kit/ztunnel.ts";
import { Capture, flows, type Packet } from "../lab/capture.ts";
import { check, type Proof } from "./proof.ts";
import { changes, shortLife } from "./ztunnel-changes.ts";

/** What every connection of the traffic program begins with. */
const head = "FLT1";
const hbonePort = 15_008;
const speaks = { annotations: { "fairlead.dev/protocol": "hbone" } };
const id = (where: string, account: string): string => `spiffe://cluster.local/ns/${where}/sa/${account}`;
const ports = { 7000: 7000, 7001: 7001, 7002: 7002 };
const principal = (where: string, account: string): unknown => ({
  source: { principals: [`cluster.local/ns/${where}/sa/${account}`] },
});

/** "shop" is our agent's on node1; "amb" ztunnel's on node2; "open" nobody's. */
const objects = manifest(
  namespace("shop"),
  namespace("amb", false),
  namespace("open", false),
  serverPod("shop/web", { node: "node1" }),
  clientPod("shop/near", { node: "node1" }),
  clientPod("shop/banned", { node: "node1" }),
  serverPod("amb/server", { node: "node2", ...speaks }),
  clientPod("amb/caller", { node: "node2", ...speaks }),
  clientPod("amb/banned", { node: "node2", ...speaks }),
  clientPod("amb/stranger", { node: "node2", ...speaks }),
  clientPod("open/client", { node: "node1" }),
  serverPod("open/server", { node: "node2" }),
  service("shop/web", "web", ports),
  service("amb/server", "server", ports),
  peerAuthentication("shop/strict", "STRICT"),
  peerAuthentication("amb/strict", "STRICT"),
  authorization("shop/known", {
    selector: { matchLabels: { app: "web" } },
    action: "ALLOW",
    rules: [{ from: ["caller", "banned"].map((account) => principal("amb", account)) }],
  }),
  authorization("shop/no-banned", { action: "DENY", rules: [{ from: [principal("amb", "banned")] }] }),
  authorization("amb/no-banned", { action: "DENY", rules: [{ from: [principal("shop", "banned")] }] }),
);
const onZtunnel = ["amb/server", "amb/caller", "amb/banned", "amb/stranger"];

type Row = Readonly<Record<string, unknown>>;

/** The program's own count of what went well, or why nothing did. */
async function talk(lab: TestLab, from: string, host: string, mode: "short" | "long", count: number): Promise<Row> {
  const size = mode === "short" ? "4096" : "3000000";
  return lab
    .traffic(from, [mode, "--host", host, "--count", String(count), "--max", size, "--timeout", "30000"])
    .catch((e: unknown) => ({ ok: 0, failed: count, error: String(e) }));
}

async function whole(lab: TestLab, from: string, host: string, mode: "short" | "long", count: number): Promise<Row> {
  const said = await talk(lab, from, host, mode, count);
  check(said.ok === count && said.failed === 0, `${from} -> ${host}, ${mode}: ${JSON.stringify(said)}`);
  check((said.server as { broken?: number }).broken === 0, `${from} -> ${host}, ${mode}: ${JSON.stringify(said)}`);
  return said;
}

async function refused(lab: TestLab, from: string, host: string): Promise<void> {
  const said = await talk(lab, from, host, "short", 3);
  check(said.ok === 0, `${from} -> ${host} was to be refused: ${JSON.stringify(said)}`);
}

const recordOf = (lab: TestLab, what: string, matches: (row: Row) => boolean): Promise<Row> =>
  waitFor(`a record: ${what}`, async () => (await lab.records("node1")).find(matches));

const same = (seen: unknown, wanted: unknown, what: string): void =>
  check(
    JSON.stringify(seen) === JSON.stringify(wanted),
    `${what}: ${JSON.stringify(seen)}, not ${JSON.stringify(wanted)}`,
  );

/** Pods of ztunnel's node ask one of ours: by every address, by service, and as policy says. */
async function toOurs(lab: TestLab, count: number): Promise<Record<string, unknown>> {
  const { ips } = await lab.pod("shop/web");
  const facts: Record<string, unknown> = {};
  for (const host of [...ips, "web.shop"]) {
    facts[host] = [
      await whole(lab, "amb/caller", host, "short", count),
      await whole(lab, "amb/caller", host, "long", Math.ceil(count / 20)),
    ];
  }
  const taken = await recordOf(
    lab,
    "taken of ztunnel's pod",
    (r) => r["src.workload"] === "amb/caller" && r.direction === "inbound",
  );
  same(
    [taken.lane, taken.reason, taken["src.identity"], taken["dst.workload"], taken["dst.identity"]],
    ["hbone", "finished", id("amb", "caller"), "shop/web", id("shop", "web")],
    "our record",
  );
  for (const account of ["banned", "stranger"]) {
    for (const host of ips) await refused(lab, `amb/${account}`, host);
    const row = await recordOf(lab, `${account} refused`, (r) => r["src.identity"] === id("amb", account));
    same([row.lane, row.reason, row.received], ["hbone", "policy_denied", 0], `our record of ${account}`);
    if (account === "banned") same(row.policy, "shop/no-banned", "the policy that denied");
    facts[account] = { reason: row.reason, policy: row.policy };
  }
  return facts;
}

/** A pod of ours asks one of ztunnel's. */
async function toTheirs(lab: TestLab, ztunnel: Ztunnel, count: number): Promise<Record<string, unknown>> {
  const { ips } = await lab.pod("amb/server");
  const facts: Record<string, unknown> = {};
  for (const host of [...ips, "server.amb"]) {
    facts[host] = [
      await whole(lab, "shop/near", host, "short", count),
      await whole(lab, "shop/near", host, "long", Math.ceil(count / 20)),
    ];
  }
  const ours = await recordOf(
    lab,
    "asked of ztunnel's pod",
    (r) => r["src.workload"] === "shop/near" && r.direction === "outbound",
  );
  same(
    [ours.lane, ours.reason, ours["src.identity"], ours["dst.workload"], ours["dst.identity"]],
    ["hbone", "finished", id("shop", "near"), "amb/server", id("amb", "server")],
    "our record",
  );
  const theirs = await waitFor("ztunnel's own line", () =>
    ztunnel.accesses().find((line) => line["src.identity"] === id("shop", "near") && line.direction === "inbound"),
  );
  same(
    [theirs["src.workload"], theirs["dst.workload"], theirs["dst.identity"], theirs["dst.service"]],
    ["near", "server", id("amb", "server"), "server.amb.svc.cluster.local"],
    "ztunnel's access log",
  );
  for (const host of ips) await refused(lab, "shop/banned", host);
  const row = await recordOf(lab, "refused by ztunnel", (r) => r["src.workload"] === "shop/banned");
  same([row.lane, row.reason], ["hbone", "policy_denied"], "our record of what ztunnel refused");
  for (const host of ips) await refused(lab, "open/client", host);
  const plain = await waitFor("ztunnel refuses plaintext", () =>
    ztunnel.accesses().find((line) => line["src.workload"] === "client" && line.error !== undefined),
  );
  facts.refused = { byPolicy: row.reason, plaintext: plain.error };
  return facts;
}

/** What went between the nodes. @throws Error if it is other than TLS for pods of the mesh */
function wire(packets: readonly Packet[], openIps: readonly string[]): Record<string, unknown> {
  const all = [...flows(packets)];
  const clear = all
    .filter(([, bytes]) => bytes.subarray(0, head.length).toString("latin1") === head)
    .map(([flow]) => flow);
  const meshed = clear.filter((flow) => !openIps.some((ip) => flow.includes(`${ip}|`)));
  check(clear.length > meshed.length, "the capture did not see even what went in the clear on purpose");
  check(meshed.length === 0, `in the clear: ${meshed.slice(0, 5).join(", ")}`);
  // Handshake records of TLS.
  const hbone = all.filter(([flow]) => flow.includes(`|${hbonePort}`));
  const other = hbone.filter(([, bytes]) => bytes[0] !== 0x16 || bytes[1] !== 3).map(([flow]) => flow);
  check(hbone.length > 0 && other.length === 0, `port ${hbonePort}, not TLS: ${other.slice(0, 5).join(", ")}`);
  return {
    packets: packets.length,
    hboneFlows: hbone.length,
    clearOfUnmeshed: clear.length,
    clearOfMeshed: meshed.length,
  };
}

export const ztunnel: Proof = {
  name: "ztunnel",
  about: "a real ztunnel (FAIRLEAD_ZTUNNEL) on a node of ours: discovery, policies, certificates, HBONE both ways",
  lacks: ztunnelLack,
  async run({ scale, say, only }) {
    ztunnelBinary();
    const count = Math.max(20, Math.round(1000 * scale));
    const facts: Record<string, unknown> = {};
    const controllerEnv = {
      FAIRLEAD_ISTIO_ACCOUNTS: "istio-system/ztunnel",
      // Of the agent that made room: an old root goes only when what it stands behind has ended.
      FAIRLEAD_NODE_TTL_MS: "60000",
    };
    await withLab({ "all.yaml": objects }, { nodes: 2, controllerEnv }, async (lab) => {
      for (const pod of ["shop/web", "amb/server", "open/server"]) await lab.ready(pod);
      const file = join(lab.manifests, "..", `${lab.name}-wire.pcap`);
      const { routerNetns } = await lab.status();
      await using peer = await Ztunnel.start(lab, { node: "node2", pods: onZtunnel, env: shortLife });
      facts.version = JSON.parse(await peer.ask("15000/config_dump")).version;
      const wants = (part: string): boolean => only === undefined || only.includes(part);
      if (wants("traffic")) {
        const capture = await Capture.start(routerNetns, "node1", file, "tcp");
        say("from ztunnel's pods to ours");
        facts.toOurs = await toOurs(lab, count);
        say("from our pods to ztunnel's");
        facts.toTheirs = await toTheirs(lab, peer, count);
        const [open, asker] = [await lab.pod("open/server"), await lab.pod("open/client")];
        await whole(lab, "open/client", open.ips[0] ?? "", "short", 5);
        facts.wire = wire(await capture.stop(), [...open.ips, ...asker.ips]);
        rmSync(file);
      }
      for (const [name, run] of Object.entries(changes).filter(([part]) => wants(part))) {
        say(name);
        facts[name] = await run(lab, peer, say);
      }
    });
    return facts;
  },
};
