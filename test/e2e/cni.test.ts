// The CNI plugin on the nodes of a Kubernetes: a pod is in the mesh before its first instruction, and waits where it cannot be.
import assert from "node:assert/strict";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { ownFile } from "../../agent/cni/conflist.ts";
import { guarded, type TestCluster, testClusterName } from "../cluster/kit.ts";
import { adminApi } from "../cluster/kubernetes/credentials.ts";
import { initProgram } from "../cluster/kubernetes/node.ts";
import { hierarchies } from "../cluster/machine/groups.ts";
import { stopProgram } from "../cluster/machine/programs.ts";
import { cacheFolder, clusterPaths, nodePaths } from "../cluster/paths.ts";
import { up } from "../cluster/up.ts";
import { CniCluster } from "../kit/cni-cluster.ts";
import { waitFor } from "../kit/wait.ts";

const guard = guarded(clusterPaths(testClusterName()));
const { cluster } = guard;
const two = { nodes: 2, apiOnly: false, apiServerFlags: [] } as const;
const cache = cacheFolder(process.env);
const timeout = 600_000;
const PATIENCE_MS = 240_000;
let it: CniCluster;
let running: TestCluster | undefined;

before(
  async () => {
    const state = await up(cluster, two, cache, (line) => console.error(line));
    running = { cluster, state, api: adminApi(cluster, state.block) };
    it = await CniCluster.start(running);
  },
  { timeout },
);
after(
  async () => {
    running?.api.close();
    await guard[Symbol.asyncDispose]();
    await it?.[Symbol.asyncDispose]();
  },
  { timeout },
);

const confDir = (n: number): string => join(nodePaths(cluster, n).dir, "cni-config");
const list = (n: number) => JSON.parse(readFileSync(join(confDir(n), ownFile), "utf8"));
const waits = (name: string, why: RegExp): Promise<string> =>
  waitFor(
    `an event of pod ${name} says ${why}`,
    async () => (await it.events(name)).find((message) => why.test(message)),
    PATIENCE_MS,
  );

test("[INT-11] pods that connect in their first instruction, init containers too, go through the tunnel from the first byte on", {
  timeout,
}, async () => {
  const wire = await it.watchWire();
  const before = await Promise.all([it.tunnelled(1), it.tunnelled(2)]);
  const names = [1, 2].flatMap((n) => [1, 2, 3].map((i) => [`first-n${n}-${i}`, n] as const));
  await Promise.all(names.map(([name, n]) => it.startFirst(name, n)));
  const phases = await Promise.all(names.map(([name]) => it.ended(name)));
  assert.deepEqual(new Set(phases), new Set(["Succeeded"]));
  // Three pods of each node, two connections each.
  await waitFor("both ends have counted them", async () => {
    const [one = 0, two = 0] = await Promise.all([it.tunnelled(1), it.tunnelled(2)]);
    return one - (before[0] ?? 0) >= 6 && two - (before[1] ?? 0) >= 6;
  });
  const seen = await wire.stop();
  assert.ok(seen.plain === 0 && seen.control > 0, JSON.stringify(seen));
  for (const [name] of names) await it.remove(name);
});

test("[DP-22] without an agent a pod waits, and its event says why; it starts when the agent is back", {
  timeout,
}, async () => {
  await it.agent(2).stop("SIGKILL");
  await it.startFirst("waits", 2);
  const said = await waits("waits", /FAIRLEAD_AGENT_AWAY/);
  assert.match(said, /plugin type="fairlead-cni" failed \(add\): fairlead: the agent on this node is not answering/);
  assert.equal((await it.pod("shop", "waits"))?.status.phase, "Pending");
  await it.newAgent(2);
  assert.equal(await it.ended("waits"), "Succeeded");
  await it.remove("waits");
});

test("[INT-11] another CNI that writes its configuration anew is followed, and never takes ours away", {
  timeout,
}, async () => {
  const file = join(confDir(1), "10-pods.conflist");
  const text = readFileSync(file, "utf8");
  writeFileSync(file, text.replace('"mtu": 1500', '"mtu": 1480'));
  await waitFor("ours follows", async () => list(1).plugins[0].mtu === 1480);
  assert.equal(list(1).plugins.at(-1).type, "fairlead-cni");
  await it.startFirst("rewritten", 1);
  assert.equal(await it.ended("rewritten"), "Succeeded");
  await it.remove("rewritten");
  writeFileSync(file, text);
  await waitFor("ours follows back", async () => list(1).plugins[0].mtu === 1500);
});

test("[DP-22] after a power cut no pod of the node starts before the agent, and nothing goes in the clear", {
  timeout,
}, async () => {
  const wire = await it.watchWire();
  const h = hierarchies();
  const init = initProgram({ cluster, state: it.up.state, programsDir: cache }, 2);
  assert.ok(await stopProgram(h, init, "SIGKILL", 30_000));
  await it.startFirst("at-boot", 2);
  await up(cluster, two, cache, (line) => console.error(line));
  assert.ok(existsSync(join(confDir(2), ownFile)), "the plugin is still in the configuration");
  await waits("at-boot", /FAIRLEAD_AGENT_AWAY/);
  await waits("server-n2", /FAIRLEAD_AGENT_AWAY/);
  assert.equal((await it.pod("shop", "at-boot"))?.status.phase, "Pending");
  await it.newAgent(2);
  assert.equal(await it.ended("at-boot"), "Succeeded");
  await it.serverReady("shop", 2);
  await it.startFirst("after-boot", 1);
  assert.equal(await it.ended("after-boot"), "Succeeded");
  const seen = await wire.stop();
  assert.ok(seen.plain === 0 && seen.control > 0, JSON.stringify(seen));
  for (const name of ["at-boot", "after-boot"]) await it.remove(name);
});

test("[DP-21] pods that are deleted leave no network namespace and no pod of the mesh behind", {
  timeout,
}, async () => {
  for (const name of ["first-n1-1", "first-n1-2", "first-n1-3", "rewritten", "after-boot"]) await it.gone(name);
  const before = await it.namespaces(1);
  const names = Array.from({ length: 20 }, (_, i) => `deleted-${i}`);
  await Promise.all(names.map((name) => it.startFirst(name, 1)));
  // Some while they start, some when they have ended.
  for (const [i, name] of names.entries()) {
    if (i % 2 === 0) assert.equal(await it.ended(name), "Succeeded");
    await it.remove(name);
  }
  for (const name of names) await it.gone(name);
  await waitFor("as many namespaces as before", async () => (await it.namespaces(1)) <= before, PATIENCE_MS);
  await waitFor("no pod of these is left in the mesh", async () =>
    (await it.agent(1).enrolled()).every((name) => !name.includes("deleted-")),
  );
});
