// The status of every object: what translation said of it, what is wrong in its file, and on how many nodes it is enforced.
import { codecs, type ResourceKind } from "../../agent/api/resources.ts";
import { type Ignored, type ObjectRef, type Origin, type Problem, refKey } from "../sources/types.ts";
import type { NodeView } from "./reach.ts";

/** As translation gives it. */
export interface ObjectCondition {
  readonly object: ObjectRef;
  readonly origin: Origin;
  readonly accepted: boolean;
  readonly reason: string;
  readonly message: string;
  readonly field: string;
  readonly fix: string;
  readonly resources: readonly { readonly kind: string; readonly name: string }[];
  readonly status?: object;
}
export interface ObjectStatus {
  readonly kind: string;
  readonly namespace: string;
  readonly name: string;
  readonly file: string;
  readonly line: number;
  readonly accepted: boolean;
  readonly reason: string;
  readonly message: string;
  readonly field: string;
  readonly fix: string;
  /** Nodes whose agent has it in force, of those connected; null for objects that agents do not get. */
  readonly enforced: { readonly nodes: number; readonly of: number } | null;
  /** Why not on the others, at most ten. */
  readonly why: readonly string[];
  /** As the object's own API words it: `parents` of a route, `conditions` of a ResiliencePolicy. */
  readonly status?: object;
  /** Every further problem of the same object. */
  readonly problems: readonly Pick<Problem, "line" | "field" | "message" | "fix">[];
}

export function objectStatuses(
  conditions: readonly ObjectCondition[],
  problems: readonly Problem[],
  ignored: readonly Ignored[],
  nodes: readonly NodeView[],
): readonly ObjectStatus[] {
  const problemsOf = new Map<string, Problem[]>();
  const orphans: Problem[] = [];
  for (const problem of problems) {
    if (problem.object === undefined) {
      orphans.push(problem);
      continue;
    }
    const key = refKey(problem.object);
    const list = problemsOf.get(key);
    if (list === undefined) problemsOf.set(key, [problem]);
    else list.push(problem);
  }
  const out: ObjectStatus[] = [];
  for (const condition of conditions) {
    const own = problemsOf.get(refKey(condition.object)) ?? [];
    problemsOf.delete(refKey(condition.object));
    out.push(ofCondition(condition, own, nodes));
  }
  for (const list of problemsOf.values()) out.push(ofProblems(list));
  for (const problem of orphans) out.push(ofProblems([problem]));
  for (const { object, file, line, note } of ignored) {
    out.push({
      ...object,
      file,
      line,
      accepted: true,
      reason: "Ignored",
      message: note,
      field: "",
      fix: "",
      enforced: null,
      why: [],
      problems: [],
    });
  }
  return out;
}

function ofCondition(
  condition: ObjectCondition,
  problems: readonly Problem[],
  nodes: readonly NodeView[],
): ObjectStatus {
  const [first] = problems;
  const base = {
    ...condition.object,
    ...condition.origin,
    ...enforcement(condition, nodes),
    ...(condition.status === undefined ? {} : { status: condition.status }),
    problems,
  };
  if (first !== undefined) {
    const message = `${first.message}; the last good version stays in force`;
    return {
      ...base,
      file: first.file,
      line: first.line,
      accepted: false,
      reason: "Invalid",
      message,
      field: first.field,
      fix: first.fix,
    };
  }
  const { accepted, reason, message, field, fix } = condition;
  return { ...base, accepted, reason, message, field, fix };
}

function ofProblems(problems: readonly Problem[]): ObjectStatus {
  const [first] = problems as [Problem];
  const object = first.object ?? { kind: "", namespace: "", name: "" };
  const { file, line, field, message, fix } = first;
  const reason = first.object === undefined ? "Unreadable" : "Invalid";
  return { ...object, file, line, accepted: false, reason, message, field, fix, enforced: null, why: [], problems };
}

function enforcement(condition: ObjectCondition, nodes: readonly NodeView[]): Pick<ObjectStatus, "enforced" | "why"> {
  if (condition.resources.length === 0) return { enforced: null, why: [] };
  const why: string[] = [];
  let count = 0;
  for (const node of nodes) {
    const reason = condition.resources.map((resource) => whyNot(resource, node)).find((text) => text !== undefined);
    if (reason === undefined) count += 1;
    else if (why.length < 10) why.push(`${node.node}: ${reason}`);
  }
  return { enforced: { nodes: count, of: nodes.length }, why };
}

function whyNot(resource: { readonly kind: string; readonly name: string }, node: NodeView): string | undefined {
  const { typeUrl } = codecs[resource.kind as ResourceKind];
  const state = node.stateOf(typeUrl, resource.name);
  if (state.refusal !== undefined) return `refused by the agent: ${state.refusal}`;
  if (!state.isCurrent) return "the agent does not have this version yet";
  return node.notEnforced(typeUrl, resource.name);
}
