// How the endpoints of a service are used over HTTP: balancing, affinity, timeouts, retries, breaking, limits. Wire form in mesh.proto.
import type { Fields } from "./fields.ts";
import type * as wire from "./mesh.gen.ts";

export const algorithms = [
  "",
  "round_robin",
  "random",
  "weighted",
  "least_request",
  "ewma",
  "ring_hash",
  "maglev",
  "rendezvous",
] as const;
/** "" is the mesh's default. */
export type Algorithm = (typeof algorithms)[number];
const hashSources = ["source", "header", "cookie", "query"] as const;
const tiers = ["", "region", "zone", "node"] as const;
const affinityKinds = ["cookie", "header", "source"] as const;
const retryCauses = ["connect_failure", "refused", "reset", "timeout"] as const;
const healthKinds = ["http", "grpc", "tcp"] as const;

export interface Balancer {
  readonly algorithm: Algorithm;
  /** What ring_hash, maglev and rendezvous hash. */
  readonly hashOn: (typeof hashSources)[number];
  /** Of the header (lower case), cookie or query parameter; "" for the source address. */
  readonly hashName: string;
  readonly virtualNodes: number;
  /** ms that each request in flight adds to an endpoint's latency (ewma). */
  readonly penalty: number;
  readonly decayMs: number;
  /** 0: none. */
  readonly slowStartMs: number;
  readonly slowStartMinPercent: number;
  /** With fewer healthy endpoints than this all are used; 0: never. */
  readonly panicPercent: number;
}
export interface Locality {
  /** The nearest tier preferred; wider ones follow it. "": none. */
  readonly prefer: (typeof tiers)[number];
  readonly overprovisionPercent: number;
  /** 0: all. */
  readonly subsetSize: number;
}
export interface SessionAffinity {
  readonly kind: (typeof affinityKinds)[number];
  /** Of the cookie, or of the header in lower case; "" for the source address. */
  readonly name: string;
  /** Max-Age of the cookie; 0: it lives as long as the client's session. */
  readonly lifetimeS: number;
  /** 0: never. */
  readonly absoluteS: number;
  readonly idleS: number;
}
/** ms; 0: none; undefined: as the next level says (rule, policy, mesh). */
export interface HttpTimeouts {
  /** From the request's head to the answer's end, all tries. */
  readonly requestMs: number | undefined;
  readonly tryMs: number | undefined;
  /** From the request's end to the answer's head. */
  readonly responseMs: number | undefined;
  readonly connectMs: number | undefined;
  /** Without a byte in either direction. */
  readonly idleMs: number | undefined;
}
export type RetryCause = (typeof retryCauses)[number];
export interface RetryPolicy {
  /** Tries after the first; 0: none. */
  readonly attempts: number;
  readonly on: readonly RetryCause[];
  readonly codes: readonly number[];
  readonly grpcCodes: readonly number[];
  readonly backoffMs: number;
  readonly maxBackoffMs: number;
  /** Retries per request of the last 10 s. */
  readonly budgetPercent: number;
  readonly budgetMinPerS: number;
  /** Also methods that may have had an effect (RFC 9110 §9.2.2). */
  readonly anyMethod: boolean;
  readonly maxBodyBytes: number;
}
export interface Breaker {
  readonly failures: number;
  readonly openMs: number;
  readonly maxOpenMs: number;
}
export interface Outlier {
  /** 0: off. */
  readonly consecutiveErrors: number;
  /** Ejected below mean - this x standard deviation; 0: off. */
  readonly successRateStdev: number;
  readonly minEndpoints: number;
  readonly minRequests: number;
  /** Ejected above this x the median of all; 0: off. */
  readonly latencyFactor: number;
  readonly intervalMs: number;
  readonly baseEjectionMs: number;
  readonly maxEjectionMs: number;
  readonly maxEjectionPercent: number;
}
/** 0: no limit. */
export interface Limits {
  readonly maxConnections: number;
  readonly maxPending: number;
  readonly maxRequests: number;
  readonly maxRequestsPerConnection: number;
  readonly maxRetries: number;
}
export interface HealthCheck {
  readonly kind: (typeof healthKinds)[number];
  readonly path: string;
  readonly host: string;
  readonly grpcService: string;
  /** 0: the endpoint's. */
  readonly port: number;
  readonly intervalMs: number;
  readonly timeoutMs: number;
  readonly unhealthy: number;
  readonly healthy: number;
}
export interface HttpPolicy {
  /** Names of the policies it was made of, for explain. */
  readonly sources: readonly string[];
  readonly balancer: Balancer;
  readonly locality: Locality;
  readonly affinity: SessionAffinity | undefined;
  readonly timeouts: HttpTimeouts;
  readonly retry: RetryPolicy | undefined;
  readonly breaker: Breaker | undefined;
  readonly outlier: Outlier | undefined;
  readonly limits: Limits;
  readonly health: HealthCheck | undefined;
}

export const noTimeouts: HttpTimeouts = {
  requestMs: undefined,
  tryMs: undefined,
  responseMs: undefined,
  connectMs: undefined,
  idleMs: undefined,
};
export const defaultBalancer: Balancer = {
  algorithm: "",
  hashOn: "source",
  hashName: "",
  virtualNodes: 150,
  penalty: 5,
  decayMs: 10_000,
  slowStartMs: 0,
  slowStartMinPercent: 10,
  panicPercent: 50,
};
/** Defaults of a RetryPolicy, without any attempt. */
export const noRetry: RetryPolicy = {
  attempts: 0,
  on: [],
  codes: [],
  grpcCodes: [],
  backoffMs: 25,
  maxBackoffMs: 250,
  budgetPercent: 20,
  budgetMinPerS: 3,
  anyMethod: false,
  maxBodyBytes: 65_536,
};
export const defaultBreaker: Breaker = { failures: 5, openMs: 5000, maxOpenMs: 30_000 };
/** Defaults of an Outlier, with nothing that ejects. */
export const defaultOutlier: Outlier = {
  consecutiveErrors: 0,
  successRateStdev: 0,
  minEndpoints: 5,
  minRequests: 100,
  latencyFactor: 0,
  intervalMs: 10_000,
  baseEjectionMs: 30_000,
  maxEjectionMs: 300_000,
  maxEjectionPercent: 10,
};
export const noLimits: Limits = {
  maxConnections: 0,
  maxPending: 0,
  maxRequests: 0,
  maxRequestsPerConnection: 0,
  maxRetries: 0,
};
export const defaultPolicy: HttpPolicy = {
  sources: [],
  balancer: defaultBalancer,
  locality: { prefer: "", overprovisionPercent: 140, subsetSize: 0 },
  affinity: undefined,
  timeouts: noTimeouts,
  retry: undefined,
  breaker: undefined,
  outlier: undefined,
  limits: noLimits,
  health: undefined,
};

export const tokenPattern = /^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}$/;
/** A header's name as records carry it. */
export function headerName(fields: Fields, at: string, name: string): string {
  if (!tokenPattern.test(name)) fields.problem(at, name === "" ? "is missing" : "is not a header name");
  else if (name !== name.toLowerCase()) fields.problem(at, "is not in lower case");
  return name;
}
function named(fields: Fields, at: string, on: string, name: string): string {
  if (on === "source") {
    if (name !== "") fields.problem(at, "belongs to no source address");
  } else if (on === "header") headerName(fields, at, name);
  else if (on === "cookie" && !tokenPattern.test(name)) fields.problem(at, "is not a cookie's name");
  else if (name === "") fields.problem(at, "is missing");
  return fields.text(at, name);
}

export function timeoutsFromWire(message: wire.HttpTimeouts | undefined): HttpTimeouts {
  if (message === undefined) return noTimeouts;
  const { requestMs, tryMs, responseMs, connectMs, idleMs } = message;
  return { requestMs, tryMs, responseMs, connectMs, idleMs };
}
export const timeoutsToWire = (timeouts: HttpTimeouts): wire.HttpTimeouts => ({ ...timeouts });

export function retryFromWire(fields: Fields, at: string, m: wire.RetryPolicy): RetryPolicy {
  const d = noRetry;
  const backoffMs = fields.number(`${at}.backoff_ms`, m.backoffMs, { fallback: d.backoffMs });
  return {
    attempts: fields.number(`${at}.attempts`, m.attempts, { max: 100 }),
    on: m.on.map((cause, i) => fields.word(`${at}.on[${i}]`, cause, retryCauses)),
    codes: m.codes.map((code, i) => fields.number(`${at}.codes[${i}]`, code, { min: 400, max: 599 })),
    grpcCodes: m.grpcCodes.map((code, i) => fields.number(`${at}.grpc_codes[${i}]`, code, { min: 1, max: 16 })),
    backoffMs,
    maxBackoffMs: fields.number(`${at}.max_backoff_ms`, m.maxBackoffMs, {
      min: backoffMs,
      fallback: Math.max(d.maxBackoffMs, backoffMs),
    }),
    budgetPercent: fields.number(`${at}.budget_percent`, m.budgetPercent, { max: 100, fallback: d.budgetPercent }),
    budgetMinPerS: fields.number(`${at}.budget_min_per_s`, m.budgetMinPerS, { fallback: d.budgetMinPerS }),
    anyMethod: m.anyMethod,
    maxBodyBytes: fields.number(`${at}.max_body_bytes`, m.maxBodyBytes, { max: 2 ** 24, fallback: d.maxBodyBytes }),
  };
}
export const retryToWire = (retry: RetryPolicy): wire.RetryPolicy => ({
  ...retry,
  on: [...retry.on],
  codes: [...retry.codes],
  grpcCodes: [...retry.grpcCodes],
});

export function affinityFromWire(fields: Fields, at: string, m: wire.SessionAffinity): SessionAffinity {
  const kind = fields.word(`${at}.kind`, m.kind, affinityKinds);
  const { lifetimeS, absoluteS, idleS } = m;
  return { kind, name: named(fields, `${at}.name`, kind, m.name), lifetimeS, absoluteS, idleS };
}

function balancerFromWire(fields: Fields, m: wire.Balancer): Balancer {
  const d = defaultBalancer;
  const hashOn = m.hashOn === "" ? "source" : fields.word("policy.balancer.hash_on", m.hashOn, hashSources);
  const number = (key: string, value: number, fallback: number, max?: number): number =>
    fields.number(`policy.balancer.${key}`, value, { fallback, ...(max === undefined ? {} : { max }) });
  return {
    algorithm: fields.word("policy.balancer.algorithm", m.algorithm, algorithms),
    hashOn,
    hashName: named(fields, "policy.balancer.hash_name", hashOn, m.hashName),
    virtualNodes: number("virtual_nodes", m.virtualNodes, d.virtualNodes, 10_000),
    penalty: number("penalty", m.penalty, d.penalty, 1e6),
    decayMs: number("decay_ms", m.decayMs, d.decayMs),
    slowStartMs: m.slowStartMs,
    slowStartMinPercent: number("slow_start_min_percent", m.slowStartMinPercent, d.slowStartMinPercent, 100),
    panicPercent: fields.number("policy.balancer.panic_percent", m.panicPercent ?? d.panicPercent, { max: 100 }),
  };
}

function outlierFromWire(fields: Fields, m: wire.Outlier): Outlier {
  const number = (key: string, value: number, fallback: number, max = 0xffff_ffff): number =>
    fields.number(`policy.outlier.${key}`, value, { fallback, max });
  const d = defaultOutlier;
  const baseEjectionMs = number("base_ejection_ms", m.baseEjectionMs, d.baseEjectionMs);
  return {
    consecutiveErrors: m.consecutiveErrors,
    successRateStdev: number("success_rate_stdev", m.successRateStdev, 0, 100),
    minEndpoints: number("min_endpoints", m.minEndpoints, d.minEndpoints),
    minRequests: number("min_requests", m.minRequests, d.minRequests),
    latencyFactor: number("latency_factor", m.latencyFactor, 0, 1e6),
    intervalMs: number("interval_ms", m.intervalMs, d.intervalMs),
    baseEjectionMs,
    maxEjectionMs: number("max_ejection_ms", m.maxEjectionMs, Math.max(d.maxEjectionMs, baseEjectionMs)),
    maxEjectionPercent: number("max_ejection_percent", m.maxEjectionPercent, d.maxEjectionPercent, 100),
  };
}

function healthFromWire(fields: Fields, m: wire.HealthCheck): HealthCheck {
  const path = m.path === "" ? "/" : fields.text("policy.health.path", m.path);
  if (!path.startsWith("/") || path.includes(" "))
    fields.problem("policy.health.path", 'is no path beginning with "/"');
  return {
    kind: fields.word("policy.health.kind", m.kind, healthKinds),
    path,
    host: fields.text("policy.health.host", m.host),
    grpcService: fields.text("policy.health.grpc_service", m.grpcService),
    port: fields.optionalPort("policy.health.port", m.port, 0),
    intervalMs: fields.number("policy.health.interval_ms", m.intervalMs, { min: 100, fallback: 10_000 }),
    timeoutMs: fields.number("policy.health.timeout_ms", m.timeoutMs, { fallback: 1000 }),
    unhealthy: fields.number("policy.health.unhealthy", m.unhealthy, { fallback: 3 }),
    healthy: fields.number("policy.health.healthy", m.healthy, { fallback: 2 }),
  };
}

/** Fills in what was left unset; problems go to `fields`. */
export function policyFromWire(fields: Fields, message: wire.HttpPolicy | undefined): HttpPolicy {
  if (message === undefined) return defaultPolicy;
  const m = message;
  const locality = m.locality;
  return {
    sources: m.sources.map((source, i) => fields.text(`policy.sources[${i}]`, source)),
    balancer: m.balancer === undefined ? defaultBalancer : balancerFromWire(fields, m.balancer),
    locality:
      locality === undefined
        ? defaultPolicy.locality
        : {
            prefer: fields.word("policy.locality.prefer", locality.prefer, tiers),
            overprovisionPercent: fields.number(
              "policy.locality.overprovision_percent",
              locality.overprovisionPercent,
              { min: 100, max: 10_000, fallback: 140 },
            ),
            subsetSize: locality.subsetSize,
          },
    affinity: m.affinity && affinityFromWire(fields, "policy.affinity", m.affinity),
    timeouts: timeoutsFromWire(m.timeouts),
    retry: m.retry && retryFromWire(fields, "policy.retry", m.retry),
    breaker: m.breaker && {
      failures: m.breaker.failures || defaultBreaker.failures,
      openMs: m.breaker.openMs || defaultBreaker.openMs,
      maxOpenMs: m.breaker.maxOpenMs || Math.max(defaultBreaker.maxOpenMs, m.breaker.openMs),
    },
    outlier: m.outlier && outlierFromWire(fields, m.outlier),
    limits: m.limits === undefined ? noLimits : { ...m.limits },
    health: m.health && healthFromWire(fields, m.health),
  };
}

export function policyToWire(policy: HttpPolicy): wire.HttpPolicy {
  return {
    sources: [...policy.sources],
    balancer: { ...policy.balancer },
    locality: { ...policy.locality },
    affinity: policy.affinity && { ...policy.affinity },
    timeouts: timeoutsToWire(policy.timeouts),
    retry: policy.retry && retryToWire(policy.retry),
    breaker: policy.breaker && { ...policy.breaker },
    outlier: policy.outlier && { ...policy.outlier },
    limits: { ...policy.limits },
    health: policy.health && { ...policy.health },
  };
}
