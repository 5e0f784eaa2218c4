// Limits over real data threads: with one and with four, clients get together what one bucket holds; what threads tell adds up.
import assert from "node:assert/strict";
import { Agent, createServer, get } from "node:http";
import type { Socket } from "node:net";
import { type TestContext, test } from "node:test";
import { podA, startThreads } from "../../test/kit/data-thread.ts";
import { localPod, rateLimit } from "../../test/kit/mesh.ts";
import { waitFor } from "../../test/kit/wait.ts";
import { defaultConcurrency } from "../api/rate-limit.ts";
import { defaultSettings } from "../api/settings.ts";
import { MeshState } from "../state/mesh-state.ts";
import type { GuardTold } from "../upstream/guard.ts";
import { Replicas } from "./replicas.ts";

function clientOn(t: TestContext, socket: Socket): () => Promise<number> {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  agent.createConnection = () => socket;
  t.after(() => agent.destroy());
  return () =>
    new Promise((resolve, reject) => {
      get({ agent, host: "a.shop" }, (answer) => {
        answer.resume().on("end", () => resolve(answer.statusCode ?? 0));
      }).on("error", reject);
    });
}

function meshWith(limits: Parameters<typeof rateLimit>[1], more: Parameters<typeof rateLimit>[2] = {}, enricher = {}) {
  const state = new MeshState();
  const settings = { ...defaultSettings, enricher: { ...defaultSettings.enricher, ...enricher } };
  const changed = [
    { kind: "Workload" as const, value: podA },
    { kind: "MeshSettings" as const, value: settings },
    ...(limits.length === 0 && more.concurrency === undefined
      ? []
      : [{ kind: "RateLimit" as const, value: rateLimit("p", limits, more) }]),
  ];
  state.apply({ changed, removed: [] });
  return new Replicas({ state, pods: () => [localPod(podA)], knowledge: () => "fresh" });
}

for (const count of [1, 4]) {
  test(`[LIM-1] [DP-25] ${count} data threads let through together what one bucket holds, and tell of each request that was too much`, async (t) => {
    const server = createServer((_, response) => response.end("ok"));
    const told: GuardTold[] = [];
    const { connect } = await startThreads(t, count, server, {
      replicas: meshWith([{ requests: 30, windowMs: 86_400_000 }]),
      guarded: (what) => void told.push(what),
    });
    const clients = await Promise.all(Array.from({ length: 4 }, async (_, i) => clientOn(t, await connect(i % count))));
    const statuses = (
      await Promise.all(
        clients.map(async (ask) => {
          const seen: number[] = [];
          for (let i = 0; i < 20; i++) seen.push(await ask());
          return seen;
        }),
      )
    ).flat();
    assert.equal(statuses.filter((status) => status === 200).length, 30);
    assert.equal(statuses.filter((status) => status === 429).length, 50);
    const sum = (): number =>
      told.flatMap(({ limited }) => limited?.named ?? []).reduce((total, { requests }) => total + requests, 0);
    await waitFor("all that was too much is told", () => sum() === 50);
    assert.ok(
      told.every(({ limited }) =>
        limited?.named.every(({ policy, key }) => policy === "shop/p" && key === "10.244.1.5"),
      ),
    );
  });

  test(`[LIM-3] [DP-25] a pod has no more at once than its limit over ${count} data threads`, async (t) => {
    const waiting: (() => void)[] = [];
    const server = createServer((_, response) => void waiting.push(() => response.end("ok")));
    const concurrency = { ...defaultConcurrency, initial: 4, min: 4, max: 4 };
    const { connect } = await startThreads(t, count, server, { replicas: meshWith([], { concurrency }) });
    // One after the other, so that threads see each other's.
    const asked: Promise<number>[] = [];
    for (let i = 0; i < 8; i++) {
      let isOver = false;
      const status = clientOn(t, await connect(i % count))();
      asked.push(status);
      void status.then(() => {
        isOver = true;
      });
      await waitFor("the request is at the server, or refused", () => isOver || waiting.length > i);
    }
    assert.equal(waiting.length, 4);
    for (const answer of waiting) answer();
    const statuses = await Promise.all(asked);
    assert.deepEqual([statuses.filter((s) => s === 200).length, statuses.filter((s) => s === 503).length], [4, 4]);
  });

  test(`[ENR-4] [ENR-6] [DP-25] ${count} data threads count a pair together`, async (t) => {
    const server = createServer((_, response) => response.end("ok"));
    const told: GuardTold[] = [];
    const enricher = { enable_mesh_enricher: true, mesh_unusual_pair_count: 10 };
    const { connect } = await startThreads(t, count, server, {
      replicas: meshWith([], {}, enricher),
      guarded: (what) => void told.push(what),
    });
    const identity = "spiffe://cluster.local/ns/edge/sa/gw";
    for (let i = 0; i < 4; i++) {
      const ask = clientOn(t, await connect(i % count, { tunnel: "fairlead/1", identity }));
      for (let n = 0; n < 10; n++) assert.equal(await ask(), 200);
    }
    const sum = (label: string): number =>
      told
        .flatMap(({ enriched }) => enriched?.anomalies ?? [])
        .reduce((total, [anomaly, n]) => total + (anomaly === label ? n : 0), 0);
    await waitFor("all calls are told", () => sum("cross_namespace") === 40);
    assert.equal(sum("unusual_pair"), 10);
  });
}
