// Policies with their Services for tests of the operator, and what the cluster must then have of them, worked out from the specs alone.
import fc from "fast-check";
import type { KubeObject } from "../cluster/kubernetes/api.ts";
import { basicSpec } from "./resilience-specs.ts";

type Fields = Readonly<Record<string, unknown>>;
export interface PolicySpec {
  readonly enabled?: boolean;
  readonly targetRefs: readonly { readonly name: string }[];
  readonly retry?: Fields & {
    readonly enabled?: boolean;
    readonly maxAttempts?: number;
    readonly statusCodes?: readonly number[];
    readonly grpcCodes?: readonly (string | number)[];
    readonly timeout?: string;
    readonly backoff?: { readonly base?: string };
  };
  readonly timeout?: {
    readonly enabled?: boolean;
    readonly request?: string;
    readonly response?: string;
    readonly idle?: string;
  };
  readonly circuitBreaker?: {
    readonly enabled?: boolean;
    readonly failures?: number;
    readonly openTime?: string;
    readonly maxOpenTime?: string;
  };
  readonly render?: { readonly httpRoutes?: boolean; readonly serviceAnnotations?: boolean };
}
/** A policy "pN" with the Services "sNa" and "sNb"; "nobody" is never there. */
export interface Case {
  readonly spec: PolicySpec;
  /** What somebody else has on the first Service. */
  readonly foreign: Readonly<Record<string, string>>;
  /** Somebody has a route of his own for the second Service. */
  readonly hasRoute: boolean;
}
export const cases = (count: number): fc.Arbitrary<readonly Case[]> =>
  fc.array(
    fc.record({
      spec: basicSpec(["A", "B", "nobody"]) as unknown as fc.Arbitrary<PolicySpec>,
      foreign: fc.constantFrom<Readonly<Record<string, string>>>(
        {},
        { "example.com/team": "shop" },
        { "retry.linkerd.io/limit": "77", "example.com/team": "shop" },
        { "balancer.linkerd.io/failure-accrual-consecutive-max-failures": "77" },
        { "timeout.linkerd.io/request": "77s" },
      ),
      hasRoute: fc.boolean(),
    }),
    { minLength: count, maxLength: count },
  );

const serviceOf = (at: number, name: string): string => (name === "nobody" ? name : `s${at}${name.toLowerCase()}`);
export const specOf = ({ spec }: Case, at: number): PolicySpec => ({
  ...spec,
  targetRefs: spec.targetRefs.map(({ name }) => ({ kind: "Service", name: serviceOf(at, name) })),
});
export const policyOf = (one: Case, at: number, namespace: string): KubeObject => ({
  apiVersion: "mesh.fairlead.dev/v1alpha1",
  kind: "ResiliencePolicy",
  metadata: { name: `p${at}`, namespace },
  spec: specOf(one, at),
});
export const surroundings = ({ foreign, hasRoute }: Case, at: number, namespace: string): readonly KubeObject[] => [
  ...(["a", "b"] as const).map((letter) => ({
    apiVersion: "v1",
    kind: "Service",
    metadata: { name: `s${at}${letter}`, namespace, ...(letter === "a" ? { annotations: foreign } : {}) },
    spec: {
      ports: [
        { name: "http", port: 80 },
        { name: "mysql", port: 3306 },
      ],
    },
  })),
  ...(hasRoute
    ? [
        {
          apiVersion: "gateway.networking.k8s.io/v1",
          kind: "HTTPRoute",
          metadata: { name: `own${at}`, namespace },
          spec: {
            parentRefs: [{ group: "", kind: "Service", name: `s${at}b` }],
            rules: [{ backendRefs: [{ name: `s${at}b`, port: 80 }] }],
          },
        },
      ]
    : []),
];

/** Milliseconds of "1m30s". */
export function msOf(text: string): number {
  const units: Readonly<Record<string, number>> = { h: 3_600_000, m: 60_000, s: 1000, ms: 1 };
  let sum = 0;
  for (const [, count, unit = ""] of text.matchAll(/(\d+)(ms|h|m|s)/g))
    sum += Number(count) * (units[unit] ?? Number.NaN);
  return sum;
}
export interface Expected {
  readonly holdsFor: readonly string[];
  /** On each of the two Services, without those of others: values that are durations in ms. */
  readonly annotations: Readonly<Record<string, Readonly<Record<string, string | number>>>>;
  /** Names of routes by Service. */
  readonly routes: readonly { readonly name: string; readonly service: string }[];
  readonly ready: { readonly status: string; readonly reason: string };
  readonly isFailed: boolean;
  readonly isMissing: boolean;
}

export function expected(one: Case, at: number): Expected {
  const spec = specOf(one, at);
  const { render = {} } = spec;
  const isOn = spec.enabled !== false;
  const names = spec.targetRefs.map((ref) => ref.name);
  const holdsFor = isOn ? names.filter((name) => name !== "nobody") : [];
  const wanted = render.serviceAnnotations === true ? said(spec) : {};
  const annotations: Record<string, Record<string, string | number>> = {};
  let isOthers = false;
  for (const service of holdsFor) {
    const foreign = service.endsWith("a") ? one.foreign : {};
    // A value that is the same is nobody's trouble; those of the cases never are.
    const ours = Object.entries(wanted).filter(([name]) => foreign[name] === undefined);
    isOthers ||= ours.length < Object.keys(wanted).length;
    if (Object.keys(wanted).length > 0)
      annotations[service] = { ...Object.fromEntries(ours), "fairlead.dev/resilience-policy": `p${at}` };
  }
  const rivals = one.hasRoute ? [`s${at}b`] : [];
  const asked = render.httpRoutes === true ? holdsFor : [];
  const isMissing = isOn && names.includes("nobody");
  const isRivalled = asked.some((service) => rivals.includes(service));
  const reason = !isOn
    ? "Disabled"
    : isOthers
      ? "AnnotationConflict"
      : isRivalled
        ? "RouteConflict"
        : isMissing
          ? "TargetServiceNotFound"
          : "Applied";
  return {
    holdsFor,
    annotations,
    routes: asked.filter((s) => !rivals.includes(s)).map((service) => ({ name: `p${at}.${service}.80`, service })),
    ready: { status: reason === "Applied" ? "True" : "False", reason },
    isFailed: isOthers || isRivalled,
    isMissing,
  };
}

const grpcNumbers: Readonly<Record<string, number>> = { UNAVAILABLE: 14, INTERNAL: 13, UNAUTHENTICATED: 16 };
const grpcNames: Readonly<Record<number, string>> = {
  1: "cancelled",
  4: "deadline-exceeded",
  8: "resource-exhausted",
  13: "internal",
  14: "unavailable",
};
function said({ circuitBreaker, retry, timeout }: PolicySpec): Record<string, string | number> {
  const out: Record<string, string | number> = {};
  if (circuitBreaker !== undefined && circuitBreaker.enabled !== false) {
    const { failures = 5, openTime = "5s", maxOpenTime } = circuitBreaker;
    const accrual = "balancer.linkerd.io/failure-accrual";
    out[accrual] = "consecutive";
    out[`${accrual}-consecutive-max-failures`] = String(failures);
    out[`${accrual}-consecutive-min-penalty`] = msOf(openTime);
    out[`${accrual}-consecutive-max-penalty`] =
      maxOpenTime === undefined ? Math.max(30_000, msOf(openTime)) : msOf(maxOpenTime);
  }
  if (retry !== undefined && retry.enabled !== false) {
    out["retry.linkerd.io/limit"] = String(retry.maxAttempts ?? 2);
    const codes = [...new Set(retry.statusCodes ?? [])].sort((a, b) => a - b);
    if (codes.length > 0) out["retry.linkerd.io/http"] = codes.join(",");
    const numbers = [...new Set((retry.grpcCodes ?? []).map((code) => grpcNumbers[code] ?? Number(code)))].sort(
      (a, b) => a - b,
    );
    const grpc = numbers.flatMap((code) => grpcNames[code] ?? []);
    if (grpc.length > 0) out["retry.linkerd.io/grpc"] = grpc.join(",");
    if (retry.timeout !== undefined) out["retry.linkerd.io/timeout"] = msOf(retry.timeout);
  }
  if (timeout !== undefined && timeout.enabled !== false)
    for (const name of ["request", "response", "idle"] as const) {
      const ms = msOf(timeout[name] ?? "0s");
      if (ms > 0) out[`timeout.linkerd.io/${name}`] = ms;
    }
  return out;
}
