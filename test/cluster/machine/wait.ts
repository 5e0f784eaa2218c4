// Waiting for something of a cluster that is being brought up: progress while it lasts, and an end as soon as it cannot come any more.
import { setTimeout as sleep } from "node:timers/promises";

export interface Waiting {
  readonly what: string;
  readonly timeoutMs: number;
  readonly say: (line: string) => void;
  /** Throws as soon as it makes no sense to wait on, e.g. because a program has ended. */
  readonly check?: () => void;
  /** Ends the error's sentence: where to look. */
  readonly hint?: () => string;
}

const EVERY_MS = 50;
const SAY_EVERY_MS = 5_000;
/** Of what was seen last, a line of progress has the beginning; an error has it whole. */
const SEEN_LENGTH = 120;

/** Asks until the answer is true; what it throws counts as not yet. @throws Error saying what was waited for and what was seen last */
export async function until(waiting: Waiting, ask: () => Promise<boolean>): Promise<void> {
  const began = performance.now();
  let said = 0;
  let seen = "";
  for (;;) {
    waiting.check?.();
    try {
      if (await ask()) return;
      seen = "";
    } catch (error) {
      seen = `; last: ${(error as Error).message}`;
    }
    const passed = performance.now() - began;
    if (passed > waiting.timeoutMs)
      throw new Error(
        `${waiting.what}: not after ${Math.round(waiting.timeoutMs / 1000)} s${seen}${waiting.hint === undefined ? "" : `; ${waiting.hint()}`}`,
      );
    if (passed - said > SAY_EVERY_MS) {
      said = passed;
      waiting.say(`waiting: ${waiting.what} (${Math.round(passed / 1000)} s)${seen.slice(0, SEEN_LENGTH)}`);
    }
    await sleep(EVERY_MS);
  }
}
