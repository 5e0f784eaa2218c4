// What a policy says, as annotations of its Services that Linkerd's proxies read (linkerd.io: circuit breaking, retries, timeouts), and
// whose an annotation is. Pure.
import type { HttpPolicy } from "../../agent/api/http-policy.ts";
import type { Present } from "../write/desired.ts";

/** On everything that a policy had written: its name. */
export const marker = "fairlead.dev/resilience-policy";
/** Of all that policies have written. */
export const operatorManager = "fairlead-resilience";

export type Annotations = Readonly<Record<string, string>>;

/** gRPC codes that can be named in an annotation. */
const grpcNames: ReadonlyMap<number, string> = new Map([
  [1, "cancelled"],
  [4, "deadline-exceeded"],
  [8, "resource-exhausted"],
  [13, "internal"],
  [14, "unavailable"],
]);
/** One number and one unit: sums as "1m30s" are not taken everywhere. */
export const plainDuration = (ms: number): string => (ms % 1000 === 0 ? `${ms / 1000}s` : `${ms}ms`);

/** Empty when the policy has nothing that annotations can say. */
export function annotationsOf({ breaker, retry, timeouts }: HttpPolicy): Annotations {
  const out: Record<string, string> = {};
  if (breaker !== undefined) {
    const accrual = "balancer.linkerd.io/failure-accrual";
    out[accrual] = "consecutive";
    out[`${accrual}-consecutive-max-failures`] = String(breaker.failures);
    out[`${accrual}-consecutive-min-penalty`] = plainDuration(breaker.openMs);
    out[`${accrual}-consecutive-max-penalty`] = plainDuration(breaker.maxOpenMs);
  }
  if (retry !== undefined) {
    out["retry.linkerd.io/limit"] = String(retry.attempts);
    if (retry.codes.length > 0) out["retry.linkerd.io/http"] = sorted(retry.codes).join(",");
    const codes = sorted(retry.grpcCodes).flatMap((code) => grpcNames.get(code) ?? []);
    if (codes.length > 0) out["retry.linkerd.io/grpc"] = codes.join(",");
    if (timeouts.tryMs !== undefined) out["retry.linkerd.io/timeout"] = plainDuration(timeouts.tryMs);
  }
  const times = { request: timeouts.requestMs, response: timeouts.responseMs, idle: timeouts.idleMs };
  for (const [name, ms] of Object.entries(times))
    if (ms !== undefined && ms > 0) out[`timeout.linkerd.io/${name}`] = plainDuration(ms);
  return out;
}
const sorted = (codes: readonly number[]): readonly number[] => [...new Set(codes)].sort((a, b) => a - b);

export const annotationsIn = (present: Present | undefined): Annotations =>
  (present?.metadata.annotations ?? {}) as Annotations;

/** Annotations that somebody else than the operator holds (metadata.managedFields). */
export function heldByOthers(present: Present | undefined): ReadonlySet<string> {
  const held = new Set<string>();
  const entries = present?.metadata.managedFields;
  for (const entry of Array.isArray(entries) ? (entries as readonly Partial<ManagedFields>[]) : []) {
    if (entry.manager === operatorManager && entry.operation === "Apply") continue;
    const names = entry.fieldsV1?.["f:metadata"]?.["f:annotations"] ?? {};
    for (const name of Object.keys(names)) if (name.startsWith("f:")) held.add(name.slice(2));
  }
  return held;
}
interface ManagedFields {
  readonly manager: string;
  readonly operation: string;
  readonly fieldsV1: { readonly "f:metadata"?: { readonly "f:annotations"?: Readonly<Record<string, unknown>> } };
}

export interface Division {
  /** What may be written. */
  readonly ours: Annotations;
  /** Names of those that others hold with another value. */
  readonly others: readonly string[];
}
/** Annotations of others are left as they are, whatever the policy says. */
export function divided(wanted: Annotations, present: Present | undefined): Division {
  const held = heldByOthers(present);
  const there = annotationsIn(present);
  const isForeign = (name: string): boolean =>
    Object.hasOwn(there, name) && there[name] !== wanted[name] && held.has(name);
  return {
    ours: Object.fromEntries(Object.entries(wanted).filter(([name]) => !isForeign(name))),
    others: Object.keys(wanted).filter(isForeign).sort(),
  };
}

/** Whether the Service is as the policy wants it: `wanted` and nothing else of the operator's. */
export function isAnnotated(present: Present, wanted: Annotations): boolean {
  const there = annotationsIn(present);
  if (Object.entries(wanted).some(([name, value]) => there[name] !== value)) return false;
  return ownAnnotations(present).every((name) => Object.hasOwn(wanted, name));
}
/** Annotations that the operator holds. */
function ownAnnotations(present: Present): readonly string[] {
  const entries = present.metadata.managedFields;
  return (Array.isArray(entries) ? (entries as readonly Partial<ManagedFields>[]) : [])
    .filter((entry) => entry.manager === operatorManager && entry.operation === "Apply")
    .flatMap((entry) => Object.keys(entry.fieldsV1?.["f:metadata"]?.["f:annotations"] ?? {}))
    .map((name) => name.slice(2));
}
