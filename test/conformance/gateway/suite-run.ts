// Runs the Gateway API's conformance suite once, as it is published and told by its flags, against a cluster that is up.
import { type ChildProcess, spawn } from "node:child_process";
import { createWriteStream } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { parse } from "yaml";
import { ApiError, type KubeApi } from "../../cluster/kubernetes/api.ts";
import { exitCode } from "../../lab/command.ts";
import { readText } from "../../lab/files.ts";
import { type Counts, difference, readCounts } from "./result/counters.ts";
import type { SuiteRun } from "./result/runs.ts";
import { SuiteOutput } from "./result/suite-output.ts";

/** All of the mesh's, then what single tests of the mesh profile need besides. */
export const meshFeatures = [
  "MeshClusterIPMatching",
  "MeshConsumerRoute",
  "MeshHTTPRouteRewritePath",
  "MeshHTTPRouteSchemeRedirect",
  "MeshHTTPRouteRedirectPort",
  "MeshHTTPRouteRedirectPath",
  "MeshHTTPRouteBackendRequestHeaderModification",
  "MeshHTTPRouteQueryParamMatching",
  "MeshHTTPRouteNamedRouteRule",
] as const;
const neededFeatures = [
  "HTTPRouteResponseHeaderModification",
  "HTTPRouteParentRefPort",
  "HTTPRoute303RedirectStatusCode",
  "HTTPRoute307RedirectStatusCode",
  "HTTPRoute308RedirectStatusCode",
] as const;
const profiles = ["MESH-HTTP", "MESH-GRPC"] as const;
/** Namespaces that the suite makes. */
export const suiteNamespaces = ["gateway-conformance-mesh", "gateway-conformance-mesh-consumer"] as const;

/** Between two tests; while counters are read the suite is stopped as well, however long that takes. */
const PAUSE_S = 3;
const SETTLED_MS = 2_000;
/** Without a mesh most tests wait this long in vain for each of their requests. */
const CONTROL_PATIENCE_S = 5;
const SUITE_MS = 45 * 60_000;
const GONE_MS = 240_000;

export interface SuiteOptions {
  /** The compiled suite. */
  readonly program: string;
  readonly kubeconfig: string;
  /** Where its output and report go, as `NAME.log` and `NAME.yaml`. */
  readonly folder: string;
  readonly name: string;
  /** Without a mesh: short waits, nothing counted. */
  readonly control: boolean;
  readonly version: string;
  readonly runTest?: string;
  /** Metrics pages of all agents; none in a control run. */
  readonly metrics?: () => Promise<readonly string[]>;
  readonly say: (line: string) => void;
}

function flags(o: SuiteOptions): string[] {
  const overrides = o.control ? `MaxTimeToConsistency:${CONTROL_PATIENCE_S}` : `TestIsolation:${PAUSE_S}`;
  const all = [
    "-test.v=test2json",
    // Subtests have 30 s each: on a small machine many at once would take them from one another.
    "-test.parallel=2",
    `-test.timeout=${SUITE_MS / 1000}s`,
    `-conformance-profiles=${profiles.join(",")}`,
    `-supported-features=${[...meshFeatures, ...neededFeatures].join(",")}`,
    "-namespace-labels=fairlead.dev/mesh=enabled",
    // They are removed here: their pods' counters are read first.
    "-cleanup-base-resources=false",
    `-timeout-config-overrides=${overrides}`,
    `-report-output=${join(o.folder, `${o.name}.yaml`)}`,
    "-organization=fairlead",
    "-project=fairlead",
    "-url=https://fairlead.dev",
    "-contact=https://fairlead.dev",
    `-version=${o.version}`,
  ];
  return o.runTest === undefined ? all : [...all, `-run-test=${o.runTest}`];
}

/** Runs the suite to its end, whatever that is. @throws Error if it cannot be started or does not end */
export async function runSuite(o: SuiteOptions): Promise<SuiteRun> {
  const began = performance.now();
  const counted = new Map<string, Counts>();
  let before: Counts | undefined;
  let reading: Promise<void> = Promise.resolve();
  const read = async (name: string): Promise<void> => {
    if (o.metrics === undefined) return;
    await sleep(SETTLED_MS);
    const now = readCounts(await o.metrics(), suiteNamespaces);
    if (before !== undefined && name !== "") counted.set(name, difference(now, before));
    before = now;
  };
  const readLater = (name: string): void => {
    reading = reading.then(() => read(name)).catch((e: unknown) => o.say(`counters after ${name}: ${String(e)}`));
  };
  let last = "";
  let child: ChildProcess | undefined;
  const output = new SuiteOutput("TestConformance", () => performance.now(), {
    pausing: () => {
      if (o.metrics === undefined) return;
      child?.kill("SIGSTOP");
      readLater(last);
      reading = reading.finally(() => child?.kill("SIGCONT"));
    },
    ended: (run) => {
      if (run.outcome === "skipped") return;
      last = run.name;
      o.say(`${run.outcome.padEnd(7)} ${run.name} (${run.seconds.toFixed(1)} s, ${run.answers} answers)`);
    },
  });
  await read("");
  child = start(o);
  const code = await finished(o, child, (text) => output.feed(text));
  readLater(last);
  await reading;
  const tests = output.runs.filter((r) => r.outcome !== "skipped");
  const text = readText(join(o.folder, `${o.name}.yaml`));
  return {
    name: o.name,
    control: o.control,
    seconds: Math.round((performance.now() - began) / 1000),
    exitCode: code,
    tests: tests.map((t) => ({ ...t, ...(counted.has(t.name) ? { counted: counted.get(t.name) as Counts } : {}) })),
    skipped: output.runs.filter((r) => r.outcome === "skipped" && r.name.startsWith("Mesh")).map((r) => r.name),
    report: text === "" ? undefined : parse(text),
  };
}

/** Stopped or not, it does not outlive this process. */
const start = (o: SuiteOptions): ChildProcess =>
  spawn("setpriv", ["--pdeathsig", "KILL", o.program, ...flags(o)], {
    cwd: o.folder,
    stdio: ["ignore", "pipe", "pipe"],
    env: { PATH: process.env.PATH ?? "", HOME: o.folder, KUBECONFIG: o.kubeconfig },
    // Its own limit ends it in order; this one is for a suite that stands still.
    timeout: SUITE_MS + 60_000,
    killSignal: "SIGKILL",
  });

function finished(o: SuiteOptions, child: ChildProcess, take: (text: string) => void): Promise<number> {
  const log = createWriteStream(join(o.folder, `${o.name}.log`));
  child.stdout?.setEncoding("utf8").on("data", (text: string) => {
    log.write(text);
    take(text);
  });
  child.stderr?.on("data", (bytes: Buffer) => log.write(bytes));
  return new Promise((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code, signal) => log.end(() => resolve(exitCode(code, signal))));
  });
}

/** Removes the suite's namespaces and waits until they are gone: the next run must not meet pods that are ending. */
export async function removeNamespaces(api: KubeApi): Promise<void> {
  const isGone = (error: unknown): boolean => error instanceof ApiError && error.status === 404;
  const ask = (method: string, name: string): Promise<boolean> =>
    api.call(method, `/api/v1/namespaces/${name}`).then(
      () => false,
      (error: unknown) => {
        if (isGone(error)) return true;
        throw error;
      },
    );
  await Promise.all(suiteNamespaces.map((name) => ask("DELETE", name)));
  const deadline = performance.now() + GONE_MS;
  for (const name of suiteNamespaces)
    while (!(await ask("GET", name))) {
      if (performance.now() > deadline) throw new Error(`namespace ${name} is not gone after ${GONE_MS / 1000} s`);
      await sleep(500);
    }
}
