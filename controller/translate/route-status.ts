// What is said of an HTTPRoute or GRPCRoute: one condition for people, and a status for each parent that is ours (Gateway API RouteStatus). Pure.
import type { ServiceName } from "../../agent/api/names.ts";
import type { Indexed } from "../index/cluster-index.ts";
import type { ParentRef } from "../sources/http-types.ts";
import type { RefProblem } from "./backend-refs.ts";
import { type ApiCondition, accepted, type Condition, type Reason, type RouteStatus, refused } from "./conditions.ts";
import type { RouteObject } from "./route-rules.ts";

/** Ours in `status.parents`; entries of other controllers are left alone. */
export const controllerName = "fairlead.dev/mesh";

/** Why a parent does not take a route; undefined if it does. */
export interface Refusal {
  readonly reason: Reason;
  readonly field: string;
  readonly message: string;
  readonly fix: string;
}
export interface Attachment {
  readonly ref: ParentRef;
  readonly service: ServiceName;
  readonly refusal: Refusal | undefined;
}
/** A rule that is not in force, though others of its route are. */
export interface Dropped {
  readonly rule: number;
  readonly field: string;
  readonly message: string;
}

/** Begins as the specification asks for. */
const droppedMessage = (dropped: readonly Dropped[]): string =>
  `Dropped Rule ${dropped.map((d) => d.rule).join(", ")}: ${dropped.map((d) => d.message).join("; ")}`.slice(0, 2000);

/** What is said of a route: for people, and for each parent as Gateway API words it. */
export function conditionOf(
  entry: Indexed<RouteObject>,
  attachments: readonly Attachment[],
  problems: readonly RefProblem[],
  dropped: readonly Dropped[],
  taken: readonly ServiceName[],
): Condition {
  const { spec, kind } = entry.object;
  const status = statusOf(entry, attachments, problems, dropped);
  const resources = taken.map((name) => ({ kind: "HttpRouting", name }));
  const refusal = attachments.find((a) => a.refusal !== undefined)?.refusal;
  const foreign = spec.parentRefs.findIndex((ref) => ref.kind !== "Service" || ref.group !== "");
  const strange: Refusal | undefined =
    attachments.length === 0 || foreign >= 0
      ? {
          reason: "NotSupported",
          field: foreign >= 0 ? `spec.parentRefs[${foreign}]` : "spec.parentRefs",
          message: foreign >= 0 ? `the parent ${spec.parentRefs[foreign]?.kind} is not one of ours` : "names no parent",
          fix: 'name a Service: {group: "", kind: Service, name: ...}',
        }
      : undefined;
  if (taken.length === 0) {
    const { reason, ...why } = refusal ?? (strange as Refusal);
    return refused(entry, reason, { ...why, status });
  }
  const ignored: Refusal | undefined =
    spec.hostnames.length === 0
      ? undefined
      : {
          reason: "NotSupported",
          field: "spec.hostnames",
          message: `hostnames mean nothing to a ${kind} of a Service (GEP-1426)`,
          fix: "match the header Host instead",
        };
  const [problem] = problems;
  const more = problems.length > 1 ? ` (and ${problems.length - 1} more)` : "";
  const unresolved = problem && { ...problem, message: `${problem.message}${more}` };
  const partial: Refusal | undefined = dropped[0] && {
    reason: "UnsupportedValue",
    field: dropped[0].field,
    message: droppedMessage(dropped),
    fix: "correct the value",
  };
  const { reason, ...why } = refusal ?? partial ?? unresolved ?? strange ?? ignored ?? { reason: "Accepted" as const };
  return accepted(entry, { ...why, resources, status }, reason);
}

function statusOf(
  entry: Indexed<RouteObject>,
  attachments: readonly Attachment[],
  problems: readonly RefProblem[],
  dropped: readonly Dropped[],
): RouteStatus {
  const { metadata } = entry.object;
  const observedGeneration = metadata.generation;
  const refs: ApiCondition =
    problems[0] === undefined
      ? { type: "ResolvedRefs", status: "True", reason: "ResolvedRefs", message: "", observedGeneration }
      : {
          type: "ResolvedRefs",
          status: "False",
          reason: problems[0].reason,
          message: problems.map((p) => `${p.field}: ${p.message}`).join("; "),
          observedGeneration,
        };
  return {
    parents: attachments.map(({ ref, refusal }) => ({
      parentRef: {
        group: ref.group,
        kind: ref.kind,
        ...(ref.namespace === "" ? {} : { namespace: ref.namespace }),
        name: ref.name,
        ...(ref.sectionName === "" ? {} : { sectionName: ref.sectionName }),
        ...(ref.port === 0 ? {} : { port: ref.port }),
      },
      controllerName,
      conditions: [
        {
          type: "Accepted",
          status: refusal === undefined ? "True" : "False",
          reason: refusal?.reason ?? "Accepted",
          message: refusal?.message ?? "",
          observedGeneration,
        },
        refs,
        ...(refusal === undefined && dropped.length > 0
          ? [
              {
                type: "PartiallyInvalid",
                status: "True" as const,
                reason: "UnsupportedValue",
                message: droppedMessage(dropped),
                observedGeneration,
              },
            ]
          : []),
      ],
    })),
  };
}
