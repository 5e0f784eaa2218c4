// Pods that forge what the mesh goes by (addresses, marks, raw packets), met by an agent that has the documented capabilities and no more.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import test from "node:test";
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
import { PROJECT_DIR } from "../lab/paths.ts";

const forger = { container: { securityContext: { capabilities: { add: ["NET_ADMIN", "NET_RAW"] } } } };
/** Port 7002 of shop/web is for the addresses of shop/victim alone; shop/vault wants an identity. */
const shop = manifest(
  namespace("shop"),
  serverPod("shop/web", { node: "node1", annotations: { "fairlead.dev/lab-address": "20" } }),
  serverPod("shop/remote", { node: "node2", annotations: { "fairlead.dev/lab-address": "21" } }),
  serverPod("shop/vault", { node: "node2", annotations: { "fairlead.dev/lab-address": "22" } }),
  clientPod("shop/victim", { node: "node1", annotations: { "fairlead.dev/lab-address": "30" } }),
  clientPod("shop/mallory", { node: "node1", ...forger }),
  service("shop/web", "web", { 7000: 7000, 7002: 7002 }),
  authorization("shop/victims-only", {
    selector: { matchLabels: { app: "web" } },
    action: "DENY",
    rules: [
      {
        from: [{ source: { notIpBlocks: ["10.244.1.30/32", "fd00:244:1::1e/128"] } }],
        to: [{ operation: { ports: ["7002"] } }],
      },
    ],
  }),
  peerAuthentication("shop/vault", "STRICT", { selector: { matchLabels: { app: "vault" } } }),
);

type Outcome = Readonly<Record<string, unknown>>;

async function forge(lab: TestLab, from: string, ...words: readonly string[]): Promise<Outcome> {
  const done = await lab.run(from, ["python3", join(PROJECT_DIR, "test/kit/forge.py"), ...words]);
  assert.equal(done.code, 0, `forge.py ${words.join(" ")}: ${done.stderr}`);
  return JSON.parse(done.stdout) as Outcome;
}
const counter = async (lab: TestLab, name: string): Promise<number> =>
  Number((await lab.askAgent("node1", "/v1/counters"))[name] ?? 0);

/** The capabilities of a process, by number. */
function effective(pid: number): readonly number[] {
  const mask = BigInt(`0x${/^CapEff:\s*(\w+)$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? "0"}`);
  return Array.from({ length: 64 }, (_, bit) => bit).filter((bit) => (mask >> BigInt(bit)) & 1n);
}

/** Forged sources: none gets through as the victim, and what is let through at all goes as the forger. */
async function forgedSources(lab: TestLab): Promise<void> {
  const [web, remote, vault, victim, mallory] = await Promise.all(
    ["shop/web", "shop/remote", "shop/vault", "shop/victim", "shop/mallory"].map((name) => lab.pod(name)),
  );
  for (const family of [0, 1]) {
    const of = (pod: typeof web): string => pod?.ips[family] ?? "";
    const connect = (from: string, to: typeof web, ...more: readonly string[]): Promise<Outcome> =>
      forge(lab, from, "connect", of(to), "7002", ...more);
    const forged = `source=${of(victim)}`;
    assert.equal((await connect("shop/victim", web)).through, true, "the victim itself");
    assert.equal((await connect("shop/mallory", web)).through, false, "without forging");
    for (const how of ["address", "transparent", "freebind"]) {
      const got = await connect("shop/mallory", web, forged, `how=${how}`);
      assert.equal(got.through, false, `${how}: as the victim`);
    }
    const before = await counter(lab, "source_not_own");
    assert.equal((await connect("shop/mallory", remote, forged)).through, true, "to another node, as itself");
    assert.ok((await counter(lab, "source_not_own")) > before);
    const record = await waitFor("its record", async () =>
      (await lab.records<Record<string, string>>("node2")).find(
        (r) => r["dst.addr"]?.includes(of(remote)) && r["src.workload"] === "shop/mallory",
      ),
    );
    assert.equal(record["src.identity"], "spiffe://cluster.local/ns/shop/sa/mallory");
    assert.ok(record["src.addr"]?.includes(of(mallory)), JSON.stringify(record));
    for (const mark of ["0xf1eae", "0xf1ead"]) {
      assert.equal((await connect("shop/mallory", web, `mark=${mark}`)).through, false, `mark ${mark}`);
      const strict = await connect("shop/mallory", vault, `mark=${mark}`);
      assert.equal(strict.through, true, "intercepted like any other, or the strict one would not hear it");
    }
  }
}

async function forgedPackets(lab: TestLab): Promise<void> {
  const [web, victim, mallory] = await Promise.all(["shop/web", "shop/victim", "shop/mallory"].map((n) => lab.pod(n)));
  const [to = "", theirs = "", own = ""] = [web?.ips[0], victim?.ips[0], mallory?.ips[0]];
  const drops = (): Promise<number> => counter(lab, "spoofed_dropped");
  const before = await drops();
  assert.equal((await forge(lab, "shop/mallory", "syn", own, to, "7000")).answered, true, "its own address");
  assert.equal(await drops(), before);
  await forge(lab, "shop/mallory", "syn", theirs, to, "7000");
  assert.ok((await drops()) > before, "a raw SYN of the victim's");
  const beforeArp = await drops();
  await forge(lab, "shop/mallory", "arp", own);
  assert.equal(await drops(), beforeArp);
  await forge(lab, "shop/mallory", "arp", theirs);
  assert.ok((await drops()) > beforeArp, "an ARP answer in the victim's name");
}

test(
  "[DP-7] [INT-10] with the documented capabilities and no more the mesh works, and no pod gets in as another by forging",
  labOptions,
  async () => {
    const capabilities = documentedCapabilities("ebpf");
    const reduced = { agentPrefix: withOnly(capabilities), agentEnv: { FAIRLEAD_INTERCEPTION: "ebpf" } };
    await withLab({ "shop.yaml": shop }, reduced, async (lab) => {
      const { pid } = await lab.askAgent("node1", "/v1/status");
      assert.deepEqual(effective(Number(pid)), [12, 21, 38, 39], "CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF");
      assert.ok((await lab.pod("shop/vault")).ready, "the kubelet's probes pass under STRICT");
      const short = (from: string, host: string): Promise<Outcome> =>
        lab.traffic(from, ["short", "--host", host, "--port", "7000", "--count", "20", "--timeout", "30000"]);
      const vault = (await lab.pod("shop/vault")).ips[0] ?? "";
      const works = async (): Promise<void> => {
        for (const host of ["web", vault]) assert.equal((await short("shop/victim", host)).failed, 0, host);
      };
      await works();
      await waitFor("both lanes", async () => {
        const lanes = new Set((await lab.records("node1")).map((r) => r.lane));
        return lanes.size === 2 && lanes.has("direct") && lanes.has("tunnel");
      });
      await forgedSources(lab);
      await forgedPackets(lab);
      await lab.agent("node1", "replace");
      await works();
      await lab.agent("node1", "kill-start");
      await works();
      await forgedPackets(lab);
    });
  },
);
