// Real agents, real controller, two nodes: what connects, over which lane, what is refused and by whom, judged by what an operator sees.
import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import test from "node:test";
import { decodeCache } from "../../agent/discover/cache-file.ts";
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
import { waitFor } from "../kit/wait.ts";
import { Capture, flowsWith } from "../lab/capture.ts";

const shop = manifest(
  namespace("shop"),
  namespace("outside", false),
  serverPod("shop/web", { node: "node1" }),
  clientPod("shop/near", { node: "node1" }),
  clientPod("shop/far", { node: "node2" }),
  clientPod("shop/banned", { node: "node2" }),
  clientPod("outside/stranger", { node: "node2" }),
  serverPod("outside/legacy", { node: "node2" }),
  service("shop/web", "web", { 7000: 7000, 7001: 7001, 7002: 7002 }),
  service("outside/legacy", "legacy", { 7000: 7000, 7002: 7002 }),
);
const strict = manifest(peerAuthentication("shop/strict", "STRICT"));
const noBanned = manifest(
  authorization("shop/no-banned", {
    action: "DENY",
    rules: [{ from: [{ source: { principals: ["cluster.local/ns/shop/sa/banned"] } }] }],
  }),
);

interface AgentRecord {
  readonly direction: string;
  readonly lane: string;
  readonly reason: string;
  readonly policy?: string;
  readonly "src.workload": string | null;
  readonly "src.identity": string | null;
  readonly "dst.workload": string | null;
  readonly "dst.identity": string | null;
  readonly sent: number;
  readonly received: number;
}
const records = (lab: TestLab, node: string): Promise<readonly AgentRecord[]> => lab.records(node);
const short = (
  lab: TestLab,
  from: string,
  host: string,
  count: number,
  port = 7000,
): Promise<Record<string, unknown>> =>
  lab.traffic(from, ["short", "--host", host, "--port", String(port), "--count", String(count), "--timeout", "30000"]);

test(
  "[INT-1] [INT-3] [INT-5] [IDN-4] meshed pods connect on one node and across nodes, IPv4 and IPv6, by address and by service; lanes, identities and bytes are recorded",
  labOptions,
  async () => {
    await withLab({ "shop.yaml": shop, "strict.yaml": strict }, {}, async (lab) => {
      const web = await lab.pod("shop/web");
      const { services } = await lab.status();
      const addresses = services.find((s) => s.name === "web")?.addresses ?? [];
      assert.equal(addresses.length, 2, "the controller gives a service an address of each family");
      for (const [from, lane, node] of [
        ["shop/near", "direct", "node1"],
        ["shop/far", "tunnel", "node2"],
      ] as const) {
        for (const host of [...web.ips, ...addresses, "web", "web.shop.svc.cluster.local"]) {
          const done = await short(lab, from, host, 50);
          assert.deepEqual(
            [done.ok, done.failed, (done.server as { broken: number }).broken],
            [50, 0, 0],
            `${from} -> ${host}: ${JSON.stringify(done)}`,
          );
        }
        const mine = await waitFor(`records of ${from}`, async () =>
          ((all) => all.length >= 300 && all)(
            (await records(lab, node)).filter((r) => r["src.workload"] === from && r.direction === "outbound"),
          ),
        );
        assert.deepEqual([...new Set(mine.map((r) => r.lane))], [lane]);
        assert.deepEqual(
          [...new Set(mine.map((r) => r["src.identity"]))],
          [`spiffe://cluster.local/ns/shop/sa/${from.slice(5)}`],
        );
        assert.deepEqual([...new Set(mine.map((r) => r["dst.identity"]))], ["spiffe://cluster.local/ns/shop/sa/web"]);
        assert.ok(
          mine.every((r) => r.reason === "finished"),
          JSON.stringify(mine.find((r) => r.reason !== "finished")),
        );
      }
    });
  },
);

test(
  "[INT-3] the server sees the client's real address, and the client its own destination in getpeername",
  labOptions,
  async () => {
    const names = `import socket,sys
for host in sys.argv[1:]:
  s=socket.create_connection((host,7002)); print(host, s.getpeername()[0], s.getsockname()[0]); s.close()`;
    await withLab({ "shop.yaml": shop }, {}, async (lab) => {
      const web = await lab.pod("shop/web");
      for (const from of ["shop/near", "shop/far"]) {
        const pod = await lab.pod(from);
        const held = await lab.start(from, [
          "python3",
          "-c",
          `import socket,time\nfor h in ${JSON.stringify(web.ips)}:\n  globals()['s'+h]=socket.create_connection((h,7002))\nprint('{}',flush=True)\ntime.sleep(600)`,
        ]);
        await held.next();
        const seen = await lab.run("shop/web", ["ss", "-Htn", "state", "established", "( sport = :7002 )"]);
        for (const ip of pod.ips)
          assert.ok(seen.stdout.includes(ip), `the app of shop/web sees ${ip} of ${from}:\n${seen.stdout}`);
        held.child.kill("SIGKILL");
        const own = await lab.run(from, ["python3", "-c", names, ...web.ips]);
        for (const [i, ip] of web.ips.entries())
          assert.ok(own.stdout.includes(`${ip} ${ip} ${pod.ips[i]}`), own.stdout + own.stderr);
      }
    });
  },
);

test(
  "[IDN-4] [DP-33] between nodes nothing is readable, with the pods' own addresses on the wire; the same marker without mesh is",
  labOptions,
  async () => {
    await withLab({ "shop.yaml": shop, "strict.yaml": strict }, {}, async (lab) => {
      const script = (host: string): string[] => [
        "python3",
        "-c",
        `import socket;s=socket.create_connection(("${host}",7002));s.sendall(b"MARKER-"+b"x"*20);s.shutdown(1);print(s.makefile().read())`,
      ];
      const capture = await Capture.start(lab.paths.routerNetns, "node2", join(lab.paths.dir, "wire.pcap"));
      for (const ip of (await lab.pod("shop/web")).ips)
        assert.match((await lab.run("shop/far", script(ip))).stdout, /MARKER-x{20}/);
      const meshed = await capture.stop();
      assert.deepEqual(flowsWith(meshed, "MARKER-"), []);
      const far = await lab.pod("shop/far");
      assert.ok(
        far.ips.every((ip) => meshed.some((p) => p.source === ip && p.payload.length > 0)),
        "the client pod's own addresses",
      );
      lab.write("strict.yaml", manifest(namespace("shop", false)));
      lab.write("shop.yaml", shop.replace("fairlead.dev/mesh: enabled", "fairlead.dev/mesh: disabled"));
      await waitFor("everybody out of the mesh", async () =>
        (await lab.status()).pods.every((p) => p.enrolled !== "yes"),
      );
      const control = await Capture.start(lab.paths.routerNetns, "node2", join(lab.paths.dir, "control.pcap"));
      for (const ip of (await lab.pod("shop/web")).ips)
        assert.match((await lab.run("shop/far", script(ip))).stdout, /MARKER-x{20}/);
      assert.equal(flowsWith(await control.stop(), "MARKER-x").length, 4, "both families, both directions");
    });
  },
);

test(
  "[SEC-2] [IDN-8] a DENY by service account and STRICT refuse on both lanes and name the policy; the allowed twin passes; explain says the same",
  labOptions,
  async () => {
    const bannedNear = manifest(clientPod("shop/banned-near", { node: "node1", serviceAccount: "banned" }));
    await withLab(
      { "shop.yaml": shop, "strict.yaml": strict, "deny.yaml": noBanned, "near.yaml": bannedNear },
      {},
      async (lab) => {
        const cases = [
          { from: "shop/far", allowed: true, policy: "" },
          { from: "shop/near", allowed: true, policy: "" },
          { from: "shop/banned", allowed: false, policy: "shop/no-banned" },
          { from: "shop/banned-near", allowed: false, policy: "shop/no-banned" },
          { from: "outside/stranger", allowed: false, policy: "shop/strict" },
        ];
        for (const { from, allowed, policy } of cases) {
          const done = await short(lab, from, "web.shop", 10);
          assert.deepEqual([done.ok, done.failed], allowed ? [10, 0] : [0, 10], `${from}: ${JSON.stringify(done)}`);
          const told = await explainPair(labView(await lab.status()), from, "shop/web:7000");
          assert.deepEqual([told.verdict, told.policy], [allowed ? "allow" : "refuse", policy], from);
          if (allowed) continue;
          await waitFor(`a record that names ${policy} for ${from}`, async () =>
            [...(await records(lab, "node1")), ...(await records(lab, "node2"))].some(
              (r) => r["src.workload"] === from && r.policy === policy,
            ),
          );
        }
      },
    );
  },
);

test(
  "[INT-2] probes pass under STRICT; [INT-15] what is outside the mesh is reached, and reaches permissive pods",
  labOptions,
  async () => {
    await withLab({ "shop.yaml": shop }, {}, async (lab) => {
      assert.equal((await short(lab, "shop/near", "legacy.outside", 20)).failed, 0, "out of the mesh");
      assert.equal((await short(lab, "outside/stranger", "web.shop", 20)).failed, 0, "plaintext into a permissive pod");
      lab.write("strict.yaml", strict);
      await waitFor("strict in force", async () =>
        ((done) => (done.failed as number) > 0)(await short(lab, "outside/stranger", "web.shop", 1)),
      );
      await new Promise((resolve) => setTimeout(resolve, 4000));
      assert.ok((await lab.pod("shop/web")).ready, "four probe periods later the pod is still ready");
      assert.equal((await short(lab, "shop/far", "web", 20)).failed, 0);
    });
  },
);

test(
  "[INT-7] [INT-9] a server that speaks first is not held up; any bytes come back unchanged, half closed",
  labOptions,
  async () => {
    const greet = `import socket,time,statistics
t=[]
for i in range(20):
  a=time.time(); s=socket.create_connection(("web",7001)); s.recv(5); t.append((time.time()-a)*1000); s.close()
print(statistics.median(t))`;
    // Who is held up is held up for long.
    await withLab({ "shop.yaml": shop }, { agentEnv: { FAIRLEAD_DETECT_MS: "8000" } }, async (lab) => {
      for (const from of ["shop/near", "shop/far"]) {
        const done = await lab.run(from, ["python3", "-c", greet]);
        assert.ok(Number(done.stdout) < 4000, `${from}: greeting after ${done.stdout} ms ${done.stderr}`);
        const echoed = await lab.run(from, [
          "sh",
          "-c",
          "head -c 3000000 /dev/urandom > /tmp/a; python3 -c \"import socket,threading;s=socket.create_connection(('web',7002));threading.Thread(target=lambda:(s.sendall(open('/tmp/a','rb').read()),s.shutdown(1))).start();open('/tmp/b','wb').write(s.makefile('rb').read())\"; cmp /tmp/a /tmp/b && echo same",
        ]);
        assert.equal(echoed.stdout, "same\n", echoed.stderr);
      }
    });
  },
);

test("[INT-12] enrolment follows the namespace's label within 2 s, without restarting pods", labOptions, async () => {
  await withLab({ "shop.yaml": shop }, {}, async (lab) => {
    const before = await lab.pod("shop/far");
    const enrolled = async (): Promise<boolean> =>
      ((await lab.askAgent("node2", "/v1/pods")).pods as { pod: string; enrolled: boolean }[]).find(
        (p) => p.pod === "shop/far",
      )?.enrolled === true;
    assert.ok(await enrolled());
    lab.write("shop.yaml", shop.replace("fairlead.dev/mesh: enabled", "fairlead.dev/mesh: disabled"));
    await waitFor("unenrolled", async () => !(await enrolled()));
    assert.equal((await short(lab, "shop/far", "web", 10)).failed, 0, "plain");
    lab.write("shop.yaml", shop);
    await waitFor("enrolled again", enrolled);
    assert.equal((await lab.pod("shop/far")).pauseProcess, before.pauseProcess);
    assert.equal((await short(lab, "shop/far", "web", 10)).failed, 0, "meshed");
  });
});

test(
  "[DIS-3] [DIS-5] the controller away: traffic goes on, also through an agent started meanwhile; back: fresh within a second",
  labOptions,
  async () => {
    await withLab({ "shop.yaml": shop, "strict.yaml": strict }, {}, async (lab) => {
      await waitFor("the cache of its policies, and of the server in the mesh", () => {
        const path = join(lab.node("node2").cacheDir, "discovery.cache");
        const known = existsSync(path) ? decodeCache(readFileSync(path)) : undefined;
        if (known?.ok !== true) return false;
        const { resources } = known.value;
        const serves = ({ kind, value }: (typeof resources)[number]): boolean =>
          kind === "Workload" && value.name === "web" && value.ready && value.tunnel === "fairlead/1";
        return resources.some(({ kind }) => kind === "TrafficPolicy") && resources.some(serves);
      });
      await lab.controller("stop");
      assert.equal((await short(lab, "shop/far", "web", 50)).failed, 0);
      await lab.agent("node2", "kill-start");
      const done = await short(lab, "shop/far", "web", 50);
      assert.equal(done.failed, 0, JSON.stringify(done));
      assert.ok(
        ((await short(lab, "outside/stranger", "web.shop", 5)).failed as number) === 5,
        "strict holds without the controller",
      );
      await lab.controller("start");
      lab.write("deny.yaml", noBanned);
      await waitFor("the new policy in force", async () =>
        ((r) => r.ok === 0)(await short(lab, "shop/banned", "web", 1)),
      );
    });
  },
);
