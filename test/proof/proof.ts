// What a proof is: a long run against a real lab that throws when something does not hold, and returns the facts that it saw.

export interface ProofContext {
  /** 1 is what the documents promise; smaller for a quick look. */
  readonly scale: number;
  /** Of a proof that lasts as long as it is told to, instead of what scale makes of it. */
  readonly minutes?: number;
  /** Requests a second, instead of what the proof finds out or has agreed. */
  readonly rate?: number;
  /** A commit: the earlier version of a proof about two of them. */
  readonly old?: string;
  /** Only these parts of a proof that has parts by name. */
  readonly only?: readonly string[];
  readonly say: (line: string) => void;
}

export interface Proof {
  readonly name: string;
  readonly about: string;
  /** What is missing here to run it; then it runs only where it is asked for by name, and says so. */
  readonly lacks?: () => string | undefined;
  run(context: ProofContext): Promise<Record<string, unknown>>;
}

/** @throws Error with the evidence when the condition does not hold */
export function check(holds: boolean, evidence: string): void {
  if (!holds) throw new Error(evidence);
}

/** What was promised does not hold; with the facts that were seen. */
export class Unproven extends Error {
  readonly facts: unknown;

  constructor(evidence: string, facts: unknown) {
    super(evidence);
    this.facts = facts;
  }
}
