// Who calls, how unusual that is, and whether there are too many such calls: asked once per request, on the node of the server, before its
// policies. Off, it costs one comparison.
import type { EnricherSettings, MeshFeatures, RequestFeatures } from "../api/enricher.ts";
import type { SpiffeId } from "../api/names.ts";
import { serviceBeforePort, type Workload } from "../api/workload.ts";
import type { RequestHead } from "../http.ts";
import type { MeshState } from "../state/mesh-state.ts";
import { Caller } from "./caller.ts";
import { type CountKey, PairCounts, type PairMemory } from "./pairs.ts";
import { anomaliesOf, scoreOf } from "./score.ts";
import { type EnrichTold, Tally } from "./tally.ts";

export interface Call {
  /** The pod that serves, and on which of its ports. */
  readonly destination: Workload;
  readonly port: number;
  readonly identity: SpiffeId | null;
  readonly sourceIp: string;
}
/** Too many calls of a pair or namespace. */
export interface MeshLimited {
  readonly by: "pair" | "namespace";
  /** "limit": 429, "block": 403. */
  readonly action: EnricherSettings["mesh_limit_action"];
  readonly retryAfterS: number;
}
export interface Enriched extends RequestFeatures {
  readonly limited?: MeshLimited;
}

/** What is kept of a connection's calls to one pod. */
export interface CallMemo {
  caller: Caller;
  settings: EnricherSettings;
  destination: Workload;
  /** Of the features below. */
  features: MeshFeatures | undefined;
  source: string;
  /** "namespace/name" of the service before the port; of a port that none serves, the pod. */
  service: string;
  pair: CountKey | undefined;
  namespace: CountKey | undefined;
}

export class Enricher {
  readonly #counts: PairCounts;
  readonly #tally = new Tally();

  constructor(memory: PairMemory) {
    this.#counts = new PairCounts(memory);
  }

  /** What to keep for the next request of the same call; `kept` while it holds. Undefined: the enricher is off. */
  memo(state: MeshState, call: Call, nowMs: number, kept: CallMemo | undefined): CallMemo | undefined {
    const settings = state.settings.enricher;
    if (!settings.enable_mesh_enricher) return undefined;
    if (kept?.destination === call.destination && kept.caller.isFresh(settings, nowMs)) return kept;
    const claimed = state.workloads.byAddress(call.sourceIp);
    const caller = new Caller(settings, { identity: call.identity, sourceIp: call.sourceIp, claimed }, nowMs);
    const { destination } = call;
    const service = serviceBeforePort(destination, call.port) ?? `${destination.namespace}/${destination.name}`;
    return {
      caller,
      settings,
      destination,
      features: undefined,
      source: "",
      service,
      pair: undefined,
      namespace: undefined,
    };
  }

  enrich(memo: CallMemo, head: RequestHead, nowMs: number): Enriched {
    const { settings, destination } = memo;
    const features = memo.caller.features(head);
    if (features !== memo.features) this.#remember(memo, features);
    const calls = this.#count(memo, nowMs);
    const anomalies = anomaliesOf(settings, features, destination.namespace, calls);
    const score = scoreOf(settings, anomalies);
    this.#tally.request(features.namespace ?? "unknown", memo.service, anomalies);
    if (memo.source !== "" && anomalies.length > 0) this.#tally.pair(memo.source, memo.service, score, anomalies);
    const limited = this.#limit(memo, nowMs);
    if (limited !== undefined) this.#tally.limited(limited.by);
    const traceId = memo.caller.traceId(head);
    const mesh = traceId === undefined ? features : { ...features, trace_id: traceId };
    const base = { score, anomalies, ...(limited === undefined ? {} : { limited }) };
    for (const _ in mesh) return { mesh, ...base };
    return base;
  }

  flush(): EnrichTold | undefined {
    return this.#tally.flush();
  }

  #remember(memo: CallMemo, features: MeshFeatures): void {
    memo.features = features;
    const { namespace, service, workload, mesh_source: source } = features;
    const name = service ?? workload ?? source?.slice(source.lastIndexOf("/") + 1);
    memo.source = namespace === undefined || name === undefined ? "" : `${namespace}/${name}`;
    memo.pair = memo.source === "" ? undefined : this.#counts.pairKey(memo.source, memo.service);
    memo.namespace = namespace === undefined ? undefined : this.#counts.namespaceKey(namespace);
  }

  #count({ pair, namespace, settings }: CallMemo, nowMs: number): number | undefined {
    if (namespace !== undefined) this.#counts.countNamespace(namespace, nowMs);
    if (pair === undefined) return undefined;
    const calls = this.#counts.countPair(pair, nowMs, settings.mesh_pair_window_seconds);
    if (calls === undefined) this.#tally.crowded();
    return calls;
  }

  #limit({ pair, namespace, settings }: CallMemo, nowMs: number): MeshLimited | undefined {
    const { mesh_pair_rpm_limit: pairLimit, mesh_namespace_rpm_quota: quota, mesh_limit_action: action } = settings;
    if (pairLimit > 0 && pair !== undefined) {
      const retryAfterS = this.#counts.take(pair, nowMs, pairLimit, action);
      if (retryAfterS > 0) return { by: "pair", action, retryAfterS };
    }
    if (quota > 0 && namespace !== undefined) {
      const retryAfterS = this.#counts.take(namespace, nowMs, quota, action);
      if (retryAfterS > 0) return { by: "namespace", action, retryAfterS };
    }
    return undefined;
  }
}
