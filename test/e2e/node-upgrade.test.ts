// What load notices on a cluster of the agents' changes: nothing. Labels on and off, agents replaced one after the other, with requests at
// a fixed rate and connections that are held open and prove each byte.
import assert from "node:assert/strict";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { httpServer } from "../kit/http-shop.ts";
import {
  idlePod,
  MeshCluster,
  machinePod,
  patientAgent,
  peerAuthenticationKind,
  service,
  strictShop,
  type TrafficClient,
  clusterTimeoutMs as timeout,
  trafficServer,
} from "../kit/mesh-cluster.ts";
import { PROJECT_DIR } from "../lab/paths.ts";

const rate = process.env.FAIRLEAD_TEST_RATE ?? "50";
const rounds = Number(process.env.FAIRLEAD_TEST_ROUNDS ?? 2);
const idleCount = 50;
const shop = new MeshCluster();

before(
  async () => {
    const web = [trafficServer("web", "n2"), service("web", 7000, 7000)];
    const ports = [{ port: 80, targetPort: 8080, appProtocol: "http" }];
    const http = { ...service("pages"), spec: { selector: { app: "pages" }, ports } };
    const page = [machinePod("pages", "n2", [process.execPath, "-e", httpServer("pages", 25)]), http];
    const clients = [idlePod("far", "n1"), idlePod("near", "n2")];
    await shop.start([peerAuthenticationKind, ...web, ...page, ...clients], patientAgent);
    for (const [, name] of pods) await shop.ready(name);
  },
  { timeout },
);
after(() => shop[Symbol.asyncDispose](), { timeout });

const pods = [
  [2, "web"],
  [2, "pages"],
  [1, "far"],
  [2, "near"],
] as const;
const all = (wish: boolean): Promise<unknown> => Promise.all(pods.map(([n, name]) => shop.enrolled(n, name, wish)));

/** Runs `change` under load of both client pods; nothing may fail, and what was open before it must be open and whole after it. */
async function underLoad(change: () => Promise<void>): Promise<void> {
  const target = ["--host", await shop.clusterIp("web"), "--port", "7000", "--timeout", "120000"];
  const started: TrafficClient[] = [];
  const start = (...words: string[]): TrafficClient => {
    const client = shop.traffic(...(words as [string, ...string[]]));
    started.push(client);
    return client;
  };
  try {
    await loaded(target, start, change);
  } finally {
    for (const client of started) client.kill();
  }
}

async function loaded(
  target: readonly string[],
  start: (...words: string[]) => TrafficClient,
  change: () => Promise<void>,
): Promise<void> {
  const clients = await Promise.all(
    ["far", "near"].map(async (pod) => {
      const idle = start(pod, "idle", ...target, "--count", `${idleCount}`);
      assert.deepEqual(await idle.next(), { open: idleCount, reasons: {}, refused: 0 });
      const load = start(pod, "load", ...target, "--rate", rate);
      await load.next();
      return { pod, idle, load };
    }),
  );
  await change();
  for (const { pod, idle, load } of clients) {
    const proved = await idle.ask("check");
    assert.deepEqual([proved.ok, proved.reasons], [idleCount, {}], `connections of ${pod} that were open before`);
    const report = await load.ask("stop");
    const why = report.failed === 0 ? [] : await shop.endings();
    assert.deepEqual(
      [report.failed, report.server?.broken],
      [0, 0],
      [`${pod}: ${JSON.stringify(report)}`, ...why].join("\n"),
    );
    assert.ok(report.ok > 0);
    await Promise.all([idle.end("quit"), load.end("")]);
  }
}

/** Label on, `used` of it, label off; every other time it comes back while pods are still on their way out. */
async function labelled(used: () => Promise<void>): Promise<void> {
  for (let round = 0; round < rounds; round++) {
    await shop.said("label", "namespace", "shop", "fairlead.dev/mesh=enabled");
    await all(true);
    await used();
    await shop.said("label", "namespace", "shop", "fairlead.dev/mesh-");
    await all(false);
    if (round % 2 === 0) for (const [n, name] of pods) await shop.isOut(n, name);
  }
}

test("[INT-12] [DP-9] the label on and off under load: no request fails, no connection ends", { timeout }, async () => {
  await underLoad(() =>
    labelled(async () => {
      const was = await shop.tunnelled(2);
      await shop.waitFor("load goes by the tunnel", async () => (await shop.tunnelled(2)) > was + 20);
    }),
  );
});

test("[INT-12] [DP-9] the same with HTTP on kept connections: no request fails", { timeout }, async () => {
  const load = join(PROJECT_DIR, "test/kit/http-load.ts");
  const url = `http://${await shop.clusterIp("pages")}`;
  const answered = (): Promise<number> =>
    shop.counted(2, "istio_requests_total", [
      'reporter="destination"',
      'connection_security_policy="mutual_tls"',
      'source_workload="far"',
    ]);
  const clients: TrafficClient[] = [];
  try {
    for (const pod of ["far", "near"]) {
      const client = shop.exec(pod, [process.execPath, "--disable-warning=ExperimentalWarning", load, url, rate, "64"]);
      clients.push(client);
      await client.next();
    }
    await labelled(async () => {
      const was = await answered();
      await shop.waitFor("requests go by the tunnel", async () => (await answered()) > was + 20);
    });
    for (const client of clients) {
      const report = await client.ask("stop");
      const why = report.failed === 0 ? [] : await shop.endings();
      assert.equal(report.failed, 0, [JSON.stringify(report), ...why].join("\n"));
      assert.ok(report.ok > 0);
    }
  } finally {
    for (const client of clients) client.kill();
  }
});

test("[OPS-2] [DP-19] agents of both nodes replaced under load and STRICT: nothing fails, nothing is reset", {
  timeout,
}, async () => {
  await shop.said("label", "namespace", "shop", "fairlead.dev/mesh=enabled");
  await all(true);
  await shop.api.apply(strictShop);
  const target = ["--host", await shop.clusterIp("web"), "--port", "7000"];
  for (const [n, name] of pods)
    await shop.waitFor(`${name} is strict`, async () => {
      const { pods: known } = await shop.agent(n).ask("/v1/pods");
      return known.some((p: { pod: string; state: string }) => p.pod === `shop/${name}` && p.state === "strict");
    });
  // What is opened while one side is strict and the other has no certificate yet is refused, and rightly so.
  for (const from of ["far", "near"])
    await shop.waitFor(`${from} reaches web under STRICT`, async () => {
      const client = shop.traffic(from, "short", ...target, "--count", "50", "--timeout", "60000");
      const report = await client.next();
      await client.end("");
      return report.failed === 0;
    });
  const before = [...shop.agents];
  await underLoad(async () => {
    for (let round = 0; round < rounds; round++)
      for (const n of [1, 2]) {
        const next = await shop.mesh.agent(n, `next-${round}`, patientAgent);
        await next.start();
        await next.ready(await shop.agent(n).ask("/v1/status"));
        shop.agents[n - 1] = next;
      }
    // They drain for as long as the connections are open.
    for (const agent of before) assert.notEqual(agent.pid, undefined);
  });
  for (const agent of before)
    await shop.waitFor(`the first agent of ${agent.node} has ended`, async () => agent.pid === undefined);
  await all(true);
});
