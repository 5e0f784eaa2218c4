// One node: its namespaces, and in them containerd, kubelet and kube-proxy, as on a machine of its own.
import { chmodSync, constants, copyFileSync, existsSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { type Finished, finish, run } from "../../lab/command.ts";
import { makeDir, readText, removePath } from "../../lab/files.ts";
import { modules } from "../compile/modules.ts";
import { type Hierarchies, joining } from "../machine/groups.ts";
import { buildNodeNetwork } from "../machine/network.ts";
import { endedSentence, mainProcess, type Program, type ProgramWatch, SYSTEM_PATH } from "../machine/programs.ts";
import { nodeAddress, nodePods, ranges } from "../machine/ranges.ts";
import { until } from "../machine/wait.ts";
import { type ClusterPaths, type NodePaths, nodePaths } from "../paths.ts";
import { type ClusterState, program, programs } from "../state.ts";
import { cniConfig, containerdConfig, kubeletConfig, type NodeFacts, proxyConfig } from "./node-config.ts";

const INIT_SCRIPT = fileURLToPath(new URL("../machine/node-init.sh", import.meta.url));
const CONTAINERD_MS = 60_000;
const INIT_MS = 60_000;

/** What a node is made with besides the cluster's own state. */
export interface NodeMaterial {
  readonly h: Hierarchies;
  readonly cluster: ClusterPaths;
  readonly state: ClusterState;
  /** Where all built programs lie: seen inside the node under the same path. */
  readonly programsDir: string;
  readonly pauseImage: string;
  readonly watch: ProgramWatch;
  readonly say: (line: string) => void;
}

const logOf = (cluster: ClusterPaths, node: NodePaths, part: string): string =>
  join(cluster.logs, `${node.name}-${part}.log`);

/** The program that holds the node's namespaces: with its end everything in the node ends. */
export function initProgram(m: Pick<NodeMaterial, "cluster" | "state" | "programsDir">, n: number): Program {
  const node = nodePaths(m.cluster, n);
  const pause = program(m.state, "pause", "pause");
  const script = ["/bin/sh", INIT_SCRIPT, node.dir, m.cluster.dir, m.programsDir, node.name, pause];
  return {
    name: `${node.name}/init`,
    group: `${node.group}/init`,
    log: logOf(m.cluster, node, "init"),
    entering: () => ["nsenter", `--net=/run/netns/${node.netns}`, "--"],
    command: ["unshare", "--mount", "--pid", "--uts", "--fork", "--kill-child", "--propagation", "private", ...script],
  };
}

/** Id of the node's first process, as the machine counts. @throws Error if the node is not up */
export function nodeInit(node: NodePaths): number {
  const pid = Number(readText(node.initFile));
  if (!(pid > 0 && readText(`/proc/${pid}/cgroup`).includes(`/${node.group}/init`)))
    throw new Error(`node ${node.name} is not up: its first process is gone`);
  return pid;
}

/** Words that lead into the node; the process that waits outside for what is run inside belongs to the node's groups too. */
export const enteringNode = (h: Hierarchies, node: NodePaths): readonly string[] => [
  ...joining(h, `${node.group}/init`, [
    "nsenter",
    "--target",
    String(nodeInit(node)),
    "--mount",
    "--uts",
    "--net",
    "--pid",
  ]),
  "--",
];

/** containerd, kubelet, kube-proxy, in the order of their start. */
export function nodePrograms(
  h: Hierarchies,
  cluster: ClusterPaths,
  state: ClusterState,
  n: number,
): readonly Program[] {
  const node = nodePaths(cluster, n);
  const kube = program(state, "kube", "kube");
  const make = (part: string, command: readonly [string, ...string[]], env = {}): Program => ({
    name: `${node.name}/${part}`,
    group: `${node.group}/${part}`,
    log: logOf(cluster, node, part),
    entering: () => enteringNode(h, node),
    command,
    env,
  });
  const path = `${programs(state, "containerd")}:${SYSTEM_PATH}`;
  const containerd = program(state, "containerd", "containerd");
  return [
    make("containerd", [containerd, "--config", join(node.dir, "containerd.toml")], { PATH: path }),
    make("kubelet", [
      kube,
      "kubelet",
      `--config=${join(node.dir, "kubelet.json")}`,
      `--kubeconfig=${node.kubeconfig}`,
      `--hostname-override=${node.name}`,
      `--node-ip=${nodeAddress(state.block, n)}`,
      "--root-dir=/var/lib/kubelet",
      "--cert-dir=/var/lib/kubelet/pki",
      `--runtime-cgroups=/${node.group}/containerd`,
    ]),
    make("kube-proxy", [kube, "kube-proxy", `--config=${join(node.dir, "proxy.json")}`]),
  ];
}

function writeNodeFiles(m: NodeMaterial, n: number): void {
  const node = nodePaths(m.cluster, n);
  const facts: NodeFacts = {
    name: node.name,
    address: nodeAddress(m.state.block, n),
    pods: nodePods(m.state.block, n),
    allPods: ranges(m.state.block).pods,
    group: node.group,
    containerdAddress: node.containerdAddress,
    pauseImage: m.pauseImage,
    pki: m.cluster.pki,
  };
  for (const own of ["var-lib", "var-log", "cni-config", "cni-programs"]) makeDir(join(node.dir, own), 0o755);
  writeFileSync(join(node.dir, "containerd.toml"), containerdConfig(facts));
  writeFileSync(join(node.dir, "kubelet.json"), kubeletConfig(facts));
  writeFileSync(join(node.dir, "proxy.json"), proxyConfig(facts));
  writeFileSync(join(node.dir, "cni-config/10-pods.conflist"), cniConfig(facts));
  for (const plugin of Object.keys(modules.cni.programs)) {
    const file = join(node.dir, "cni-programs", plugin);
    copyFileSync(program(m.state, "cni", plugin), file, constants.COPYFILE_FICLONE);
    chmodSync(file, 0o755);
  }
}

/** Makes the node and starts containerd in it, each only where it is missing. @throws Error naming the program and its log */
export async function startNode(m: NodeMaterial, n: number): Promise<void> {
  const { h, cluster, state, say, watch } = m;
  const node = nodePaths(cluster, n);
  const init = initProgram(m, n);
  const check = (): void => watch.check();
  if (mainProcess(h, init) === undefined) {
    makeDir(node.dir);
    await buildNodeNetwork(cluster, ranges(state.block), node, n);
    writeNodeFiles(m, n);
    rmSync(node.initFile, { force: true });
    removePath(join(node.dir, "run")); // in memory on a real machine: it does not outlive a reboot
    makeDir(join(node.dir, "run"), 0o755);
    watch.start(init);
    const there = async (): Promise<boolean> => readText(node.initFile) !== "" && nodeInit(node) > 0;
    const hint = (): string => endedSentence(init);
    await until({ what: `${node.name} has its namespaces`, timeoutMs: INIT_MS, say, check, hint }, there);
  }
  const [containerd] = nodePrograms(h, cluster, state, n);
  if (containerd === undefined) return;
  watch.start(containerd);
  const answers = async (): Promise<boolean> => (await ctr(cluster, state, n, ["version"])).code === 0;
  const hint = (): string => `its log: ${containerd.log}`;
  await until({ what: `${containerd.name} answers`, timeoutMs: CONTAINERD_MS, say, check, hint }, answers);
}

/** Takes the images that every node has into its containerd, once. */
export async function importBuiltIn(m: NodeMaterial, n: number, files: readonly string[]): Promise<void> {
  const mark = join(nodePaths(m.cluster, n).dir, "images");
  const wanted = files.join("\n");
  if (readText(mark) === wanted) return;
  for (const file of files) await importImage(m.cluster, m.state, n, file);
  writeFileSync(mark, wanted);
}

/** Runs containerd's own tool against the node. */
const ctr = (cluster: ClusterPaths, state: ClusterState, n: number, words: readonly string[]): Promise<Finished> =>
  finish(ctrCommand(cluster, state, n, words), { timeoutMs: 60_000 });

const ctrCommand = (cluster: ClusterPaths, state: ClusterState, n: number, words: readonly string[]): string[] => [
  program(state, "containerd", "ctr"),
  "--address",
  nodePaths(cluster, n).containerdSocket,
  ...words,
];

/** Takes an image (OCI layout as tar) into the node's containerd, where kubelet finds it by the name inside. */
export async function importImage(cluster: ClusterPaths, state: ClusterState, n: number, file: string): Promise<void> {
  if (!existsSync(file)) throw new Error(`${file}: no such file`);
  const words = ["--namespace", "k8s.io", "images", "import", "--local", file];
  await run(ctrCommand(cluster, state, n, words), { timeoutMs: 300_000 });
}
