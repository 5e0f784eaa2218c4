// Proof: a thousand pods come, are connected to, and go. Nothing of them stays: no namespace, no descriptor, no row, and no peer that
// goes on waiting for one that is gone (DP-21).
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { withLab } from "../kit/lab.ts";
import { clientPod, manifest, namespace, pod, readyOn } from "../kit/manifests.ts";
import { waitFor } from "../kit/wait.ts";
import { trafficCommand } from "../lab/programs.ts";
import { beyond, holdings } from "./leaks.ts";
import { check, type Proof } from "./proof.ts";

const total = 1000;
const batch = 40;
const peer = [
  process.execPath,
  "--disable-warning=ExperimentalWarning",
  join(import.meta.dirname, "../kit/traffic-peers.ts"),
];

/** A program that accepts on port 7002 and then waits; small, since many run at once. */
const waiting = (name: string, node: string): unknown =>
  pod(`shop/${name}`, trafficCommand("server", ["--port", "7000", "--greet", "7001", "--sink", "7002"]), {
    node,
    serviceAccount: "default",
    container: readyOn(7000),
  });
const namespacesOf = (lab: string): number =>
  readdirSync("/run/netns").filter((name) => name.startsWith(`fl-${lab}-`)).length;

export const deletions: Proof = {
  name: "deletions",
  about: "1,000 pods deleted while others are connected to them: nothing of them stays, no peer waits over 1 s",
  async run({ scale, say }) {
    const facts: Record<string, unknown> = {};
    const shop = manifest(namespace("shop"), clientPod("shop/client", { node: "node1", serviceAccount: "default" }));
    await withLab({ "shop.yaml": shop }, { nodes: 2 }, async (lab) => {
      await lab.ready("shop/client");
      const peers = await lab.start("shop/client", peer);
      await peers.next();
      const base = namespacesOf(lab.name);
      const before = await holdings(lab);
      let gone = 0;
      let longestMs = 0;
      for (let round = 0; gone < total * scale; round++) {
        const names = Array.from({ length: batch }, (_, i) => `p${round}-${i}`);
        lab.write("batch.yaml", manifest(...names.map((name, i) => waiting(name, i % 2 === 0 ? "node1" : "node2"))));
        const ready = await waitFor(
          `${batch} pods ready`,
          async () => {
            const pods = (await lab.status()).pods.filter((p) => names.includes(p.name) && p.ready);
            return pods.length === batch && pods;
          },
          90_000,
        );
        const opened = await peers.ask(`open ${ready.map((p) => p.ips[0]).join(" ")} 7002`, 30_000);
        check(opened.open === batch, `round ${round}: ${JSON.stringify(opened)}`);
        lab.write("batch.yaml", "");
        await waitFor("pods gone", async () => (await lab.status()).pods.length === 1, 60_000);
        const endedMs = Date.now();
        const ended = await peers.ask("ended", 30_000);
        check(
          ended.open === 0,
          `round ${round}: ${JSON.stringify(ended)} of ${batch} connections are open to pods that are gone`,
        );
        longestMs = Math.max(longestMs, Number(ended.lastMs) - endedMs);
        gone += batch;
        if (round % 5 === 4) say(`${gone} pods gone, ${namespacesOf(lab.name)} namespaces (${base} at the start)`);
      }
      check(longestMs <= 1000, `a peer waited ${longestMs} ms after the last pod was gone`);
      check(namespacesOf(lab.name) === base, `${namespacesOf(lab.name)} namespaces, ${base} at the start`);
      await peers.end("quit");
      // The client's pod keeps up to seven sockets that were made ahead, for half a minute (native/src/kernel/stock.rs).
      const left = await beyond(lab, before, 8);
      check(Object.keys(left).length === 0, `held beyond the start: ${JSON.stringify(left)}`);
      Object.assign(facts, { deleted: gone, longestWaitMs: Math.max(0, longestMs), namespaces: base });
    });
    return facts;
  },
};
