// Exponential backoff with full jitter over its upper half, so that many agents never come back in step.
import type { Random } from "./random.ts";

export interface BackoffOptions {
  readonly baseMs: number;
  readonly maxMs: number;
  readonly factor?: number;
}
export interface Backoff {
  /** Delay before the next attempt: between half and all of min(max, base * factor^n). */
  nextMs(): number;
  /** Call after success. */
  reset(): void;
  readonly attempts: number;
}

export function createBackoff(options: BackoffOptions, random: Random): Backoff {
  const factor = options.factor ?? 2;
  let attempts = 0;
  return {
    nextMs() {
      const ceiling = Math.min(options.maxMs, options.baseMs * factor ** Math.min(attempts, 64));
      attempts += 1;
      return ceiling / 2 + (random.next() * ceiling) / 2;
    },
    reset() {
      attempts = 0;
    },
    get attempts() {
      return attempts;
    },
  };
}
