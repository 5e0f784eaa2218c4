// The Workload API as applications use it: SPIFFE's own Go library in a pod, a real agent, a real controller.
import assert from "node:assert/strict";
import { join } from "node:path";
import test from "node:test";
import { buildModule } from "../cluster/compile/build.ts";
import { modules } from "../cluster/compile/modules.ts";
import { cacheFolder } from "../cluster/paths.ts";
import { labOptions, withLab } from "../kit/lab.ts";
import { clientPod, manifest, namespace } from "../kit/manifests.ts";
import { finish } from "../lab/command.ts";

const pods = manifest(
  namespace("shop"),
  namespace("outside", false),
  clientPod("shop/web", { node: "node1" }),
  clientPod("shop/db", { node: "node1" }),
  clientPod("outside/stranger", { node: "node1" }),
);
type Line = Readonly<Record<string, unknown>>;
const lines = (text: string): readonly Line[] =>
  text
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Line);

test("[IDN-12] SPIFFE's own library gets a pod's X.509 and JWT SVIDs as they are renewed, and nobody else's", {
  ...labOptions,
  timeout: 1_800_000,
}, async () => {
  const built = await buildModule(cacheFolder(process.env), modules.spiffe, (line) => console.error(line));
  const probe = join(built.folder, "spiffe-probe");
  const controllerEnv = { FAIRLEAD_SVID_TTL_MS: "20000" };
  await withLab({ "shop.yaml": pods }, { nodes: 1, controllerEnv }, async (lab) => {
    const socket = join(lab.node("node1").runDir, "workload/agent.sock");
    for (const name of ["web", "db"]) await lab.ready(`shop/${name}`);
    const asked = await lab.run("shop/web", [probe, socket, "--updates", "2", "--audience", "vault"]);
    assert.equal(asked.code, 0, asked.stdout + asked.stderr);
    const [first, second, jwt] = lines(asked.stdout);
    const web = "spiffe://cluster.local/ns/shop/sa/web";
    assert.deepEqual([first?.id, first?.svids, second?.id], [web, 1, web]);
    assert.notEqual(first?.serial, second?.serial, "renewed within the stream");
    assert.deepEqual(jwt, { jwt: web, validated: web, audience: ["vault"], otherRefused: true });
    const other = await lab.run("shop/db", [probe, socket]);
    assert.equal(lines(other.stdout)[0]?.id, "spiffe://cluster.local/ns/shop/sa/db");
    const stranger = await lab.run("outside/stranger", [probe, socket]);
    assert.match(stranger.stdout, /"code":"PermissionDenied"/);
    // The node itself is in no pod.
    const node = await finish([probe, socket]);
    assert.match(node.stdout, /"code":"PermissionDenied"/);
    assert.ok((await lab.metric("node1", "fairlead_workload_api_answers_total", 'outcome="ok"')) >= 4);
  });
});
