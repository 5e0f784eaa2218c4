// Numbers for plans and verdicts, and the facts behind them until long after their records can still come. Bounded.
import type { FactsBook, PlanFacts, VerdictFacts } from "../flow.ts";

/** How many of each are kept; the oldest go first. A record whose facts are gone is counted and labelled unknown. */
const kept = 65_536;
/** Numbers that we give to policies begin above those of native, which counts from 1. */
const ownPolicies = 2 ** 31;
const mostPolicies = 1_024;

class Numbered<F> {
  readonly #byKey = new Map<string, number>();
  readonly #facts = new Map<number, { readonly key: string; readonly facts: F }>();
  #next = 1;

  number(key: string, facts: F): number {
    const known = this.#byKey.get(key);
    if (known !== undefined) return known;
    const id = this.#next++;
    this.#byKey.set(key, id);
    this.#facts.set(id, { key, facts });
    if (this.#facts.size > kept) this.#dropOldest();
    return id;
  }

  get(id: number): F | undefined {
    return this.#facts.get(id)?.facts;
  }

  get size(): number {
    return this.#facts.size;
  }

  #dropOldest(): void {
    const oldest = this.#facts.entries().next().value;
    if (oldest === undefined) return;
    this.#facts.delete(oldest[0]);
    this.#byKey.delete(oldest[1].key);
  }
}

export interface Book extends FactsBook {
  planFacts(id: number): PlanFacts | undefined;
  verdictFacts(id: number): VerdictFacts | undefined;
  /** A policy that another agent, or a limit, refused by, under the number that native gave it (bounded there). */
  remotePolicy(number: number, name: string): void;
  remotePolicyName(number: number): string | undefined;
  /** A number of ours for such a policy, in a record that is made here; 0 after 1,024 of them. */
  policyNumber(name: string): number;
  readonly sizes: { readonly plans: number; readonly verdicts: number };
}

export function createFactsBook(): Book {
  const plans = new Numbered<PlanFacts>();
  const verdicts = new Numbered<VerdictFacts>();
  const remote = new Map<number, string>();
  const numbers = new Map<string, number>();
  return {
    plan: (key, facts) => plans.number(key, facts),
    verdict: (key, facts) => verdicts.number(key, facts),
    planFacts: (id) => plans.get(id),
    verdictFacts: (id) => verdicts.get(id),
    remotePolicy: (number, name) => void remote.set(number, name),
    remotePolicyName: (number) => remote.get(number),
    policyNumber: (name) => {
      const known = numbers.get(name);
      if (known !== undefined || numbers.size >= mostPolicies) return known ?? 0;
      const number = ownPolicies + numbers.size;
      numbers.set(name, number);
      remote.set(number, name);
      return number;
    },
    get sizes() {
      return { plans: plans.size, verdicts: verdicts.size };
    },
  };
}
