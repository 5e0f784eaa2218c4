// What stands before the pods of this node on one data thread beside their policies: rate limits, and the enricher. Its memory is shared by all threads; what
// there is to tell goes to the control thread once a second.
import { type LimitMemory, SharedLimits } from "../decide/limit/shared.ts";
import { Enricher } from "../enrich/enricher.ts";
import type { PairMemory } from "../enrich/pairs.ts";
import type { EnrichTold } from "../enrich/tally.ts";
import { type LimitNote, LimitNotes, type LimitRows } from "../report/rate-limit-report.ts";

/** Made once by the control thread. */
export interface GuardMemory {
  readonly limits: LimitMemory;
  readonly pairs: PairMemory;
}
export interface GuardTold {
  readonly limited: LimitRows | undefined;
  readonly enriched: EnrichTold | undefined;
}

export class Guard {
  readonly limits: SharedLimits;
  readonly enricher: Enricher;
  readonly #notes = new LimitNotes();

  constructor(memory: GuardMemory, thread: number) {
    this.limits = new SharedLimits(memory.limits, thread);
    this.enricher = new Enricher(memory.pairs);
  }

  /** A request to a pod of this node went over a limit. */
  limited(note: LimitNote, pod: string): void {
    this.#notes.add(note, pod);
  }

  /** What came since the last call; undefined: nothing. */
  flush(): GuardTold | undefined {
    const limited = this.#notes.flush();
    const enriched = this.enricher.flush();
    return limited === undefined && enriched === undefined ? undefined : { limited, enriched };
  }
}
