// Whether any workload answers to a description, asked by policies for their status. Each answer is kept with one workload that proves
// it, so that a change of a pod costs a look at the questions that it proves and at those without proof, not at all pods.
import type { Workload } from "../../agent/api/workload.ts";

/** What policies may ask about the workloads of the mesh. */
export interface WorkloadQuestions {
  /** Whether `test` holds for some workload of the namespace, or of any when it is undefined. `test` is pure. */
  some(namespace: string | undefined, test: (workload: Workload) => boolean): boolean;
}
interface Question {
  readonly namespace: string | undefined;
  readonly test: (workload: Workload) => boolean;
}

export class Coverage implements WorkloadQuestions {
  readonly #workloadsOf: (namespace: string | undefined) => Iterable<Workload>;
  readonly #proven = new Map<string, Set<Question>>();
  readonly #unproven = new Set<Question>();
  readonly #shaken = new Set<Question>();
  #hasFlipped = false;

  constructor(workloadsOf: (namespace: string | undefined) => Iterable<Workload>) {
    this.#workloadsOf = workloadsOf;
  }

  some(namespace: string | undefined, test: (workload: Workload) => boolean): boolean {
    return this.#prove({ namespace, test });
  }
  /** Forgets all questions: they are about to be asked again. */
  clear(): void {
    this.#proven.clear();
    this.#unproven.clear();
    this.#shaken.clear();
    this.#hasFlipped = false;
  }
  change(before: Workload | undefined, after: Workload | undefined): void {
    if (this.#hasFlipped) return;
    for (const question of before === undefined ? [] : (this.#proven.get(before.uid) ?? [])) {
      if (after !== undefined && question.test(after)) continue;
      this.#proven.get(before?.uid ?? "")?.delete(question);
      this.#shaken.add(question);
    }
    if (after === undefined) return;
    for (const { namespace, test } of this.#unproven) {
      if ((namespace === undefined || namespace === after.namespace) && test(after)) {
        this.#hasFlipped = true;
        return;
      }
    }
  }
  /** After all changes of a round: whether some answer is another now. Then the questions must be asked again. */
  settle(): boolean {
    for (const question of this.#shaken) {
      if (this.#hasFlipped) break;
      if (!this.#prove(question)) this.#hasFlipped = true;
    }
    this.#shaken.clear();
    return this.#hasFlipped;
  }

  #prove(question: Question): boolean {
    for (const workload of this.#workloadsOf(question.namespace)) {
      if (!question.test(workload)) continue;
      const same = this.#proven.get(workload.uid);
      if (same === undefined) this.#proven.set(workload.uid, new Set([question]));
      else same.add(question);
      return true;
    }
    this.#unproven.add(question);
    return false;
  }
}
