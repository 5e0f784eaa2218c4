// Shape of RateLimitPolicy (mesh.fairlead.dev/v1alpha1): how many requests workloads take, by whom, and how many at once.
import { isPathTemplate, isValidTemplate } from "../../agent/api/policy.ts";
import {
  type ConcurrencyLimit,
  defaultBaseline,
  defaultConcurrency,
  defaultLimit,
  type LimitKeyKind,
  type LimitRule,
  type RateBaseline,
} from "../../agent/api/rate-limit.ts";
import { checked, duration, headerName, mapped, named, token, upTo } from "./http-schema.ts";
import type { RateLimitSpec } from "./http-types.ts";
import {
  type Field,
  flag,
  integer,
  labels,
  number,
  object,
  objectName,
  oneOf,
  optional,
  type Reader,
  required,
  showValue,
  text,
} from "./schema.ts";

const hourMs = 3_600_000;
const keyKinds: Readonly<Record<string, LimitKeyKind>> = {
  Address: "address",
  Identity: "identity",
  Header: "header",
  Service: "service",
  Tenant: "tenant",
  AddressAndTenant: "address_tenant",
};
type Key = Pick<LimitRule, "key" | "header" | "ipv4Prefix" | "ipv6Prefix">;
const { key: noKey, header, ipv4Prefix, ipv6Prefix } = defaultLimit;
const defaultKey: Key = { key: noKey, header, ipv4Prefix, ipv6Prefix };
const key: Reader<Key> = mapped(
  object({
    type: optional(named(keyKinds), defaultLimit.key),
    header: optional(headerName, ""),
    ipv4PrefixLength: optional<number | undefined>(integer(1, 32), undefined),
    ipv6PrefixLength: optional<number | undefined>(integer(1, 128), undefined),
  }),
  ({ type, header: name, ipv4PrefixLength: v4, ipv6PrefixLength: v6 }, path, report) => {
    const byHeader = type === "header" || type === "tenant" || type === "address_tenant";
    if (type === "header" && name === "")
      report.problem([...path, "header"], "is missing", "name the header whose value tells clients apart");
    if (!byHeader && name !== "")
      report.problem([...path, "header"], "does not go with this type", "remove it, or set type to Header or Tenant");
    if (type !== "address" && type !== "address_tenant" && (v4 !== undefined || v6 !== undefined))
      report.problem(
        [...path, v4 !== undefined ? "ipv4PrefixLength" : "ipv6PrefixLength"],
        "does not go with this type",
        "remove it, or set type to Address or AddressAndTenant",
      );
    return { key: type, header: name, ipv4Prefix: v4 ?? 32, ipv6Prefix: v6 ?? 128 };
  },
);

const d = defaultBaseline;
const baseline: Reader<RateBaseline> = mapped(
  object({
    interval: optional(duration(100, hourMs), d.intervalMs),
    learnIntervals: optional(integer(1, 10_000), d.learnIntervals),
    deviations: optional(number(0.1, 100), d.deviations),
    minRequests: optional(integer(1, 1_000_000), d.minRequests),
    limitPercent: optional(integer(1, 100), d.limitPercent),
  }),
  ({ interval, ...rest }) => ({ ...rest, intervalMs: interval }),
);
const requestPath: Reader<string> = checked(text, (value, path, report) => {
  if (isPathTemplate(value) && !isValidTemplate(value))
    report.problem(
      path,
      `is ${showValue(value)}, not a path template`,
      'let "{*}" and "{**}" stand alone between slashes, "{**}" as the last of them',
    );
});
interface LimitFields extends Omit<LimitRule, keyof Key | "name" | "burst" | "windowMs"> {
  readonly name: string;
  readonly key: Key;
  readonly burst: number | undefined;
  readonly per: number;
}
const limit: Reader<LimitRule> = mapped(
  object<LimitFields>({
    name: optional(objectName, ""),
    key: optional(key, defaultKey),
    requests: optional(integer(1, 10_000_000), defaultLimit.requests),
    per: optional(duration(1), defaultLimit.windowMs),
    burst: optional<number | undefined>(integer(1, 10_000_000), undefined),
    methods: optional(upTo(32, token), []),
    paths: optional(upTo(64, requestPath), []),
    baseline: optional<RateBaseline | undefined>(baseline, undefined),
  }),
  ({ name, key: by, per, burst, ...rest }) => ({
    ...rest,
    ...by,
    name: name === "" ? by.key.replace("_", "-") : name,
    windowMs: per,
    burst: burst ?? rest.requests,
  }),
);

const c = defaultConcurrency;
const concurrency: Reader<ConcurrencyLimit> = mapped(
  object({
    initial: optional<number | undefined>(integer(1, 100_000), undefined),
    min: optional(integer(1, 100_000), c.min),
    max: optional(integer(1, 100_000), c.max),
    tolerance: optional(number(1, 10), c.tolerance),
    smoothing: optional(number(0.01, 1), c.smoothing),
    interval: optional(duration(100, 60_000), c.intervalMs),
  }),
  ({ initial, min, max, interval, ...rest }, path, report) => {
    if (min > max) report.problem([...path, "min"], "is more than max", "lower it or raise max");
    else if (initial !== undefined && (initial < min || initial > max))
      report.problem([...path, "initial"], "is not within min and max", `use a number from ${min} to ${max}`);
    return { ...rest, min, max, initial: initial ?? Math.min(max, Math.max(min, c.initial)), intervalMs: interval };
  },
);

interface SpecFields extends Omit<RateLimitSpec, "selector"> {
  readonly selector: { readonly matchLabels: Readonly<Record<string, string>> };
}
const targetRef = object<RateLimitSpec["targetRefs"][number]>({
  group: optional(oneOf([""]), ""),
  kind: required(oneOf(["Service"]), "Service"),
  name: required(objectName, ""),
});
const spec: Reader<RateLimitSpec> = mapped(
  object<SpecFields>({
    targetRefs: optional(upTo(16, targetRef), []),
    selector: optional(object({ matchLabels: optional(labels, {}) }), { matchLabels: {} }),
    dryRun: optional(flag, false),
    responseHeaders: optional(named({ Limited: "limited", Always: "always", Never: "never" } as const), "limited"),
    limits: optional(upTo(16, limit), []),
    concurrency: optional<ConcurrencyLimit | undefined>(concurrency, undefined),
  }),
  ({ selector, limits, ...rest }, path, report) => {
    if (rest.targetRefs.length > 0 && Object.keys(selector.matchLabels).length > 0)
      report.problem([...path, "selector"], "does not go with targetRefs", "keep one of the two");
    limits.forEach(({ name }, i) => {
      if (limits.findIndex((other) => other.name === name) !== i)
        report.problem(
          [...path, "limits", i, "name"],
          `is "${name}" for a second time`,
          "give each limit its own name",
        );
    });
    // Nothing said is the default limit.
    const isBare = limits.length === 0 && rest.concurrency === undefined;
    return { ...rest, selector: selector.matchLabels, limits: isBare ? [defaultLimit] : limits };
  },
);
const bare: RateLimitSpec = {
  targetRefs: [],
  selector: {},
  dryRun: false,
  responseHeaders: "limited",
  limits: [defaultLimit],
  concurrency: undefined,
};
export const rateLimitPolicy: { readonly spec: Field<RateLimitSpec> } = { spec: optional(spec, bare) };
