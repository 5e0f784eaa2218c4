// Which objects' statuses are to be written, and what is known of each: from translation, from what is wrong with their newest versions, and
// from what agents say. Looks now and then, at once when it matters; what agents say is gathered, so that a rollout is no storm of writes.
import type { Workload } from "../../agent/api/workload.ts";
import { type ObjectRef, type Problem, refKey } from "../sources/types.ts";
import { Coverage } from "./coverage.ts";
import { type CarriedBy, type NodeView, type Reach, reachOf } from "./reach.ts";
import type { JudgedRoute, RouteParent } from "./written.ts";

/** As translation gives it. */
export interface TranslatedObject<C> {
  readonly object: ObjectRef;
  readonly accepted: boolean;
  readonly reason: string;
  readonly message: string;
  readonly field: string;
  readonly fix: string;
  readonly generation: number;
  readonly resources: readonly CarriedBy[];
  readonly status?: object;
  readonly covered?: C;
}
/** The mesh as this replica knows it at present. */
export interface World<C> {
  readonly conditions: Iterable<TranslatedObject<C>>;
  /** Whether the workload is one of those that an object is for. */
  readonly isCovered: (covered: C, workload: Workload) => boolean;
  readonly problems: readonly Problem[];
  readonly workloads: Iterable<Workload>;
  /** Of the agents of all replicas, by node. */
  readonly views: ReadonlyMap<string, NodeView>;
}
interface Known {
  readonly judged: JudgedRoute;
  /** What is told at once when it changes. */
  readonly urgent: string;
  /** Counts of nodes. */
  readonly counts: string;
}
interface Pending {
  readonly sinceMs: number;
  counts: string;
}

/** Counts that go on changing are written this seldom. */
const gatherMs = 5000;

export class Statuses<C> {
  readonly #kinds: ReadonlySet<string>;
  readonly #ask: () => World<C>;
  #known = new Map<string, Known>();
  readonly #pending = new Map<string, Pending>();
  #isSettling = true;

  constructor(kinds: Iterable<string>, ask: () => World<C>) {
    this.#kinds = new Set(kinds);
    this.#ask = ask;
  }

  /** Names ("namespace/name", or the name alone) of all objects of a kind that get a status. */
  names(kind: string): readonly string[] {
    const start = `${kind}/`;
    return [...this.#known.keys()].filter((key) => key.startsWith(start)).map((key) => nameOf(key.slice(start.length)));
  }
  /** Whether counts wait to come to rest. */
  get hasPending(): boolean {
    return this.#pending.size > 0;
  }
  judged(kind: string, namespace: string, name: string): JudgedRoute | undefined {
    return this.#known.get(refKey({ kind, namespace, name }))?.judged;
  }

  /** Looks at everything. @returns the objects whose status is to be written now: told at once, or counts that have come to rest */
  look(nowMs: number, isSettling: boolean): readonly ObjectRef[] {
    const { conditions, problems, workloads, views, isCovered } = this.#ask();
    const coverage = new Coverage(workloads);
    const everywhere = new Set([...coverage.nodes, ...views.keys()]);
    const problemsOf = group(problems);
    const due: ObjectRef[] = [];
    const known = new Map<string, Known>();
    const wasSettling = this.#isSettling;
    this.#isSettling = isSettling;
    const see = (object: ObjectRef, judged: JudgedRoute): void => {
      const key = refKey(object);
      const now = fingerprint(judged);
      known.set(key, now);
      if (this.#isDue(key, now, nowMs) || (wasSettling && !isSettling)) due.push(object);
    };
    for (const condition of conditions) {
      const { object } = condition;
      if (!this.#kinds.has(object.kind)) continue;
      const key = refKey(object);
      const own = problemsOf.get(key) ?? [];
      problemsOf.delete(key);
      const { covered } = condition;
      const nodes = covered === undefined ? everywhere : coverage.nodesOf((workload) => isCovered(covered, workload));
      const reach = condition.resources.length === 0 ? undefined : reachOf(condition.resources, nodes, views);
      see(object, { ...judgedOf(condition, own, reach), isSettling });
    }
    for (const [key, own] of problemsOf) {
      const object = own[0]?.object;
      if (object === undefined || !this.#kinds.has(object.kind) || known.has(key)) continue;
      see(object, { ...neverGood, problems: own, isSettling });
    }
    this.#known = known;
    for (const key of this.#pending.keys()) if (!known.has(key)) this.#pending.delete(key);
    return due;
  }

  #isDue(key: string, now: Known, nowMs: number): boolean {
    const before = this.#known.get(key);
    const pending = this.#pending.get(key);
    if (before === undefined || before.urgent !== now.urgent) {
      this.#pending.delete(key);
      return true;
    }
    if (pending === undefined) {
      if (before.counts !== now.counts) this.#pending.set(key, { sinceMs: nowMs, counts: now.counts });
      return false;
    }
    const isAtRest = pending.counts === now.counts;
    pending.counts = now.counts;
    if (!isAtRest && nowMs - pending.sinceMs < gatherMs) return false;
    this.#pending.delete(key);
    return true;
  }
}

const neverGood: Omit<JudgedRoute, "isSettling"> = {
  accepted: false,
  reason: "Invalid",
  message: "",
  field: "",
  fix: "",
  generation: 0,
  problems: [],
  reach: undefined,
  parents: undefined,
};

function judgedOf(
  { accepted, reason, message, field, fix, generation, status }: TranslatedObject<unknown>,
  problems: readonly Problem[],
  reach: Reach | undefined,
): Omit<JudgedRoute, "isSettling"> {
  const { parents } = (status ?? {}) as { readonly parents?: readonly RouteParent[] };
  return { accepted, reason, message, field, fix, generation, problems, reach, parents };
}

function fingerprint(judged: JudgedRoute): Known {
  const { reach, isSettling: _, ...rest } = judged;
  const isWhole = (count: number | undefined): boolean => count !== undefined && count === reach?.of;
  const turned = [isWhole(reach?.programmed), isWhole(reach?.enforced), reach?.isRefused, reach?.of === 0];
  return { judged, urgent: JSON.stringify([rest, turned]), counts: JSON.stringify(reach ?? null) };
}

function group(problems: readonly Problem[]): Map<string, Problem[]> {
  const groups = new Map<string, Problem[]>();
  for (const problem of problems) {
    if (problem.object === undefined) continue;
    const key = refKey(problem.object);
    const list = groups.get(key);
    if (list === undefined) groups.set(key, [problem]);
    else list.push(problem);
  }
  return groups;
}

/** "/mesh" of an object without a namespace -> "mesh". */
const nameOf = (rest: string): string => (rest.startsWith("/") ? rest.slice(1) : rest);
