// Proof: a minute without the controller changes nothing, also over an agent's restart; back again, what is new is there within a second.
import { setTimeout as sleep } from "node:timers/promises";
import { type TestLab, withLab } from "../kit/lab.ts";
import { manifest, serverPod } from "../kit/manifests.ts";
import { waitFor } from "../kit/wait.ts";
import { finish } from "../lab/command.ts";
import { startLoad } from "./load.ts";
import { check, type Proof } from "./proof.ts";
import { paths, shopManifests } from "./shop.ts";

/** Packets to and from the controller are dropped without a word: only keepalive can tell (DIS-4). */
async function silence(lab: TestLab, say: (line: string) => void): Promise<Record<string, unknown>> {
  const { routerNetns } = await lab.status();
  const inRouter = (...words: string[]) => finish(["ip", "netns", "exec", routerNetns, "nft", ...words]);
  const isConnected = async (): Promise<boolean> =>
    ((await lab.askAgent("node1", "/v1/status")).discovery as { connected?: boolean }).connected === true;
  say("packets of the controller dropped");
  const table = "inet proof-silence";
  await inRouter(
    `table ${table} { chain in { type filter hook input priority 0; tcp dport 15012 drop; }; chain out { type filter hook output priority 0; tcp sport 15012 drop; }; }`,
  );
  try {
    const began = performance.now();
    await waitFor("the silence is noticed", async () => !(await isConnected()), 40_000);
    const noticedMs = Math.round(performance.now() - began);
    check(noticedMs <= 30_000, `noticed after ${noticedMs} ms`);
    await sleep(5000);
    const load = await lab.traffic("shop/client", [
      "short",
      "--host",
      "far.shop",
      "--count",
      "50",
      "--concurrency",
      "4",
    ]);
    check(load.failed === 0, `meanwhile: ${JSON.stringify(load)}`);
    lab.write("newer.yaml", manifest(serverPod("shop/newer", { node: "node2" })));
    await lab.ready("shop/newer", 30_000).catch(() => undefined);
    await inRouter("delete", "table", ...table.split(" "));
    const back = performance.now();
    await waitFor("connected again", isConnected, 30_000);
    const backMs = Math.round(performance.now() - back);
    check(backMs <= 5000, `connected ${backMs} ms after packets passed again`);
    return { noticedMs, backMs };
  } finally {
    await inRouter("delete", "table", ...table.split(" "));
  }
}

export const controller: Proof = {
  name: "controller",
  about: "controller away for 60 s, an agent restarted meanwhile; fresh within a second of its return; then silent",
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
      facts.silence = await silence(lab, say);
    });
    return facts;
  },
};
