// This node's pods, from wherever the agent learns of them into the mesh: the source is read after each change, one reading at a time.
import type { SpiffeId } from "../api/names.ts";
import type { Clock } from "../base/clock.ts";
import { type Logger, messageOf } from "../base/log.ts";
import type { Metrics } from "../base/metrics.ts";
import type { Random } from "../base/random.ts";
import { err, ok, type Result } from "../base/result.ts";
import type { Config } from "../config.ts";
import type { Enrolment, PodStatus } from "../intercept/enrol.ts";
import { KubernetesPods } from "../intercept/kubernetes-pods.ts";
import { folderSource } from "../intercept/pod-folder.ts";
import type { PodRecord } from "../intercept/pod-record.ts";
import type { PodSource, PodsRead, ToldPod } from "../intercept/pod-source.ts";
import { createApiClient } from "../kubernetes/client.ts";
import { openLeanAccess } from "../kubernetes/lean-access.ts";
import type { Native } from "../native.ts";
import { followKubelet } from "./kubelet-group.ts";
import { podWatchMeter } from "./pod-watch-metrics.ts";

export interface NodePodsParts {
  readonly config: Config;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly metrics: Metrics;
  readonly native: Native;
  readonly enrolment: Enrolment;
  /** Whether this agent has a successor, whose pods they are by now. */
  readonly isDraining: () => boolean;
  /** After each reading. */
  readonly synced: () => void;
  /** Waits, not for long, until there is an SVID of the identity. */
  readonly certified: (identity: SpiffeId) => Promise<void>;
}

export class NodePods {
  readonly #parts: NodePodsParts;
  #source: PodSource = nothing;
  #close: () => Promise<void> = async () => {};
  #unwatch: () => void = () => {};
  #excluded: readonly string[] = [];
  #isLeaving = false;
  #last: Promise<readonly PodStatus[]> = Promise.resolve([]);
  /** A reading that has not begun: whatever comes before it begins is in it. */
  #next: Promise<readonly PodStatus[]> | undefined;

  constructor(parts: NodePodsParts) {
    this.#parts = parts;
  }

  /** Opens the source and reads what it knows. The error names the variable. */
  async open(): Promise<Result<void, string>> {
    const { config, clock, random, log, metrics } = this.#parts;
    this.#excluded = config.excludedNamespaces;
    if (config.pods === "folder") {
      this.#source = folderSource(config.podsDir, clock, log, config.podRescanMs);
      return ok(undefined);
    }
    const { kubeconfig, kubernetesService: service, serviceAccountDir } = config;
    const access = await openLeanAccess({ kubeconfig, service, serviceAccountDir });
    if (!access.ok) return access;
    const own = kubeconfig === "" ? access.value.namespace : undefined;
    if (own !== undefined) this.#excluded = [...new Set([...this.#excluded, own])];
    const api = createApiClient(access.value, clock, undefined, "fairlead-agent");
    const source = new KubernetesPods(
      {
        node: config.node,
        places: { cgroup: config.cgroup, proc: config.procDir, netnsDirs: config.netnsDirs },
        runDir: config.runDir,
        excludedNamespaces: this.#excluded,
        sandboxedClasses: config.sandboxedClasses,
        rescanMs: config.podRescanMs,
        watch: { watchIdleMs: 120_000, watchMs: 300_000, resyncMs: 1_800_000 },
      },
      { api, clock, random, log, meter: podWatchMeter(metrics, clock) },
    );
    this.#source = source;
    const unfollow = followKubelet(this.#parts);
    this.#close = async () => {
      unfollow();
      await source.stop();
      api.close();
    };
    await source.start();
    await source.ready(config.svidWaitMs);
    return ok(undefined);
  }

  /** From now on changes are followed. */
  watch(): void {
    this.#unwatch = this.#source.watch(() => void this.sync());
  }
  async close(): Promise<void> {
    this.#unwatch();
    await this.#close();
  }

  /** Namespaces whose pods are never in the mesh, the agent's own among them; whole once the source is open. */
  get excludedNamespaces(): readonly string[] {
    return this.#excluded;
  }
  /** From the next reading on no pod is to be in the mesh, whatever labels say: the node leaves it. */
  leaveMesh(): void {
    this.#isLeaving = true;
  }
  #none(read: PodsRead): PodsRead {
    return this.#isLeaving ? { ...read, records: read.records.map(excluded) } : read;
  }

  /** Why not all pods are known; undefined when they are. */
  missing(): string | undefined {
    return this.#source.missing();
  }

  /** Reads the source and brings native in line. */
  sync(): Promise<readonly PodStatus[]> {
    this.#next ??= this.#last.then(async () => {
      this.#next = undefined;
      const { enrolment, isDraining, log, synced } = this.#parts;
      const turn = enrolment.turn();
      const read = this.#none(await this.#source.read());
      for (const { file, message } of read.problems) log.warn("pod_record_refused", { file, message });
      const statuses = await (isDraining() ? enrolment.syncGone(read) : enrolment.sync(read, turn));
      synced();
      return statuses;
    });
    this.#last = this.#next;
    return this.#next;
  }

  /**
   * Enrols this pod by the path of its network namespace, now, before the API server has told of it: what the CNI plugin's ADD waits for.
   * Resolves when native has the pod and its certificate has come (or FAIRLEAD_SVID_WAIT_MS have passed), so that its first connection is
   * intercepted and can be carried, or with a status that says why it is not to be in the mesh
   * (`enrolled: false`, state `out`) or cannot be (`failed`). The error says what is missing (the API server does not answer, the pod is
   * another one by now): the runtime should fail the ADD, so that the kubelet tries again. Asking again is harmless, and the watch, when it
   * brings the pod, finds it done. The CNI plugin's DEL is `leaveNow`.
   */
  async enrolNow(told: ToldPod): Promise<Result<PodStatus, string>> {
    if (this.#parts.isDraining()) return err("this agent is being replaced: ask again");
    try {
      const record = await this.#source.told(told);
      if (!record.ok) return record;
      const status = await this.#parts.enrolment.enrolNow(this.#isLeaving ? excluded(record.value) : record.value);
      this.#parts.synced();
      // Or its first connection would be refused for want of one.
      if (status.identity !== undefined) await this.#parts.certified(status.identity as SpiffeId);
      return ok(status);
    } catch (error) {
      return err(messageOf(error));
    }
  }

  /** The runtime takes down the network of the pod with this uid (CNI DEL): its peers are told and its sockets closed (DP-21). Resolves when that is done. */
  async leaveNow(uid: string): Promise<void> {
    this.#source.left(uid);
    await this.sync();
  }
}

const excluded = (record: PodRecord): PodRecord => ({ ...record, excluded: true });

const nothing: PodSource = {
  watch: () => () => {},
  read: async () => ({ records: [], problems: [] }),
  missing: () => "not opened yet",
  told: async () => err("the agent is starting"),
  left: () => {},
};
