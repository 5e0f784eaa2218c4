// What the operator says in a policy's status: Ready, Failed, TargetServiceNotFound, where it holds, and when that changed. Pure.
import { isDeepStrictEqual } from "node:util";
import type { Problem } from "../sources/types.ts";
import { type EventNote, type Present, timed, timeOf, type WantedCondition } from "../write/desired.ts";
import type { Trouble } from "./plan.ts";

/** What the translation says of a policy. */
export interface Translation {
  readonly accepted: boolean;
  readonly reason: string;
  readonly message: string;
  readonly fix: string;
  /** "<namespace>/<name>" */
  readonly appliedToServices: readonly string[];
  readonly conditions: readonly WantedCondition[];
}
export interface WantedStatus {
  readonly observedGeneration: number;
  readonly appliedToServices: readonly string[];
  readonly conditions: readonly WantedCondition[];
}
/** Types that are the operator's; others in the same list have other writers. */
const ownTypes = ["Ready", "Failed", "TargetServiceNotFound", "ResolvedRefs"] as const;

export function statusOf(
  generation: number,
  translation: Translation | undefined,
  problems: readonly Problem[],
  troubles: readonly Trouble[],
): WantedStatus {
  const condition = (type: string, isTrue: boolean | undefined, reason: string, message: string): WantedCondition => ({
    type,
    status: isTrue === undefined ? "Unknown" : isTrue ? "True" : "False",
    reason,
    message,
    observedGeneration: generation,
  });
  const appliedToServices = [...(translation?.appliedToServices ?? [])].sort();
  const told = new Map(translation?.conditions.map((c) => [c.type, c]));
  const missing = told.get("TargetServiceNotFound");
  const refs = told.get("ResolvedRefs");
  const rest = [
    missing === undefined
      ? condition("TargetServiceNotFound", undefined, "NotRead", "")
      : condition("TargetServiceNotFound", missing.status === "True", missing.reason, missing.message),
    ...(refs === undefined ? [] : [condition("ResolvedRefs", refs.status === "True", refs.reason, refs.message)]),
  ];
  const [problem] = problems;
  if (problem !== undefined) {
    const kept = appliedToServices.length > 0 ? "; the last good version stays in force" : "";
    const message = `${problem.field} ${problem.message}: ${problem.fix}${kept}`;
    const failed = [condition("Ready", false, "Invalid", message), condition("Failed", true, "Invalid", message)];
    return { observedGeneration: generation, appliedToServices, conditions: [...failed, ...rest] };
  }
  const [trouble] = troubles;
  if (trouble !== undefined) {
    const message = troubles.map((t) => t.message).join("; ");
    const failed = [
      condition("Ready", false, trouble.reason, message),
      condition("Failed", true, trouble.reason, message),
    ];
    return { observedGeneration: generation, appliedToServices, conditions: [...failed, ...rest] };
  }
  const ready = told.get("Ready");
  const spoken = [translation?.message, translation?.fix].filter(Boolean).join(": ");
  return {
    observedGeneration: generation,
    appliedToServices,
    conditions: [
      ready === undefined
        ? condition("Ready", false, translation?.reason ?? "Pending", spoken)
        : condition(
            "Ready",
            ready.status === "True",
            ready.reason,
            ready.message === "" ? "" : spoken || ready.message,
          ),
      condition("Failed", false, "Reconciled", ""),
      ...rest,
    ],
  };
}

/** Fields of the status to apply; undefined when they are there already. */
export function statusChange(
  present: Present,
  wanted: WantedStatus,
  nowMs: number,
): { readonly fields: Readonly<Record<string, unknown>>; readonly event: EventNote } | undefined {
  const before = (present.status ?? {}) as {
    readonly conditions?: unknown;
    readonly observedGeneration?: unknown;
    readonly appliedToServices?: unknown;
  };
  const conditions = timed(wanted.conditions, before.conditions, nowMs);
  const there = (
    Array.isArray(before.conditions) ? (before.conditions as readonly { readonly type?: unknown }[]) : []
  ).filter((c) => (ownTypes as readonly unknown[]).includes(c?.type));
  const byType = (list: readonly { readonly type?: unknown }[]) => new Map(list.map((c) => [c.type, c]));
  const { observedGeneration, appliedToServices } = wanted;
  const isSame =
    before.observedGeneration === observedGeneration &&
    isDeepStrictEqual(before.appliedToServices ?? [], appliedToServices) &&
    isDeepStrictEqual(byType(there), byType(conditions));
  if (isSame) return undefined;
  return {
    fields: { status: { observedGeneration, appliedToServices, conditions, lastUpdateTime: timeOf(nowMs) } },
    event: eventOf(wanted),
  };
}

/** The event that goes with a new status. */
function eventOf({ conditions, appliedToServices }: WantedStatus): EventNote {
  const ready = conditions.find((c) => c.type === "Ready");
  const where = appliedToServices.length === 0 ? "no Service" : appliedToServices.join(", ");
  const isFine = ready?.status === "True" || ready?.reason === "Disabled" || ready?.reason === "DryRun";
  return {
    type: isFine ? "Normal" : "Warning",
    reason: ready?.reason ?? "Unknown",
    action: "Reconcile",
    note: `holds for ${where}${ready?.message ? `: ${ready.message}` : ""}`,
  };
}
