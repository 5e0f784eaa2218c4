// Clusters for tests: a name of their own each, and taken down also when the test, or its whole process, dies.
import { type ChildProcess, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { fileURLToPath } from "node:url";
import { ended } from "../lab/command.ts";
import type { KubeApi } from "./kubernetes/api.ts";
import { adminApi } from "./kubernetes/credentials.ts";
import { hierarchies } from "./machine/groups.ts";
import { withLock } from "./machine/lock.ts";
import { type ClusterPaths, cacheFolder, clusterPaths } from "./paths.ts";
import { missingForCluster } from "./requirements.ts";
import type { ClusterState } from "./state.ts";
import { tearDown } from "./teardown.ts";
import { type UpOptions, up } from "./up.ts";

export interface TestCluster {
  readonly cluster: ClusterPaths;
  readonly state: ClusterState;
  /** With every right; closed at the end. */
  readonly api: KubeApi;
}

/** Reason for skipping tests with an API server here, or false. */
export const skipApi: string | false = missingForCluster(true) ?? false;

export const testClusterName = (): string => `t${randomBytes(4).toString("hex")}`;

/** Waits on its input; any end of it but the word "done" means that the test died. */
function startWatchdog(name: string): ChildProcess {
  const main = fileURLToPath(new URL("main.ts", import.meta.url));
  const script = 'read -r word; [ "$word" = done ] || exec "$@"';
  const cleanup = [process.execPath, "--disable-warning=ExperimentalWarning", main, "down", "--name", name];
  const child = spawn("/bin/sh", ["-c", script, "watchdog", ...cleanup], {
    stdio: ["pipe", "ignore", "inherit"],
    detached: true,
  });
  child.stdin.on("error", () => undefined);
  return child;
}

/** Takes a cluster down, whatever there is of it. */
export const downCluster = (cluster: ClusterPaths): Promise<unknown> =>
  withLock(
    cluster.lockFile,
    () => undefined,
    () => tearDown(hierarchies(), cluster),
  );

/** Runs `body` on a cluster that is up, and takes the cluster down. */
export async function withCluster(
  options: Partial<UpOptions>,
  body: (up: TestCluster) => Promise<void>,
  name: string = testClusterName(),
): Promise<void> {
  await using guard = guarded(clusterPaths(name));
  await onCluster(guard.cluster, options, body);
}

/** A cluster that may come up, and is taken down at disposal, or when this process dies before it. */
export function guarded(cluster: ClusterPaths): AsyncDisposable & { readonly cluster: ClusterPaths } {
  const watchdog = startWatchdog(cluster.name);
  return {
    cluster,
    async [Symbol.asyncDispose]() {
      await downCluster(cluster);
      watchdog.stdin?.end("done\n");
      await ended(watchdog);
    },
  };
}

/** An API server with etcd and nothing else, for the tests of a whole file: to be disposed of after them. */
export async function openApiServer(): Promise<TestCluster & AsyncDisposable> {
  const guard = guarded(clusterPaths(testClusterName()));
  const { cluster } = guard;
  try {
    const options = { nodes: 0, apiOnly: true, apiServerFlags: [] };
    const state = await up(cluster, options, cacheFolder(process.env), () => {});
    const api = adminApi(cluster, state.block);
    return {
      cluster,
      state,
      api,
      async [Symbol.asyncDispose]() {
        api.close();
        await guard[Symbol.asyncDispose]();
      },
    };
  } catch (error) {
    await guard[Symbol.asyncDispose]();
    throw error;
  }
}

/** Runs `body` on a cluster that is brought up where it is not, and leaves it up. */
export async function onCluster(
  cluster: ClusterPaths,
  options: Partial<UpOptions>,
  body: (up: TestCluster) => Promise<void>,
): Promise<void> {
  const say = (line: string): void => console.error(`cluster ${cluster.name}: ${line}`);
  const all = { nodes: 0, apiOnly: false, apiServerFlags: [], ...options };
  const state = await up(cluster, all, cacheFolder(process.env), say);
  const api = adminApi(cluster, state.block);
  try {
    await body({ cluster, state, api });
  } finally {
    api.close();
  }
}

/** Runs `body` on an API server with etcd and nothing else. */
export const withApiServer = (body: (up: TestCluster) => Promise<void>): Promise<void> =>
  withCluster({ apiOnly: true }, body);
