// One node of a lab: its namespace and cgroups, the agent, and the kubelet's prober.
import { type ChildProcess, spawn } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { err, ok, type Result } from "../../agent/base/result.ts";
import { agentNodeEnvironment, agentNodeFlags } from "../../agent/node-flags.ts";
import { CONTROLLER_IPS, CONTROLLER_PORT, linkNode, nodeName, PodNumbers } from "./addresses.ts";
import { makeCgroup } from "./cgroup.ts";
import { entering } from "./command.ts";
import { Daemon } from "./daemon.ts";
import { makeDir } from "./files.ts";
import { buildNode } from "./network.ts";
import { fieldsAt, listAt } from "./objects.ts";
import { type LabPaths, type NodePaths, nodePaths, PROJECT_DIR } from "./paths.ts";
import type { Target, Verdict } from "./prober.ts";
import { call, callJson } from "./unix-http.ts";

/** Beside the code itself, and as its owner's alone. */
const codeDir = join(PROJECT_DIR, ".cache/agent-code");

export interface EnrolAnswer {
  readonly pod: string;
  readonly enrolled: boolean;
  readonly reason: string;
}

/** What a node needs of the rest of the lab. */
export interface NodeDeps {
  readonly lab: LabPaths;
  readonly agents: boolean;
  readonly agentEnv: Readonly<Record<string, string>>;
  readonly agentPrefix: readonly string[];
  readonly joinToken: (node: string) => Promise<{ readonly token: string; readonly roots: string } | undefined>;
  readonly onVerdict: (v: Verdict) => void;
  readonly changed: () => void;
}

/** The kubelet's probing process; started again if it dies, with all its targets. */
class Prober {
  #child: ChildProcess | undefined;
  #stopped = false;
  readonly #targets = new Map<string, Target>();
  readonly #spawn: () => ChildProcess;
  readonly #onVerdict: (v: Verdict) => void;

  constructor(spawnProber: () => ChildProcess, onVerdict: (v: Verdict) => void) {
    this.#spawn = spawnProber;
    this.#onVerdict = onVerdict;
  }

  start(): void {
    const child = this.#spawn();
    this.#child = child;
    child.stdin?.on("error", () => undefined); // its exit is handled below
    if (child.stdout !== null)
      createInterface({ input: child.stdout }).on("line", (line) => this.#onVerdict(JSON.parse(line) as Verdict));
    child.on("exit", () => {
      if (this.#stopped) return;
      setTimeout(() => this.#stopped || this.start(), 500);
    });
    for (const target of this.#targets.values()) this.#send({ set: target });
  }

  set(target: Target): void {
    this.#targets.set(`${target.pod} ${target.container} ${target.probe}`, target);
    this.#send({ set: target });
  }

  remove(pod: string): void {
    for (const [key, target] of this.#targets) if (target.pod === pod) this.#targets.delete(key);
    this.#send({ remove: pod });
  }

  #send(message: unknown): void {
    this.#child?.stdin?.write(`${JSON.stringify(message)}\n`);
  }

  stop(): void {
    this.#stopped = true;
    this.#child?.stdin?.end();
  }
}

export class NodeRuntime {
  readonly number: number;
  readonly name: string;
  readonly paths: NodePaths;
  readonly ips: readonly string[];
  readonly numbers = new PodNumbers();
  readonly prober: Prober;
  readonly agent: Daemon | undefined;
  readonly #deps: NodeDeps;
  #codeFrom = PROJECT_DIR;

  constructor(number: number, deps: NodeDeps) {
    this.#deps = deps;
    this.number = number;
    this.name = nodeName(number);
    this.paths = nodePaths(deps.lab, this.name);
    const link = linkNode(number);
    this.ips = [link.v4, link.v6];
    this.prober = new Prober(() => {
      const place = { cgroup: this.paths.kubeletCgroup, netns: this.paths.netns };
      const [file = "", ...args] = entering(place, [
        process.execPath,
        "--disable-warning=ExperimentalWarning",
        join(PROJECT_DIR, "test/lab/prober.ts"),
      ]);
      return spawn(file, args, { stdio: ["pipe", "pipe", "inherit"], env: { PATH: process.env.PATH ?? "" } });
    }, deps.onVerdict);
    if (deps.agents) {
      this.agent = new Daemon({
        name: `agent of ${this.name}`,
        argv: () => [...deps.agentPrefix, process.execPath, ...agentNodeFlags, join(this.#codeFrom, "agent/main.ts")],
        place: { cgroup: this.paths.agentCgroup, netns: this.paths.netns, cwd: this.paths.dir },
        logFile: this.paths.agentLog,
        env: () => this.#agentEnv(),
        ready: (pid) => this.#agentReady(pid),
        changed: deps.changed,
      });
    }
  }

  /** Agents that are started from now on are those of this checkout. */
  runAgentsOf(dir: string): void {
    this.#codeFrom = dir;
  }

  async build(): Promise<void> {
    const { paths } = this;
    for (const dir of [paths.dir, paths.runDir, paths.cacheDir, paths.podsDir]) makeDir(dir);
    for (const group of [join(paths.cgroup, "pods"), paths.kubeletCgroup, paths.agentCgroup]) makeCgroup(group);
    await buildNode(this.#deps.lab.routerNetns, paths.netns, this.number);
    this.prober.start();
  }

  /** Fetches a fresh join token for each start: tokens are single use. Without a controller the agent starts from what it has on disk. */
  async #agentEnv(): Promise<Record<string, string>> {
    const { paths } = this;
    const join = await this.#deps.joinToken(this.name);
    if (join !== undefined) {
      writeFileSync(paths.tokenFile, join.token, { mode: 0o600 });
      writeFileSync(paths.caFile, join.roots, { mode: 0o600 });
    }
    return {
      PATH: process.env.PATH ?? "/usr/sbin:/usr/bin:/sbin:/bin",
      ...agentNodeEnvironment(codeDir),
      FAIRLEAD_NODE: this.name,
      FAIRLEAD_CONTROLLER: `${CONTROLLER_IPS[0]}:${CONTROLLER_PORT}`,
      FAIRLEAD_CONTROLLER_NAME: "fairlead-controller", // a TLS server name cannot be an address
      FAIRLEAD_JOIN_TOKEN_FILE: paths.tokenFile,
      FAIRLEAD_CA_FILE: paths.caFile,
      FAIRLEAD_PODS_DIR: paths.podsDir,
      FAIRLEAD_RUN_DIR: paths.runDir,
      FAIRLEAD_CACHE_DIR: paths.cacheDir,
      FAIRLEAD_ADMIN_SOCKET: paths.adminSocket,
      FAIRLEAD_CGROUP: paths.cgroup,
      FAIRLEAD_KUBELET_CGROUP: paths.kubeletCgroup,
      FAIRLEAD_BPF_PIN_DIR: paths.pinDir,
      FAIRLEAD_ACCESS_LOG: `file:${paths.accessLog}`,
      ...this.#deps.agentEnv,
    };
  }

  /** Ready means that the process with this id answers: after a replacement the socket's path belongs to the new one. */
  async #agentReady(pid: number): Promise<boolean> {
    const ready = await call(this.paths.adminSocket, "/readyz", { timeoutMs: 1000 });
    if (!ready.ok || ready.value.status !== 200) return false;
    const status = await call(this.paths.adminSocket, "/v1/status", { timeoutMs: 1000 });
    const said = status.ok ? (status.value.json as { readonly pid?: unknown } | undefined)?.pid : undefined;
    return said === undefined || said === pid;
  }

  /** Connected to the controller, every certificate there. */
  async isSettled(): Promise<boolean> {
    const answer = await callJson(this.paths.adminSocket, "/v1/status", { timeoutMs: 1000 });
    if (!answer.ok) return false;
    const { discovery, certificates } = fieldsAt(answer.value);
    return fieldsAt(discovery).connected === true && listAt(fieldsAt(certificates).troubled).length === 0;
  }

  /** Makes the agent read the pod records now. */
  async syncPods(): Promise<Result<readonly EnrolAnswer[], string>> {
    if (this.agent === undefined) return err("the lab runs without agents");
    const answer = await callJson(this.paths.adminSocket, "/v1/pods/sync", { method: "POST", timeoutMs: 15_000 });
    if (!answer.ok) return answer;
    const pods = (answer.value as { readonly pods?: readonly EnrolAnswer[] } | undefined)?.pods;
    return Array.isArray(pods) ? ok(pods) : err("/v1/pods/sync: no pods in the answer");
  }

  stop(): void {
    this.prober.stop();
  }
}
