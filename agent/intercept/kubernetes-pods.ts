// This node's pods by the API server: their Pods and the Namespaces are watched (DP-22: no controller is asked), their networks are found on
// the host. What was known last lies in the run directory, so that an agent that starts while the API server is away goes on with it.
import { type FSWatcher, watch } from "node:fs";
import { access, readFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { isOptedIn } from "../api/labels.ts";
import { type Clock, every } from "../base/clock.ts";
import { type Logger, messageOf } from "../base/log.ts";
import type { Random } from "../base/random.ts";
import { replaceFile } from "../base/replace-file.ts";
import { err, ok, type Result } from "../base/result.ts";
import type { ApiClient } from "../kubernetes/client.ts";
import { showFault } from "../kubernetes/fault.ts";
import type { ReflectorMeter } from "../kubernetes/meter.ts";
import { Reflector, type ReflectorOptions } from "../kubernetes/reflector.ts";
import { Store } from "../kubernetes/store.ts";
import type { RawObject } from "../kubernetes/wire.ts";
import { type NodeNamespace, type NodePod, readNodeNamespace, readNodePod } from "./kubernetes-pod.ts";
import { NetnsFinder, type NetnsPlaces, type PodNetns } from "./pod-netns.ts";
import type { PodRecord } from "./pod-record.ts";
import type { PodSource, PodsRead, ToldPod } from "./pod-source.ts";

export interface KubernetesPodsOptions {
  readonly node: string;
  readonly places: NetnsPlaces;
  readonly runDir: string;
  /** Pods of these are never enrolled, whatever labels say: what the mesh itself needs to start (DP-22). */
  readonly excludedNamespaces: readonly string[];
  /** RuntimeClasses whose pods have a kernel of their own (DP-11); `*` at the end stands for any rest. */
  readonly sandboxedClasses: readonly string[];
  readonly rescanMs: number;
  readonly watch: Pick<ReflectorOptions, "watchIdleMs" | "watchMs" | "resyncMs">;
}
export interface KubernetesPodsParts {
  readonly api: ApiClient;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly meter: (kind: string) => ReflectorMeter;
}

/** Pods without a network are looked for this often, for as long as one is young, ms. */
const searchMs = 100;
const youngMs = 30_000;
/** What is known of a namespace is asked for again, and holds if there is no answer within this, ms. */
const recheckMs = 1_000;
const gatherMs = 10;
const partial = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io,application/json";
const partialList = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json";

export class KubernetesPods implements PodSource {
  readonly #options: KubernetesPodsOptions;
  readonly #parts: KubernetesPodsParts;
  readonly #finder: NetnsFinder;
  readonly #pods: Store<NodePod>;
  readonly #namespaces: Store<NodeNamespace>;
  readonly #reflectors: readonly Reflector[];
  /** What an agent before this one knew, until the API server has answered. */
  #cached: readonly PodRecord[] = [];
  #isCached = false;
  #written = "";
  /** Since when pods have been without a network, by uid. */
  readonly #waiting = new Map<string, number>();
  #changed: () => void = () => {};
  #cancelSoon: (() => void) | undefined;
  #cancelSearch: (() => void) | undefined;
  #toldProblem: string | undefined;
  /** Pods whose network the runtime takes down. One that gets another is told of again. */
  readonly #left = new Set<string>();

  constructor(options: KubernetesPodsOptions, parts: KubernetesPodsParts) {
    this.#options = options;
    this.#parts = parts;
    this.#finder = new NetnsFinder(options.places);
    const soon = (): void => this.#soon();
    this.#pods = new Store(readNodePod, soon);
    this.#namespaces = new Store(readNodeNamespace, soon);
    const shared = { ...options.watch, pageSize: 500, backoff: { baseMs: 250, maxMs: 5_000 } };
    const query = { fieldSelector: `spec.nodeName=${options.node}` };
    const pods = { ...shared, name: "Pod", path: "/api/v1/pods", query };
    const namespaces = {
      ...shared,
      name: "Namespace",
      path: "/api/v1/namespaces",
      acceptList: partialList,
      acceptWatch: partial,
    };
    const { meter, ...rest } = parts;
    this.#reflectors = [
      new Reflector(pods, { ...rest, meter: meter("Pod"), mirror: this.#pods }),
      new Reflector(namespaces, { ...rest, meter: meter("Namespace"), mirror: this.#namespaces }),
    ];
  }

  /** Reads what was known last and begins to ask. */
  async start(): Promise<void> {
    try {
      const text = await readFile(this.#cachePath, "utf8");
      this.#cached = (JSON.parse(text) as { readonly pods: readonly PodRecord[] }).pods;
      this.#isCached = true;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT")
        this.#parts.log.warn("pods_cache_unreadable", { path: this.#cachePath, message: messageOf(error) });
    }
    for (const reflector of this.#reflectors) reflector.start();
  }
  /** Resolves when all pods are known, or `ms` have passed. */
  async ready(ms: number): Promise<void> {
    const known = new AbortController();
    void Promise.all(this.#reflectors.map((reflector) => reflector.first)).then(() => known.abort());
    await this.#parts.clock.sleep(ms, known.signal);
  }
  async stop(): Promise<void> {
    this.#cancelSoon?.();
    this.#cancelSearch?.();
    await Promise.all(this.#reflectors.map((reflector) => reflector.stop()));
  }

  watch(changed: () => void): () => void {
    this.#changed = changed;
    // A namespace that goes is a pod that has ended (DP-21), whatever the API says of it by now.
    const watchers: FSWatcher[] = [];
    for (const dir of this.#options.places.netnsDirs)
      try {
        watchers.push(watch(dir, () => this.#soon()).on("error", () => {}));
      } catch {
        // No such folder on this node; the scan finds what it can.
      }
    const stop = every(this.#parts.clock, this.#options.rescanMs, () => this.#soon());
    return () => {
      stop();
      this.#changed = () => {};
      for (const watcher of watchers) watcher.close();
    };
  }

  missing(): string | undefined {
    const unknown = this.#reflectors.find((reflector) => !reflector.isSynced);
    if (unknown !== undefined && !this.#isCached)
      return `this node's pods are not known yet: ${unknown.fault ?? "the API server has not told all"}`;
    return this.#finder.problem;
  }

  async read(): Promise<PodsRead> {
    const isKnown = this.#reflectors.every((reflector) => reflector.isSynced);
    const pods = [...this.#pods.values()];
    if (isKnown) for (const uid of this.#left) if (!pods.some((pod) => pod.groupUid === uid)) this.#left.delete(uid);
    const alive = pods.filter((pod) => !pod.hasEnded);
    const wanted = alive.filter((pod) => this.#isWanted(pod));
    const uids = [...wanted.map((pod) => pod.groupUid), ...(isKnown ? [] : this.#cached.map((record) => record.uid))];
    const found = await this.#finder.find(uids, this.#parts.clock.monotonicMs());
    const records = new Map<string, PodRecord>();
    for (const record of isKnown ? [] : this.#cached)
      if (record.hostNetwork || found.get(record.uid)?.path === record.netns) records.set(keyOf(record), record);
    for (const pod of alive) {
      const record = this.#record(pod, found.get(pod.groupUid));
      if (record !== undefined) records.set(keyOf(record), record);
    }
    this.#searchOn(wanted, found);
    const read = [...records.values()];
    if (isKnown) await this.#keep(read);
    const { problem } = this.#finder;
    if (problem !== this.#toldProblem && problem !== undefined) this.#parts.log.error("pods_not_found", { problem });
    this.#toldProblem = problem;
    return { records: read, problems: [] };
  }

  async told(told: ToldPod): Promise<Result<PodRecord, string>> {
    const { namespace, name, uid } = told;
    const podKey = `${namespace}/${name}`;
    const isHere = (pod: NodePod | undefined): boolean => pod?.uid === uid || pod?.groupUid === uid;
    if (!isHere(this.#pods.get(podKey))) {
      const asked = await this.#get(`/api/v1/namespaces/${namespace}/pods/${name}`);
      if (!asked.ok) return asked;
      const pod = readNodePod(asked.value);
      if (!isHere(pod)) return err(`pod ${podKey} is another one by now: ${pod.uid}, not ${uid}`);
      if (pod.node !== this.#options.node) return err(`pod ${podKey} is on node ${pod.node}, not here`);
      this.#pods.tell(asked.value);
    }
    const pod = this.#pods.get(podKey);
    if (pod === undefined) return err(`pod ${podKey} has been deleted`);
    const cached = this.#namespaces.get(namespace);
    if (cached === undefined || !isOptedIn(pod.labels, cached.labels)) {
      // Labelled a moment ago, and the watch may be behind: a pod that starts in the clear by mistake cannot be made good.
      const asked = await this.#get(`/api/v1/namespaces/${namespace}`, cached === undefined ? undefined : recheckMs);
      if (asked.ok) this.#namespaces.put(asked.value);
      else if (cached === undefined) return asked;
    }
    // The runtime may name another path to the folder that we see: /var/run is /run.
    const { places } = this.#options;
    const known = places.netnsDirs.map((dir) => join(dir, basename(told.netns)));
    const seen = await Promise.all(known.map((path) => isThere(path)));
    const path = known.find((_, i) => seen[i]) ?? told.netns;
    this.#left.delete(pod.groupUid);
    const record = this.#record(pod, this.#finder.tell(pod.groupUid, path, told.ips));
    return record === undefined ? err(`namespace ${namespace} is not known`) : ok(record);
  }
  left(uid: string): void {
    this.#left.add(uid);
    this.#finder.forget(uid);
    this.#soon();
  }

  async #get(path: string, deadlineMs = 5_000): Promise<Result<RawObject, string>> {
    const answer = await this.#parts.api.send({ path, deadlineMs });
    return answer.ok ? ok(answer.value as RawObject) : err(showFault(answer.error));
  }

  #isWanted(pod: NodePod): boolean {
    const namespace = this.#namespaces.get(pod.namespace);
    return (
      namespace !== undefined &&
      !pod.hostNetwork &&
      !this.#left.has(pod.groupUid) &&
      !this.#options.excludedNamespaces.includes(pod.namespace) &&
      isOptedIn(pod.labels, namespace.labels)
    );
  }

  /** undefined: not enough is known, or its network is not there. */
  #record(pod: NodePod, found: PodNetns | undefined): PodRecord | undefined {
    const namespace = this.#namespaces.get(pod.namespace);
    if (namespace === undefined) return undefined;
    if (this.#left.has(pod.groupUid) || (found === undefined && this.#isWanted(pod))) return undefined;
    const { excludedNamespaces, sandboxedClasses } = this.#options;
    const isSandboxed = sandboxedClasses.some((pattern) =>
      pattern.endsWith("*") ? pod.runtimeClass.startsWith(pattern.slice(0, -1)) : pod.runtimeClass === pattern,
    );
    const refused = isSandboxed
      ? `its RuntimeClass ${pod.runtimeClass} gives it a kernel of its own`
      : found?.sandbox !== undefined
        ? `${found.sandbox} gives it a kernel of its own`
        : undefined;
    const reported = pod.ips.filter((ip) => found?.ips.includes(ip));
    return {
      namespace: pod.namespace,
      name: pod.name,
      uid: pod.groupUid,
      serviceAccount: pod.serviceAccount,
      labels: pod.labels,
      annotations: pod.annotations,
      namespaceLabels: namespace.labels,
      namespaceAnnotations: namespace.annotations,
      netns: found?.path ?? "",
      // What the kubelet says names the pod's own among several; what the network says is true now.
      ips: reported.length > 0 ? reported : (found?.ips ?? pod.ips),
      hostNetwork: pod.hostNetwork,
      probePorts: pod.probePorts,
      ...(excludedNamespaces.includes(pod.namespace) ? { excluded: true } : {}),
      ...(refused === undefined ? {} : { refused }),
    };
  }

  /** Looks again soon while there are young pods without a network. */
  #searchOn(wanted: readonly NodePod[], found: ReadonlyMap<string, PodNetns>): void {
    const nowMs = this.#parts.clock.monotonicMs();
    const missing = wanted.filter((pod) => !found.has(pod.groupUid)).map((pod) => pod.uid);
    for (const uid of [...this.#waiting.keys()]) if (!missing.includes(uid)) this.#waiting.delete(uid);
    for (const uid of missing) if (!this.#waiting.has(uid)) this.#waiting.set(uid, nowMs);
    const isYoung = [...this.#waiting.values()].some((sinceMs) => nowMs - sinceMs < youngMs);
    if (isYoung)
      this.#cancelSearch ??= this.#parts.clock.after(searchMs, () => {
        this.#cancelSearch = undefined;
        this.#changed();
      });
  }
  #soon(): void {
    this.#cancelSoon ??= this.#parts.clock.after(gatherMs, () => {
      this.#cancelSoon = undefined;
      this.#changed();
    });
  }

  get #cachePath(): string {
    return join(this.#options.runDir, "pods.json");
  }
  /** For the next agent. In memory (tmpfs), and worth nothing after the node's end. */
  async #keep(pods: readonly PodRecord[]): Promise<void> {
    const text = JSON.stringify({ pods });
    if (text === this.#written) return;
    this.#written = text;
    try {
      await replaceFile(this.#cachePath, text);
    } catch (error) {
      this.#parts.log.warn("pods_cache_not_written", { path: this.#cachePath, message: messageOf(error) });
    }
  }
}

const keyOf = ({ namespace, name }: PodRecord): string => `${namespace}/${name}`;
const isThere = (path: string): Promise<boolean> =>
  access(path).then(
    () => true,
    () => false,
  );
