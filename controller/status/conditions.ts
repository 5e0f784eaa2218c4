// Conditions of an object as they are written to it: Accepted from its translation, Programmed and Enforced from what agents say. Pure.
import type { Problem } from "../sources/types.ts";
import type { WantedCondition } from "../write/desired.ts";
import type { Reach } from "./reach.ts";

/** What is known of an object that gets a status. */
export interface Judged {
  readonly accepted: boolean;
  readonly reason: string;
  readonly message: string;
  readonly fix: string;
  readonly field: string;
  /** metadata.generation of what is in force; 0 for nothing. */
  readonly generation: number;
  /** What is wrong with its newest version, which is not in force then. */
  readonly problems: readonly Problem[];
  /** undefined when agents get nothing of it. */
  readonly reach: Reach | undefined;
  /** We lead since a moment only: agents are still coming, so what an earlier leader knew of them is not taken back. */
  readonly isSettling: boolean;
}

const showProblems = (problems: readonly Problem[]): string =>
  problems
    .slice(0, 5)
    .map(({ field, message, fix }) => `${field === "" ? "" : `${field} `}${message}: ${fix}`)
    .join("; ") + (problems.length > 5 ? ` (and ${problems.length - 5} more)` : "");

/** `newest`: metadata.generation of the object as it is there. */
export function policyConditions(judged: Judged, newest: number): readonly WantedCondition[] {
  return [acceptedOf(judged, newest), ...reachConditions(judged)];
}

function acceptedOf(judged: Judged, newest: number): WantedCondition {
  const type = "Accepted";
  if (judged.problems.length > 0) {
    const kept = judged.generation > 0 ? `; generation ${judged.generation} stays in force` : "";
    const message = showProblems(judged.problems) + kept;
    return { type, status: "False", reason: "Invalid", message, observedGeneration: newest };
  }
  const { field, message, fix } = judged;
  const at = field === "" ? "" : `${field}: `;
  return {
    type,
    status: judged.accepted ? "True" : "False",
    reason: judged.reason,
    message: message === "" ? "" : `${at}${message}${fix === "" ? "" : `: ${fix}`}`,
    observedGeneration: judged.generation,
  };
}

/** Programmed and Enforced of what is in force. */
export function reachConditions(
  judged: Pick<Judged, "accepted" | "reason" | "generation" | "reach">,
): readonly WantedCondition[] {
  const { reach, generation: observedGeneration } = judged;
  const both = (status: WantedCondition["status"], reason: string, message: string): readonly WantedCondition[] =>
    ["Programmed", "Enforced"].map((type) => ({ type, status, reason, message, observedGeneration }));
  if (reach === undefined)
    return judged.accepted
      ? both("False", judged.reason, "agents get nothing of it")
      : both("False", "NotAccepted", "it is not in force");
  if (reach.of === 0)
    return both("Unknown", "NoNodes", "0 of 0 nodes: no node of the mesh has anything that it is for");
  const because = reach.why.length === 0 ? "" : `; ${reach.why.join("; ")}`;
  const tell = (type: string, count: number, failed: string): WantedCondition => {
    const isWhole = count === reach.of;
    return {
      type,
      status: isWhole ? "True" : "False",
      reason: isWhole ? type : failed,
      message: `${count} of ${reach.of} nodes${isWhole ? "" : because}`,
      observedGeneration,
    };
  };
  const programmed = tell("Programmed", reach.programmed, reach.isRefused ? "Refused" : "Pending");
  const enforced = tell("Enforced", reach.enforced, reach.programmed === reach.of ? "NotEnforced" : programmed.reason);
  if (judged.reason !== "DryRun") return [programmed, enforced];
  const message = `${reach.enforced} of ${reach.of} nodes note what it would decide: it is in dry run`;
  return [programmed, { ...enforced, status: "False", reason: "DryRun", message }];
}

/** While agents are still coming, conditions about them that say less than what is there give way to it. */
export function steady<C extends WantedCondition>(
  wanted: readonly C[],
  present: readonly unknown[],
  isSettling: boolean,
): readonly C[] {
  if (!isSettling) return wanted;
  return wanted.map((condition) => {
    if (condition.status === "True" || !(condition.type === "Programmed" || condition.type === "Enforced"))
      return condition;
    const before = present.find((c) => (c as Partial<C> | null)?.type === condition.type) as C | undefined;
    const isBetter = before?.status === "True" && before.observedGeneration === condition.observedGeneration;
    return isBetter ? before : condition;
  });
}
