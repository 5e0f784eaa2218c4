// Settings of the mesh metadata enricher, named as its description names them, and what it finds out about a request. Wire form in mesh.proto.
import { parseCidr } from "../base/ip.ts";
import { type Fields, isObjectName, shorten, sortedRecord } from "./fields.ts";
import { tokenPattern } from "./http-policy.ts";
import type * as wire from "./mesh.gen.ts";

/** What is known about the caller of a request; a key that is not known is absent. */
export interface MeshFeatures {
  readonly namespace?: string;
  readonly workload?: string;
  readonly service?: string;
  readonly pod?: string;
  readonly zone?: string;
  readonly trace_id?: string;
  /** Identity of the caller: "spiffe://...", or "namespace/name". */
  readonly mesh_source?: string;
}
export type MeshKey = keyof MeshFeatures;
export const meshKeys = ["trace_id", "namespace", "workload", "service", "pod", "zone", "mesh_source"] as const;

/** What may raise a request's score. */
export type MeshAnomaly = (typeof meshAnomalies)[number];
export const meshAnomalies = ["cross_namespace", "risky_namespace", "unusual_pair", "missing_headers"] as const;

/** What is noted of a request for logs, policies and threat records. */
export interface RequestFeatures {
  /** Absent where nothing is known. */
  readonly mesh?: MeshFeatures;
  /** 0 to the sum of the weights. */
  readonly score: number;
  readonly anomalies: readonly MeshAnomaly[];
}

export interface EnricherSettings {
  readonly enable_mesh_enricher: boolean;
  /** Header of each key, in lower case; a key without one is not read. */
  readonly mesh_header_map: Readonly<Partial<Record<MeshKey, string>>>;
  readonly mesh_cache_ttl_seconds: number;
  readonly mesh_risky_namespaces: readonly string[];
  readonly mesh_score_weights: Readonly<Record<MeshAnomaly, number>>;
  readonly mesh_pair_window_seconds: number;
  /** Peers whose headers are believed: principals ("cluster.local/ns/a/sa/b", with "*" at an end) and address blocks. */
  readonly mesh_trusted_peers: readonly string[];
  /** A pair seen no more often than this in the window is unusual. */
  readonly mesh_unusual_pair_count: number;
  /** Requests a minute of one pair; 0: no limit. */
  readonly mesh_pair_rpm_limit: number;
  /** Requests a minute from one namespace to another's workloads on a node; 0: no quota. */
  readonly mesh_namespace_rpm_quota: number;
  /** Over a limit: what is too much is refused ("limit"), or all of the pair or namespace until the minute ends ("block"). */
  readonly mesh_limit_action: MeshLimitAction;
  /** Pairs in one log line about anomalies, and how often it is written at most. */
  readonly mesh_top_pairs: number;
  readonly mesh_log_interval_seconds: number;
}
export type MeshLimitAction = (typeof meshLimitActions)[number];
export const meshLimitActions = ["limit", "block"] as const;

export const defaultHeaderMap: Readonly<Record<MeshKey, string>> = {
  trace_id: "x-request-id",
  namespace: "x-k8s-namespace",
  workload: "x-k8s-workload",
  service: "x-k8s-service",
  pod: "x-k8s-pod",
  zone: "x-k8s-zone",
  mesh_source: "x-mesh-source",
};
export const defaultEnricher: EnricherSettings = {
  enable_mesh_enricher: false,
  mesh_header_map: defaultHeaderMap,
  mesh_cache_ttl_seconds: 300,
  mesh_risky_namespaces: [],
  mesh_score_weights: { cross_namespace: 0.3, risky_namespace: 0.3, unusual_pair: 0.3, missing_headers: 0.1 },
  mesh_pair_window_seconds: 3600,
  mesh_trusted_peers: [],
  mesh_unusual_pair_count: 5,
  mesh_pair_rpm_limit: 0,
  mesh_namespace_rpm_quota: 0,
  mesh_limit_action: "limit",
  mesh_top_pairs: 10,
  mesh_log_interval_seconds: 60,
};

/** A principal pattern, or an address block. */
export const isTrustedPeer = (text: string): boolean =>
  parseCidr(text) !== undefined || /^(\*|\*?[a-z0-9][-a-z0-9._/]*\*?)$/.test(text);

export function enricherFromWire(fields: Fields, m: wire.MeshEnricher | undefined): EnricherSettings {
  if (m === undefined) return defaultEnricher;
  const at = (key: string): string => `enricher.${key}`;
  for (const [key, header] of Object.entries(m.headerMap)) {
    if (!meshKeys.some((known) => known === key)) fields.problem(at(`header_map[${shorten(key)}]`), "is not a key");
    if (!tokenPattern.test(header) || header !== header.toLowerCase())
      fields.problem(at(`header_map[${shorten(key)}]`), "is no header name in lower case");
  }
  for (const key of Object.keys(m.scoreWeights))
    if (!meshAnomalies.some((known) => known === key))
      fields.problem(at(`score_weights[${shorten(key)}]`), "is not a key");
  m.riskyNamespaces.forEach((name, i) => {
    if (!isObjectName(name)) fields.problem(at(`risky_namespaces[${i}]`), `"${shorten(name)}" is not a namespace`);
  });
  m.trustedPeers.forEach((peer, i) => {
    if (!isTrustedPeer(peer))
      fields.problem(at(`trusted_peers[${i}]`), `"${shorten(peer)}" is neither principal nor block`);
  });
  const number = (key: string, value: number, min: number, max: number): number =>
    fields.number(at(key), value, { min, max });
  const weight = (key: MeshAnomaly): number => number(`score_weights[${key}]`, m.scoreWeights[key] ?? 0, 0, 1);
  return {
    enable_mesh_enricher: m.enabled,
    mesh_header_map: m.headerMap,
    mesh_cache_ttl_seconds: number("cache_ttl_s", m.cacheTtlS, 1, 86_400),
    mesh_risky_namespaces: m.riskyNamespaces,
    mesh_score_weights: {
      cross_namespace: weight("cross_namespace"),
      risky_namespace: weight("risky_namespace"),
      unusual_pair: weight("unusual_pair"),
      missing_headers: weight("missing_headers"),
    },
    mesh_pair_window_seconds: number("pair_window_s", m.pairWindowS, 1, 604_800),
    mesh_trusted_peers: m.trustedPeers,
    mesh_unusual_pair_count: m.unusualPairCount,
    mesh_pair_rpm_limit: m.pairRpmLimit,
    mesh_namespace_rpm_quota: m.namespaceRpmQuota,
    mesh_limit_action: fields.word(at("limit_action"), m.limitAction, meshLimitActions),
    mesh_top_pairs: number("top_pairs", m.topPairs, 1, 100),
    mesh_log_interval_seconds: number("log_interval_s", m.logIntervalS, 1, 86_400),
  };
}

export function enricherToWire(settings: EnricherSettings): wire.MeshEnricher {
  return {
    enabled: settings.enable_mesh_enricher,
    headerMap: sortedRecord(settings.mesh_header_map as Record<string, string>),
    cacheTtlS: settings.mesh_cache_ttl_seconds,
    riskyNamespaces: [...settings.mesh_risky_namespaces],
    scoreWeights: sortedRecord(settings.mesh_score_weights),
    pairWindowS: settings.mesh_pair_window_seconds,
    trustedPeers: [...settings.mesh_trusted_peers],
    unusualPairCount: settings.mesh_unusual_pair_count,
    pairRpmLimit: settings.mesh_pair_rpm_limit,
    namespaceRpmQuota: settings.mesh_namespace_rpm_quota,
    limitAction: settings.mesh_limit_action,
    topPairs: settings.mesh_top_pairs,
    logIntervalS: settings.mesh_log_interval_seconds,
  };
}
