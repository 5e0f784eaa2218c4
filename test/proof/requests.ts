// Proof: no request is lost while agents are replaced or a service rolls, whether of HTTP/1.1, HTTP/2 or gRPC. What no server began is asked again
// by clients of HTTP/2 (RFC 9113 §8.7; grpc-js, Go, curl and nghttp2 do it unseen), nothing else is.
import { setTimeout as sleep } from "node:timers/promises";
import { httpService, type PodsOf, replicas, rollOut, startRequests } from "../kit/http-shop.ts";
import { type TestLab, withLab } from "../kit/lab.ts";
import { clientPod, manifest, namespace, peerAuthentication } from "../kit/manifests.ts";
import { mixedPods, mixedService, startMixed } from "../kit/mixed-shop.ts";
import { waitFor } from "../kit/wait.ts";
import { check, type Proof } from "./proof.ts";

const agentEnv = { FAIRLEAD_DATA_THREADS: "1" };
/** Requests a second, and replacements of agents under them. */
const RATE = 1000;
const REPLACEMENTS = 10;
const REPLICAS = 10;
const ROLLOUTS = 20;
const ROLLOUT_RATE = 500;
/** Who asks, and whom: HTTP/1.1 by Node's client, or HTTP/2 and gRPC in equal parts. */
interface Kind {
  readonly name: string;
  readonly app: "web" | "mixed";
  readonly service: unknown;
  readonly pods: PodsOf;
  /** Requests a second until they are stopped. */
  start(lab: TestLab, from: string, rate: number, methods?: string): Promise<{ stop(): Promise<Report> }>;
}
interface Report {
  readonly ok: number;
  readonly failed: number;
}

const http1: Kind = {
  name: "HTTP/1.1",
  app: "web",
  service: httpService("shop/web"),
  pods: replicas,
  start: (lab, from, rate, methods = "GET,POST") =>
    startRequests(lab, from, { url: "http://web", rate, connections: 32, methods }),
};
const streams: Kind = {
  name: "HTTP/2 and gRPC",
  app: "mixed",
  service: mixedService("shop/mixed"),
  pods: mixedPods,
  async start(lab, from, rate) {
    const load = await startMixed(lab, from, { host: "mixed", kinds: "http2,grpc" });
    await load.rate(rate);
    return load;
  },
};

const retries = (app: string): unknown => ({
  apiVersion: "mesh.fairlead.dev/v1alpha1",
  kind: "ResiliencePolicy",
  metadata: { name: app, namespace: "shop" },
  spec: { targetRefs: [{ kind: "Service", name: app }], retry: { maxAttempts: 2 } },
});
const shop = ({ service }: Kind): string =>
  manifest(
    namespace("shop"),
    peerAuthentication("shop/strict", "STRICT"),
    clientPod("shop/near", { node: "node1" }),
    clientPod("shop/far", { node: "node2" }),
    service,
  );

async function allReady(lab: TestLab, { app }: Kind, count: number): Promise<void> {
  for (let i = 0; i < count; i++) await lab.ready(`shop/${app}-0-${i}`, 120_000);
}
const none = (what: string, report: Report): void =>
  check(report.failed === 0 && report.ok > 0, `${what}: ${JSON.stringify(report)}`);

async function replaced(kind: Kind, times: number, rate: number, say: (line: string) => void): Promise<unknown> {
  const files = { "shop.yaml": shop(kind), [`${kind.app}.yaml`]: manifest(...kind.pods("shop", 0, 0, 4)) };
  let facts: unknown;
  await withLab(files, { nodes: 2, agentEnv }, async (lab) => {
    await allReady(lab, kind, 4);
    const loads = await Promise.all(["shop/near", "shop/far"].map((from) => kind.start(lab, from, rate / 2)));
    for (let i = 0; i < times; i++) {
      await sleep(2000);
      const node = `node${1 + (i % 2)}`;
      say(`${kind.name}, replacement ${i + 1} of ${times}: ${node}`);
      await lab.agent(node, "replace");
    }
    await sleep(2000);
    const reports = await Promise.all(loads.map((load) => load.stop()));
    for (const report of reports) none(`${kind.name} while agents are replaced`, report);
    say(`${kind.name}, replaced: ${JSON.stringify(reports)}`);
    const isDrained = async (): Promise<boolean> =>
      (await lab.status()).nodes.every((node) => (node.agent?.draining ?? []).length === 0);
    await waitFor("the old agents have ended", isDrained, 200_000);
    facts = { replacements: times, reports };
  });
  return facts;
}

async function rolled(
  kind: Kind,
  times: number,
  rate: number,
  withRetries: boolean,
  say: (line: string) => void,
): Promise<unknown> {
  const files = {
    "shop.yaml": shop(kind),
    [`${kind.app}.yaml`]: manifest(...kind.pods("shop", 0, 0, REPLICAS)),
    ...(withRetries ? { "retries.yaml": manifest(retries(kind.app)) } : {}),
  };
  const what = `${kind.name}, rollouts, retries ${withRetries ? "on" : "off"}`;
  let facts: unknown;
  await withLab(files, { nodes: 2, agentEnv }, async (lab) => {
    await allReady(lab, kind, REPLICAS);
    const load = await kind.start(lab, "shop/near", rate, "GET");
    for (let i = 0; i < times; i++) {
      say(`${what}: ${i + 1} of ${times}`);
      await rollOut(lab, "shop", i, REPLICAS, 3, kind);
    }
    const report = await load.stop();
    none(what, report);
    say(`${what}: ${JSON.stringify(report)}`);
    facts = { rollouts: times, report };
  });
  return facts;
}

export const requests: Proof = {
  name: "requests",
  about:
    "1,000 requests a second while agents are replaced 10 times; 20 rollouts of 10 pods without preStop at 500/s, retries off and on; HTTP/1.1, then HTTP/2 with gRPC; none fails (parts: web-replaced, web-rolled, mixed-replaced, mixed-rolled; web-rolled-off and -on, mixed-rolled-off and -on: with retries or without)",
  async run({ scale, say, only, rate }) {
    const rollouts = Math.max(1, Math.round(ROLLOUTS * scale));
    const replacements = Math.max(2, Math.round(REPLACEMENTS * scale));
    const facts: Record<string, unknown> = {};
    const isAsked = (part: string): boolean => only === undefined || only.includes(part);
    for (const kind of [http1, streams]) {
      if (isAsked(`${kind.app}-replaced`))
        facts[`${kind.name}, replaced`] = await replaced(kind, replacements, rate ?? RATE, say);
      for (const withRetries of [false, true]) {
        if (!isAsked(`${kind.app}-rolled`) && !isAsked(`${kind.app}-rolled-${withRetries ? "on" : "off"}`)) continue;
        const name = `${kind.name}, rolled, retries ${withRetries ? "on" : "off"}`;
        facts[name] = await rolled(kind, rollouts, rate ?? ROLLOUT_RATE, withRetries, say);
      }
    }
    return facts;
  },
};
