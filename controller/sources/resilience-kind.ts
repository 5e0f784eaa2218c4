// Shape of ResiliencePolicy (mesh.fairlead.dev/v1alpha1): how requests to a service are retried, timed, balanced, limited and tested.
import {
  type Balancer,
  type Breaker,
  defaultBalancer,
  defaultBreaker,
  defaultOutlier,
  defaultPolicy,
  type HealthCheck,
  type HttpTimeouts,
  type Limits,
  type Locality,
  noLimits,
  noRetry,
  noTimeouts,
  type Outlier,
  type RetryCause,
  type RetryPolicy,
  type SessionAffinity,
} from "../../agent/api/http-policy.ts";
import {
  checked,
  checkPath,
  duration,
  grpcCode,
  hourMs,
  mapped,
  named,
  shortText,
  token,
  upTo,
} from "./http-schema.ts";
import type { ResilienceSpec } from "./http-types.ts";
import { divert, faultInjection, tarpit } from "./resilience-actions.ts";
import {
  type Field,
  flag,
  integer,
  number,
  object,
  objectName,
  oneOf,
  optional,
  type Path,
  port,
  type Reader,
  type Report,
  required,
  text,
} from "./schema.ts";

const counts = integer(1, 1_000_000);
const limit = integer(0, 10_000_000);

/** A part of the spec that says of itself whether it holds: off, it is as if it were left out. */
const switched = <A>(read: Reader<A>): Reader<A | undefined> => {
  const enabled = optional(flag, true);
  return (value, path, report) => {
    if (typeof value !== "object" || value === null || !("enabled" in value)) return read(value, path, report);
    const { enabled: given, ...rest } = value;
    const isOn = given === null || enabled.read(given, [...path, "enabled"], report);
    const part = read(rest, path, report);
    return isOn ? part : undefined;
  };
};
const mustNotExceed = (less: number, more: number, at: Path, field: string, other: string, report: Report): void => {
  if (less > more) report.problem([...at, field], `is more than ${other}`, `lower it or raise ${other}`);
};

const causes: Readonly<Record<string, RetryCause>> = {
  ConnectFailure: "connect_failure",
  Refused: "refused",
  Reset: "reset",
  Timeout: "timeout",
};
const backoff = checked(
  object({
    base: optional(duration(1, 60_000), noRetry.backoffMs),
    max: optional<number | undefined>(duration(1, hourMs), undefined),
  }),
  ({ base, max }, path, report) => mustNotExceed(base, max ?? base, path, "base", "max", report),
);
interface RetryFields {
  readonly retry: RetryPolicy;
  /** Per try. */
  readonly tryMs: number | undefined;
}
const retry = switched<RetryFields>(
  mapped(
    object({
      maxAttempts: optional(integer(0, 10), 2),
      on: optional(upTo(4, named(causes)), ["connect_failure", "refused"] as readonly RetryCause[]),
      statusCodes: optional(upTo(32, integer(400, 599)), []),
      grpcCodes: optional(upTo(16, grpcCode), []),
      timeout: optional<number | undefined>(duration(1, hourMs), undefined),
      backoff: optional(backoff, { base: noRetry.backoffMs, max: undefined }),
      budget: optional(
        object({
          percent: optional(integer(1, 100), noRetry.budgetPercent),
          minPerSecond: optional(integer(1, 10_000), noRetry.budgetMinPerS),
        }),
        { percent: noRetry.budgetPercent, minPerSecond: noRetry.budgetMinPerS },
      ),
      anyMethod: optional(flag, false),
      maxBodyBytes: optional(integer(1, 2 ** 24), noRetry.maxBodyBytes),
    }),
    ({ maxAttempts, on, statusCodes, grpcCodes: codes, timeout, backoff: wait, budget, ...rest }) => ({
      tryMs: timeout,
      retry: {
        ...rest,
        attempts: maxAttempts,
        on,
        codes: statusCodes,
        grpcCodes: codes,
        backoffMs: wait.base,
        maxBackoffMs: wait.max ?? Math.max(noRetry.maxBackoffMs, wait.base),
        budgetPercent: budget.percent,
        budgetMinPerS: budget.minPerSecond,
      },
    }),
  ),
);

const maybeMs = (minMs: number): Field<number | undefined> => optional<number | undefined>(duration(minMs), undefined);
const timeout = switched<HttpTimeouts>(
  mapped(
    object({ request: maybeMs(0), response: maybeMs(0), connect: maybeMs(1), idle: maybeMs(0) }),
    ({ request, response, connect, idle }, path, report) => {
      if (request !== undefined && request > 0)
        for (const [field, ms] of Object.entries({ response, connect }))
          mustNotExceed(ms ?? 0, request, path, field, "request", report);
      return { requestMs: request, tryMs: undefined, responseMs: response, connectMs: connect, idleMs: idle };
    },
  ),
);

const circuitBreaker = switched<Breaker>(
  mapped(
    object({
      failures: optional(integer(1, 10_000), defaultBreaker.failures),
      openTime: optional(duration(100, hourMs), defaultBreaker.openMs),
      maxOpenTime: optional<number | undefined>(duration(100, hourMs), undefined),
    }),
    ({ failures, openTime, maxOpenTime }, path, report) => {
      const maxOpenMs = maxOpenTime ?? Math.max(defaultBreaker.maxOpenMs, openTime);
      mustNotExceed(openTime, maxOpenMs, path, "openTime", "maxOpenTime", report);
      return { failures, openMs: openTime, maxOpenMs };
    },
  ),
);
const d = defaultOutlier;
const outlierEjection: Reader<Outlier> = mapped(
  object({
    consecutiveErrors: optional(integer(0, 10_000), 0),
    successRateStdev: optional(number(0, 100), 0),
    latencyFactor: optional(number(0, 1000), 0),
    minEndpoints: optional(counts, d.minEndpoints),
    minRequests: optional(counts, d.minRequests),
    interval: optional(duration(100, hourMs), d.intervalMs),
    baseEjectionTime: optional(duration(100, 24 * hourMs), d.baseEjectionMs),
    maxEjectionTime: optional<number | undefined>(duration(100, 24 * hourMs), undefined),
    maxEjectionPercent: optional(integer(1, 100), d.maxEjectionPercent),
  }),
  ({ interval, baseEjectionTime, maxEjectionTime, ...rest }, path, report) => {
    if (rest.consecutiveErrors === 0 && rest.successRateStdev === 0 && rest.latencyFactor === 0)
      report.problem(path, "ejects nothing", "set consecutiveErrors, successRateStdev or latencyFactor");
    const maxEjectionMs = maxEjectionTime ?? Math.max(d.maxEjectionMs, baseEjectionTime);
    mustNotExceed(baseEjectionTime, maxEjectionMs, path, "baseEjectionTime", "maxEjectionTime", report);
    return { ...rest, intervalMs: interval, baseEjectionMs: baseEjectionTime, maxEjectionMs };
  },
);

const healthCheck: Reader<HealthCheck> = mapped(
  object({
    type: optional(named({ HTTP: "http", GRPC: "grpc", TCP: "tcp" } as const), "http"),
    path: optional<string | undefined>(shortText(1024), undefined),
    host: optional(shortText(253), ""),
    grpcService: optional(shortText(253), ""),
    port: optional(port, 0),
    interval: optional(duration(100, hourMs), 10_000),
    timeout: optional(duration(10, 60_000), 1000),
    unhealthyThreshold: optional(integer(1, 100), 3),
    healthyThreshold: optional(integer(1, 100), 2),
  }),
  (check, path, report) => {
    const { type, interval, unhealthyThreshold: unhealthy, healthyThreshold: healthy, timeout: ms, ...rest } = check;
    mustNotExceed(ms, interval, path, "timeout", "interval", report);
    if (rest.path !== undefined) checkPath(rest.path, [...path, "path"], report);
    if (type !== "http" && (rest.path !== undefined || (type === "tcp" && rest.host !== "")))
      report.problem(
        [...path, rest.path === undefined ? "host" : "path"],
        `does not go with the type ${type}`,
        "remove it",
      );
    if (type !== "grpc" && rest.grpcService !== "")
      report.problem([...path, "grpcService"], `does not go with the type ${type}`, "remove it");
    return { ...rest, path: rest.path ?? "/", kind: type, intervalMs: interval, timeoutMs: ms, unhealthy, healthy };
  },
);
const connectionPool = object<Limits>({
  maxConnections: optional(limit, 0),
  maxPending: optional(limit, 0),
  maxRequests: optional(limit, 0),
  maxRequestsPerConnection: optional(limit, 0),
  maxRetries: optional(limit, 0),
});

/** A header, cookie or query parameter by name, or the client's address, which has none. */
const nameFor = (kind: string, name: string, path: Path, report: Report): string => {
  if (kind === "source") {
    if (name !== "") report.problem([...path, "name"], "belongs to no source address", "remove it");
    return "";
  }
  if (name === "") report.problem([...path, "name"], "is missing", `add the name of the ${kind}`);
  else if (kind !== "query") token(name, [...path, "name"], report);
  return kind === "header" ? name.toLowerCase() : name;
};
const hashOn = mapped(
  object({
    type: required(named({ Source: "source", Header: "header", Cookie: "cookie", Query: "query" } as const), "source"),
    name: optional(shortText(256), ""),
  }),
  ({ type, name }, path, report) => ({ hashOn: type, hashName: nameFor(type, name, path, report) }),
);
const algorithms = {
  RoundRobin: "round_robin",
  Random: "random",
  Weighted: "weighted",
  LeastRequest: "least_request",
  EWMA: "ewma",
  RingHash: "ring_hash",
  Maglev: "maglev",
  Rendezvous: "rendezvous",
} as const;
const hashing: ReadonlySet<string> = new Set(["ring_hash", "maglev", "rendezvous"]);
type Balancing = Omit<Balancer, "slowStartMs" | "slowStartMinPercent">;
const loadBalancer: Reader<Balancing> = mapped(
  object({
    algorithm: optional<Balancer["algorithm"]>(named(algorithms), ""),
    hashOn: optional<Pick<Balancer, "hashOn" | "hashName"> | undefined>(hashOn, undefined),
    virtualNodes: optional(integer(1, 10_000), defaultBalancer.virtualNodes),
    penalty: optional(number(0.001, 1_000_000), defaultBalancer.penalty),
    decay: optional(duration(100, hourMs), defaultBalancer.decayMs),
    panicPercent: optional(integer(0, 100), defaultBalancer.panicPercent),
  }),
  ({ hashOn: on, decay, ...rest }, path, report) => {
    if (on !== undefined && !hashing.has(rest.algorithm))
      report.problem([...path, "hashOn"], "has no effect with this algorithm", "use RingHash, Maglev or Rendezvous");
    return { ...rest, decayMs: decay, hashOn: on?.hashOn ?? "source", hashName: on?.hashName ?? "" };
  },
);
const slowStart = object({
  window: required(duration(100, hourMs), 0),
  minPercent: optional(integer(1, 100), defaultBalancer.slowStartMinPercent),
});
const locality = object<Locality>({
  prefer: required(named({ Region: "region", Zone: "zone", Node: "node" } as const), "zone"),
  overprovisionPercent: optional(integer(100, 10_000), defaultPolicy.locality.overprovisionPercent),
  subsetSize: optional(limit, 0),
});
const seconds = mapped(duration(0, 31 * 24 * hourMs), (ms) => Math.ceil(ms / 1000));
const sessionAffinity: Reader<SessionAffinity> = mapped(
  object({
    type: required(named({ Cookie: "cookie", Header: "header", Source: "source" } as const), "cookie"),
    name: optional<string | undefined>(shortText(256), undefined),
    cookieLifetime: optional(seconds, 0),
    absoluteTimeout: optional(seconds, 0),
    idleTimeout: optional(seconds, 0),
  }),
  ({ type, name, cookieLifetime, absoluteTimeout, idleTimeout }, path, report) => {
    if (type !== "cookie" && cookieLifetime > 0)
      report.problem([...path, "cookieLifetime"], "belongs to a cookie", "remove it or use the type Cookie");
    const given = name ?? (type === "cookie" ? "fairlead-session" : "");
    return {
      kind: type,
      name: nameFor(type, given, path, report),
      lifetimeS: cookieLifetime,
      absoluteS: absoluteTimeout,
      idleS: idleTimeout,
    };
  },
);

const targetRefs = checked(
  upTo(
    16,
    object({
      group: optional(text, ""),
      kind: optional(oneOf(["Service"]), "Service"),
      namespace: optional(objectName, ""),
      name: required(objectName, "x"),
    }),
  ),
  (refs, path, report) => {
    if (refs.length === 0) report.problem(path, "is empty", "name at least one Service");
    for (const [i, ref] of refs.entries()) {
      if (ref.group !== "") report.problem([...path, i, "group"], `is "${ref.group}"`, 'leave it out or write ""');
      if (refs.findIndex((r) => r.name === ref.name) !== i)
        report.problem([...path, i, "name"], `"${ref.name}" stands there twice`, "remove one of the two");
    }
  },
);
const maybe = <T>(read: Reader<T>): Field<T | undefined> => optional<T | undefined>(read, undefined);
const noRender: ResilienceSpec["render"] = { httpRoutes: false, serviceAnnotations: false };
const render = object<ResilienceSpec["render"]>({
  httpRoutes: optional(flag, false),
  serviceAnnotations: optional(flag, false),
});
const noSpec: ResilienceSpec = {
  isEnabled: true,
  targetRefs: [],
  policy: defaultPolicy,
  fault: undefined,
  tarpit: undefined,
  divert: undefined,
  render: noRender,
};
const spec: Reader<ResilienceSpec> = mapped(
  object({
    enabled: optional(flag, true),
    targetRefs: required(targetRefs, []),
    retry: maybe(retry),
    timeout: maybe(timeout),
    circuitBreaker: maybe(circuitBreaker),
    outlierEjection: maybe(outlierEjection),
    healthCheck: maybe(healthCheck),
    connectionPool: optional(connectionPool, noLimits),
    slowStart: maybe(slowStart),
    loadBalancer: maybe(loadBalancer),
    locality: optional(locality, defaultPolicy.locality),
    sessionAffinity: maybe(sessionAffinity),
    faultInjection: maybe(faultInjection),
    tarpit: maybe(tarpit),
    divert: maybe(divert),
    render: optional(render, noRender),
  }),
  (given, path, report) => {
    const requestMs = given.timeout?.requestMs ?? 0;
    const tryMs = given.retry?.tryMs;
    if (requestMs > 0) mustNotExceed(tryMs ?? 0, requestMs, [...path, "retry"], "timeout", "timeout.request", report);
    return {
      isEnabled: given.enabled,
      targetRefs: given.targetRefs,
      render: given.render,
      fault: given.faultInjection,
      tarpit: given.tarpit,
      divert: given.divert,
      policy: {
        sources: [],
        balancer: {
          ...defaultBalancer,
          ...given.loadBalancer,
          ...(given.slowStart && {
            slowStartMs: given.slowStart.window,
            slowStartMinPercent: given.slowStart.minPercent,
          }),
        },
        locality: given.locality,
        affinity: given.sessionAffinity,
        timeouts: { ...(given.timeout ?? noTimeouts), tryMs },
        retry: given.retry?.retry,
        breaker: given.circuitBreaker,
        outlier: given.outlierEjection,
        limits: given.connectionPool,
        health: given.healthCheck,
      },
    };
  },
);
export const resiliencePolicy: { readonly spec: Field<ResilienceSpec> } = { spec: required(spec, noSpec) };
