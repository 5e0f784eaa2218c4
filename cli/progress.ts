// Signs of life of a command that takes long: silent at first, then a line at a time, to standard error.
import { type Clock, every } from "../agent/base/clock.ts";

/** Nobody asks what goes on before this; a line comes each time it has passed again. */
const EVERY_MS = 2_000;

/**
 * Waits for `work` and meanwhile says how it stands, every two seconds.
 * @param line what is still to do, in one line
 */
export async function reporting<T>(
  clock: Clock,
  work: Promise<T>,
  line: () => string,
  say: (line: string) => void,
): Promise<T> {
  const began = clock.monotonicMs();
  const stop = every(clock, EVERY_MS, () => say(`${line()} (${Math.round((clock.monotonicMs() - began) / 1_000)} s)`));
  try {
    return await work;
  } finally {
    stop();
  }
}
