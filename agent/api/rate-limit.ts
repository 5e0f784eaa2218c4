// RateLimit: how many requests the workloads under a policy take, by whom, and how many at once. Wire form in mesh.proto.
import { checkFields, type Decoded, type Fields, sortedRecord } from "./fields.ts";
import { tokenPattern } from "./http-policy.ts";
import type * as wire from "./mesh.gen.ts";
import { parseServiceName, type ServiceName } from "./names.ts";
import { isPathTemplate, isValidTemplate, type Scope, scopeFromWire, scopeToWire } from "./policy.ts";

/** What requests are counted by: each value of it has a bucket of its own. */
export type LimitKeyKind = (typeof limitKeyKinds)[number];
export const limitKeyKinds = ["address", "identity", "header", "service", "tenant", "address_tenant"] as const;
export type LimitHeaders = (typeof limitHeaders)[number];
export const limitHeaders = ["limited", "always", "never"] as const;

/** A key whose requests are far above what was learned to be usual is held to a part of its limit. */
export interface RateBaseline {
  readonly intervalMs: number;
  /** Intervals that must have been seen before it acts. */
  readonly learnIntervals: number;
  /** Above the mean by so many mean deviations. */
  readonly deviations: number;
  /** Fewer requests in an interval are never far above. */
  readonly minRequests: number;
  /** What is left of the limit meanwhile. */
  readonly limitPercent: number;
}
export interface LimitRule {
  readonly name: string;
  readonly key: LimitKeyKind;
  /** Of "header", and of "tenant" where the tenant is named by one; in lower case, "" for none. */
  readonly header: string;
  /** Addresses with the same first bits count as one. */
  readonly ipv4Prefix: number;
  readonly ipv6Prefix: number;
  readonly requests: number;
  readonly windowMs: number;
  /** At most so many at once, after a pause. */
  readonly burst: number;
  /** Any of them; none: all requests. */
  readonly methods: readonly string[];
  /** As in AuthorizationPolicy: exact, "prefix*", "*suffix", templates; any of them. */
  readonly paths: readonly string[];
  readonly baseline: RateBaseline | undefined;
}
/** How many requests a pod has at once: found by comparing its latency now with what it is in the long run (gradient). */
export interface ConcurrencyLimit {
  readonly initial: number;
  readonly min: number;
  readonly max: number;
  /** The limit falls once latency is above this times the long-run one. */
  readonly tolerance: number;
  /** Share of each new estimate, 0.01 to 1. */
  readonly smoothing: number;
  readonly intervalMs: number;
}
export interface RateLimit {
  readonly name: string;
  readonly namespace: string;
  readonly scope: Scope;
  readonly selector: Readonly<Record<string, string>>;
  readonly targetServices: readonly ServiceName[];
  /** Counts, logs, and refuses nobody. */
  readonly dryRun: boolean;
  /** On which answers `RateLimit-*` stand. */
  readonly responseHeaders: LimitHeaders;
  readonly limits: readonly LimitRule[];
  readonly concurrency: ConcurrencyLimit | undefined;
}

/** 200 a minute for each client address. */
export const defaultLimit: LimitRule = {
  name: "address",
  key: "address",
  header: "",
  ipv4Prefix: 32,
  ipv6Prefix: 128,
  requests: 200,
  windowMs: 60_000,
  burst: 200,
  methods: [],
  paths: [],
  baseline: undefined,
};
export const defaultBaseline: RateBaseline = {
  intervalMs: 10_000,
  learnIntervals: 30,
  deviations: 4,
  minRequests: 20,
  limitPercent: 25,
};
export const defaultConcurrency: ConcurrencyLimit = {
  initial: 20,
  min: 4,
  max: 1000,
  tolerance: 1.5,
  smoothing: 0.2,
  intervalMs: 1000,
};

function ruleFromWire(fields: Fields, at: string, m: wire.LimitRule): LimitRule {
  const number = (key: string, value: number, min: number, max: number, fallback: number): number =>
    fields.number(`${at}.${key}`, value, { min, max, fallback });
  const key = fields.word(`${at}.key`, m.key, limitKeyKinds);
  if (m.header !== "" && (!tokenPattern.test(m.header) || m.header !== m.header.toLowerCase()))
    fields.problem(`${at}.header`, "is no header name in lower case");
  if (key === "header" && m.header === "") fields.problem(`${at}.header`, "is missing");
  m.paths.forEach((path, i) => {
    if (isPathTemplate(path) && !isValidTemplate(path)) fields.problem(`${at}.paths[${i}]`, "is no path template");
  });
  const requests = number("requests", m.requests, 1, 10_000_000, defaultLimit.requests);
  return {
    name: fields.name(`${at}.name`, m.name),
    key,
    header: m.header,
    ipv4Prefix: number("ipv4_prefix", m.ipv4Prefix, 1, 32, 32),
    ipv6Prefix: number("ipv6_prefix", m.ipv6Prefix, 1, 128, 128),
    requests,
    windowMs: number("window_ms", m.windowMs, 1, 86_400_000, defaultLimit.windowMs),
    burst: number("burst", m.burst, 1, 10_000_000, requests),
    methods: m.methods,
    paths: m.paths,
    baseline: m.baseline && baselineFromWire(number, m.baseline),
  };
}

type ReadNumber = (key: string, value: number, min: number, max: number, fallback: number) => number;
function baselineFromWire(number: ReadNumber, m: wire.RateBaseline): RateBaseline {
  const d = defaultBaseline;
  return {
    intervalMs: number("baseline.interval_ms", m.intervalMs, 100, 3_600_000, d.intervalMs),
    learnIntervals: number("baseline.learn_intervals", m.learnIntervals, 1, 10_000, d.learnIntervals),
    deviations: number("baseline.deviations", m.deviations, 0.1, 100, d.deviations),
    minRequests: number("baseline.min_requests", m.minRequests, 1, 1_000_000, d.minRequests),
    limitPercent: number("baseline.limit_percent", m.limitPercent, 1, 100, d.limitPercent),
  };
}

function concurrencyFromWire(fields: Fields, m: wire.ConcurrencyLimit): ConcurrencyLimit {
  const number = (key: string, value: number, min: number, max: number, fallback: number): number =>
    fields.number(`concurrency.${key}`, value, { min, max, fallback });
  const d = defaultConcurrency;
  const min = number("min", m.min, 1, 100_000, d.min);
  const max = number("max", m.max, min, 100_000, Math.max(min, d.max));
  return {
    initial: number("initial", m.initial, min, max, Math.min(max, Math.max(min, d.initial))),
    min,
    max,
    tolerance: number("tolerance", m.tolerance, 1, 10, d.tolerance),
    smoothing: number("smoothing", m.smoothing, 0.01, 1, d.smoothing),
    intervalMs: number("interval_ms", m.intervalMs, 100, 60_000, d.intervalMs),
  };
}

export function rateLimitFromWire(message: wire.RateLimit): Decoded<RateLimit> {
  const fields = checkFields();
  if (message.limits.length === 0 && message.concurrency === undefined) fields.problem("limits", "limits nothing");
  return fields.finish<RateLimit>({
    name: fields.name("name", message.name),
    namespace: fields.name("namespace", message.namespace),
    scope: scopeFromWire(fields, message.scope),
    selector: message.selector,
    targetServices: message.targetServices.map((service, i) =>
      fields.parsed(`target_services[${i}]`, parseServiceName(service), "" as ServiceName),
    ),
    dryRun: message.dryRun,
    responseHeaders:
      message.responseHeaders === ""
        ? "limited"
        : fields.word("response_headers", message.responseHeaders, limitHeaders),
    limits: message.limits.map((rule, i) => ruleFromWire(fields, `limits[${i}]`, rule)),
    concurrency: message.concurrency && concurrencyFromWire(fields, message.concurrency),
  });
}

export function rateLimitToWire(policy: RateLimit): wire.RateLimit {
  return {
    name: policy.name,
    namespace: policy.namespace,
    scope: scopeToWire(policy.scope),
    selector: sortedRecord(policy.selector),
    targetServices: [...policy.targetServices],
    dryRun: policy.dryRun,
    responseHeaders: policy.responseHeaders,
    limits: policy.limits.map((rule) => ({
      ...rule,
      methods: [...rule.methods],
      paths: [...rule.paths],
      baseline: rule.baseline && { ...rule.baseline },
    })),
    concurrency: policy.concurrency && { ...policy.concurrency },
  };
}
