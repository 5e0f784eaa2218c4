// Policies by scope and namespace: which are in force for a workload. Used for every kind of policy alike. Pure.
import type { PolicyName, ServiceName } from "../api/names.ts";
import { policyNameOf, type Scope } from "../api/policy.ts";
import type { Workload } from "../api/workload.ts";

interface Scoped {
  readonly name: string;
  readonly namespace: string;
  readonly scope: Scope;
  readonly selector: Readonly<Record<string, string>>;
}

/** What a policy is matched against. */
export type PolicySubject = Pick<Workload, "namespace" | "labels" | "services">;

export class PolicyIndex<P extends Scoped> {
  readonly #byName = new Map<PolicyName, P>();
  readonly #mesh = new Map<PolicyName, P>();
  readonly #byNamespace = new Map<string, Map<PolicyName, P>>();
  /** Answers of `inForce`, until any policy changes: subjects are immutable, and few ask again and again. */
  #inForce = new WeakMap<PolicySubject, readonly P[]>();

  get size(): number {
    return this.#byName.size;
  }

  put(policy: P): void {
    const name = policyNameOf(policy);
    this.delete(name);
    this.#inForce = new WeakMap();
    this.#byName.set(name, policy);
    if (policy.scope === "mesh") {
      this.#mesh.set(name, policy);
      return;
    }
    let inNamespace = this.#byNamespace.get(policy.namespace);
    if (inNamespace === undefined) {
      inNamespace = new Map();
      this.#byNamespace.set(policy.namespace, inNamespace);
    }
    inNamespace.set(name, policy);
  }

  delete(name: PolicyName): P | undefined {
    const old = this.#byName.get(name);
    if (old === undefined) return undefined;
    this.#inForce = new WeakMap();
    this.#byName.delete(name);
    this.#mesh.delete(name);
    const inNamespace = this.#byNamespace.get(old.namespace);
    if (inNamespace?.delete(name) && inNamespace.size === 0) this.#byNamespace.delete(old.namespace);
    return old;
  }

  byName(name: PolicyName): P | undefined {
    return this.#byName.get(name);
  }

  all(): Iterable<P> {
    return this.#byName.values();
  }

  /** Those in force for a workload, in order of name, so that the policy a verdict names is the same on every agent. */
  inForce(subject: PolicySubject): readonly P[] {
    const known = this.#inForce.get(subject);
    if (known !== undefined) return known;
    const found: P[] = [];
    for (const policy of this.#mesh.values()) if (applies(policy, subject)) found.push(policy);
    for (const policy of this.#byNamespace.get(subject.namespace)?.values() ?? [])
      if (applies(policy, subject)) found.push(policy);
    if (found.length > 1) found.sort(byName);
    this.#inForce.set(subject, found);
    return found;
  }
}

const byName = (a: Scoped, b: Scoped): number => {
  const [x, y] = [policyNameOf(a), policyNameOf(b)];
  return x < y ? -1 : x > y ? 1 : 0;
};

/** A selector in the mesh's root namespace selects in every namespace (Istio). */
function applies(
  policy: Scoped & { readonly targetServices?: readonly ServiceName[] },
  subject: PolicySubject,
): boolean {
  const targets = policy.targetServices ?? [];
  if (targets.length > 0) return subject.services.some((m) => targets.includes(m.service));
  return selects(policy.selector, subject.labels);
}

export function selects(selector: Readonly<Record<string, string>>, labels: Readonly<Record<string, string>>): boolean {
  for (const key in selector) if (labels[key] !== selector[key]) return false;
  return true;
}
