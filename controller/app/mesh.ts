// From settled sources to the snapshot: index, translation, trust bundle, conditions. The one place where these meet.
import type { TrustDomain } from "../../agent/api/names.ts";
import { codecs, type MeshResource, resourceKinds } from "../../agent/api/resources.ts";
import type { MeshSettings } from "../../agent/api/settings.ts";
import type { Clock } from "../../agent/base/clock.ts";
import { type Logger, messageOf } from "../../agent/base/log.ts";
import { ClusterIndex } from "../index/cluster-index.ts";
import type { Authority } from "../issue/authority.ts";
import type { StateFiles } from "../issue/state-files.ts";
import type { ControllerMetrics } from "../report/metrics.ts";
import { Snapshot } from "../serve/snapshot.ts";
import { type Ignored, type Problem, type SourceSink, showRef } from "../sources/types.ts";
import type { Condition } from "../translate/conditions.ts";
import { type Translated, translate } from "../translate/translate.ts";
import { isOver, WorkloadMemo } from "../translate/workloads.ts";

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
}
const allocationsFile = "cluster-ips.json";

export class Mesh {
  readonly index = new ClusterIndex();
  readonly snapshot = new Snapshot();
  readonly #options: MeshOptions;
  readonly #memo = new WorkloadMemo();
  #translated: Translated | undefined;
  #problems: readonly Problem[] = [];
  #ignored: readonly Ignored[] = [];
  #allocations: ReadonlyMap<string, readonly string[]>;
  #told = new Set<string>();
  #placement: { readonly generation: number; readonly keys: ReadonlySet<string> } | undefined;
  readonly #settled = new Set<() => void>();
  #cancelRefresh: (() => void) | undefined;

  constructor(options: MeshOptions) {
    this.#options = options;
    this.#allocations = parseAllocations(options.files.read(allocationsFile));
    options.authority.onChange(() => this.refresh());
  }

  get conditions(): readonly Condition[] {
    return this.#translated?.conditions ?? [];
  }
  get problems(): readonly Problem[] {
    return this.#problems;
  }
  get ignored(): readonly Ignored[] {
    return this.#ignored;
  }
  get settings(): MeshSettings {
    return this.#translated?.settings ?? this.#options.settings;
  }
  /** The mesh's own trust domain and its aliases. */
  get trustDomains(): readonly TrustDomain[] {
    return [this.settings.trustDomain, ...this.settings.trustDomainAliases];
  }
  get services(): readonly {
    readonly namespace: string;
    readonly name: string;
    readonly addresses: readonly string[];
  }[] {
    const all = this.#translated?.resources ?? [];
    return all.flatMap((r) =>
      r.kind === "Service" ? [{ namespace: r.value.namespace, name: r.value.name, addresses: r.value.addresses }] : [],
    );
  }

  readonly sink: SourceSink = {
    apply: (object, origin) => this.index.apply(object, origin),
    delete: (ref) => void this.index.delete(ref),
    problems: (problems, ignored) => {
      this.#problems = problems;
      this.#ignored = ignored;
    },
    settled: () => this.refresh(),
  };

  /** Translates everything again and offers what changed. */
  refresh(): void {
    const { authority, clock, metrics, log } = this.#options;
    const started = clock.monotonicMs();
    const translated = translate(this.index, {
      settings: this.#options.settings,
      rootNamespace: this.#options.rootNamespace,
      allocations: this.#allocations,
      unenrolled: this.#options.unenrolled(),
      memo: this.#memo,
    });
    this.#translated = translated;
    this.#keepAllocations(translated.allocations);
    const { trustDomain } = translated.settings;
    const trust = { trustDomain, rootsPem: authority.rootsPem, generation: authority.generation };
    const resources: MeshResource[] = [{ kind: "TrustBundle", value: trust }, ...translated.resources];
    const changed = this.snapshot.update(
      resources,
      resourceKinds.map((kind) => codecs[kind].typeUrl),
    );
    metrics.translateSeconds.observe({}, (clock.monotonicMs() - started) / 1000);
    if (changed > 0) log.debug("snapshot_changed", { changed, generation: this.snapshot.generation });
    this.#measure();
    this.#tell();
    for (const listener of [...this.#settled]) listener();
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
    if (this.#placement?.generation !== this.index.generation) {
      const keys = new Set<string>();
      for (const { object } of this.index.all("Pod")) {
        const { nodeName, hostNetwork, serviceAccountName } = object.spec;
        if (nodeName === "" || hostNetwork || isOver(object)) continue;
        keys.add(`${nodeName}/${object.metadata.namespace}/${serviceAccountName || "default"}`);
      }
      this.#placement = { generation: this.index.generation, keys };
    }
    return this.#placement.keys.has(`${node}/${namespace}/${serviceAccount}`);
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

  #measure(): void {
    const { metrics } = this.#options;
    metrics.problems.set({}, this.#problems.length);
    const counts = new Map<string, number>();
    for (const c of this.conditions) {
      const key = `${c.object.kind}/${c.accepted ? "accepted" : "refused"}`;
      counts.set(key, (counts.get(key) ?? 0) + 1);
    }
    metrics.objects.clear();
    for (const [key, count] of counts) {
      const [kind = "", state = ""] = key.split("/");
      metrics.objects.set({ kind, state }, count);
    }
    for (const kind of resourceKinds) metrics.resources.set({ type: kind }, this.snapshot.count(codecs[kind].typeUrl));
  }

  /** One log line for each problem or warning when it appears. */
  #tell(): void {
    const { log } = this.#options;
    const now = new Set<string>();
    const say = (
      file: string,
      line: number,
      object: string,
      field: string,
      message: string,
      fix: string,
      isRefused: boolean,
    ): void => {
      const key = `${file}:${object}:${field}:${message}`;
      now.add(key);
      if (this.#told.has(key)) return;
      log[isRefused ? "error" : "warn"](isRefused ? "object_refused" : "object_warning", {
        file,
        line,
        object,
        field,
        message,
        fix,
      });
    };
    for (const p of this.#problems)
      say(p.file, p.line, p.object === undefined ? "" : showRef(p.object), p.field, p.message, p.fix, true);
    for (const c of this.conditions) {
      if (c.fix !== "") say(c.origin.file, c.origin.line, showRef(c.object), c.field, c.message, c.fix, !c.accepted);
    }
    this.#told = now;
  }

  #keepAllocations(allocations: ReadonlyMap<string, readonly string[]>): void {
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

function parseAllocations(text: string | undefined): ReadonlyMap<string, readonly string[]> {
  try {
    const value: unknown = JSON.parse(text ?? "[]");
    return new Map(value as [string, readonly string[]][]);
  } catch {
    return new Map();
  }
}
