// May this request be served? Istio's AuthorizationPolicy at L7 in Istio's order: CUSTOM, DENY, ALLOW; AUDIT and dry run only note.
// Made once per workload (patterns) and once per connection (its own facts): a request costs no allocation unless it is refused or noted.

import type { RequestFeatures } from "../api/enricher.ts";
import { splitPair } from "../api/names.ts";
import { type Authorization, isTokenRule, policyNameOf } from "../api/policy.ts";
import { type IpBytes, parseIp } from "../base/ip.ts";
import type { Verdict, VerdictNote } from "../flow.ts";
import type { RequestHead } from "../http.ts";
import type { MeshState } from "../state/mesh-state.ts";
import type { AuthorizeInput } from "./authorize.ts";
import { inputNames, showInputs } from "./request-inputs.ts";
import { type BoundRule, bindPolicy, type CompiledPolicy, compilePolicy, ruleMatches } from "./request-rules.ts";
import { RequestView } from "./request-view.ts";
import { factsFor, type Known, noAuthorizer } from "./rules.ts";

export interface RequestConnection extends AuthorizeInput {
  /** Server name of the client's own TLS, "" where it speaks none; undefined where nobody looked. */
  readonly sni: string | undefined;
}

interface Compiled {
  readonly settings: MeshState["settings"];
  readonly policies: readonly CompiledPolicy[];
  readonly view: RequestView;
  /** Said of every request: policies with fields that only a token would tell. */
  readonly unread: readonly VerdictNote[];
}

const compiledSets = new WeakMap<readonly Authorization[], Compiled>();

function compiledFor(state: MeshState, policies: readonly Authorization[]): Compiled {
  const known = compiledSets.get(policies);
  if (known !== undefined && known.settings === state.settings) return known;
  const compiled: Compiled = {
    settings: state.settings,
    policies: policies.map(compilePolicy),
    view: new RequestView(state.settings),
    unread: policies
      .filter((policy) => policy.rules.some(isTokenRule))
      .map((policy) => ({ kind: "token_unread", policy: policyNameOf(policy) })),
  };
  compiledSets.set(policies, compiled);
  return compiled;
}

/**
 * The judge of one connection's requests. Asked again before a request it gives back `kept` for as long as neither policies nor settings
 * changed, so that a connection that stays open follows every change.
 */
export function judgeFor(state: MeshState, connection: RequestConnection, kept?: RequestJudge): RequestJudge {
  const policies = state.authorizations.inForce(connection.destination);
  if (kept?.isFor(policies, state.settings, connection) === true) return kept;
  return new RequestJudge(policies, compiledFor(state, policies), connection);
}

const noNotes: readonly VerdictNote[] = [];
const allowed: Verdict = { allow: true, reason: "allowed", notes: noNotes };

interface Trial {
  readonly policy: CompiledPolicy;
  readonly rules: readonly BoundRule[];
}

export class RequestJudge {
  readonly #policies: readonly Authorization[];
  readonly #compiled: Compiled;
  readonly #connection: RequestConnection;
  readonly #sourceIp: IpBytes | undefined;
  readonly #known: Known;
  /** CUSTOM before DENY, each in order of names. */
  readonly #refusing: readonly BoundRule[];
  readonly #allowing: readonly BoundRule[];
  readonly #allowPolicies: readonly CompiledPolicy[];
  readonly #audits: readonly Trial[];
  readonly #trials: readonly Trial[];
  /** Per rule of #allowing; the last one is for no rule at all. */
  readonly #allowVerdicts: readonly Verdict[];
  readonly #isOpen: boolean;

  constructor(policies: readonly Authorization[], compiled: Compiled, connection: RequestConnection) {
    this.#policies = policies;
    this.#compiled = compiled;
    this.#connection = connection;
    this.#sourceIp = parseIp(connection.sourceIp);
    const { trustDomain, trustDomainAliases } = compiled.settings;
    const facts = { ...connection, domains: [trustDomain, ...trustDomainAliases] };
    this.#known = factsFor(facts, connection.destination.namespace);
    const bind = (policy: CompiledPolicy): readonly BoundRule[] =>
      bindPolicy(policy, factsFor(facts, splitPair(policy.name)[0]));
    const enforced = compiled.policies.filter(({ policy }) => !policy.dryRun);
    const ofAction = (action: Authorization["action"]): readonly CompiledPolicy[] =>
      enforced.filter(({ policy }) => policy.action === action);
    this.#refusing = [...ofAction("custom"), ...ofAction("deny")].flatMap(bind);
    this.#allowPolicies = ofAction("allow");
    this.#allowing = this.#allowPolicies.flatMap(bind);
    this.#audits = ofAction("audit").map((policy) => ({ policy, rules: bind(policy) }));
    this.#trials = compiled.policies
      .filter(({ policy }) => policy.dryRun && policy.action !== "audit")
      .map((policy) => ({ policy, rules: bind(policy) }));
    const notes = compiled.unread;
    this.#allowVerdicts = [
      ...this.#allowing.map(({ policy, index }) => ({
        allow: true,
        reason: "allowed" as const,
        policy: policy.name,
        rule: index,
        notes,
      })),
      notes.length === 0 ? allowed : { ...allowed, notes },
    ];
    this.#isOpen = this.#refusing.length === 0 && this.#allowPolicies.length === 0;
  }

  isFor(policies: readonly Authorization[], settings: MeshState["settings"], connection: RequestConnection): boolean {
    if (this.#policies !== policies || this.#compiled.settings !== settings) return false;
    const own = this.#connection;
    return (
      own === connection ||
      (own.identity === connection.identity &&
        own.sourceIp === connection.sourceIp &&
        own.destinationIp === connection.destinationIp &&
        own.port === connection.port &&
        own.sni === connection.sni)
    );
  }

  /** Whether the verdict is the same for every request. */
  get asksNothing(): boolean {
    return this.#isOpen;
  }

  /** Nothing of the head is kept. The same verdict object is given for the same rule: do not change it. */
  judge(head: RequestHead, features?: RequestFeatures): Verdict {
    const open = this.#allowVerdicts[this.#allowing.length] as Verdict;
    if (this.#isOpen && this.#audits.length === 0 && this.#trials.length === 0) return open;
    const { view } = this.#compiled;
    view.start(head, this.#sourceIp, this.#connection.sni, features);
    const refusing = firstMatch(this.#refusing, view);
    const allowing = refusing < 0 && this.#allowPolicies.length > 0 ? firstMatch(this.#allowing, view) : -1;
    let verdict: Verdict;
    if (refusing >= 0) verdict = this.#refusedBy(this.#refusing[refusing] as BoundRule, view);
    else if (this.#allowPolicies.length === 0) verdict = open;
    else if (allowing >= 0) verdict = this.#allowVerdicts[allowing] as Verdict;
    else verdict = this.#refusedByAll(view);
    if (this.#audits.length > 0 || this.#trials.length > 0) verdict = this.#noted(verdict, refusing >= 0, view);
    view.end();
    return verdict;
  }

  #refusedBy({ policy, index }: BoundRule, view: RequestView): Verdict {
    const rule = policy.rules[index]?.rule;
    const seen = showInputs(inputNames(rule === undefined ? [] : [rule]), this.#known, view);
    return {
      allow: false,
      reason: "policy_denied",
      policy: policy.name,
      rule: index,
      input: policy.policy.action === "custom" ? [noAuthorizer, seen].filter((text) => text !== "").join("; ") : seen,
      notes: this.#compiled.unread,
    };
  }

  /** No rule of any ALLOW matched: the first policy is named, and every input that they ask about. */
  #refusedByAll(view: RequestView): Verdict {
    const [first] = this.#allowPolicies;
    const names = inputNames(this.#allowPolicies.flatMap(({ policy }) => policy.rules));
    const count = this.#allowPolicies.length;
    return {
      allow: false,
      reason: "policy_denied",
      policy: (first as CompiledPolicy).name,
      input: `no rule of ${count} ALLOW polic${count === 1 ? "y" : "ies"} matches ${showInputs(names, this.#known, view)}`,
      notes: this.#compiled.unread,
    };
  }

  /** What AUDIT policies matched, and what each policy in dry run would have changed had it alone been enforced. */
  #noted(verdict: Verdict, isDenied: boolean, view: RequestView): Verdict {
    const notes: VerdictNote[] = [];
    for (const { policy, rules } of this.#audits) {
      const at = firstMatch(rules, view);
      if (at >= 0) notes.push({ kind: "audit", policy: policy.name, rule: (rules[at] as BoundRule).index });
    }
    for (const { policy, rules } of this.#trials) {
      const at = firstMatch(rules, view);
      const rule = at < 0 ? {} : { rule: (rules[at] as BoundRule).index };
      if (policy.widely) {
        if (verdict.allow && at >= 0) notes.push({ kind: "would_deny", policy: policy.name, ...rule });
      } else if (verdict.allow) {
        if (at < 0 && this.#allowPolicies.length === 0) notes.push({ kind: "would_deny", policy: policy.name });
      } else if (!isDenied && at >= 0) {
        notes.push({ kind: "would_allow", policy: policy.name, ...rule });
      }
    }
    return notes.length === 0 ? verdict : { ...verdict, notes: [...verdict.notes, ...notes] };
  }
}

function firstMatch(rules: readonly BoundRule[], view: RequestView): number {
  for (let i = 0; i < rules.length; i++) if (ruleMatches(rules[i] as BoundRule, view)) return i;
  return -1;
}
