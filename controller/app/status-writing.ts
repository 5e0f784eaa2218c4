// Statuses of routes and policies, written while this replica leads: what is known of them, where they are, and when they are looked at.
import { type Clock, every } from "../../agent/base/clock.ts";
import type { ObjectKind, Source } from "../sources/types.ts";
import type { NodeView } from "../status/reach.ts";
import { Statuses } from "../status/statuses.ts";
import { appliedStatus, mergedStatus, routeStatus } from "../status/written.ts";
import type { Covered } from "../translate/conditions.ts";
import { covers } from "../translate/policies.ts";
import { controllerName } from "../translate/route-status.ts";
import type { Address, Desired } from "../write/desired.ts";
import type { Writers } from "../write/writers.ts";
import type { Mesh } from "./mesh.ts";

export interface StatusParts {
  readonly mesh: Mesh;
  readonly source: Source;
  readonly writers: Writers;
  readonly clock: Clock;
  /** Agents of all replicas by node. */
  readonly views: () => ReadonlyMap<string, NodeView>;
  readonly lead: { onLead(lead: (signal: AbortSignal) => void): void };
  readonly spacingMs: number;
}
export interface StatusWriting {
  start(): void;
  /** Something has changed that statuses tell. */
  changed(): void;
}

const routeKinds = ["HTTPRoute", "GRPCRoute"] as const;
/** Istio's definitions give the list of conditions no keys, so they cannot be applied one by one. */
const istioKinds = ["AuthorizationPolicy", "PeerAuthentication"] as const;
const ownKinds = ["ResiliencePolicy", "RateLimitPolicy", "MeshSettings"] as const;
/** How long a new leader waits for agents before it says that they are missing. They come back within seconds. */
const settleMs = 15_000;
const moveMs = 2_000;

export function statusWriting(parts: StatusParts): StatusWriting {
  const { mesh, source, writers, clock } = parts;
  const kinds = new Set<string>([...routeKinds, ...istioKinds, ...ownKinds]);
  const statuses = new Statuses<Covered>(kinds, () => ({
    conditions: mesh.policyConditions,
    isCovered: (covered, workload) => covers(covered, covered.targets, workload),
    problems: mesh.problems,
    workloads: mesh.workloads,
    views: parts.views(),
  }));
  const enqueue = new Map<string, (name: string) => void>();
  let isLeading = false;
  let { problems } = mesh;
  let isDirty = false;
  /** Pods come and go all the time; where policies apply follows more slowly. */
  let movedMs: number | undefined;
  let isSettling = true;

  const look = (): void => {
    isDirty = false;
    movedMs = undefined;
    for (const { kind, namespace, name } of statuses.look(clock.monotonicMs(), isSettling))
      enqueue.get(kind)?.(namespace === "" ? name : `${namespace}/${name}`);
  };
  const register = (kind: ObjectKind, make: (at: Address, namespace: string, name: string) => Desired): void => {
    const add = writers.register({
      kind: `${kind}.status`,
      spacingMs: parts.spacingMs,
      keys: () => statuses.names(kind),
      desired(key) {
        const place = source.where(kind);
        if (place === undefined) return [];
        const slash = key.indexOf("/");
        const [namespace, name] = slash < 0 ? ["", key] : [key.slice(0, slash), key.slice(slash + 1)];
        return [make({ ...place, kind, namespace, name }, namespace, name)];
      },
    });
    enqueue.set(kind, add);
  };
  for (const kind of routeKinds)
    register(kind, (at, namespace, name) =>
      routeStatus(at, controllerName, () => statuses.judged(kind, namespace, name)),
    );
  for (const kind of istioKinds)
    register(kind, (at, namespace, name) => mergedStatus(at, () => statuses.judged(kind, namespace, name)));
  for (const kind of ownKinds)
    register(kind, (at, namespace, name) =>
      // What else stands in a ResiliencePolicy's status is its operator's.
      appliedStatus(at, () => statuses.judged(kind, namespace, name), kind !== "ResiliencePolicy"),
    );

  return {
    changed() {
      isDirty = true;
    },
    start() {
      mesh.onSettled((changes) => {
        const isOther =
          mesh.problems.length !== problems.length || mesh.problems.some((problem, i) => problem !== problems[i]);
        problems = mesh.problems;
        if (isOther || changes.some(({ before, after }) => kinds.has((after ?? before)?.object.kind ?? "")))
          isDirty = true;
        else movedMs ??= clock.monotonicMs();
      });
      parts.lead.onLead((signal) => {
        isLeading = true;
        isSettling = true;
        // Before the writers ask for all names.
        look();
        const settled = clock.after(settleMs, () => {
          isSettling = false;
          look();
        });
        const stop = every(clock, Math.max(50, parts.spacingMs / 2), () => {
          // Counts come to rest without anything else changing.
          const hasMoved = movedMs !== undefined && clock.monotonicMs() - movedMs >= moveMs;
          if (isLeading && (isDirty || hasMoved || statuses.hasPending)) look();
        });
        signal.addEventListener("abort", () => {
          isLeading = false;
          settled();
          stop();
        });
      });
    },
  };
}
