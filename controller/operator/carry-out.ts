// A plan as writes, in the order that leaves nothing behind whatever fails: first the policy is held, then Services and routes are written,
// the status in any case, and at last a policy that has nothing left is let go. Pure.

import type { Problem } from "../sources/types.ts";
import type { Address, Desired, Present } from "../write/desired.ts";
import { annotationsIn, divided, isAnnotated, marker, operatorManager } from "./annotations.ts";
import { type Facts, isRenderedBy, type Plan, type Trouble } from "./plan.ts";
import { statusChange, statusOf, type Translation } from "./policy-status.ts";
import { isAsRendered, routeAddress } from "./rendered-routes.ts";

/** As long as it is there, the policy is not gone: what it has written is removed first. */
export const finalizer = "mesh.fairlead.dev/resilience-policy";

export interface Said {
  readonly generation: number;
  readonly translation: Translation | undefined;
  readonly problems: readonly Problem[];
}

export const policyAddress = (namespace: string, name: string): Address => ({
  group: "mesh.fairlead.dev",
  version: "v1alpha1",
  kind: "ResiliencePolicy",
  plural: "resiliencepolicies",
  namespace,
  name,
});
export const serviceAddress = (namespace: string, name: string): Address => ({
  group: "",
  version: "v1",
  kind: "Service",
  plural: "services",
  namespace,
  name,
});
export const finalizersOf = (present: Present): readonly string[] =>
  (present.metadata.finalizers ?? []) as readonly string[];

export function writesOf(facts: Facts, plan: Plan, said: Said): readonly Desired[] {
  const failures: Trouble[] = [];
  /** Something is not written yet, and will be tried again: until then the status says what it said. */
  let isPending = false;
  const failed =
    (at: Address) =>
    (reason: string, isRefusal: boolean): void => {
      const message = `${at.kind} ${at.namespace}/${at.name} could not be written: ${reason}`;
      if (isRefusal) failures.push({ reason: "WriteFailed", message });
      else isPending = true;
    };
  const { policy, namespace } = facts;
  const writes: Desired[] = [];
  /** What was just read and is as wanted need not be read again. */
  const add = (desired: Desired, present: Present | undefined): void => {
    if (desired.change(present, 0) !== undefined) writes.push({ failed: failed(desired.at), ...desired });
  };
  if (policy !== undefined && plan.isHeld) add(holding(facts), policy.present);
  for (const service of plan.annotations.keys()) add(annotating(facts, plan, service), facts.services.get(service));
  for (const route of plan.routes)
    add(
      {
        at: route.at,
        change(present) {
          if (present !== undefined && (!isRenderedBy(present, facts) || isAsRendered(present, route.fields)))
            return undefined;
          return { kind: "apply", fields: route.fields, isStatus: false, manager: operatorManager };
        },
      },
      facts.routes.get(route.at.name),
    );
  for (const route of plan.obsolete)
    add(
      {
        at: routeAddress(namespace, route),
        change: (present) => (present !== undefined && isRenderedBy(present, facts) ? { kind: "delete" } : undefined),
      },
      facts.routes.get(route),
    );
  if (policy === undefined) return writes;
  const status = telling(facts, plan, said, failures, () => isPending);
  // What fails on the way is told, too.
  if (!policy.isDeleting && (writes.length > 0 || status.change(policy.present, 0) !== undefined)) writes.push(status);
  if (!plan.isHeld) add(lettingGo(facts), policy.present);
  return writes;
}

const telling = (
  { namespace, name, policy }: Facts,
  plan: Plan,
  { generation, translation, problems }: Said,
  failures: readonly Trouble[],
  isPending: () => boolean,
): Desired => ({
  at: policyAddress(namespace, name),
  isAlways: true,
  change(present, nowMs) {
    if (isPending() || present === undefined || present.metadata.uid !== policy?.uid) return undefined;
    const wanted = statusOf(generation, translation, problems, [...failures, ...plan.troubles]);
    const change = statusChange(present, wanted, nowMs);
    return change && { kind: "apply", isStatus: true, manager: operatorManager, ...change };
  },
});
const holding = ({ namespace, name, policy }: Facts): Desired => ({
  at: policyAddress(namespace, name),
  change(present) {
    if (present?.metadata.uid !== policy?.uid || present === undefined) return undefined;
    const finalizers = finalizersOf(present);
    if (present.metadata.deletionTimestamp !== undefined || finalizers.includes(finalizer)) return undefined;
    return { kind: "merge", isStatus: false, fields: { metadata: { finalizers: [...finalizers, finalizer] } } };
  },
});
const lettingGo = ({ namespace, name, policy }: Facts): Desired => ({
  at: policyAddress(namespace, name),
  change(present) {
    if (present === undefined || present.metadata.uid !== policy?.uid) return undefined;
    const finalizers = finalizersOf(present);
    if (!finalizers.includes(finalizer)) return undefined;
    return {
      kind: "merge",
      isStatus: false,
      fields: { metadata: { finalizers: finalizers.filter((f) => f !== finalizer) } },
    };
  },
});

/** Judged anew by what stands there when it is written: meanwhile the Service may be another policy's, or somebody may have set an annotation. */
function annotating({ namespace, name, holdsFor }: Facts, { annotations }: Plan, service: string): Desired {
  const wanted = annotations.get(service) ?? {};
  return {
    at: serviceAddress(namespace, service),
    change(present) {
      if (present === undefined) return undefined;
      const holder = annotationsIn(present)[marker];
      const isAnothers = holder !== undefined && holder !== name;
      if (isAnothers && !holdsFor.includes(service)) return undefined;
      const { ours } = divided(wanted, present);
      if (isAnnotated(present, ours)) return undefined;
      const metadata = Object.keys(ours).length === 0 ? {} : { metadata: { annotations: ours } };
      return { kind: "apply", isStatus: false, manager: operatorManager, fields: metadata };
    },
  };
}
