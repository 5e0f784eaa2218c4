// At most so many requests a second, after a burst. One place for all that is written, so that no kind starves the API server of the others.
import type { Clock } from "../../agent/base/clock.ts";

export interface PaceOptions {
  readonly perSecond: number;
  readonly burst: number;
}

export class Pace {
  readonly #options: PaceOptions;
  readonly #clock: Clock;
  /** Tokens at `#atMs`; below 0 for those who wait already. */
  #tokens: number;
  #atMs: number;

  constructor(options: PaceOptions, clock: Clock) {
    this.#options = options;
    this.#clock = clock;
    this.#tokens = options.burst;
    this.#atMs = clock.monotonicMs();
  }

  /** Takes a token, if need be of the future: how long the caller has to wait for it. */
  takeMs(): number {
    this.#refill();
    this.#tokens -= 1;
    return this.#tokens >= 0 ? 0 : (-this.#tokens * 1000) / this.#options.perSecond;
  }
  /** Takes a token if there is one now. */
  tryTake(): boolean {
    this.#refill();
    if (this.#tokens < 1) return false;
    this.#tokens -= 1;
    return true;
  }

  #refill(): void {
    const nowMs = this.#clock.monotonicMs();
    const { perSecond, burst } = this.#options;
    this.#tokens = Math.min(burst, this.#tokens + ((nowMs - this.#atMs) * perSecond) / 1000);
    this.#atMs = nowMs;
  }
}
