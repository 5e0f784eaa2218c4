// The CNI plugin in a chain of real plugins, with a real agent: installed by it, asked by a runtime, a pod that connects in its first instruction.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { ownFile, pluginType } from "../../agent/cni/conflist.ts";
import { buildModule } from "../cluster/compile/build.ts";
import { modules } from "../cluster/compile/modules.ts";
import { cacheFolder } from "../cluster/paths.ts";
import { type ChainPod, CniChain, type Sandbox } from "../kit/cni-chain.ts";
import { labOptions, type TestLab, withLab } from "../kit/lab.ts";
import { clientPod, manifest, namespace, nodePod } from "../kit/manifests.ts";
import { waitFor } from "../kit/wait.ts";
import { ended, entering, type Finished, finish } from "../lab/command.ts";

const page = `require("http").createServer((q, s) => q.url === "/hold" ? s.write("held") : s.end("served")).listen(8080, "::")`;
const manifests = {
  "all.yaml": manifest(
    namespace("shop"),
    clientPod("shop/buyer", { node: "node1" }),
    nodePod("shop/web", page, { node: "node2" }),
  ),
};
const record = (pod: ChainPod, meshed: boolean): string =>
  JSON.stringify({
    ...pod,
    // The controller gives certificates to nodes that have such a pod.
    serviceAccount: "buyer",
    namespaceLabels: meshed ? { "fairlead.dev/mesh": "enabled" } : {},
    // What the runtime tells is what counts; until then there is no network.
    netns: "/run/netns/not-made-yet",
    ips: [],
  });

async function chainOf(lab: TestLab): Promise<CniChain> {
  const built = await buildModule(cacheFolder(process.env), modules.cni, (line) => console.error(line));
  const chain = new CniChain(lab.node("node1").netns, `${lab.paths.netnsPrefix}cni`, [built.folder]);
  const ranges = [[{ subnet: "10.244.1.0/24", rangeStart: "10.244.1.251", rangeEnd: "10.244.1.254" }]];
  const ipam = {
    type: "host-local",
    ranges,
    routes: [{ dst: "0.0.0.0/0" }],
    dataDir: join(chain.confDir, "../leases"),
  };
  const plugins = [{ type: "ptp", ipMasq: false, mtu: 1500, ipam }];
  writeFileSync(
    join(chain.confDir, "10-pods.conflist"),
    JSON.stringify({ cniVersion: "1.0.0", name: "pods", plugins }),
  );
  return chain;
}

test(
  "[INT-11] [DP-21] [DP-22] a pod of a chained runtime is in the mesh before its first instruction, waits without an agent, and leaves with its network",
  labOptions,
  async (t) => {
    await withLab(manifests, { nodes: 2 }, async (lab) => {
      const web = await lab.ready("shop/web");
      const node = lab.node("node1");
      const chain = await chainOf(lab);
      t.after(() => chain.close());
      const cgroup = join(node.cgroup, "cni");
      mkdirSync(cgroup);
      const inside = (sandbox: Sandbox, command: readonly string[]): Promise<Finished> =>
        finish(entering({ cgroup, netns: sandbox.netns }, command), { timeoutMs: 60_000 });
      const knows = (pod: ChainPod, meshed: boolean): void =>
        writeFileSync(join(node.podsDir, `${pod.namespace}_${pod.name}.json`), record(pod, meshed));
      const pod = (name: string, of = "shop"): ChainPod => ({ namespace: of, name, uid: `uid-of-${name}` });
      const get = ["curl", "-sS", "-m", "50", `http://${web.ips[0]}:8080/`];

      const served = async (sandbox: Sandbox): Promise<void> => {
        const got = await inside(sandbox, get);
        assert.equal(got.stdout, "served", got.stderr);
      };

      const env = { FAIRLEAD_CNI: "install", FAIRLEAD_CNI_CONF_DIR: chain.confDir, FAIRLEAD_CNI_BIN_DIR: chain.binDir };
      await lab.agent("node1", "replace", { ...env, FAIRLEAD_EXCLUDED_NAMESPACES: "kube-system" });
      await waitFor("the plugin is installed", async () =>
        JSON.stringify((await lab.askAgent("node1", "/v1/status")).cni).includes('"installed"'),
      );
      assert.deepEqual(
        chain.plugins().map((p) => p.type),
        ["ptp", pluginType],
      );

      await t.test("a meshed pod's first connection goes through the tunnel, as its own identity", async () => {
        knows(pod("first"), true);
        const sandbox = await chain.sandbox(pod("first"), "first");
        assert.deepEqual(await sandbox.add(), { ok: true });
        await served(sandbox);
        const seen = await waitFor("its record on the server's node", async () =>
          (await lab.records("node2")).find((r) => JSON.stringify(r).includes("/ns/shop/sa/buyer")),
        );
        assert.ok(JSON.stringify(seen).includes(sandbox.address), JSON.stringify(seen));

        // DEL ends what is open, also where nobody looks at the pod's folder.
        const held = spawn(
          "/bin/sh",
          [
            "-c",
            'exec "$0" "$@"',
            ...entering({ cgroup, netns: sandbox.netns }, [
              "curl",
              "-sSN",
              "-m",
              "600",
              `http://${web.ips[0]}:8080/hold`,
            ]),
          ],
          { stdio: ["ignore", "pipe", "ignore"] },
        );
        await new Promise((resolve) => held.stdout.once("data", resolve));
        assert.deepEqual(await sandbox.del(), { ok: true });
        assert.notEqual(await ended(held), 0);
        const { pods } = (await lab.askAgent("node1", "/v1/pods")) as { pods: readonly { pod: string }[] };
        assert.equal(
          pods.some((p) => p.pod === "shop/first"),
          false,
        );
        assert.deepEqual(await sandbox.del(), { ok: true }, "a second DEL is as good");
      });

      await t.test("a pod outside the mesh starts too, and is left alone", async () => {
        knows(pod("outside", "other"), false);
        const sandbox = await chain.sandbox(pod("outside", "other"), "outside");
        assert.deepEqual(await sandbox.add(), { ok: true });
        await served(sandbox);
        assert.deepEqual(await sandbox.del(), { ok: true });
      });

      await t.test("another CNI that rewrites its configuration is followed", async () => {
        const file = join(chain.confDir, "10-pods.conflist");
        writeFileSync(file, readFileSync(file, "utf8").replace("1500", "1400"));
        await waitFor("ours follows", async () => chain.plugins()[0]?.mtu === 1400);
        assert.equal(chain.plugins().at(-1)?.type, pluginType);
      });

      await t.test("a pod that the agent cannot look up waits, with the reason", async () => {
        const sandbox = await chain.sandbox(pod("unknown"), "unknown");
        const refused = await sandbox.add();
        assert.ok(!refused.ok && refused.plugin === pluginType && refused.error.code === 11, JSON.stringify(refused));
        assert.match(refused.error.msg, /pod shop\/unknown cannot be looked up yet/);
        await sandbox.del();
      });

      await t.test("without an agent a pod waits, one of an excluded namespace starts, and DEL is good", async () => {
        await lab.agent("node1", "kill");
        knows(pod("waits"), true);
        const waits = await chain.sandbox(pod("waits"), "waits");
        const refused = await waits.add();
        assert.ok(!refused.ok && refused.error.code === 11, JSON.stringify(refused));
        assert.match(refused.error.msg, /the agent on this node is not answering.*FAIRLEAD_AGENT_AWAY/);
        assert.deepEqual(await waits.del(), { ok: true });
        const system = await chain.sandbox(pod("dns", "kube-system"), "dns");
        assert.deepEqual(await system.add(), { ok: true });
        assert.deepEqual(await system.del(), { ok: true });
        assert.ok(readFileSync(join(chain.confDir, ownFile)).length > 0);

        await lab.agent("node1", "start", env);
        const again = await chain.sandbox(pod("waits"), "again");
        await waitFor("it starts when the agent is back", async () => {
          if ((await again.add()).ok) return true;
          await again.del();
          return false;
        });
        await served(again);
        await again.del();
      });

      const asked = await lab.metric("node1", "fairlead_cni_requests_total", 'command="add"', 'outcome="ok"');
      assert.ok(asked >= 1, `${asked} questions`);
    });
  },
);
