// The filters of a rule put together: one change of the request's head, one of the answer's, and what else is to be done. Pure.
import type {
  Cors,
  Direct,
  Divert,
  Fault,
  HeaderChanges,
  Mirror,
  Redirect,
  Rewrite,
  RouteFilter,
  Selection,
  Tarpit,
} from "../../api/http-filters.ts";
import { compileRegex } from "../../base/regex.ts";
import type { HeaderEdits, RequestHead } from "../../http.ts";

/** An action with its headers compiled. */
export interface Selecting<T> {
  readonly value: T;
  matches(head: RequestHead): boolean;
}
/** undefined and [] where there is nothing to do; several filters of a kind that can hold only once: the last one holds. */
export interface FilterPlan {
  readonly requestEdits: HeaderEdits | undefined;
  readonly responseEdits: HeaderEdits | undefined;
  readonly redirect: Redirect | undefined;
  readonly rewrite: Rewrite | undefined;
  readonly mirrors: readonly Mirror[];
  readonly cors: Cors | undefined;
  readonly direct: Direct | undefined;
  readonly faults: readonly Selecting<Fault>[];
  readonly divert: Selecting<Divert> | undefined;
  readonly tarpit: Selecting<Tarpit> | undefined;
  /** Some filter may answer, delay or divert a request: see decide-request.ts. */
  readonly hasActions: boolean;
}

type Mutable<T> = { -readonly [K in keyof T]: T[K] };

export function planFilters(filters: readonly RouteFilter[]): FilterPlan {
  const plan: Mutable<FilterPlan> = { ...emptyPlan };
  for (const { kind, value } of filters) {
    switch (kind) {
      case "requestHeaders":
        plan.requestEdits = composeEdits(plan.requestEdits, value);
        break;
      case "responseHeaders":
        plan.responseEdits = composeEdits(plan.responseEdits, value);
        break;
      case "redirect":
        plan.redirect = value;
        break;
      case "rewrite":
        plan.rewrite = value;
        break;
      case "mirror":
        plan.mirrors = [...plan.mirrors, value];
        break;
      case "cors":
        plan.cors = value;
        break;
      case "direct":
        plan.direct = value;
        break;
      case "fault":
        plan.faults = [...plan.faults, selecting(value)];
        break;
      case "divert":
        plan.divert = selecting(value);
        break;
      case "tarpit":
        plan.tarpit = selecting(value);
        break;
    }
  }
  const { redirect, cors, direct, faults, divert, tarpit } = plan;
  plan.hasActions = faults.length > 0 || [redirect, cors, direct, divert, tarpit].some((part) => part !== undefined);
  return plan;
}

export const emptyPlan: FilterPlan = {
  requestEdits: undefined,
  responseEdits: undefined,
  redirect: undefined,
  rewrite: undefined,
  mirrors: [],
  cors: undefined,
  direct: undefined,
  faults: [],
  divert: undefined,
  tarpit: undefined,
  hasActions: false,
};

/** One change that does what `first` and then `second` do. Of one name set twice the last value holds. */
export function composeEdits(first: HeaderEdits | undefined, second: HeaderChanges): HeaderEdits {
  const before = first ?? { remove: [], set: [], add: [] };
  const added = before.made === undefined ? before.add : [...before.add, ...before.made.list];
  const gone = new Set([...second.remove, ...namesOf(second.set)]);
  const set = [...without(before.set, gone), ...second.set];
  return {
    remove: [...new Set([...before.remove, ...second.remove])],
    set: lastOfEach(set),
    add: [...without(added, gone), ...second.add],
  };
}
const namesOf = (list: readonly string[]): string[] => list.filter((_, i) => i % 2 === 0);
const without = (list: readonly string[], names: ReadonlySet<string>): string[] =>
  list.filter((_, i) => !names.has(list[i - (i % 2)] as string));
function lastOfEach(list: readonly string[]): string[] {
  const values = new Map<string, string>();
  for (let i = 0; i < list.length; i += 2) values.set(list[i] as string, list[i + 1] as string);
  return [...values].flat();
}

function selecting<T extends Selection>(value: T): Selecting<T> {
  const tests = value.headers.map(({ name, kind, value: wanted }) => {
    const regex = kind === "regex" ? compileRegex(wanted) : undefined;
    return {
      name,
      holds: (given: string): boolean => (regex === undefined ? given === wanted : regex.ok && regex.value.test(given)),
    };
  });
  return {
    value,
    matches(head) {
      return tests.every(({ name, holds }) => {
        const given = head.header(name);
        return given !== undefined && holds(given);
      });
    },
  };
}
