// Brings a cluster up: builds what is missing, then starts what does not run, part by part. On a cluster that is up it changes nothing.
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { buildModule } from "./compile/build.ts";
import { type ModuleName, modules } from "./compile/modules.ts";
import { buildPause, builtInImages, coreDnsImage, PAUSE_IMAGE } from "./images/built-in.ts";
import type { KubeApi } from "./kubernetes/api.ts";
import { controlPlanePrograms } from "./kubernetes/control-plane.ts";
import { adminApi, ensureCredentials } from "./kubernetes/credentials.ts";
import { importBuiltIn, type NodeMaterial, nodePrograms, startNode } from "./kubernetes/node.ts";
import { applyDns, defaultAccount, dnsReady, nodesWork } from "./kubernetes/objects.ts";
import { hierarchies, makeGroup } from "./machine/groups.ts";
import { withLock } from "./machine/lock.ts";
import { buildControlPlaneNetwork, networkIsThere, takenRanges } from "./machine/network.ts";
import { type Program, ProgramWatch } from "./machine/programs.ts";
import { freeBlock, ranges } from "./machine/ranges.ts";
import { until } from "./machine/wait.ts";
import { CLUSTERS_DIR, type ClusterPaths, nodePaths } from "./paths.ts";
import { missingForCluster } from "./requirements.ts";
import { type ClusterState, readState, usedBlocks, writeState } from "./state.ts";
import { leftOf, tearDown } from "./teardown.ts";

export interface UpOptions {
  /** 0: a control plane without nodes. */
  readonly nodes: number;
  /** API server and etcd alone. */
  readonly apiOnly: boolean;
  readonly apiServerFlags: readonly string[];
}

/** The machine may be slow and busy; what has failed is seen before. */
const READY_MS = 240_000;

type Say = (line: string) => void;

/** Builds what a cluster of these options needs. @returns module -> version and folder */
export async function buildAll(
  cache: string,
  options: Pick<UpOptions, "apiOnly" | "nodes">,
  say: Say,
): Promise<ClusterState["built"]> {
  const control: readonly ModuleName[] = ["etcd", "apiserver"];
  const wanted: readonly ModuleName[] = options.apiOnly
    ? control
    : [...control, "kube", ...(options.nodes > 0 ? (["containerd", "cni", "coredns"] as const) : [])];
  const built: Record<string, { version: string; folder: string }> = {};
  for (const name of wanted) {
    const { folder, version } = await buildModule(cache, modules[name], say);
    built[modules[name].name] = { folder, version };
  }
  if (options.nodes > 0) built.pause = { folder: await buildPause(cache), version: "1" };
  return built;
}

/** Helm, built when it is first asked for. @returns path of the program */
export const helmProgram = async (cache: string, say: Say): Promise<string> =>
  join((await buildModule(cache, modules.helm, say)).folder, "helm");

/**
 * Brings the cluster up, or completes one that is up in part.
 * @param cache where built programs are kept
 * @throws Error naming the part that failed and its log
 */
export async function up(cluster: ClusterPaths, options: UpOptions, cache: string, say: Say): Promise<ClusterState> {
  const missing = missingForCluster(options.apiOnly);
  if (missing !== undefined) throw new Error(missing);
  const built = await buildAll(cache, options, say);
  const waiting = (): void => say(`another up or down of cluster ${cluster.name} is running, waiting for it`);
  return withLock(cluster.lockFile, waiting, () => start(cluster, options, built, cache, say));
}

async function start(
  cluster: ClusterPaths,
  options: UpOptions,
  built: ClusterState["built"],
  cache: string,
  say: Say,
): Promise<ClusterState> {
  const h = hierarchies();
  if (leftOf(h, cluster) && !(readState(cluster) !== undefined && networkIsThere(cluster))) {
    const left = await tearDown(h, cluster);
    say(
      `removed what an earlier cluster ${cluster.name} had left: ${left.processes} processes, ${left.namespaces} namespaces`,
    );
  }
  const state = await claim(cluster, options, built);
  const material = { h, cluster, state, programsDir: cache, pauseImage: PAUSE_IMAGE, watch: new ProgramWatch(h), say };
  const api = await startControlPlane(material);
  try {
    if (state.nodes > 0) await startNodes(material, cache, api);
    if (!state.apiOnly) await controllersWork(material, api);
  } finally {
    api.close();
  }
  return state;
}

/** The state of the cluster that is there, with more nodes if more are wanted; or a new one with addresses of its own. */
async function claim(cluster: ClusterPaths, options: UpOptions, built: ClusterState["built"]): Promise<ClusterState> {
  const old = readState(cluster);
  if (old !== undefined) {
    const same = old.apiOnly === options.apiOnly && old.apiServerFlags.join("\0") === options.apiServerFlags.join("\0");
    const sameBuilt = Object.entries(built).every(([name, b]) => (old.built[name]?.folder ?? b.folder) === b.folder);
    if (!same || !sameBuilt)
      throw new Error(
        `cluster ${cluster.name} is up with other options or versions: take it down first, or give another --name`,
      );
    const state = { ...old, nodes: Math.max(old.nodes, options.nodes), built: { ...old.built, ...built } };
    await ensureCredentials(cluster, state.block, state.nodes, Date.now());
    writeState(cluster, state);
    return state;
  }
  // The choice and the claim are one step among all clusters of the machine.
  const state = await withLock(
    join(CLUSTERS_DIR, ".addresses.lock"),
    () => undefined,
    async (): Promise<ClusterState> => {
      const block = freeBlock(usedBlocks(), await takenRanges());
      if (block === undefined)
        throw new Error(
          "no free range of addresses in 10.110.0.0 to 10.209.255.255; take a cluster down, or look at `ip route`",
        );
      const made = { name: cluster.name, block, built, ...options };
      for (const folder of [cluster.dir, cluster.logs]) mkdirSync(folder, { recursive: true, mode: 0o700 });
      writeState(cluster, made);
      return made;
    },
  );
  await ensureCredentials(cluster, state.block, state.nodes, Date.now());
  await buildControlPlaneNetwork(cluster, ranges(state.block));
  return state;
}

async function startControlPlane(m: NodeMaterial): Promise<KubeApi> {
  const { h, cluster, state, say, watch } = m;
  makeGroup(h, cluster.controlPlaneGroup);
  const programs = controlPlanePrograms(cluster, state);
  const servers = programs.slice(0, 2);
  const began = performance.now();
  const fresh = startAll(m, servers);
  const api = adminApi(cluster, state.block);
  const hint = (): string => `logs: ${servers.map((p) => p.log).join(", ")}`;
  const check = (): void => watch.check();
  try {
    await until({ what: "the API server is ready", timeoutMs: READY_MS, say, check, hint }, () => api.ready());
  } catch (error) {
    api.close();
    throw error;
  }
  if (fresh > 0) say(`API server ready after ${seconds(began)} s: ${api.server}`);
  startAll(m, programs.slice(2));
  return api;
}

/** The first thing that controllers do for users; before it no pod can be created. */
async function controllersWork(m: NodeMaterial, api: KubeApi): Promise<void> {
  const check = (): void => m.watch.check();
  const hint = (): string => `logs: ${m.cluster.logs}`;
  const what = "controllers have made the default service account";
  await until({ what, timeoutMs: READY_MS, say: m.say, check, hint }, () => defaultAccount(api));
}

function startAll(m: NodeMaterial, programs: readonly Program[]): number {
  const started = programs.filter((p) => m.watch.start(p));
  if (started.length > 0) m.say(`starting ${started.map((p) => p.name).join(", ")}`);
  return started.length;
}

const seconds = (began: number): string => ((performance.now() - began) / 1000).toFixed(1);

async function startNodes(m: NodeMaterial, cache: string, api: KubeApi): Promise<void> {
  const { h, cluster, state, say } = m;
  const began = performance.now();
  const { coredns, pause } = state.built;
  if (coredns === undefined || pause === undefined)
    throw new Error(`cluster ${cluster.name} was made without nodes: take it down first`);
  const images = await builtInImages(cache, { pause: pause.folder, coredns });
  const numbers = Array.from({ length: state.nodes }, (_, i) => i + 1);
  // One after the other: each node's network tells the earlier ones the way to it.
  for (const n of numbers) await startNode(m, n);
  await Promise.all(numbers.map((n) => importBuiltIn(m, n, images)));
  for (const n of numbers) startAll(m, nodePrograms(h, cluster, state, n));
  await applyDns(api, coreDnsImage(coredns.version));
  const check = (): void => m.watch.check();
  const hint = (): string => `logs: ${cluster.logs}`;
  const names = numbers.map((n) => nodePaths(cluster, n).name);
  const what = `${names.join(", ")} are Ready`;
  await until({ what, timeoutMs: READY_MS, say, check, hint }, () => nodesWork(api, names));
  await until({ what: "CoreDNS is ready", timeoutMs: READY_MS, say, check, hint }, () => dnsReady(api));
  say(`${names.join(", ")} and DNS ready after ${seconds(began)} s`);
}
