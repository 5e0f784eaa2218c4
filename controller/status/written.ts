// The status of an object as a change of what is there: of routes our entries among those of other controllers, of policies our conditions
// among those of others, of our own kinds by server-side apply. Pure.
import { isDeepStrictEqual } from "node:util";
import {
  type Address,
  type Change,
  type Desired,
  type EventNote,
  type Present,
  timed,
  type WantedCondition,
} from "../write/desired.ts";
import { type Judged, policyConditions, reachConditions, steady } from "./conditions.ts";

/** Ours in the status of a route, as translation words it. */
export interface RouteParent {
  readonly parentRef: Readonly<Record<string, unknown>>;
  readonly controllerName: string;
  readonly conditions: readonly WantedCondition[];
}
export interface JudgedRoute extends Judged {
  /** undefined when it was not translated. */
  readonly parents: readonly RouteParent[] | undefined;
}
type Fields = Readonly<Record<string, unknown>>;
const record = (value: unknown): Fields =>
  typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Fields) : {};
const list = (value: unknown): readonly unknown[] => (Array.isArray(value) ? value : []);
const generationOf = ({ metadata }: Present): number =>
  typeof metadata.generation === "number" ? metadata.generation : 0;

/** Conditions by server-side apply: what others say of the object stays, and belongs to them. `judged` undefined: not known yet. */
export function appliedStatus(at: Address, judged: () => Judged | undefined, hasGeneration: boolean): Desired {
  return conditionsOf(at, judged, (conditions, newest) => ({
    kind: "apply",
    isStatus: true,
    fields: { status: { ...(hasGeneration ? { observedGeneration: newest } : {}), conditions } },
  }));
}
/** Conditions merged by type into a list that has no keys for the API server, as in Istio's kinds. */
export function mergedStatus(at: Address, judged: () => Judged | undefined): Desired {
  return conditionsOf(at, judged, (conditions, newest, present) => {
    const ours = new Map(conditions.map((condition) => [condition.type, condition]));
    const before = list(record(present.status).conditions);
    const kept = before.filter((c) => !ours.has(String(record(c).type)));
    return {
      kind: "merge",
      isStatus: true,
      fields: { status: { observedGeneration: newest, conditions: [...kept, ...conditions] } },
    };
  });
}
/** What is known of an object that is there to stay; else nothing is written. */
function judgedStatus<T>(
  at: Address,
  ask: () => T | undefined,
  make: (present: Present, judged: T, nowMs: number) => Change | undefined,
): Desired {
  return {
    at,
    change(present, nowMs) {
      const judged = ask();
      const isLeaving = present?.metadata.deletionTimestamp !== undefined;
      return present === undefined || judged === undefined || isLeaving ? undefined : make(present, judged, nowMs);
    },
  };
}

function conditionsOf(
  at: Address,
  ask: () => Judged | undefined,
  make: (conditions: ReturnType<typeof timed>, newest: number, present: Present) => Change,
): Desired {
  return judgedStatus(at, ask, (present, judged, nowMs) => {
    const before = list(record(present.status).conditions);
    const wanted = policyConditions(judged, generationOf(present));
    const conditions = steady(timed(wanted, before, nowMs), before, judged.isSettling);
    const isThere = conditions.every((condition) =>
      before.some((c) => record(c).type === condition.type && isDeepStrictEqual(c, condition)),
    );
    if (isThere) return undefined;
    return { ...make(conditions, generationOf(present), present), event: eventOf(before, conditions) };
  });
}

/** Our entries of `status.parents`; those of other controllers stay as they are, ours of parents that are gone go. */
export function routeStatus(at: Address, controllerName: string, ask: () => JudgedRoute | undefined): Desired {
  return judgedStatus(at, ask, (present, judged, nowMs) => {
    const before = list(record(present.status).parents);
    const isOurs = (parent: unknown): boolean => record(parent).controllerName === controllerName;
    const conditionsBefore = (ref: Fields): readonly unknown[] =>
      list(record(before.find((p) => isOurs(p) && isDeepStrictEqual(record(p).parentRef, ref))).conditions);
    const ours = wantedParents(present, controllerName, judged).map((parent) => {
      const known = conditionsBefore(parent.parentRef);
      return { ...parent, conditions: steady(timed(parent.conditions, known, nowMs), known, judged.isSettling) };
    });
    const parents = [...before.filter((p) => !isOurs(p)), ...ours];
    const sorted = (all: readonly unknown[]): readonly string[] => all.map((p) => JSON.stringify(canonical(p))).sort();
    if (isDeepStrictEqual(sorted(before), sorted(parents))) return undefined;
    const event = eventOf(
      before.filter(isOurs).flatMap((p) => list(record(p).conditions)),
      ours.flatMap((p) => p.conditions),
    );
    return { kind: "merge", isStatus: true, fields: { status: { parents } }, event };
  });
}

/** References to Services as the object itself has them, without what is a default. */
function parentRefsOf(present: Present): readonly Fields[] {
  return list(record(present.spec).parentRefs)
    .map(record)
    .filter((ref) => ref.kind === "Service" && ref.group === "" && typeof ref.name === "string");
}

function wantedParents(present: Present, controllerName: string, judged: JudgedRoute): readonly RouteParent[] {
  const { parents = [], problems, generation } = judged;
  const reach = reachConditions({ ...judged, accepted: true });
  const withReach = (parent: RouteParent): RouteParent =>
    parent.conditions.some((c) => c.type === "Accepted" && c.status === "True") && judged.reach !== undefined
      ? { ...parent, conditions: [...parent.conditions, ...reach] }
      : parent;
  if (problems.length === 0) {
    if (judged.parents !== undefined) return parents.map(withReach);
    const { message, fix } = judged;
    return parentRefsOf(present).map((parentRef) => ({
      parentRef,
      controllerName,
      conditions: [
        {
          type: "Accepted",
          status: "Unknown",
          reason: "Pending",
          message: `${message}: ${fix}`,
          observedGeneration: generation,
        },
      ],
    }));
  }
  // The newest version makes no sense: what was in force stays, and is told to (Gateway API, PartiallyInvalid, "Fall Back").
  const newest = generationOf(present);
  const [accepted] = policyConditions(judged, newest) as [WantedCondition];
  return parentRefsOf(present).map((parentRef) => {
    const good = parents.find((parent) => isDeepStrictEqual(canonical(parent.parentRef), canonical(parentRef)));
    const isInForce = good?.conditions.some((c) => c.type === "Accepted" && c.status === "True") === true;
    if (good === undefined || !isInForce)
      return { parentRef, controllerName, conditions: [{ ...accepted, reason: "UnsupportedValue" }] };
    const partial: WantedCondition = {
      ...accepted,
      type: "PartiallyInvalid",
      status: "True",
      reason: "UnsupportedValue",
      message: `Fall Back: ${accepted.message}`,
    };
    return withReach({ ...good, conditions: [...good.conditions, partial] });
  });
}

/** The same value with the fields of every object in order. */
function canonical(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(canonical);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(
    Object.entries(value)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([name, inner]) => [name, canonical(inner)]),
  );
}

/** What is worth an event: a condition whose status turned, the worst first. A count of nodes that grows is not. */
function eventOf(before: readonly unknown[], after: readonly WantedCondition[]): EventNote | undefined {
  const was = (type: string): unknown => record(before.find((c) => record(c).type === type)).status;
  const turned = after.filter((c) => was(c.type) !== c.status);
  const isBad = (c: WantedCondition): boolean =>
    c.type === "PartiallyInvalid" ? c.status === "True" : c.status === "False" && c.reason !== "Pending";
  const bad = turned.find(isBad);
  const good = turned.find((c) => c.status === "True" && c.type !== "PartiallyInvalid");
  const told = bad ?? good;
  if (told === undefined) return undefined;
  return {
    type: bad === undefined ? "Normal" : "Warning",
    reason: told.reason,
    action: told.type,
    note: `${told.type}: ${told.message === "" ? told.reason : told.message}`,
  };
}
