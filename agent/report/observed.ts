// What data threads tell of single requests, and what they are asked to tell. Types alone: values that can be cloned.
import type { RequestFeatures } from "../api/enricher.ts";
import type { VerdictNote } from "../flow.ts";
import type { ThreatBatch } from "./threats.ts";

/** One ended request. Texts are "" where there is nothing to say. */
export interface RequestRecord {
  /** Unix, ms: when the request's head was there. */
  readonly startedMs: number;
  readonly durationMs: number;
  /** Seen from the pod of this node: requests that it sends, or that it is sent. */
  readonly direction: "outbound" | "inbound";
  readonly protocol: "http" | "http2" | "grpc";
  readonly method: string;
  readonly authority: string;
  /** With the query, as the client sent it. */
  readonly path: string;
  /** 0: the client got no answer. */
  readonly status: number;
  readonly grpcStatus: string;
  /** Envoy's response flags, "-" for none. */
  readonly flags: string;
  /** How the exchange ended: "finished", or what cut it short. */
  readonly outcome: string;
  /** Why it was answered here: a close reason, or the word of a route's filter. */
  readonly reason: string;
  readonly requestBytes: number;
  readonly responseBytes: number;
  /** How often it was sent beyond the first time. */
  readonly retries: number;
  /** Address and port. */
  readonly source: string;
  readonly destination: string;
  /** The endpoint that it went to. */
  readonly upstream: string;
  /** "namespace/name", as are the service and the route. */
  readonly sourceWorkload: string;
  readonly destinationWorkload: string;
  readonly service: string;
  readonly sourceIdentity: string;
  readonly destinationIdentity: string;
  readonly route: string;
  /** Index of the rule in the route; -1: none. */
  readonly routeRule: number;
  readonly policy: string;
  /** Index of the rule in the policy; -1: none, as where no ALLOW rule matched. */
  readonly policyRule: number;
  /** What of the request decided, on refusals. */
  readonly input: string;
  readonly denied: boolean;
  readonly notes: readonly VerdictNote[];
  /** What the enricher found out; absent: it is off, or the server elsewhere. */
  readonly features?: RequestFeatures;
  readonly traceId: string;
  readonly spanId: string;
  readonly parentSpanId: string;
  readonly traceState: string;
  readonly requestId: string;
  readonly correlationId: string;
  /** Number of the connection, as in connection records. */
  readonly connection: number;
  /** Pod of this node that it is told for. */
  readonly pod: string;
}

/** Statuses from `low` to `high`. */
export interface StatusRange {
  readonly low: number;
  readonly high: number;
}

export interface LogSettings {
  readonly on: boolean;
  /** Share of the requests that are written though no condition names them. */
  readonly sample: number;
  /** Conditions: a request that one of them names is written. */
  readonly codes: readonly StatusRange[];
  readonly flags: readonly string[];
  /** 0: no condition. */
  readonly slowerMs: number;
  /** Only requests from or to one of these; none: all. */
  readonly namespaces: readonly string[];
}
/** What is left out of lines: the last part of addresses, query strings. */
export interface Masks {
  readonly addresses: boolean;
  readonly queries: boolean;
}
export interface ObserveSettings {
  readonly log: LogSettings;
  readonly masks: Masks;
}

/** Whoever watches live requests; "" and [] match everything. */
export interface Tap {
  readonly id: number;
  /** "namespace/pod" or "namespace", of the source or the destination. */
  readonly pod: string;
  readonly method: string;
  /** Exact, or with "*" at the beginning or end for the rest. */
  readonly path: string;
  readonly statuses: readonly StatusRange[];
  /** Lines of one thread a second; what is more is counted. */
  readonly perSecond: number;
}

/** What a thread tells at once. Lines are JSON, each with its line end. */
export interface ObservedBatch {
  readonly lines: string;
  readonly lineCount: number;
  readonly taps: readonly {
    readonly id: number;
    readonly lines: string;
    readonly count: number;
    readonly dropped: number;
  }[];
  readonly spans: readonly RequestRecord[];
  /** Lines and spans that the control thread was too slow for, since the last batch. */
  readonly droppedLines: number;
  readonly droppedSpans: number;
  readonly threats?: ThreatBatch;
}
