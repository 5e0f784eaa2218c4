// A mesh on the nodes of a test cluster without images: the controller on this machine, an agent in each node's own namespaces. Started
// again, replaced and killed at will; everything ends with the cluster.
import { readFileSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { agentNodeEnvironment, agentNodeFlags } from "../../agent/node-flags.ts";
import type { KubeApi } from "../cluster/kubernetes/api.ts";
import { apiServerUrl } from "../cluster/kubernetes/credentials.ts";
import { enteringNode } from "../cluster/kubernetes/node.ts";
import { parseObjects } from "../cluster/kubernetes/objects.ts";
import { hierarchies, makeGroup } from "../cluster/machine/groups.ts";
import { mainProcess, type Program, startProgram, stopProgram } from "../cluster/machine/programs.ts";
import { ranges } from "../cluster/machine/ranges.ts";
import { type ClusterPaths, nodePaths } from "../cluster/paths.ts";
import type { ClusterState } from "../cluster/state.ts";
import { PROJECT_DIR } from "../lab/paths.ts";
import { call as callSocket } from "../lab/unix-http.ts";
import { startController, type TestController } from "./controller.ts";
import { waitFor } from "./wait.ts";

const PATIENCE_MS = 120_000;
/**
 * What the kubelet gives all pods of a node beside itself and the runtime: a core's weight for each of its cores. The agent is a pod of its
 * node, the one that asks for processor time among pods that ask for none; run by hand it has what that comes to.
 */
const podsWeight = 100 * availableParallelism();

/** One agent by hand; a second one beside it has another `seat`. */
export class HandAgent {
  readonly node: string;
  readonly #program: Program;
  readonly #socket: string;
  readonly #prepare: () => Promise<void>;

  /** `prepare` is called before each start: a join token is good for one. */
  constructor(node: string, program: Program, socket: string, prepare: () => Promise<void>) {
    this.node = node;
    this.#program = program;
    this.#socket = socket;
    this.#prepare = prepare;
  }
  get pid(): number | undefined {
    return mainProcess(hierarchies(), this.#program);
  }
  get log(): string {
    return readFileSync(this.#program.log, "utf8");
  }
  /** Everything that it ever told of connections and requests, a line each; the admin socket has the latest only. */
  get accessLog(): readonly string[] {
    const path = String(this.#program.env?.FAIRLEAD_ACCESS_LOG).replace(/^file:/, "");
    return readFileSync(path, "utf8").split("\n");
  }
  async start(): Promise<void> {
    await this.#prepare();
    startProgram(hierarchies(), this.#program);
  }
  stop(signal: "SIGTERM" | "SIGKILL", timeoutMs = 30_000): Promise<boolean> {
    return stopProgram(hierarchies(), this.#program, signal, timeoutMs);
  }
  // biome-ignore lint/suspicious/noExplicitAny: tests read answers freely
  async ask(path: string, method: "GET" | "POST" = "GET"): Promise<any> {
    const answer = await callSocket(this.#socket, path, { method, timeoutMs: 15_000 });
    return answer.ok ? (answer.value.json ?? answer.value.text) : undefined;
  }
  /** Resolves when the node's agent is ready; with the status of the one before it, when it is another's turn. */
  async ready(before?: { readonly pid: number }): Promise<void> {
    await waitFor(
      `the agent of ${this.node} is ready; its log: ${this.#program.log}`,
      async () => {
        const answer = await callSocket(this.#socket, "/readyz", { timeoutMs: 2_000 });
        if (!answer.ok || answer.value.status !== 200) return false;
        const status = await this.ask("/v1/status");
        return status?.pid !== before?.pid && status?.discovery?.connected === true;
      },
      PATIENCE_MS,
    );
  }
  async enrolled(): Promise<readonly string[]> {
    // biome-ignore lint/suspicious/noExplicitAny: as above
    const pods: readonly any[] = (await this.ask("/v1/pods"))?.pods ?? [];
    return pods.filter((pod) => pod.enrolled).map((pod) => pod.pod);
  }
}

export interface ClusterMesh extends AsyncDisposable {
  /** The one that agents join at. */
  readonly controller: TestController;
  readonly controllers: readonly TestController[];
  /** Starts one that was killed, where agents know it. */
  restart(controller: TestController): Promise<void>;
  /** By the node's number, from 1. Neither is started yet. */
  agent(n: number, seat?: string, env?: Readonly<Record<string, string>>): Promise<HandAgent>;
}

/** A kubeconfig of a service account, with its rights of `manifest`. */
export async function accountKubeconfig(
  cluster: ClusterPaths,
  api: KubeApi,
  block: number,
  account: string,
): Promise<string> {
  for (const object of parseObjects(
    readFileSync(join(PROJECT_DIR, `manifests/kubernetes/${account}-rbac.yaml`), "utf8"),
  ))
    await api.apply(object);
  const asked = await api.call("POST", `/api/v1/namespaces/fairlead-system/serviceaccounts/fairlead-${account}/token`, {
    apiVersion: "authentication.k8s.io/v1",
    kind: "TokenRequest",
    spec: { expirationSeconds: 36_000 },
  });
  const { token } = (JSON.parse(asked) as { status: { token: string } }).status;
  const file = join(cluster.dir, `${account}.kubeconfig`);
  const root = readFileSync(join(cluster.pki, "ca.crt")).toString("base64");
  const text = {
    "current-context": "it",
    clusters: [{ name: "it", cluster: { server: apiServerUrl(block), "certificate-authority-data": root } }],
    contexts: [{ name: "it", context: { cluster: "it", user: "it", namespace: "fairlead-system" } }],
    users: [{ name: "it", user: { token } }],
  };
  writeFileSync(file, JSON.stringify(text), { mode: 0o600 });
  return file;
}

export async function startClusterMesh(
  cluster: ClusterPaths,
  state: ClusterState,
  api: KubeApi,
  replicas = 1,
): Promise<ClusterMesh> {
  const h = hierarchies();
  const { machine } = ranges(state.block);
  const env = {
    FAIRLEAD_SOURCE: "kubernetes",
    FAIRLEAD_KUBECONFIG: await accountKubeconfig(cluster, api, state.block, "controller"),
    FAIRLEAD_MANIFESTS: "",
    FAIRLEAD_LIVE_DIR: "",
    FAIRLEAD_LISTEN: `${machine}:0`,
  };
  const controller = await startController({}, env);
  const controllers = [controller];
  /** With the cluster they end, also where its watchdog ends it. */
  const group = `${cluster.group}/controllers`;
  makeGroup(h, group);
  while (controllers.length < replicas) controllers.push(await startController({}, env));
  const ofCluster = ({ process: { pid } }: TestController): void =>
    writeFileSync(join(h.v2, group, "cgroup.procs"), `${pid}`);
  for (const one of controllers) ofCluster(one);
  const kubeconfig = await accountKubeconfig(cluster, api, state.block, "agent");
  return {
    controller,
    controllers,
    async restart(one) {
      await one.restart({ FAIRLEAD_LISTEN: `${machine}:${one.ports.grpc}` });
      ofCluster(one);
    },
    async agent(n, seat = "a", env = {}) {
      const node = nodePaths(cluster, n);
      const files = { token: join(node.dir, `join-token-${seat}`), roots: join(node.dir, "roots.pem") };
      const prepare = async (): Promise<void> => {
        const { token } = (await controller.admin("POST", "/v1/join-tokens", { node: node.name })).json;
        writeFileSync(files.token, token, { mode: 0o600 });
        writeFileSync(files.roots, (await controller.admin("GET", "/v1/roots")).text);
      };
      const program: Program = {
        name: `${node.name}/agent-${seat}`,
        group: `${node.group}/agent-${seat}`,
        cpuWeight: podsWeight,
        log: join(cluster.logs, `${node.name}-agent-${seat}.log`),
        entering: () => enteringNode(h, node),
        command: [process.execPath, ...agentNodeFlags, join(PROJECT_DIR, "agent/main.ts")],
        env: {
          ...agentNodeEnvironment(join(PROJECT_DIR, ".cache/agent-code")),
          FAIRLEAD_NODE: node.name,
          FAIRLEAD_PODS: "kubernetes",
          FAIRLEAD_KUBECONFIG: kubeconfig,
          FAIRLEAD_CGROUP: join(h.v2, node.group),
          FAIRLEAD_CONTROLLER: controllers.map(({ ports }) => `${machine}:${ports.grpc}`).join(),
          FAIRLEAD_JOIN_TOKEN_FILE: files.token,
          FAIRLEAD_CA_FILE: files.roots,
          FAIRLEAD_ACCESS_LOG: `file:${join(node.dir, `access-${seat}.log`)}`,
          ...env,
        },
      };
      return new HandAgent(node.name, program, join(node.dir, "run/fairlead/agent.sock"), prepare);
    },
    async [Symbol.asyncDispose]() {
      for (const one of controllers) await one[Symbol.asyncDispose]();
    },
  };
}
