// May this connection reach this workload? Istio's AuthorizationPolicy at L4, in Istio's order: CUSTOM, DENY, ALLOW; AUDIT
// only notes. What needs a parsed request fails closed here (DP-24): an ALLOW with it matches nothing, a DENY applies without it.
import type { SpiffeId } from "../api/names.ts";
import { type Authorization, policyNameOf } from "../api/policy.ts";
import type { Verdict, VerdictNote } from "../flow.ts";
import type { MeshState } from "../state/mesh-state.ts";
import type { PolicySubject } from "../state/policies.ts";
import { type ConnectionFacts, matchingRule, needsL7, noAuthorizer } from "./rules.ts";

export interface AuthorizeInput {
  readonly destination: PolicySubject;
  /** Proven identity of the source; null when nothing proves one (plaintext). */
  readonly identity: SpiffeId | null;
  readonly sourceIp: string;
  readonly destinationIp: string;
  /** The workload's own port. */
  readonly port: number;
}

export function authorize(state: MeshState, input: AuthorizeInput): Verdict {
  const policies = state.authorizations.inForce(input.destination);
  if (policies.length === 0) return { allow: true, reason: "allowed", notes: [] };
  const { trustDomain, trustDomainAliases } = state.settings;
  const facts: ConnectionFacts = { ...input, domains: [trustDomain, ...trustDomainAliases] };
  const notes: VerdictNote[] = [];
  const enforced = policies.filter((p) => !p.dryRun);
  const verdict = evaluate(enforced, facts, notes);
  for (const policy of policies) {
    if (!policy.dryRun || policy.action === "audit") continue;
    const would = evaluate([...enforced, policy], facts, []);
    if (would.allow !== verdict.allow)
      notes.push({ kind: would.allow ? "would_allow" : "would_deny", policy: policyNameOf(policy) });
  }
  return { ...verdict, notes };
}

type Core = Omit<Verdict, "notes">;

function evaluate(policies: readonly Authorization[], facts: ConnectionFacts, notes: VerdictNote[]): Core {
  for (const policy of policies) {
    if (needsL7(policy)) notes.push({ kind: "l7_unavailable", policy: policyNameOf(policy) });
    if (policy.action !== "audit") continue;
    const rule = matchingRule(policy, facts);
    if (rule !== undefined) notes.push({ kind: "audit", policy: policyNameOf(policy), rule });
  }
  // CUSTOM asks an external authorizer about a request; without one what it covers is refused.
  for (const action of ["custom", "deny"] as const) {
    const denied = firstMatch(policies, action, facts);
    const why = action === "custom" ? { input: noAuthorizer } : {};
    if (denied !== undefined) return { allow: false, reason: "policy_denied", ...denied, ...why };
  }
  const allows = policies.filter((p) => p.action === "allow");
  const [first] = allows;
  if (first === undefined) return { allow: true, reason: "allowed" };
  const allowed = firstMatch(allows, "allow", facts);
  if (allowed !== undefined) return { allow: true, reason: "allowed", ...allowed };
  return { allow: false, reason: "policy_denied", policy: policyNameOf(first) };
}

function firstMatch(
  policies: readonly Authorization[],
  action: Authorization["action"],
  facts: ConnectionFacts,
): Pick<Verdict, "policy" | "rule"> | undefined {
  for (const policy of policies) {
    if (policy.action !== action) continue;
    const rule = matchingRule(policy, facts);
    if (rule !== undefined) return { policy: policyNameOf(policy), rule };
  }
  return undefined;
}
