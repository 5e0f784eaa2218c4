// Proof: a minute without the controller changes nothing, also over an agent's restart; back again, what is new is there within a second.
import { setTimeout as sleep } from "node:timers/promises";
import { waitFor, withLab } from "../kit/lab.ts";
import { manifest, serverPod } from "../kit/manifests.ts";
import { startLoad } from "./load.ts";
import { check, type Proof } from "./proof.ts";
import { paths, shopManifests } from "./shop.ts";

export const controller: Proof = {
  name: "controller",
  about: "controller away for 60 s, an agent restarted meanwhile; fresh within a second of its return",
  async run({ scale, say }) {
    const facts: Record<string, unknown> = {};
    await withLab(shopManifests, { nodes: 2 }, async (lab) => {
      await lab.ready("shop/near");
      await lab.ready("shop/far");
      const farPath = (await paths(lab))[2];
      if (farPath === undefined) throw new Error("no path");
      const load = await startLoad(lab, { host: farPath.host, rate: 200 });
      say("controller stopped");
      await lab.controller("stop");
      await sleep(30_000 * scale);
      say("agent of node1 killed and started without a controller");
      const quiet = await load.stop("load without the controller");
      await lab.agent("node1", "kill");
      await lab.agent("node1", "start");
      const again = await lab.traffic("shop/client", [
        "short",
        "--host",
        farPath.host,
        "--count",
        "500",
        "--concurrency",
        "8",
      ]);
      check(again.failed === 0, `after a restart from disk: ${JSON.stringify(again)}`);
      await sleep(30_000 * scale);
      say("controller started");
      lab.write("new.yaml", manifest(serverPod("shop/late", { node: "node2" })));
      await lab.controller("start");
      const began = performance.now();
      await waitFor(
        "the agent of node1 is connected and current",
        async () => {
          const status = await lab.askAgent("node1", "/v1/status");
          return (status.discovery as { connected?: boolean } | undefined)?.connected === true;
        },
        30_000,
      );
      const freshMs = Math.round(performance.now() - began);
      facts.freshMs = freshMs;
      check(freshMs <= 1000, `connected and fresh after ${freshMs} ms`);
      Object.assign(facts, { without: quiet, fromDisk: again });
    });
    return facts;
  },
};
