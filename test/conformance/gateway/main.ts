// `npm run conformance -- gateway`: the Gateway API's own conformance suite for meshes, on a real Kubernetes of two nodes that it starts for
// itself: first without a mesh, then twice with it. Needs root and Go. A whole run writes docs/conformance/gateway.md and the report beside it.
import { copyFileSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { parseArgs } from "node:util";
import { type Built, buildModule } from "../../cluster/compile/build.ts";
import { requiredVersion } from "../../cluster/compile/modules.ts";
import { onCluster, type TestCluster, testClusterName, withCluster } from "../../cluster/kit.ts";
import { importImage } from "../../cluster/kubernetes/node.ts";
import { cacheFolder, clusterPaths, parseClusterName } from "../../cluster/paths.ts";
import { missingForCluster } from "../../cluster/requirements.ts";
import { finish } from "../../lab/command.ts";
import { PROJECT_DIR } from "../../lab/paths.ts";
import { CACHE } from "../foreign.ts";
import { applyGatewayApi } from "./crds.ts";
import { echoImage } from "./echo-image.ts";
import { installMesh } from "./mesh.ts";
import { echoModule, suiteModule } from "./modules.ts";
import { gatewayPage } from "./result/page.ts";
import { problems, type SuiteRun } from "./result/runs.ts";
import { meshFeatures, removeNamespaces, runSuite, type SuiteOptions } from "./suite-run.ts";

const usage = `npm run conformance -- gateway [OPTION...]

  --run-test NAME   one test of the suite, e.g. MeshHTTPRouteWeight
  --runs N          how often with the mesh (2)
  --no-control      not without the mesh first: the page tells of the last time that was done
  --cluster NAME    on this cluster of \`npm run cluster\`, brought up if it is not, and left up
  --json FILE       results

What the suite says lies in build/conformance/gateway: RUN.log, and RUN.yaml (its report); beside it the logs of controllers and agents.`;

const { values } = parseArgs({
  options: {
    "run-test": { type: "string" },
    runs: { type: "string", default: "2" },
    "no-control": { type: "boolean", default: false },
    cluster: { type: "string" },
    json: { type: "string" },
    help: { type: "boolean", default: false },
  },
});
const wrong = (message: string): never => {
  console.error(message);
  process.exit(2);
};
if (values.help) {
  console.log(usage);
  process.exit(0);
}
const name = parseClusterName(values.cluster ?? testClusterName());
if (!name.ok) wrong(name.error);
const count = Number(values.runs);
if (!Number.isInteger(count) || count < 0) wrong(`--runs ${values.runs}: give a number`);
const missing = missingForCluster(false);
if (missing !== undefined) wrong(missing);

const began = performance.now();
const say = (line: string): void =>
  console.error(`[${((performance.now() - began) / 1000).toFixed(0).padStart(5)} s] ${line}`);
const cache = cacheFolder(process.env);
const folder = join(CACHE, "gateway");

async function prepared({ cluster, state, api }: TestCluster, echo: Built): Promise<void> {
  const image = await echoImage(cache, echo, Date.now());
  await Promise.all([1, 2].map((n) => importImage(cluster, state, n, image)));
  await applyGatewayApi(api, say);
  await removeNamespaces(api);
}

async function runAll(on: TestCluster, echo: Built, suite: Built): Promise<readonly SuiteRun[]> {
  await prepared(on, echo);
  const options: Omit<SuiteOptions, "name" | "control"> = {
    program: join(suite.folder, "conformance.test"),
    kubeconfig: on.cluster.kubeconfig,
    folder,
    version: `${version}+${commit}`,
    say,
    ...(values["run-test"] === undefined ? {} : { runTest: values["run-test"] }),
  };
  const runs: SuiteRun[] = [];
  if (!values["no-control"]) {
    say("without a mesh");
    const control = await runSuite({ ...options, name: "control", control: true });
    if (options.runTest === undefined) keepControl(control, controlKey(on, echo, suite));
    runs.push(control);
    await removeNamespaces(on.api);
  }
  if (count === 0) return runs;
  say("installing the mesh");
  const mesh = await installMesh(on, join(folder, "images"), say);
  for (let n = 1; n <= count; n++) {
    say(`with the mesh, run ${n} of ${count}`);
    runs.push(await runSuite({ ...options, name: `mesh-${n}`, control: false, metrics: () => mesh.metrics() }));
    await mesh.saveLogs(folder);
    if (n < count) await removeNamespaces(on.api);
  }
  return runs;
}

/** A control is one of the suite, the workload and Kubernetes; of the mesh there is nothing in it. */
const controlKey = ({ state }: TestCluster, echo: Built, suite: Built): string =>
  JSON.stringify([echo.folder, suite.folder, state.built.kube?.folder]);
const controlFile = join(CACHE, "results/gateway-control.json");
function keepControl(run: SuiteRun, key: string): void {
  mkdirSync(dirname(controlFile), { recursive: true });
  writeFileSync(controlFile, JSON.stringify({ key, run }));
}
function keptControl(key: string): readonly SuiteRun[] {
  if (!existsSync(controlFile)) return [];
  const kept = JSON.parse(readFileSync(controlFile, "utf8")) as { readonly key: string; readonly run: SuiteRun };
  return kept.key === key ? [kept.run] : [];
}

/** The page and the last run's report. */
function writePage(runs: readonly SuiteRun[], found: readonly string[], kubernetes: string, kernel: string): void {
  const docs = join(PROJECT_DIR, "docs/conformance");
  const goMod = readFileSync(join(suiteModule.folder, "go.mod"), "utf8");
  const versions = { Kubernetes: kubernetes, "conformance suite": requiredVersion(goMod, suiteModule.of) };
  const where = `commit ${commit}, ${kernel}`;
  writeFileSync(
    join(docs, "gateway.md"),
    gatewayPage(runs, { versions, where, features: meshFeatures, problems: found }),
  );
  const report = join(folder, `${runs.at(-1)?.name}.yaml`);
  if (existsSync(report)) copyFileSync(report, join(docs, "gateway-report.yaml"));
}

async function main(clusterName: string): Promise<number> {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  const echo = await buildModule(cache, echoModule, say);
  const suite = await buildModule(cache, suiteModule, say);
  let runs: readonly SuiteRun[] = [];
  let kubernetes = "";
  let key = "";
  const body = async (on: TestCluster): Promise<void> => {
    kubernetes = on.state.built.kube?.version ?? "";
    key = controlKey(on, echo, suite);
    runs = await runAll(on, echo, suite);
  };
  if (values.cluster === undefined) await withCluster({ nodes: 2 }, body, clusterName);
  else await onCluster(clusterPaths(clusterName), { nodes: 2 }, body);
  if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(runs, null, 2)}\n`);
  const isWhole = values["run-test"] === undefined;
  const all = values["no-control"] && isWhole ? [...keptControl(key), ...runs] : runs;
  const found = problems(all, count, isWhole);
  const kernel = (await finish(["uname", "-sr"])).stdout.trim();
  if (isWhole && count > 0 && all.some((r) => r.control)) writePage(all, found, kubernetes, kernel);
  for (const run of runs) {
    const passed = run.tests.filter((t) => t.outcome === "passed");
    const luck = run.control ? `: ${passed.map((t) => t.name).join(", ") || "none"}` : "";
    console.log(`${run.name}: ${passed.length} of ${run.tests.length} passed (${run.seconds} s)${luck}`);
    if (!run.control)
      for (const t of run.tests) if (t.outcome === "failed") console.log(`\n${t.name}, what it said last:\n${t.last}`);
  }
  for (const line of found) console.log(`FAILED ${line}`);
  return found.length === 0 ? 0 : 1;
}

const { version } = JSON.parse(readFileSync(join(PROJECT_DIR, "package.json"), "utf8")) as { version: string };
const commit = (await finish(["git", "-C", PROJECT_DIR, "rev-parse", "--short", "HEAD"])).stdout.trim();
if (name.ok) process.exitCode = await main(name.value);
