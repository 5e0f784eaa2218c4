// Which mTLS mode holds for a workload's port: PeerAuthentication with Istio's precedence. Pure.
import { type MtlsMode, outranks, type TrafficPolicy } from "../api/policy.ts";
import type { MtlsPosture } from "../flow.ts";
import type { MeshState } from "../state/mesh-state.ts";
import type { PolicySubject } from "../state/policies.ts";

export interface MtlsDecision {
  readonly mode: MtlsPosture;
  /** The policy that set it; absent for the default. */
  readonly policy?: TrafficPolicy;
}

/**
 * Port of the workload's own policy, then that policy, then the namespace's, then the mesh's; UNSET inherits; none at all is
 * PERMISSIVE (Istio). `port` is the workload's own port. Of several policies on one level the oldest holds, as in Istio. Where
 * ages are not known or the same, the strictest: erring to strict loses no secret. Policies in dry run do not count, but for `tried`.
 */
export function mtlsFor(state: MeshState, workload: PolicySubject, port: number, tried?: TrafficPolicy): MtlsDecision {
  const all = state.trafficPolicies.inForce(workload);
  const policies = all.some((p) => p.dryRun) ? all.filter((p) => !p.dryRun || p === tried) : all;
  const own = policies.filter((p) => p.scope === "workload");
  return (
    decisive(own, (p) => p.portModes.get(port)) ??
    decisive(own, (p) => p.mode) ??
    decisive(byScope(policies, "namespace"), (p) => p.mode) ??
    decisive(byScope(policies, "mesh"), (p) => p.mode) ?? { mode: "permissive" }
  );
}

/** Whether any of the workload's ports is strict: what fails open would fail open for all of them. */
export function isStrictAnywhere(state: MeshState, workload: PolicySubject): boolean {
  if (mtlsFor(state, workload, 0).mode === "strict") return true;
  const policies = state.trafficPolicies.inForce(workload);
  return policies.some((policy) => !policy.dryRun && [...policy.portModes.values()].includes("strict"));
}

/** What each policy in dry run would set, were it alone enforced; those that would be overruled by others are left out. */
export function mtlsTrials(
  state: MeshState,
  workload: PolicySubject,
  port: number,
): readonly (MtlsDecision & { readonly policy: TrafficPolicy })[] {
  return state.trafficPolicies.inForce(workload).flatMap((tried) => {
    if (!tried.dryRun) return [];
    const { mode, policy } = mtlsFor(state, workload, port, tried);
    return policy === tried ? [{ mode, policy }] : [];
  });
}

const byScope = (policies: readonly TrafficPolicy[], scope: TrafficPolicy["scope"]): readonly TrafficPolicy[] =>
  policies.filter((p) => p.scope === scope);

function decisive(
  policies: readonly TrafficPolicy[],
  modeOf: (policy: TrafficPolicy) => MtlsMode | undefined,
): MtlsDecision | undefined {
  let best: { mode: MtlsPosture; policy: TrafficPolicy } | undefined;
  for (const policy of policies) {
    const mode = modeOf(policy);
    if (mode === undefined || mode === "unset") continue;
    if (best === undefined || outranks({ mode, policy }, best)) best = { mode, policy };
  }
  return best;
}
