// The mesh as its users install it: images made of this checkout, and the Helm chart, on the run's cluster.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { TestCluster } from "../../cluster/kit.ts";
import { hierarchies } from "../../cluster/machine/groups.ts";
import { cacheFolder } from "../../cluster/paths.ts";
import { program } from "../../cluster/state.ts";
import { helmProgram } from "../../cluster/up.ts";
import { buildImages, loadImages } from "../../kit/mesh-images.ts";
import { run } from "../../lab/command.ts";
import { PROJECT_DIR } from "../../lab/paths.ts";

const NAMESPACE = "fairlead-system";
const INSTALL_MS = 600_000;
const ASK_MS = 60_000;

export interface Mesh {
  /** Metrics pages of all agents. */
  metrics(): Promise<readonly string[]>;
  /** Writes what all its pods logged, and what the agents say of the node's pods, into a folder. */
  saveLogs(folder: string): Promise<void>;
}

/** Installs the chart and waits until every agent and controller is ready. @throws Error with Helm's words and the pods' states */
export async function installMesh(on: TestCluster, folder: string, say: (line: string) => void): Promise<Mesh> {
  const { cluster, state } = on;
  const { version } = JSON.parse(readFileSync(join(PROJECT_DIR, "package.json"), "utf8")) as { version: string };
  await loadImages(on, await buildImages(version, folder, say));
  const helm = await helmProgram(cacheFolder(process.env), say);
  const env = { ...(process.env as Record<string, string>), KUBECONFIG: cluster.kubeconfig };
  const kubectl = (...words: readonly string[]): Promise<string> =>
    run([program(state, "kube", "kube"), "kubectl", ...words], { timeoutMs: ASK_MS, env });
  // All nodes share one kernel: each agent keeps to its own node's group.
  const group = join(hierarchies().v2, cluster.group, "$(FAIRLEAD_NODE)");
  const words = ["install", "fairlead", join(PROJECT_DIR, "manifests/chart"), "--set", `agent.cgroup=${group}`];
  await run([helm, ...words, "--wait", "--timeout", `${INSTALL_MS / 1000}s`], {
    timeoutMs: INSTALL_MS + ASK_MS,
    env,
  }).catch(async (error: Error) => {
    const pods = await kubectl("-n", NAMESPACE, "get", "pods", "-o", "wide").catch(String);
    throw new Error(`${error.message}\n${pods}`);
  });
  const podsOf = async (...words: readonly string[]): Promise<readonly string[]> =>
    (await kubectl("get", "pods", "-n", NAMESPACE, ...words, "-o", "name")).trim().split("\n").filter(Boolean);
  const agentPods = (): Promise<readonly string[]> => podsOf("-l", "app.kubernetes.io/component=agent");
  const ask = (pod: string, path: string): Promise<string> =>
    kubectl("exec", "-n", NAMESPACE, pod, "--", "fairlead", "ask", path);
  return {
    async metrics() {
      const agents = await agentPods();
      if (agents.length !== state.nodes)
        throw new Error(`there are agents ${agents.join(", ")} on ${state.nodes} nodes`);
      return Promise.all(agents.map((pod) => ask(pod, "/metrics")));
    },
    async saveLogs(to) {
      const save = async (pod: string, what: string, text: Promise<string>): Promise<void> =>
        writeFileSync(join(to, `${pod.replace("pod/", "")}.${what}`), await text.catch(String));
      for (const pod of await podsOf()) await save(pod, "log", kubectl("logs", "-n", NAMESPACE, pod));
      for (const pod of await agentPods()) await save(pod, "pods.json", ask(pod, "/v1/pods"));
    },
  };
}
