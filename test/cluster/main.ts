// `npm run cluster -- up|down|status|load|image|kubectl|helm|build`: a real Kubernetes on this machine. Results go to standard output, progress and
// errors to standard error.
import { spawnSync } from "node:child_process";
import { mkdirSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { parseArgs } from "node:util";
import { writeImage } from "../../scripts/image/oci.ts";
import { exitCode } from "../lab/command.ts";
import { importImage } from "./kubernetes/node.ts";
import { hierarchies } from "./machine/groups.ts";
import { withLock } from "./machine/lock.ts";
import { MAX_NODES } from "./machine/ranges.ts";
import { type ClusterPaths, cacheFolder, clusterPaths, parseClusterName } from "./paths.ts";
import { clusterNames, program, readState } from "./state.ts";
import { type ClusterStatus, clusterStatus } from "./status.ts";
import { leftOf, tearDown } from "./teardown.ts";
import { buildAll, helmProgram, up } from "./up.ts";

const usage = `npm run cluster -- COMMAND

  up [--name NAME] [--nodes 2] [--api-only] [--api-server-flag=--FLAG=VALUE] [--json]
                          builds what is missing, then starts what does not run; may be repeated.
                          --api-only: API server and etcd alone; --nodes 0: a control plane without nodes
  down [--name NAME | --all]
                          removes everything of the cluster, also after a crash
  status [--name NAME] [--json]
                          what runs, versions, addresses; without --name of all clusters
  load IMAGE.tar [--name NAME]
                          takes an image into every node
  image FOLDER --tag NAME --out IMAGE.tar [--entrypoint WORD]... [--cmd WORD]... [--env NAME=VALUE]... [--user UID]
                          makes an image of a folder (OCI layout as tar, one layer, always the same bytes)
  kubectl [--name NAME] -- WORDS
                          kubectl of the cluster's own version
  helm [--name NAME] -- WORDS
                          Helm, built when it is first asked for
  build [--api-only] [--helm]
                          only builds
  
The name is "main" if none is given. Built programs are kept in ~/.cache/fairlead/cluster (FAIRLEAD_CLUSTER_CACHE).`;

/** Wrong use: exit code 2. */
class UsageError extends Error {}

const options = {
  name: { type: "string" },
  nodes: { type: "string", default: "2" },
  "api-only": { type: "boolean", default: false },
  "api-server-flag": { type: "string", multiple: true },
  all: { type: "boolean", default: false },
  helm: { type: "boolean", default: false },
  json: { type: "boolean", default: false },
  tag: { type: "string" },
  out: { type: "string" },
  entrypoint: { type: "string", multiple: true },
  cmd: { type: "string", multiple: true },
  env: { type: "string", multiple: true },
  user: { type: "string" },
  help: { type: "boolean", short: "h", default: false },
} as const;

function read(argv: readonly string[]) {
  const cut = argv.indexOf("--");
  const own = cut < 0 ? argv : argv.slice(0, cut);
  try {
    const { values, positionals } = parseArgs({ args: [...own], options, allowPositionals: true });
    return { values, words: positionals, rest: cut < 0 ? [] : argv.slice(cut + 1) };
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
}
type Call = ReturnType<typeof read>;

const began = performance.now();
const say = (line: string): void =>
  console.error(`[${((performance.now() - began) / 1000).toFixed(1).padStart(6)} s] ${line}`);
const cache = (): string => cacheFolder(process.env);

function clusterOf(call: Call): ClusterPaths {
  const name = parseClusterName(call.values.name ?? "main");
  if (!name.ok) throw new UsageError(name.error);
  return clusterPaths(name.value);
}

function upOptions(call: Call) {
  const nodes = Number(call.values.nodes);
  if (!Number.isInteger(nodes) || nodes < 0 || nodes > MAX_NODES)
    throw new UsageError(`--nodes ${call.values.nodes}: give a number from 0 to ${MAX_NODES}`);
  const apiOnly = call.values["api-only"];
  return { nodes: apiOnly ? 0 : nodes, apiOnly, apiServerFlags: call.values["api-server-flag"] ?? [] };
}

async function runUp(call: Call): Promise<number> {
  const cluster = clusterOf(call);
  try {
    await up(cluster, upOptions(call), cache(), say);
  } catch (error) {
    if (error instanceof UsageError) throw error;
    say(`npm run cluster -- status --name ${cluster.name} says what runs; down --name ${cluster.name} removes it`);
    throw error;
  }
  const status = await clusterStatus(cluster);
  say("up");
  if (call.values.json)
    console.log(JSON.stringify({ ...status, seconds: (performance.now() - began) / 1000 }, null, 2));
  else console.log(`export KUBECONFIG=${cluster.kubeconfig}`);
  return status.state === "up" ? 0 : 1;
}

async function runDown(call: Call): Promise<number> {
  const h = hierarchies();
  const clusters = call.values.all ? clusterNames().map(clusterPaths) : [clusterOf(call)];
  for (const cluster of clusters) {
    if (!leftOf(h, cluster)) {
      say(`there is no cluster ${cluster.name}`);
      continue;
    }
    const waiting = (): void => say(`another up or down of cluster ${cluster.name} is running, waiting for it`);
    const removed = await withLock(cluster.lockFile, waiting, () => tearDown(h, cluster));
    say(`cluster ${cluster.name} is down: ${removed.processes} processes and ${removed.namespaces} namespaces removed`);
  }
  return 0;
}

function printStatus(status: ClusterStatus): void {
  console.log(`cluster ${status.name}: ${status.state}`);
  if (status.state === "down") return;
  if (status.server !== "")
    console.log(
      `  API server ${status.server}, this machine is ${status.machineAddress}; KUBECONFIG=${status.kubeconfig}`,
    );
  const versions = Object.entries(status.versions).map(([name, version]) => `${name} ${version}`);
  if (versions.length > 0) console.log(`  ${versions.join(", ")}`);
  for (const n of status.nodes)
    console.log(
      `  node ${n.name} ${n.ready ? "Ready" : "not Ready"}: ${n.address}, pods ${n.pods}, namespace ${n.netns}, group /${n.group}`,
    );
  for (const p of status.programs)
    if (p.pid !== null)
      console.log(`  ${p.name.padEnd(26)} pid ${String(p.pid).padEnd(8)} ${p.memoryMib} MiB, up ${p.ageSeconds} s`);
  for (const problem of status.problems) console.log(`  ! ${problem}`);
}

async function runStatus(call: Call): Promise<number> {
  const clusters = call.values.name === undefined ? clusterNames().map(clusterPaths) : [clusterOf(call)];
  const all = await Promise.all(clusters.map(clusterStatus));
  if (call.values.json) console.log(JSON.stringify(call.values.name === undefined ? all : all[0], null, 2));
  else if (all.length === 0) console.log("there are no clusters");
  else for (const status of all) printStatus(status);
  return all.every((s) => s.state !== "broken") ? 0 : 1;
}

/** State of a cluster that must be there. */
function stateOf(cluster: ClusterPaths) {
  const state = readState(cluster);
  if (state === undefined)
    throw new Error(`there is no cluster ${cluster.name}: npm run cluster -- up --name ${cluster.name}`);
  return state;
}

async function runLoad(call: Call): Promise<number> {
  const [file] = call.words;
  if (file === undefined) throw new UsageError("load: give the image's file");
  const cluster = clusterOf(call);
  const state = stateOf(cluster);
  if (state.nodes === 0) throw new Error(`cluster ${cluster.name} has no nodes that could take an image`);
  const numbers = Array.from({ length: state.nodes }, (_, i) => i + 1);
  await Promise.all(numbers.map((n) => importImage(cluster, state, n, resolve(file))));
  say(`${file} is on ${state.nodes} nodes`);
  return 0;
}

async function runImage(call: Call): Promise<number> {
  const [folder] = call.words;
  const { tag, out, entrypoint, cmd, env, user } = call.values;
  if (folder === undefined || tag === undefined || out === undefined)
    throw new UsageError("image: give a folder, --tag and --out");
  mkdirSync(dirname(resolve(out)), { recursive: true });
  const digest = await writeImage(folder, resolve(out), {
    name: tag,
    ...(entrypoint === undefined ? {} : { entrypoint }),
    ...(cmd === undefined ? {} : { command: cmd }),
    ...(env === undefined ? {} : { env }),
    ...(user === undefined ? {} : { user }),
  });
  console.log(`${tag} ${digest}`);
  return 0;
}

function runKubectl(call: Call): number {
  const cluster = clusterOf(call);
  const env = { ...process.env, KUBECONFIG: cluster.kubeconfig };
  const done = spawnSync(program(stateOf(cluster), "kube", "kube"), ["kubectl", ...call.words, ...call.rest], {
    stdio: "inherit",
    env,
  });
  return exitCode(done.status, done.signal);
}

async function runHelm(call: Call): Promise<number> {
  const cluster = clusterOf(call);
  stateOf(cluster);
  const helm = await helmProgram(cache(), say);
  const env = { ...process.env, KUBECONFIG: cluster.kubeconfig };
  const done = spawnSync(helm, [...call.words, ...call.rest], { stdio: "inherit", env });
  return exitCode(done.status, done.signal);
}

async function runBuild(call: Call): Promise<number> {
  await buildAll(cache(), upOptions(call), say);
  if (call.values.helm) await helmProgram(cache(), say);
  return 0;
}

interface Command {
  readonly run: (call: Call) => Promise<number> | number;
  /** How many words it takes at most. */
  readonly words: number;
}

const commands: Readonly<Record<string, Command>> = {
  up: { run: runUp, words: 0 },
  down: { run: runDown, words: 0 },
  status: { run: runStatus, words: 0 },
  load: { run: runLoad, words: 1 },
  image: { run: runImage, words: 1 },
  kubectl: { run: runKubectl, words: Number.POSITIVE_INFINITY },
  helm: { run: runHelm, words: Number.POSITIVE_INFINITY },
  build: { run: runBuild, words: 0 },
};

async function main(): Promise<number> {
  try {
    const [name = "", ...argv] = process.argv.slice(2);
    if (["", "help", "--help", "-h"].includes(name)) {
      console.log(usage);
      return name === "" ? 2 : 0;
    }
    const command = commands[name];
    if (command === undefined)
      throw new UsageError(`no command ${name}; there are: ${Object.keys(commands).join(", ")}`);
    const call = read(argv);
    if (call.values.help) {
      console.log(usage);
      return 0;
    }
    const extra = call.words[command.words] ?? (command.words === Number.POSITIVE_INFINITY ? undefined : call.rest[0]);
    if (extra !== undefined) throw new UsageError(`${name} takes no ${JSON.stringify(extra)}`);
    return await command.run(call);
  } catch (error) {
    console.error(`cluster: ${(error as Error).message}`);
    if (error instanceof UsageError) console.error("npm run cluster -- --help tells more");
    return error instanceof UsageError ? 2 : 1;
  }
}

process.exitCode = await main();
