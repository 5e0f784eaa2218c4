// From settled sources to the snapshot: index, translation, trust bundle, conditions. The one place where these meet.
import type { HttpRouting } from "../../agent/api/http-routing.ts";
import { serviceName, type TrustDomain } from "../../agent/api/names.ts";
import { codecs, encodeResource, resourceKinds } from "../../agent/api/resources.ts";
import type { Service } from "../../agent/api/service.ts";
import type { MeshSettings } from "../../agent/api/settings.ts";
import type { Workload } from "../../agent/api/workload.ts";
import type { Clock } from "../../agent/base/clock.ts";
import { type Logger, messageOf } from "../../agent/base/log.ts";
import { ClusterIndex } from "../index/cluster-index.ts";
import type { Authority } from "../issue/authority.ts";
import type { StateFiles } from "../issue/state-files.ts";
import type { ControllerMetrics } from "../report/metrics.ts";
import { Snapshot, type SnapshotChange } from "../serve/snapshot.ts";
import type { Ignored, ObjectRef, Problem, SourceSink } from "../sources/types.ts";
import type { ConditionChange } from "../translate/condition-book.ts";
import type { Condition } from "../translate/conditions.ts";
import { type ResourceChange, Translator } from "../translate/translator.ts";
import { Placement } from "./placement.ts";
import { Teller } from "./teller.ts";

type Settled = (changes: readonly ConditionChange[]) => void;
export interface MeshOptions {
  readonly settings: MeshSettings;
  readonly rootNamespace: string;
  readonly authority: Authority;
  readonly files: StateFiles;
  readonly clock: Clock;
  readonly log: Logger;
  readonly metrics: ControllerMetrics;
  /** Pods that their agent could not enrol, with the reason. */
  readonly unenrolled: () => ReadonlyMap<string, string>;
  /** Told of everything that was translated; `isWhole`: there is nothing else. */
  readonly translated?: ((changes: readonly ResourceChange[], isWhole: boolean) => void) | undefined;
}
const allocationsFile = "cluster-ips.json";

export class Mesh {
  readonly index = new ClusterIndex();
  readonly snapshot = new Snapshot(resourceKinds.map((kind) => codecs[kind].typeUrl));
  readonly #options: MeshOptions;
  readonly #placement = new Placement();
  #translator: Translator;
  /** False after a failure: then everything is translated from nothing. */
  #isWhole = true;
  #trustRevision: number | undefined;
  #problems: readonly Problem[] = [];
  #ignored: readonly Ignored[] = [];
  #allocations: ReadonlyMap<string, readonly string[]>;
  readonly #teller: Teller;
  readonly #counts = new Map<string, number>();
  readonly #settled = new Set<Settled>();
  #cancelRefresh: (() => void) | undefined;

  constructor(options: MeshOptions) {
    this.#options = options;
    this.#allocations = parseAllocations(options.files.read(allocationsFile));
    this.#translator = this.#newTranslator();
    this.#teller = new Teller(options.log);
    options.authority.onChange(() => this.refresh());
  }

  get conditions(): readonly Condition[] {
    return this.#translator.conditions();
  }
  conditionOf(ref: ObjectRef): Condition | undefined {
    return this.#translator.conditionOf(ref);
  }
  get problems(): readonly Problem[] {
    return this.#problems;
  }
  get ignored(): readonly Ignored[] {
    return this.#ignored;
  }
  get settings(): MeshSettings {
    return this.#translator.settings;
  }
  /** The mesh's own trust domain and its aliases. */
  get trustDomains(): readonly TrustDomain[] {
    return [this.settings.trustDomain, ...this.settings.trustDomainAliases];
  }
  get workloads(): Iterable<Workload> {
    return this.#translator.workloads();
  }
  /** Of routes, policies and settings alone. */
  get policyConditions(): Iterable<Condition> {
    return this.#translator.policyConditions();
  }
  get services(): readonly {
    readonly namespace: string;
    readonly name: string;
    readonly addresses: readonly string[];
  }[] {
    return [...this.#translator.services.values()].map(({ record: { namespace, name, addresses } }) => ({
      namespace,
      name,
      addresses,
    }));
  }

  /** Routes and policies for requests, as agents are given them. */
  get routing(): readonly HttpRouting[] {
    return this.#translator.routing();
  }

  /** A Service as agents get it. */
  serviceRecord(namespace: string, name: string): Service | undefined {
    return this.#translator.services.get(serviceName(namespace, name))?.record;
  }

  readonly sink: SourceSink = {
    apply: (object, origin) => {
      this.index.apply(object, origin);
      if (object.kind === "Pod") this.#placement.put(object);
    },
    delete: (ref) => {
      this.index.delete(ref);
      if (ref.kind === "Pod") this.#placement.remove(ref);
    },
    problems: (problems, ignored) => {
      this.#problems = problems;
      this.#ignored = ignored;
    },
    settled: () => this.refresh(),
  };

  /** Translates what changed and offers it. */
  refresh(): void {
    const { clock, metrics, log } = this.#options;
    const started = clock.monotonicMs();
    if (!this.#isWhole) this.#translator = this.#newTranslator();
    const isFromNothing = !this.#isWhole || !this.snapshot.isReady;
    // Whatever fails from here on leaves the translator with half of it.
    this.#isWhole = false;
    const { resources, conditions } = this.#translator.update(this.#options.unenrolled());
    this.#keepAllocations(this.#translator.allocations);
    const changes = resources.map(toSnapshot);
    if (isFromNothing) changes.push(...this.#goneSince(resources));
    changes.push(...this.#trust());
    const changed = this.snapshot.apply(changes);
    this.#options.translated?.(resources, isFromNothing);
    this.#trustRevision = this.#options.authority.revision;
    this.#isWhole = true;
    metrics.translateSeconds.observe({}, (clock.monotonicMs() - started) / 1000);
    if (changed > 0) log.debug("snapshot_changed", { changed, generation: this.snapshot.generation });
    this.#measure(conditions, isFromNothing);
    this.#teller.problems(this.#problems);
    this.#teller.conditions(conditions);
    for (const listener of [...this.#settled]) listener(conditions);
  }

  #newTranslator(): Translator {
    const { settings, rootNamespace } = this.#options;
    return new Translator(this.index, { settings, rootNamespace, allocations: this.#allocations });
  }
  /** The trust bundle if it is another than the one offered. */
  *#trust(): Iterable<SnapshotChange> {
    const { authority } = this.#options;
    if (this.#trustRevision === authority.revision) return;
    const { trustDomain } = this.settings;
    const { rootsPem, generation, jwks } = authority;
    const value = { trustDomain, rootsPem, generation, jwks };
    yield toSnapshot({ kind: "TrustBundle", name: trustDomain, resource: { kind: "TrustBundle", value } });
  }
  /** What is offered still and was not translated again. */
  *#goneSince(resources: readonly ResourceChange[]): Iterable<SnapshotChange> {
    const there = new Set(resources.map(({ kind, name }) => `${codecs[kind].typeUrl} ${name}`));
    for (const kind of resourceKinds) {
      const { typeUrl } = codecs[kind];
      if (kind === "TrustBundle") continue;
      for (const name of [...(this.snapshot.type(typeUrl)?.names() ?? [])])
        if (!there.has(`${typeUrl} ${name}`)) yield { typeUrl, name, bytes: undefined };
    }
  }

  /** As refresh, a moment later, so that many reports cost one translation. */
  refreshSoon(): void {
    this.#cancelRefresh ??= this.#options.clock.after(50, () => {
      this.#cancelRefresh = undefined;
      if (this.snapshot.isReady) this.refresh();
    });
  }

  /** Whether a living pod of this service account, with a network of its own, is placed on the node. */
  runsOn(node: string, namespace: string, serviceAccount: string): boolean {
    return this.#placement.has(node, namespace, serviceAccount);
  }

  /** Calls `listener` after each translation with the conditions that it changed. @returns ends that */
  onSettled(listener: Settled): () => void {
    this.#settled.add(listener);
    return () => this.#settled.delete(listener);
  }

  /** Waits until `isTrue`, asked again after every change, or `ms` passed. */
  async waitFor(isTrue: () => boolean, ms: number): Promise<boolean> {
    if (isTrue()) return true;
    const done = new AbortController();
    const check = (): void => {
      if (isTrue()) done.abort();
    };
    this.#settled.add(check);
    await this.#options.clock.sleep(ms, done.signal);
    this.#settled.delete(check);
    return isTrue();
  }

  #measure(changes: readonly ConditionChange[], isFromNothing: boolean): void {
    const { metrics } = this.#options;
    metrics.problems.set({}, this.#problems.length);
    if (isFromNothing) this.#counts.clear();
    const count = (condition: Condition | undefined, by: number): void => {
      if (condition === undefined) return;
      const key = `${condition.object.kind}/${condition.accepted ? "accepted" : "refused"}`;
      this.#counts.set(key, (this.#counts.get(key) ?? 0) + by);
    };
    for (const { before, after } of changes) {
      count(before, -1);
      count(after, 1);
    }
    metrics.objects.clear();
    for (const [key, number] of this.#counts) {
      const [kind = "", state = ""] = key.split("/");
      if (number > 0) metrics.objects.set({ kind, state }, number);
    }
    for (const kind of resourceKinds) metrics.resources.set({ type: kind }, this.snapshot.count(codecs[kind].typeUrl));
  }

  #keepAllocations(allocations: ReadonlyMap<string, readonly string[]>): void {
    if (allocations === this.#allocations) return;
    const text = JSON.stringify([...allocations].sort(([a], [b]) => (a < b ? -1 : 1)));
    const isSame = text === JSON.stringify([...this.#allocations].sort(([a], [b]) => (a < b ? -1 : 1)));
    this.#allocations = allocations;
    if (isSame) return;
    try {
      this.#options.files.write(allocationsFile, text);
    } catch (error) {
      this.#options.log.error("addresses_not_saved", {
        reason: messageOf(error),
        effect: "services may get other addresses after a restart",
      });
    }
  }
}

const toSnapshot = ({ kind, name, resource }: ResourceChange): SnapshotChange => ({
  typeUrl: codecs[kind].typeUrl,
  name,
  bytes: resource && encodeResource(resource),
});

function parseAllocations(text: string | undefined): ReadonlyMap<string, readonly string[]> {
  try {
    const value: unknown = JSON.parse(text ?? "[]");
    return new Map(value as [string, readonly string[]][]);
  } catch {
    return new Map();
  }
}
