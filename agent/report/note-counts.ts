// What policies in dry run and AUDIT policies said of requests, counted on a data thread until the control thread is told.
import type { VerdictNote } from "../flow.ts";

export interface NoteCount {
  readonly kind: VerdictNote["kind"];
  readonly policy: string;
  readonly count: number;
}

export class NoteCounts {
  #counts = new Map<string, { readonly kind: VerdictNote["kind"]; readonly policy: string; count: number }>();

  add(notes: readonly VerdictNote[]): void {
    for (const { kind, policy } of notes) {
      const key = `${kind} ${policy}`;
      const known = this.#counts.get(key);
      if (known === undefined) this.#counts.set(key, { kind, policy, count: 1 });
      else known.count++;
    }
  }

  /** What came since the last call. */
  take(): readonly NoteCount[] {
    if (this.#counts.size === 0) return none;
    const taken = [...this.#counts.values()];
    this.#counts = new Map();
    return taken;
  }
}

const none: readonly NoteCount[] = [];
