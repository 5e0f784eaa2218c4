// The lab's controller process, in the router's namespace, and what the lab asks it.
import { join } from "node:path";
import { makeCgroup } from "./cgroup.ts";
import { Daemon } from "./daemon.ts";
import { makeDir } from "./files.ts";
import { inherited } from "./inherited.ts";
import { fieldsAt, listAt } from "./objects.ts";
import { type LabPaths, PROJECT_DIR } from "./paths.ts";
import { call, callJson } from "./unix-http.ts";

export class ControllerRuntime {
  readonly daemon: Daemon;
  readonly #paths: LabPaths;

  constructor(paths: LabPaths, extraEnv: Readonly<Record<string, string>>, changed: () => void) {
    this.#paths = paths;
    const env = {
      ...inherited(),
      FAIRLEAD_MANIFESTS: paths.manifestsDir,
      FAIRLEAD_LIVE_DIR: paths.liveDir,
      FAIRLEAD_STATE_DIR: paths.controllerDir,
      FAIRLEAD_ADMIN_SOCKET: paths.controllerSocket,
      ...extraEnv,
    };
    this.daemon = new Daemon({
      name: "controller",
      argv: () => [process.execPath, "--disable-warning=ExperimentalWarning", join(PROJECT_DIR, "controller/main.ts")],
      place: { cgroup: paths.controllerCgroup, netns: paths.routerNetns, cwd: paths.dir },
      logFile: paths.controllerLog,
      env: () => Promise.resolve(env),
      ready: async () => {
        const health = await call(paths.controllerSocket, "/healthz", { timeoutMs: 1000 });
        return health.ok && health.value.status === 200;
      },
      changed,
    });
  }

  async start(): Promise<void> {
    makeDir(this.#paths.controllerDir);
    makeCgroup(this.#paths.controllerCgroup);
    await this.daemon.start();
  }

  /** A single-use join token for a node, and the roots that the controller's certificate chains to; undefined while it is away. */
  async joinToken(node: string): Promise<{ readonly token: string; readonly roots: string } | undefined> {
    if (!this.daemon.isReady) return undefined;
    const answer = await callJson(this.#paths.controllerSocket, "/v1/join-tokens", { method: "POST", body: { node } });
    const roots = await call(this.#paths.controllerSocket, "/v1/roots");
    if (!answer.ok) throw new Error(`controller: no join token for ${node}: ${answer.error}`);
    if (!roots.ok) throw new Error(`controller: no roots: ${roots.error}`);
    const { token } = fieldsAt(answer.value) as { readonly token?: unknown };
    if (typeof token !== "string") throw new Error(`controller: no join token for ${node} in its answer`);
    return { token, roots: roots.value.text };
  }

  /**
   * Addresses of every service that the controller accepts, by "namespace/name", given out by it where a manifest names none.
   * `isNew`: manifests changed just now, so it is to read them first.
   */
  async serviceAddresses(isNew: boolean): Promise<ReadonlyMap<string, readonly string[]>> {
    if (!this.daemon.isReady) return this.#known;
    if (isNew) await callJson(this.#paths.controllerSocket, "/v1/sync", { method: "POST", timeoutMs: 5000 });
    const answer = await callJson(this.#paths.controllerSocket, "/v1/services", { timeoutMs: 2000 });
    if (!answer.ok) return this.#known;
    const services = listAt(fieldsAt(answer.value).services).map(fieldsAt);
    this.#known = new Map(
      services.map((s) => [`${String(s.namespace)}/${String(s.name)}`, listAt(s.addresses).map(String)]),
    );
    return this.#known;
  }
  #known: ReadonlyMap<string, readonly string[]> = new Map();
}
