// The types on the arrows of one connection's life (connection.ts), the table of close reasons, and the narrow interfaces
// that stages ask of each other. Shapes of questions and answers are those of docs/native-channel.md.
import type { PodName, PolicyName, ServiceName, SpiffeId } from "./api/names.ts";
import type { Workload } from "./api/workload.ts";

/** Code -> text, the same table as native/src/reason.rs (flow.test.ts compares). Neither ever changes its meaning. */
export const closeReasons = {
  0: "finished",
  1: "client_reset",
  2: "server_reset",
  10: "policy_denied",
  11: "question_timeout",
  12: "question_failed",
  13: "no_endpoints",
  14: "not_intercepted",
  15: "unknown_destination",
  16: "plaintext_refused",
  17: "late_tunnel_hello",
  18: "unsupported_mode",
  19: "l7_unavailable",
  20: "connect_refused",
  21: "connect_timeout",
  22: "connect_unreachable",
  23: "connect_failed",
  24: "policies_stale",
  25: "not_http",
  26: "connection_limit",
  27: "no_local_endpoint",
  30: "tls_handshake_timeout",
  31: "tls_expired",
  32: "tls_not_yet_valid",
  33: "tls_wrong_trust_domain",
  34: "tls_wrong_identity",
  35: "tls_unknown_issuer",
  36: "tls_root_not_trusted",
  37: "tls_no_certificate",
  38: "tls_no_common_alpn",
  39: "tls_certificate_invalid",
  40: "tls_peer_refused",
  41: "tls_handshake_failed",
  42: "tls_no_svid",
  50: "tunnel_lost",
  51: "tunnel_protocol_error",
  52: "tunnel_peer_draining",
  53: "tunnel_refused",
  60: "drain_deadline",
  61: "pod_gone",
  62: "reset_by_agent",
  63: "agent_stopping",
  64: "resource_limit",
  65: "worker_died",
  70: "handed_over",
  71: "handover_failed",
} as const;
export type CloseReason = (typeof closeReasons)[keyof typeof closeReasons];
const reasonWords: ReadonlySet<string> = new Set(Object.values(closeReasons));
/** What a dial failed with, as a close reason; a word that is none stands for a connection that was not made. */
export const closeReasonOf = (word: string): CloseReason =>
  reasonWords.has(word) ? (word as CloseReason) : "connect_failed";

export interface Endpoint {
  readonly ip: string;
  readonly port: number;
}

export type Question =
  | {
      readonly id: number;
      readonly ask: "outbound";
      readonly pod: PodName;
      readonly destination: Endpoint;
      readonly source: Endpoint;
    }
  | {
      readonly id: number;
      readonly ask: "inbound";
      readonly pod: PodName;
      readonly destination: Endpoint;
      readonly source: { readonly ip: string };
      readonly identity: SpiffeId | null;
      /** "local": the kernel names the pod of this node whose very socket this is. */
      readonly tunnel: "fairlead/1" | "hbone" | "plain" | "local";
    }
  | {
      readonly id: number;
      readonly ask: "peer";
      readonly pod: PodName;
      readonly source: { readonly ip: string };
      readonly port: number;
    };

export type EndpointMode = "fairlead/1" | "hbone" | "plain" | "local";

/** One way to go on, as native is told. */
export interface PlanEndpoint {
  readonly ip: string;
  readonly port: number;
  readonly mode: EndpointMode;
  readonly identities?: readonly SpiffeId[];
  readonly pod?: PodName;
  readonly verdictId?: number;
  readonly tunnelAddress?: Endpoint;
  readonly weight?: number;
}

/** Of the connections of a namespace to a service, on this node; those of earlier plans with the same key count. */
export interface PlanLimits {
  readonly key: string;
  /** 0: no limit. */
  readonly maxConnections: number;
  /** Connections that wait for a place, for the connect timeout; 0: none. */
  readonly maxPending: number;
  /** Until the server has the connection; absent: the agent's. */
  readonly connectTimeoutMs?: number;
  /** Who says so, for records. */
  readonly policy: string;
}

/**
 * Handover: what becomes of a connection whose first bytes are not HTTP. A client that is silent for `detectMs` goes to the thread, which
 * waits on. Absent: handed over without a look.
 */
export type OpaqueBytes = "forward" | "refuse";

export type OutboundAnswer = {
  readonly planId: number;
  readonly generation: number;
  readonly cache?: boolean;
} & (
  | { readonly action: "refuse"; readonly reason: CloseReason; readonly policy?: PolicyName }
  | {
      readonly action: "forward" | "handover";
      readonly identity?: SpiffeId;
      readonly service?: ServiceName;
      readonly detectMs: number;
      readonly endpoints: readonly PlanEndpoint[];
      readonly thread?: number;
      readonly opaque?: OpaqueBytes;
      readonly limits?: PlanLimits;
    }
);

export type InboundAnswer = { readonly verdictId: number; readonly generation: number; readonly cache?: boolean } & (
  | { readonly action: "refuse"; readonly reason: CloseReason; readonly policy?: PolicyName }
  | {
      readonly action: "forward" | "handover";
      readonly thread?: number;
      readonly opaque?: OpaqueBytes;
      readonly detectMs?: number;
    }
);

export type MtlsPosture = "permissive" | "strict" | "disable";
export interface PeerAnswer {
  readonly speaker: boolean;
  readonly mode: MtlsPosture;
  readonly waitMs: number;
}

/** A pod of this node as the node itself knows it: identity and addresses come from here, never from discovery. */
export interface LocalPod {
  readonly name: PodName;
  readonly identity: SpiffeId;
  /** The pod in the shape of discovery, made from the node's own record of it. */
  readonly workload: Workload;
}

/** Pods of this node that are enrolled: the only ones that native asks about. */
export interface LocalPods {
  byName(name: PodName): LocalPod | undefined;
  byAddress(address: string): LocalPod | undefined;
}

/** Those that native asks about. */
export interface AskedPods extends LocalPods {
  /** As `byName`; also a pod that has left the mesh a short while ago: native may have taken connections of it before. */
  asked(name: PodName): LocalPod | undefined;
}

/**
 * How far what is known of the mesh can be relied on: "none" before policies were ever heard (nothing is let through), "expired"
 * past maxStale (STRICT workloads close, DP-20).
 */
export type Knowledge = "none" | "fresh" | "expired";

/** Why a connection is let through or not: what the record, the log line and `explain` show. */
export interface Verdict {
  readonly allow: boolean;
  readonly reason: CloseReason | "allowed";
  readonly policy?: PolicyName;
  /** Index of the rule in the policy that decided. */
  readonly rule?: number;
  /** What of the connection or request decided, as `path="/admin" method="GET"`: set on refusals of requests, and by CUSTOM. */
  readonly input?: string;
  /** What policies in dry run would have decided, and AUDIT policies that matched. */
  readonly notes: readonly VerdictNote[];
}
export interface VerdictNote {
  readonly kind: "would_deny" | "would_allow" | "audit" | "l7_unavailable" | "token_unread";
  readonly policy: PolicyName;
  readonly rule?: number;
}

export interface ServiceFacts {
  readonly namespace: string;
  readonly name: string;
  readonly hostname: string;
}

/** Facts behind a plan or verdict number, kept for its records. */
export interface PlanFacts {
  readonly kind: "plan";
  readonly source: Workload;
  readonly sourceIdentity: SpiffeId;
  readonly destination: Endpoint;
  readonly service?: ServiceFacts;
  readonly protocol: string;
  readonly targets: readonly { readonly mode: EndpointMode; readonly workload?: Workload }[];
  readonly refused?: Verdict;
  /** "unknown_host" when the registry had nothing and the original destination was taken (DIS-7). */
  readonly passthrough?: string;
}
export interface VerdictFacts {
  readonly kind: "verdict";
  readonly source?: Workload;
  readonly sourceIdentity: SpiffeId | null;
  readonly destination: Workload;
  readonly destinationIdentity: SpiffeId;
  readonly port: number;
  readonly tunnel: "fairlead/1" | "hbone" | "plain" | "local";
  readonly service?: ServiceFacts;
  readonly verdict: Verdict;
  /** Source workload known because both ends are on this node: the record then speaks for both. */
  readonly direct: boolean;
}

/** Gives out plan and verdict numbers: never 0, never used again in this process, the same for the same facts. */
export interface FactsBook {
  plan(key: string, facts: PlanFacts): number;
  verdict(key: string, facts: VerdictFacts): number;
}
