// Requests over kept connections while agents are replaced and pods roll: none fails, though nobody tries again. The full form: `npm run prove -- requests`.
import assert from "node:assert/strict";
import test from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { httpService, noneFailed, replicas, rollOut, startRequests } from "../kit/http-shop.ts";
import { labOptions, withLab } from "../kit/lab.ts";
import { clientPod, manifest, namespace, peerAuthentication } from "../kit/manifests.ts";
import { waitFor } from "../kit/wait.ts";

const agentEnv = { FAIRLEAD_DATA_THREADS: "1", FAIRLEAD_DRAIN_IDLE_MS: "3000" };
const base = manifest(
  namespace("shop"),
  peerAuthentication("shop/strict", "STRICT"),
  clientPod("shop/near", { node: "node1" }),
  clientPod("shop/far", { node: "node2" }),
  httpService("shop/web"),
);

test(
  "[DP-19] [OPS-2] requests while the agents of both nodes are replaced: none fails, and the old agents end when their clients have gone",
  labOptions,
  async () => {
    const files = { "shop.yaml": base, "web.yaml": manifest(...replicas("shop", 0, 0, 2)) };
    await withLab(files, { nodes: 2, agentEnv }, async (lab) => {
      for (const i of [0, 1]) await lab.ready(`shop/web-0-${i}`);
      const loads = await Promise.all(
        ["shop/near", "shop/far"].map((from) =>
          startRequests(lab, from, { url: "http://web", rate: 75, connections: 8 }),
        ),
      );
      for (const node of ["node1", "node2", "node1"]) {
        await sleep(1500);
        await lab.agent(node, "replace");
      }
      await sleep(1500);
      for (const [i, load] of loads.entries()) {
        const report = await load.stop();
        noneFailed(`client ${i}`, report, 200);
        assert.ok(report.connections > 8, "clients were told to come again");
      }
      // Long before the end of the drain: nobody is left.
      await waitFor(
        "the old agents have ended",
        async () => (await lab.status()).nodes.every((n) => (n.agent?.draining ?? []).length === 0),
        200_000,
      );
    });
  },
);

test("[DIS-6] [RES-5] requests while a service rolls, its pods without preStop: none fails", labOptions, async () => {
  const count = 4;
  const files = { "shop.yaml": base, "web.yaml": manifest(...replicas("shop", 0, 0, count)) };
  await withLab(files, { nodes: 2, agentEnv }, async (lab) => {
    for (let i = 0; i < count; i++) await lab.ready(`shop/web-0-${i}`);
    const load = await startRequests(lab, "shop/near", {
      url: "http://web",
      rate: 100,
      connections: 8,
      methods: "GET",
    });
    for (let generation = 0; generation < 2; generation++) await rollOut(lab, "shop", generation, count, 2);
    const report = await load.stop();
    noneFailed("during the rollouts", report, 200);
    assert.ok(report.servers >= 3 * count - 2, JSON.stringify(report));
  });
});
