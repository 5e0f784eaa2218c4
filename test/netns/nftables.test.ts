// The whole mesh without eBPF: both nodes intercept with nftables. The same promises as test/netns/mesh.test.ts, by other means.
import assert from "node:assert/strict";
import { join } from "node:path";
import test from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { explainPair } from "../../cli/explain.ts";
import { labView } from "../../cli/mesh.ts";
import { labOptions, type TestLab, withLab } from "../kit/lab.ts";
import {
  authorization,
  clientPod,
  manifest,
  namespace,
  peerAuthentication,
  serverPod,
  service,
} from "../kit/manifests.ts";
import { documentedCapabilities, withOnly } from "../kit/reduced.ts";
import { waitFor } from "../kit/wait.ts";
import { finish } from "../lab/command.ts";
import { PROJECT_DIR } from "../lab/paths.ts";

const nftables = {
  agentEnv: { FAIRLEAD_INTERCEPTION: "nftables" },
  agentPrefix: withOnly(documentedCapabilities("nftables")),
};
const shop = manifest(
  namespace("shop"),
  namespace("open"),
  namespace("outside", false),
  serverPod("shop/web", { node: "node1" }),
  clientPod("shop/near", { node: "node1" }),
  clientPod("shop/far", { node: "node2" }),
  clientPod("shop/mallory", {
    node: "node1",
    container: { securityContext: { capabilities: { add: ["NET_ADMIN"] } } },
  }),
  clientPod("shop/banned", { node: "node2" }),
  clientPod("shop/banned-near", { node: "node1", serviceAccount: "banned" }),
  serverPod("open/app", { node: "node1" }),
  clientPod("open/caller", { node: "node2" }),
  clientPod("outside/stranger", { node: "node2" }),
  serverPod("outside/legacy", { node: "node2" }),
  service("shop/web", "web", { 7000: 7000, 7001: 7001, 7002: 7002 }),
  service("open/app", "app", { 7000: 7000 }),
  service("outside/legacy", "legacy", { 7000: 7000 }),
  peerAuthentication("shop/strict", "STRICT"),
  authorization("shop/no-banned", {
    action: "DENY",
    rules: [{ from: [{ source: { principals: ["cluster.local/ns/shop/sa/banned"] } }] }],
  }),
);

interface Line {
  readonly lane: string;
  readonly direction: string;
  readonly reason: string;
  readonly policy?: string;
  readonly "src.addr": string;
  readonly "src.workload": string | null;
  readonly "src.identity": string | null;
  readonly "dst.identity": string | null;
}
const records = (lab: TestLab, node: string): Promise<readonly Line[]> => lab.records(node, 2000);
const short = (lab: TestLab, from: string, host: string, count = 10): Promise<Record<string, unknown>> =>
  lab.traffic(from, ["short", "--host", host, "--port", "7000", "--count", String(count), "--timeout", "30000"]);
const outcome = (done: Record<string, unknown>): unknown => [done.ok, done.failed];

test(
  "[INT-6] [INT-3] [INT-5] [INT-10] [SEC-2] [DP-7] nftables: same node and across nodes, both families, identities, denials, probes, and no direct lane, said so",
  labOptions,
  async () => {
    await withLab({ "shop.yaml": shop }, nftables, async (lab) => {
      const web = await lab.pod("shop/web");
      const addresses = (await lab.status()).services.find((s) => s.name === "web")?.addresses ?? [];
      for (const [from, lane, node] of [
        ["shop/near", "local", "node1"],
        ["shop/far", "tunnel", "node2"],
      ] as const) {
        for (const host of [...web.ips, ...addresses]) {
          const done = await short(lab, from, host, 30);
          assert.deepEqual(outcome(done), [30, 0], `${from} -> ${host}: ${JSON.stringify(done)}`);
          assert.equal((done.server as { broken: number }).broken, 0);
        }
        const mine = await waitFor(`records of ${from}`, async () =>
          ((all) => all.length >= 120 && all)(
            (await records(lab, node)).filter((r) => r["src.workload"] === from && r.direction === "outbound"),
          ),
        );
        const seen = new Set(mine.map((r) => [r.lane, r.reason, r["src.identity"], r["dst.identity"]].join(" ")));
        const identity = (name: string): string => `spiffe://cluster.local/ns/shop/sa/${name}`;
        assert.deepEqual([...seen], [`${lane} finished ${identity(from.slice(5))} ${identity("web")}`]);
        await keepsAddresses(lab, from, web.ips);
        const told = await explainPair(labView(await lab.status()), from, "shop/web:7000");
        assert.deepEqual([told.verdict, told.lane], ["allow", lane]);
        assert.deepEqual(told.outbound.interception, {
          way: "nftables",
          reason: "FAIRLEAD_INTERCEPTION asks for nftables; rules are written with nft",
          directLane: false,
        });
        assert.equal(told.legs[0]?.endpoint.whyNotDirect, lane === "local" ? "no_ebpf" : "other_node");
      }
      await refusals(lab);
      await forgeries(lab);
      for (const ip of [...web.ips, ...addresses])
        assert.deepEqual(outcome(await short(lab, "shop/web", ip)), [10, 0], `itself by ${ip}`);
      assert.deepEqual(outcome(await short(lab, "shop/near", "legacy.outside")), [10, 0], "out of the mesh");
      assert.deepEqual(outcome(await short(lab, "outside/stranger", "app.open")), [10, 0], "into a permissive pod");
      await probes(lab);
      const status = await lab.askAgent("node1", "/v1/status");
      assert.deepEqual([status.interception, status.directLane], ["nftables", false]);
      const { tunnel_speakers: speakers, ...rows } = status.kernel as Record<string, number>;
      assert.deepEqual(rows, { services: 0, backends: 0, verdicts: 0 }, "no rows wanted of maps that are not there");
      assert.ok((speakers ?? 0) >= 16, `both addresses of eight meshed pods, not ${speakers}`);
      const metrics = await finish([
        "nsenter",
        `--net=/run/netns/${lab.node("node1").netns}`,
        "--",
        "curl",
        "-s",
        "http://127.0.0.1:15020/metrics",
      ]);
      assert.match(metrics.stdout, /^fairlead_interception\{way="nftables"\} 1$/m);
    });
  },
);

/** What the server sees of the client, and what the client is told of both ends. */
async function keepsAddresses(lab: TestLab, from: string, targets: readonly string[]): Promise<void> {
  const client = await lab.pod(from);
  const held = await lab.start(from, [
    "python3",
    "-c",
    `import socket,json,sys
s=[socket.create_connection((h,7002)) for h in ${JSON.stringify(targets)}]
print(json.dumps({"ends":[[c.getpeername()[0],c.getsockname()[0]] for c in s]}),flush=True); sys.stdin.read()`,
  ]);
  assert.deepEqual(
    (await held.next()).ends,
    targets.map((ip, i) => [ip, client.ips[i]]),
  );
  const seen = await lab.run("shop/web", ["ss", "-Htn", "state", "established", "( sport = :7002 )"]);
  for (const ip of client.ips) assert.ok(seen.stdout.includes(ip), `shop/web sees ${ip} of ${from}:\n${seen.stdout}`);
  await held.end("");
}

async function refusals(lab: TestLab): Promise<void> {
  for (const [from, policy] of [
    ["shop/banned", "shop/no-banned"],
    ["shop/banned-near", "shop/no-banned"],
    ["outside/stranger", "shop/strict"],
  ] as const) {
    assert.deepEqual(outcome(await short(lab, from, "web.shop")), [0, 10], from);
    const told = await explainPair(labView(await lab.status()), from, "shop/web:7000");
    assert.deepEqual([told.verdict, told.policy], ["refuse", policy], from);
    await waitFor(`a record that names ${policy} for ${from}`, async () =>
      [...(await records(lab, "node1")), ...(await records(lab, "node2"))].some(
        (r) => r["src.workload"] === from && r.policy === policy,
      ),
    );
  }
}

/** A pod that can set marks leaves unmeshed, which a strict destination refuses; one that gives itself an address goes as itself. */
async function forgeries(lab: TestLab): Promise<void> {
  const [web, near, mallory] = await Promise.all(
    ["shop/web", "shop/near", "shop/mallory"].map((name) => lab.pod(name)),
  );
  for (const family of [0, 1]) {
    const connect = async (...more: readonly string[]): Promise<unknown> => {
      const forge = ["python3", join(PROJECT_DIR, "test/kit/forge.py"), "connect", web?.ips[family] ?? "", "7002"];
      const done = await lab.run("shop/mallory", [...forge, ...more]);
      assert.equal(done.code, 0, done.stderr);
      return (JSON.parse(done.stdout) as { through: boolean }).through;
    };
    assert.equal(await connect(), true);
    assert.equal(await connect("mark=0xf1eae"), false, "past the agent, and so without an identity");
    assert.equal(await connect(`source=${near?.ips[family]}`), true);
    await waitFor("every record of it under its own address", async () => {
      const mine = (await records(lab, "node1")).filter((r) => r["src.workload"] === "shop/mallory");
      return (
        mine.length >= 2 * (family + 1) && mine.every((r) => mallory?.ips.some((ip) => r["src.addr"].includes(ip)))
      );
    });
  }
}

/** From the node's own address: the probe's port is open, the others are as strict as for everybody. */
async function probes(lab: TestLab): Promise<void> {
  const web = await lab.pod("shop/web");
  const hear = `import socket,sys
try:
  s=socket.create_connection((sys.argv[1],int(sys.argv[2])),30); s.settimeout(30); s.sendall(b"x"); s.shutdown(1); print("heard" if s.recv(1) else "closed")
except OSError as e: print("refused")`;
  const fromNode = async (ip: string, port: number): Promise<string> =>
    (
      await finish([
        "nsenter",
        `--net=/run/netns/${lab.node("node1").netns}`,
        "--",
        "python3",
        "-c",
        hear,
        ip,
        String(port),
      ])
    ).stdout.trim();
  for (const ip of web.ips) assert.equal(await fromNode(ip, 7002), "refused", `${ip}: not a probe's port`);
  await sleep(2500);
  assert.ok((await lab.pod("shop/web")).ready, "the kubelet's probes of a strict pod are heard");
}

/** What the agents of a client and of the server say of the latest connections, for the message of a failure. */
async function whys(lab: TestLab, node: string): Promise<{ readonly clients: string; readonly servers: string }> {
  const [clients, servers] = await Promise.all(
    [node, "node1"].map(async (name) =>
      [
        ...new Set((await records(lab, name)).map((r) => `${r.direction} ${r.lane} ${r.reason} ${r["src.identity"]}`)),
      ].join(", "),
    ),
  );
  return { clients: clients ?? "", servers: servers ?? "" };
}

test(
  "[INT-6] [DP-19] [INT-14] nftables: agents replaced under load lose nothing; killed, strict pods are closed and permissive ones open",
  labOptions,
  async () => {
    await withLab({ "shop.yaml": shop }, nftables, async (lab) => {
      for (const [from, node] of [
        ["shop/near", "node1"],
        ["shop/far", "node2"],
      ] as const) {
        const target = ["--host", "web", "--port", "7000"];
        const idle = await lab.startTraffic(from, ["idle", ...target, "--count", "40"]);
        const opened = await idle.next();
        const { clients, servers } = await whys(lab, node);
        assert.deepEqual(opened, { open: 40, reasons: {}, refused: 0 }, `${from}: ${clients}; ${servers}`);
        const load = await lab.startTraffic(from, ["load", ...target, "--rate", "100"]);
        await load.next();
        for (const next of new Set([node, "node1"])) {
          await lab.agent(next, "replace");
          const proved = await idle.ask("check");
          assert.deepEqual([proved.ok, proved.reasons], [40, {}], `idle connections of ${from}`);
        }
        const report = await load.ask("stop");
        assert.equal(report.failed, 0, JSON.stringify(report));
        await Promise.all([idle.end("quit"), load.end("")]);
      }
      await lab.agent("node1", "kill");
      assert.deepEqual(outcome(await short(lab, "outside/stranger", "app.open")), [10, 0], "in: open");
      assert.deepEqual(outcome(await short(lab, "shop/far", "web")), [0, 10], "in: strict is closed");
      assert.deepEqual(outcome(await short(lab, "shop/near", "legacy.outside")), [0, 10], "out: strict is closed");
      await lab.agent("node1", "start");
      assert.deepEqual(outcome(await short(lab, "shop/far", "web")), [10, 0], "back");
      await lab.agent("node2", "kill");
      await waitFor("out: open once signs of life are stale", async () =>
        ((r) => r.failed === 0)(await short(lab, "open/caller", "legacy.outside", 3)),
      );
      assert.deepEqual(outcome(await short(lab, "shop/far", "web")), [0, 10], "out: strict is closed");
      await lab.agent("node2", "start");
      assert.deepEqual(outcome(await short(lab, "shop/far", "web")), [10, 0], "back");
    });
  },
);
