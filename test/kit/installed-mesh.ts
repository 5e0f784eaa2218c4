// Fairlead as a user installs it on a two-node cluster: images out of this checkout, the chart, Helm. Everything ends with it.
import assert from "node:assert/strict";
import { join } from "node:path";
import { guarded, testClusterName } from "../cluster/kit.ts";
import type { KubeApi } from "../cluster/kubernetes/api.ts";
import { adminApi } from "../cluster/kubernetes/credentials.ts";
import { enteringNode } from "../cluster/kubernetes/node.ts";
import { hierarchies } from "../cluster/machine/groups.ts";
import { type ClusterPaths, cacheFolder, clusterPaths, nodePaths } from "../cluster/paths.ts";
import { type ClusterState, program } from "../cluster/state.ts";
import { helmProgram, up } from "../cluster/up.ts";
import { type Finished, finish, run } from "../lab/command.ts";
import { PROJECT_DIR } from "../lab/paths.ts";
import { buildImages, loadImages } from "./mesh-images.ts";

export const CHART = join(PROJECT_DIR, "manifests/chart");
const LONG_MS = 600_000;
const say = (line: string): void => console.error(line);

export class InstalledMesh implements AsyncDisposable {
  readonly #guard = guarded(clusterPaths(testClusterName()));
  readonly cluster: ClusterPaths = this.#guard.cluster;
  #state: ClusterState | undefined;
  #api: KubeApi | undefined;
  #helm = "";

  get state(): ClusterState {
    assert.ok(this.#state);
    return this.#state;
  }
  get api(): KubeApi {
    assert.ok(this.#api);
    return this.#api;
  }

  /** Brings the cluster up with the images on every node; nothing is installed yet. */
  async up(apiServerFlags: readonly string[] = []): Promise<void> {
    const cache = cacheFolder(process.env);
    this.#helm = await helmProgram(cache, say);
    // Under a tag that all tests share: their bytes are the same, and what is built already is taken.
    const files = await buildImages("test", join(PROJECT_DIR, "build/test-images"), say);
    this.#state = await up(this.cluster, { nodes: 2, apiOnly: false, apiServerFlags }, cache, say);
    this.#api = adminApi(this.cluster, this.#state.block);
    await loadImages({ cluster: this.cluster, state: this.#state }, files);
  }

  /** Helm against the cluster; fails with its words. */
  helm(...words: readonly string[]): Promise<string> {
    return run([this.#helm, ...words, "--kubeconfig", this.cluster.kubeconfig], { timeoutMs: LONG_MS });
  }
  /** Words for install and upgrade: the images of this checkout, and each node's own control group. */
  get values(): readonly string[] {
    const group = join(hierarchies().v2, this.cluster.group, "$(FAIRLEAD_NODE)");
    return ["--set", `image.tag=test,agent.cgroup=${group}`];
  }
  install(...words: readonly string[]): Promise<string> {
    return this.helm("install", "fairlead", CHART, ...this.values, "--wait", "--timeout", "8m", ...words);
  }

  kubectl(...words: readonly string[]): Promise<Finished> {
    return this.kubectlAlone(`--kubeconfig=${this.cluster.kubeconfig}`, ...words);
  }
  /** Without the cluster's configuration: commands of ours take no flag before their name. `bin` lies on the path, as a user has it. */
  kubectlAlone(...words: readonly string[]): Promise<Finished> {
    const env = { ...process.env, PATH: `${join(PROJECT_DIR, "bin")}:${process.env.PATH}` };
    return finish([program(this.state, "kube", "kube"), "kubectl", ...words], { timeoutMs: LONG_MS, env });
  }
  async said(...words: readonly string[]): Promise<string> {
    const done = await this.kubectl(...words);
    assert.equal(done.code, 0, `kubectl ${words.join(" ")}: ${done.stderr}`);
    return done.stdout.trim();
  }
  /** Runs a shell's script on a node, as root there. */
  onNode(n: number, script: string): Promise<string> {
    return run([...enteringNode(hierarchies(), nodePaths(this.cluster, n)), "sh", "-c", script]);
  }
  /** Names of the agents' pods, one a node. */
  async agents(): Promise<readonly string[]> {
    const words = ["-n", "fairlead-system", "get", "pods", "-l", "app.kubernetes.io/component=agent"];
    return (await this.said(...words, "-o", "name")).split("\n").filter((line) => line !== "");
  }
  /** What an agent answers on its admin socket. */
  ask(agent: string, path: string): Promise<string> {
    return this.said("-n", "fairlead-system", "exec", agent, "--", "fairlead", "ask", path);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#api?.close();
    await this.#guard[Symbol.asyncDispose]();
  }
}
