// The agent's side of the CNI plugin: what its questions mean, and the plugin's place on the node. A pod's ADD is answered when its steering
// is in place, so that its first instruction is in the mesh already (INT-11); whatever goes wrong, it waits rather than starts in the clear.
import type { SpiffeId } from "../api/names.ts";
import type { Clock } from "../base/clock.ts";
import type { Logger } from "../base/log.ts";
import type { Metrics } from "../base/metrics.ts";
import type { Result } from "../base/result.ts";
import { ok } from "../base/result.ts";
import { CniInstaller, uninstall } from "../cni/installer.ts";
import type { CniAnswer, CniPod, CniRequest } from "../cni/protocol.ts";
import { CniServer } from "../cni/server.ts";
import type { Config } from "../config.ts";
import type { PodStatus } from "../intercept/enrol.ts";
import { metricNames } from "../report/metric-names.ts";
import type { NodePods } from "./node-pods.ts";

export interface CniParts {
  readonly config: Config;
  readonly clock: Clock;
  readonly log: Logger;
  readonly metrics: Metrics;
  readonly pods: Pick<NodePods, "enrolNow" | "leaveNow" | "sync" | "excludedNamespaces">;
  /** Resolves when an enrolled pod can begin: its SVID and the kernel's rows are there, or have been waited for long enough. */
  readonly settled: (identity: SpiffeId) => Promise<void>;
}
/** A plugin waits half a minute; each pod of a node at once is well below this. */
const answerMs = 20_000;
const maxConnections = 256;
/** Many times the pods of a node. */
const maxSandboxes = 4_096;
const buckets = [0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 5, 10, 20];
/** Questions under way are answered by the agent that took them. */
const closeMs = 2_000;

export class Cni {
  readonly #parts: CniParts;
  readonly #server: CniServer;
  #installer: CniInstaller | undefined;
  /** Sandboxes by pod uid: a late DEL of an earlier one is not about the one that the pod has by now. */
  readonly #sandboxes = new Map<string, string>();

  constructor(parts: CniParts) {
    this.#parts = parts;
    const { clock, log, metrics } = parts;
    const requests = metrics.counter(metricNames.cniRequests);
    const seconds = metrics.histogram(metricNames.cniSeconds, buckets);
    this.#server = new CniServer({
      ...{ clock, log, maxConnections, answerMs },
      answer: (request) => this.answer(request),
      done(command, outcome, took) {
        requests.add({ command, outcome });
        seconds.observe({ command }, took);
      },
    });
    metrics.gaugeOf(metricNames.cniInstalled, (gauge) => {
      const state = this.#installer?.status.state;
      if (state !== undefined) gauge.set({}, state === "installed" ? 1 : 0);
    });
  }

  /** For status: what is installed, or in the way. */
  get status(): Readonly<Record<string, unknown>> {
    return { mode: this.#parts.config.cni, ...this.#installer?.status };
  }

  /** Answers from now on, and installs if that is asked for. The error names the variable; what keeps from installing is no error, and tried again. */
  async start(): Promise<Result<void, string>> {
    const { config, clock, log, metrics, pods } = this.#parts;
    if (config.cni === "off") return ok(undefined);
    const listening = await this.#server.listen(config.cniSocket);
    if (!listening.ok) return { ok: false, error: `FAIRLEAD_CNI_SOCKET: ${listening.error}` };
    if (config.cni === "socket") return listening;
    const writes = metrics.counter(metricNames.cniWrites);
    this.#installer = new CniInstaller(
      {
        confDir: config.cniConfDir,
        binDir: config.cniBinDir,
        program: config.cniProgram,
        entry: { socket: config.cniSocket, excludedNamespaces: pods.excludedNamespaces },
        rescanMs: config.cniRescanMs,
      },
      { clock, log, done: (what, outcome) => writes.add({ what, outcome }) },
    );
    await this.#installer.start();
    return listening;
  }

  /** A successor answers, or pods wait for one: the plugin stays on the node (DP-22). */
  async stop(): Promise<void> {
    await Promise.all([this.#installer?.stop(), this.#server.close(closeMs)]);
  }

  /** Takes the plugin off the node, if this agent has put it there; questions of pods that it was run for are answered still. */
  async remove(): Promise<Result<readonly string[], string>> {
    const { cni, cniConfDir, cniBinDir } = this.#parts.config;
    if (cni !== "install") return ok([]);
    await this.#installer?.stop();
    return uninstall(cniConfDir, cniBinDir);
  }

  /** What a question comes to. */
  async answer(request: CniRequest): Promise<CniAnswer> {
    switch (request.command) {
      case "add":
        return this.#add(request.pod);
      case "check":
        return this.#check(request.pod);
      case "del":
        return this.#del(request.pod);
      case "gc":
        await this.#parts.pods.sync();
        return { outcome: "ok", reason: "looked for what has ended" };
    }
  }

  async #add(pod: CniPod): Promise<CniAnswer> {
    const { namespace, name, uid, netns } = pod;
    const told = await this.#parts.pods.enrolNow({ namespace, name, uid, netns, ips: pod.addresses });
    if (!told.ok) return failed("not_known", `pod ${namespace}/${name} cannot be looked up yet: ${told.error}`);
    this.#remember(uid, pod.containerId);
    return this.#answerFor(pod, told.value);
  }

  #remember(uid: string, sandbox: string): void {
    this.#sandboxes.delete(uid);
    this.#sandboxes.set(uid, sandbox);
    // Only of pods whose DEL went to nobody: the oldest goes first.
    const [oldest] = this.#sandboxes.keys();
    if (this.#sandboxes.size > maxSandboxes && oldest !== undefined) this.#sandboxes.delete(oldest);
  }

  async #answerFor(pod: CniPod, status: PodStatus): Promise<CniAnswer> {
    if (status.enrolled) {
      // Whether the certificate is there or not: nothing of the pod goes in the clear any more.
      if (status.identity !== undefined) await this.#parts.settled(status.identity as SpiffeId);
      return { outcome: "ok", reason: `in the mesh: ${status.reason}` };
    }
    // A pod on a kernel of its own can never be enrolled, and STRICT servers refuse it (DP-11).
    if (status.state === "out" || status.state === "refused") return { outcome: "ok", reason: status.reason };
    return failed("not_enrolled", `pod ${pod.namespace}/${pod.name} is not in the mesh yet: ${status.reason}`);
  }

  async #check(pod: CniPod): Promise<CniAnswer> {
    const statuses = await this.#parts.pods.sync();
    const status = statuses.find((s) => s.pod === `${pod.namespace}/${pod.name}`);
    return status === undefined
      ? failed("not_known", `pod ${pod.namespace}/${pod.name} is not known`)
      : this.#answerFor(pod, status);
  }

  /** DP-21: answered when the pod's peers have been told and its sockets closed. */
  async #del(pod: CniPod): Promise<CniAnswer> {
    const current = this.#sandboxes.get(pod.uid);
    // Without a network there is nothing to close here; and a sandbox that is cleaned up later says nothing about its successor.
    if (pod.netns === "") return { outcome: "ok", reason: "its network had gone" };
    if (current !== undefined && current !== pod.containerId)
      return { outcome: "ok", reason: "the pod has another sandbox by now" };
    this.#sandboxes.delete(pod.uid);
    await this.#parts.pods.leaveNow(pod.uid);
    return { outcome: "ok", reason: "out of the mesh" };
  }
}

/** The runtime tries again; the sentence is what the pod's event shows. */
const failed = (code: string, message: string): CniAnswer => ({ outcome: "failed", code, message, retry: true });
