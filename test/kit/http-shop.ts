// An HTTP service in the lab whose pods come and go, and load on it that tries nothing again.
import assert from "node:assert/strict";
import { join } from "node:path";
import { PROJECT_DIR } from "../lab/paths.ts";
import type { PodProgram } from "../lab/programs.ts";
import type { TestLab } from "./lab.ts";
import { httpPort, manifest, nodePod, service } from "./manifests.ts";
import { waitFor } from "./wait.ts";

/**
 * What http-load.ts asks: answers with its name and the length of what it got; ends as usual servers do: on SIGTERM it takes nothing new
 * and finishes the rest. `perConnection`: requests after which a connection ends, 0 for never.
 */
export const httpServer = (name: string, perConnection = 0): string =>
  `const server = require("http").createServer((q, s) => {
  let n = 0;
  q.on("data", (d) => { n += d.length; }).on("end", () => {
    const say = (more) => s.end("${name} " + n + " " + more);
    if (q.url === "/slow") setTimeout(say, 150, "slow");
    else if (q.url === "/long") say("x".repeat(300000));
    else say("ok");
  });
});
server.maxRequestsPerSocket = ${perConnection};
server.listen(8080, "::");
process.on("SIGTERM", () => server.close(() => process.exit(0)));`;

export const httpService = (path: string): unknown => service(path, "web", {}, httpPort);

/** The pods web-`generation`-0 and so on, by turns on the nodes. No preStop. */
export function replicas(namespace: string, generation: number, from: number, to: number, nodes = 2): unknown[] {
  return Array.from({ length: to - from }, (_, i) => {
    const name = `web-${generation}-${from + i}`;
    return nodePod(`${namespace}/${name}`, httpServer(name), {
      node: `node${1 + ((from + i) % nodes)}`,
      labels: { app: "web" },
      serviceAccount: "web",
      spec: { terminationGracePeriodSeconds: 10 },
    });
  });
}

/** Pods of a generation, from a number to before another, by turns on the nodes. */
export type PodsOf = (namespace: string, generation: number, from: number, to: number) => unknown[];

/** Replaces all pods of generation `from` by those of the next, `step` at a time: new ones come, are ready, old ones go. */
export async function rollOut(
  lab: TestLab,
  namespace: string,
  from: number,
  count: number,
  step: number,
  kind: { readonly app: string; readonly pods: PodsOf } = { app: "web", pods: replicas },
): Promise<void> {
  const { app, pods } = kind;
  for (let done = 0; done < count; done += step) {
    const next = Math.min(count, done + step);
    const fresh = pods(namespace, from + 1, 0, next);
    lab.write(`${app}.yaml`, manifest(...pods(namespace, from, done, count), ...fresh));
    for (let i = done; i < next; i++) await lab.ready(`${namespace}/${app}-${from + 1}-${i}`, 180_000);
    lab.write(`${app}.yaml`, manifest(...pods(namespace, from, next, count), ...fresh));
    await waitFor(
      "the old pods are gone",
      async () => !(await lab.status()).pods.some((p) => p.name.startsWith(`${app}-${from}-`) && isBelow(p.name, next)),
      60_000,
    );
  }
}
const isBelow = (name: string, limit: number): boolean => Number(name.split("-").at(-1)) < limit;

export interface RequestReport {
  readonly sent: number;
  readonly ok: number;
  readonly failed: number;
  readonly reasons: Readonly<Record<string, number>>;
  readonly connections: number;
  readonly servers: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly maxMs: number;
}

export interface Requests {
  /** Ends it. */
  stop(): Promise<RequestReport>;
}

/** Requests per second on kept connections, until they are stopped. */
export async function startRequests(
  lab: TestLab,
  from: string,
  options: {
    readonly url: string;
    readonly rate: number;
    readonly connections: number;
    readonly methods?: string;
    readonly answers?: "short";
    /** What the program is started by, such as taskset. */
    readonly wrap?: (command: readonly string[]) => string[];
  },
): Promise<Requests> {
  const { url, rate, connections, methods = "GET,POST", answers, wrap = (all) => [...all] } = options;
  const command = [
    process.execPath,
    join(PROJECT_DIR, "test/kit/http-load.ts"),
    url,
    `${rate}`,
    `${connections}`,
    methods,
    ...(answers === undefined ? [] : [answers]),
  ];
  const started: PodProgram = await lab.start(from, wrap(command));
  await started.next();
  return { stop: async () => (await started.ask("stop", 120_000)) as unknown as RequestReport };
}

/** @throws AssertionError with the report where one failed, or next to none was sent */
export function noneFailed(what: string, report: RequestReport, least: number): void {
  assert.equal(report.failed, 0, `${what}: ${JSON.stringify(report)}`);
  assert.ok(report.ok >= least, `${what}: ${JSON.stringify(report)}`);
}
