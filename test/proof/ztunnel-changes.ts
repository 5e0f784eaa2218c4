// The second half of the proof with a ztunnel: what changes while it runs (pods, policies, the controller's absence, its own restart, the root
// of all certificates), under load both ways.
import { setTimeout as sleep } from "node:timers/promises";
import type { TestLab } from "../kit/lab.ts";
import { authorization, clientPod, manifest, serverPod, service } from "../kit/manifests.ts";
import { waitFor } from "../kit/wait.ts";
import type { Ztunnel } from "../kit/ztunnel.ts";
import { holdIdle, type IdleConnections, startLoad } from "./load.ts";
import { check } from "./proof.ts";

/** So that ztunnel renews 30 s after it was given one: when half of it is over, counted from five minutes before. */
export const shortLife = { SECRET_TTL: "360s" };
const rate = 40;
const idleCount = 20;

const principal = (where: string, account: string): unknown => ({
  source: { principals: [`cluster.local/ns/${where}/sa/${account}`] },
});

/** How many of a few connections went well. */
async function well(lab: TestLab, from: string, host: string): Promise<number> {
  const args = ["short", "--host", host, "--count", "3", "--concurrency", "1", "--timeout", "5000"];
  return Number((await lab.traffic(from, args).catch(() => ({ ok: 0 }))).ok);
}

/** Milliseconds until all of a few connections go well, or none does. */
async function until(lab: TestLab, from: string, host: string, isWell: boolean): Promise<number> {
  const began = performance.now();
  const wanted = isWell ? 3 : 0;
  await waitFor(
    `${from} -> ${host}: ${isWell ? "reached" : "refused"}`,
    async () => (await well(lab, from, host)) === wanted,
  );
  return Math.round(performance.now() - began);
}

/** Load and held connections, both ways. */
async function bothWays(lab: TestLab) {
  const ways = [
    { client: "amb/caller", host: (await lab.pod("shop/web")).ips[0] ?? "" },
    { client: "shop/near", host: (await lab.pod("amb/server")).ips[0] ?? "" },
  ];
  const loads = await Promise.all(ways.map((way) => startLoad(lab, { ...way, rate })));
  const idle: IdleConnections[] = await Promise.all(ways.map((way) => holdIdle(lab, { ...way, count: idleCount })));
  return {
    prove: (what: string) => Promise.all(idle.map((one) => one.prove(what))),
    async stop(what: string): Promise<unknown> {
      const reports = await Promise.all(loads.map((load) => load.stop(what)));
      await Promise.all(idle.map((one) => one.end()));
      return reports.map(({ ok, failed, p99Ms }) => ({ ok, failed, p99Ms }));
    },
  };
}

/** A pod more, and policies: at both ends, for new connections and for those that are open. */
async function podsAndPolicies(lab: TestLab): Promise<Record<string, unknown>> {
  const [web = "", server = ""] = [(await lab.pod("shop/web")).ips[0], (await lab.pod("amb/server")).ips[0]];
  lab.write(
    "late.yaml",
    manifest(serverPod("shop/late", { node: "node1" }), service("shop/late", "late", { 7000: 7000 })),
  );
  const late = await lab.ready("shop/late");
  const seen = await until(lab, "amb/caller", late.ips[0] ?? "", true);
  const held = {
    ours: await holdIdle(lab, { client: "amb/caller", host: web, count: 5 }),
    theirs: await holdIdle(lab, { client: "shop/near", host: server, count: 5 }),
  };
  const deny = (name: string, from: unknown): unknown =>
    authorization(name, { action: "DENY", rules: [{ from: [from] }] });
  lab.write(
    "deny.yaml",
    manifest(deny("shop/no-caller", principal("amb", "caller")), deny("amb/no-near", principal("shop", "near"))),
  );
  const [byUs, byThem] = await Promise.all([
    until(lab, "amb/caller", web, false),
    until(lab, "shop/near", server, false),
  ]);
  const left = { ours: (await held.ours.look()).ok, theirs: (await held.theirs.look()).ok };
  check(left.ours === 0 && left.theirs === 0, `open connections outlived a DENY: ${JSON.stringify(left)}`);
  lab.write("deny.yaml", "# nothing\n");
  await Promise.all([until(lab, "amb/caller", web, true), until(lab, "shop/near", server, true)]);
  await Promise.all([held.ours.end(), held.theirs.end()]);
  return { newPodMs: seen, deniedByUsMs: byUs, deniedByThemMs: byThem, openConnections: "ended" };
}

/** The controller is away; what changed meanwhile is known when it is back. */
async function absence(lab: TestLab): Promise<Record<string, unknown>> {
  const traffic = await bothWays(lab);
  await lab.controller("stop");
  await sleep(3000);
  await traffic.prove("without a controller");
  lab.write("late.yaml", manifest(clientPod("shop/other", { node: "node1" })));
  await lab.controller("start");
  await traffic.prove("with the controller back");
  const load = await traffic.stop("while the controller was away");
  lab.write(
    "late.yaml",
    manifest(serverPod("shop/late", { node: "node1", annotations: { "fairlead.dev/lab-address": "77" } })),
  );
  const late = await lab.ready("shop/late");
  return { load, seenAfterMs: await until(lab, "amb/caller", late.ips[0] ?? "", true) };
}

async function restart(lab: TestLab, ztunnel: Ztunnel): Promise<Record<string, unknown>> {
  const [web = "", server = ""] = [(await lab.pod("shop/web")).ips[0], (await lab.pod("amb/server")).ips[0]];
  await ztunnel.end("SIGKILL");
  // In the pods nothing listens any more: nothing may go in the clear instead.
  check((await well(lab, "shop/near", server)) === 0, "a pod whose ztunnel is away was reached");
  await ztunnel.run();
  return { theirs: await until(lab, "shop/near", server, true), ours: await until(lab, "amb/caller", web, true) };
}

/** All three steps, each taken as soon as the controller lets it be. */
async function rotation(lab: TestLab, ztunnel: Ztunnel, say: (line: string) => void): Promise<Record<string, unknown>> {
  const traffic = await bothWays(lab);
  const began = performance.now();
  const took: Record<string, unknown> = {};
  let last = "";
  const phases = { begin: "both-trusted", switch: "switched", finish: "steady" };
  for (const [phase, reached] of Object.entries(phases)) {
    await waitFor(
      `the step ${phase}`,
      () =>
        lab.askController("/v1/ca/rotate", "POST", { phase }).then(
          () => true,
          async (e: unknown) => {
            if (String(e) !== last) say(`${phase}: ${e}`);
            last = String(e);
            await sleep(1000);
            // It may have been done although the answer came too late.
            return (await lab.askController("/v1/ca")).phase === reached;
          },
        ),
      180_000,
    );
    took[phase] = Math.round(performance.now() - began);
    await ztunnel.mountRoots();
    await traffic.prove(`after ${phase}`);
  }
  await sleep(5000);
  await traffic.prove("after the rotation");
  return { atMs: took, load: await traffic.stop("during the rotation") };
}

/** ztunnel asks only for what it needs; the controller goes and comes meanwhile. */
async function onDemand(lab: TestLab, ztunnel: Ztunnel): Promise<Record<string, unknown>> {
  await ztunnel.end();
  // A name server of its own needs to know all services.
  await ztunnel.run({ XDS_ON_DEMAND: "true", PROXY_CONFIG: '{"proxyMetadata": {"DNS_CAPTURE": "false"}}' });
  const [web = "", server = ""] = [(await lab.pod("shop/web")).ips[0], (await lab.pod("amb/server")).ips[0]];
  const first = [await until(lab, "amb/caller", "web.shop", true), await until(lab, "shop/near", server, true)];
  const traffic = await bothWays(lab);
  await lab.controller("stop");
  await sleep(2000);
  await lab.controller("start");
  await sleep(5000);
  await traffic.prove("on demand, with the controller back");
  const load = await traffic.stop("on demand, while the controller went and came");
  check((await well(lab, "amb/banned", web)) === 0, "on demand: a denied pod was let in");
  check((await well(lab, "shop/banned", server)) === 0, "on demand: a denied pod was let in by ztunnel");
  return { firstMs: first, load };
}

type Part = (lab: TestLab, ztunnel: Ztunnel, say: (line: string) => void) => Promise<Record<string, unknown>>;

/** By name, in an order in which each leaves what the next one needs: certificates of pods that are gone hold up a rotation until they end. */
export const changes: Readonly<Record<string, Part>> = {
  rotation,
  pods: podsAndPolicies,
  absence,
  restart,
  demand: onDemand,
};
