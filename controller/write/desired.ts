// What is to be written to the cluster, as values: where an object is, how it is to differ from what is there, what is told of it. Pure.
import { isDeepStrictEqual } from "node:util";

/** One object of the API server. */
export interface Address {
  /** "" for the core group. */
  readonly group: string;
  readonly version: string;
  readonly kind: string;
  readonly plural: string;
  /** "" for kinds without a namespace. */
  readonly namespace: string;
  readonly name: string;
}
type Fields = Readonly<Record<string, unknown>>;
/** An object as the API server has it. */
export interface Present extends Fields {
  readonly metadata: Fields & { readonly name: string; readonly uid?: string; readonly resourceVersion?: string };
}
/** An event (events.k8s.io/v1) about the object that was written. */
export interface EventNote {
  readonly type: "Normal" | "Warning";
  /** UpperCamelCase, as in `kubectl describe`. */
  readonly reason: string;
  /** What was done or failed: "Reconcile". */
  readonly action: string;
  readonly note: string;
}
/**
 * `apply`: server-side apply of these fields by our field manager; fields that others hold are taken over, those that we applied before and
 * do not name any more are removed. `merge`: a merge patch (RFC 7396) that counts only for the version that it was made from.
 */
export type Change = (
  | { readonly kind: "apply"; readonly fields: Fields; readonly isStatus: boolean; readonly manager?: string }
  | { readonly kind: "merge"; readonly fields: Fields; readonly isStatus: boolean }
  | { readonly kind: "delete" }
) & { readonly event?: EventNote | undefined };

/** One object that is to be as wanted. */
export interface Desired {
  readonly at: Address;
  /** What is to be changed of what is there (undefined: no such object); undefined when nothing is. Pure but for the time, Unix ms. */
  change(present: Present | undefined, nowMs: number): Change | undefined;
  /** Also after something before it failed. */
  readonly isAlways?: boolean;
  /** Told why it was not written. A refusal: it may not be, or makes no sense there; everything else may succeed the next time. */
  readonly failed?: (reason: string, isRefusal: boolean) => void;
}
/** Keeps objects of one kind as they are wanted. */
export interface Reconciler {
  /** Label of metrics and log lines, and the start of its keys in the queue. */
  readonly kind: string;
  /** Between two runs for one key, so that what changes often is written seldom. */
  readonly spacingMs: number;
  /** Every key, asked for when writing begins and from time to time. */
  keys(): Iterable<string>;
  /** All that is wanted for a key, in the order in which it is to be written; asked anew in each run. May throw: then it is tried again. */
  desired(key: string): readonly Desired[] | Promise<readonly Desired[]>;
}

/** The field manager of all that is applied; a part of its own may have another. */
export const fieldManager = "fairlead";

export function pathOf(at: Address): string {
  const root = at.group === "" ? `/api/${at.version}` : `/apis/${at.group}/${at.version}`;
  const place = at.namespace === "" ? "" : `/namespaces/${encodeURIComponent(at.namespace)}`;
  return `${root}${place}/${at.plural}/${encodeURIComponent(at.name)}`;
}
export const apiVersionOf = (at: Pick<Address, "group" | "version">): string =>
  at.group === "" ? at.version : `${at.group}/${at.version}`;
export const showAddress = (at: Address): string =>
  `${at.kind} ${at.namespace === "" ? at.name : `${at.namespace}/${at.name}`}`;

/** Whether everything wanted is there. Fields that are not named do not matter; lists are compared item by item and have the same length. */
export function covers(present: unknown, wanted: unknown): boolean {
  if (Array.isArray(wanted))
    return (
      Array.isArray(present) &&
      present.length === wanted.length &&
      wanted.every((item, i) => covers(present[i] as unknown, item))
    );
  if (typeof wanted === "object" && wanted !== null)
    return (
      typeof present === "object" &&
      present !== null &&
      Object.entries(wanted).every(
        ([name, value]) => value === undefined || covers((present as Record<string, unknown>)[name], value),
      )
    );
  return isDeepStrictEqual(present, wanted);
}

/** metav1.Condition but for its time. */
export interface WantedCondition {
  readonly type: string;
  readonly status: "True" | "False" | "Unknown";
  readonly reason: string;
  readonly message: string;
  readonly observedGeneration: number;
}
export interface TimedCondition extends WantedCondition {
  /** RFC 3339, whole seconds. */
  readonly lastTransitionTime: string;
}

/** metav1.Time */
export const timeOf = (ms: number): string => new Date(ms).toISOString().replace(/\.\d+Z$/, "Z");

/** Conditions with their times: that of a type whose status stays is kept. `present` may be anything. */
export function timed(wanted: readonly WantedCondition[], present: unknown, nowMs: number): readonly TimedCondition[] {
  const list: readonly unknown[] = Array.isArray(present) ? present : [];
  return wanted.map((condition) => {
    const before = list.find((c) => (c as Partial<TimedCondition> | null)?.type === condition.type) as
      | Partial<TimedCondition>
      | undefined;
    const isSame = before?.status === condition.status && typeof before.lastTransitionTime === "string";
    return {
      ...condition,
      // The API's limit (metav1.Condition).
      message: condition.message.slice(0, 32_768),
      lastTransitionTime: isSame ? (before.lastTransitionTime as string) : timeOf(nowMs),
    };
  });
}
