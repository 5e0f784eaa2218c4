// Outlier detection over the endpoints of one service as one source namespace sees them (DP-26): who fails or lags behind the others is
// not picked for a while. Counts are per interval; the clock is an argument.
import type { Outlier } from "../../api/http-policy.ts";
import { type EndpointStats, gateBits } from "../balance/endpoint-stats.ts";

export type EjectionReason = "consecutive_errors" | "success_rate" | "latency";
export interface Ejection {
  readonly slot: number;
  readonly reason: EjectionReason;
  readonly forMs: number;
}

class Watched {
  readonly slot: number;
  /** Failures in a row. */
  row = 0;
  requests = 0;
  failures = 0;
  latencySumMs = 0;
  /** Times ejected, less one per interval of good behaviour. */
  ejections = 0;
  /** Monotonic ms; 0: not ejected. */
  ejectedUntilMs = 0;
  constructor(slot: number) {
    this.slot = slot;
  }
}

export class OutlierDetector {
  readonly #stats: EndpointStats;
  #policy: Outlier;
  #watched = new Map<number, Watched>();
  #sweptMs: number;
  #ejected = 0;

  constructor(policy: Outlier, slots: readonly number[], stats: EndpointStats, nowMs: number) {
    this.#policy = policy;
    this.#stats = stats;
    this.#sweptMs = nowMs;
    this.setEndpoints(slots);
  }

  /** What is known of endpoints that stay is kept. */
  setEndpoints(slots: readonly number[]): void {
    const before = this.#watched;
    this.#watched = new Map(slots.map((slot) => [slot, before.get(slot) ?? new Watched(slot)]));
    for (const [slot, watched] of before) {
      if (!this.#watched.has(slot) && watched.ejectedUntilMs > 0) this.#stats.open(slot, gateBits.outlier);
    }
    this.#ejected = [...this.#watched.values()].filter((watched) => watched.ejectedUntilMs > 0).length;
  }
  setPolicy(policy: Outlier): void {
    this.#policy = policy;
  }
  get ejected(): number {
    return this.#ejected;
  }

  /** The outcome of one try. Errors in a row eject at once. */
  report(slot: number, isFailure: boolean, latencyMs: number, nowMs: number): Ejection | undefined {
    const watched = this.#watched.get(slot);
    if (watched === undefined) return undefined;
    watched.requests++;
    watched.latencySumMs += latencyMs;
    if (!isFailure) {
      watched.row = 0;
      return undefined;
    }
    watched.failures++;
    watched.row++;
    const limit = this.#policy.consecutiveErrors;
    return limit > 0 && watched.row >= limit ? this.#eject(watched, "consecutive_errors", nowMs) : undefined;
  }

  /** Called every second or so: ends ejections, and once per interval compares the endpoints with each other. */
  sweep(nowMs: number): readonly Ejection[] {
    const ejections = nowMs - this.#sweptMs < this.#policy.intervalMs ? [] : this.#compare(nowMs);
    for (const watched of this.#watched.values()) {
      if (watched.ejectedUntilMs === 0 || nowMs < watched.ejectedUntilMs) continue;
      watched.ejectedUntilMs = 0;
      watched.row = 0;
      this.#ejected--;
      this.#stats.open(watched.slot, gateBits.outlier);
    }
    return ejections;
  }

  #compare(nowMs: number): readonly Ejection[] {
    this.#sweptMs = nowMs;
    const ejections = [...this.#byRate(nowMs), ...this.#byLatency(nowMs)];
    for (const watched of this.#watched.values()) {
      if (watched.ejectedUntilMs === 0 && watched.ejections > 0) watched.ejections--;
      watched.requests = 0;
      watched.failures = 0;
      watched.latencySumMs = 0;
    }
    return ejections;
  }

  /** Endpoints with enough requests to be compared; none if there are too few of them. */
  #compared(): readonly Watched[] {
    const { minRequests, minEndpoints } = this.#policy;
    const all = [...this.#watched.values()].filter((w) => w.ejectedUntilMs === 0 && w.requests >= minRequests);
    return all.length < minEndpoints ? [] : all;
  }

  #byRate(nowMs: number): Ejection[] {
    const factor = this.#policy.successRateStdev;
    if (factor === 0) return [];
    const compared = this.#compared();
    const rates = compared.map((watched) => 1 - watched.failures / watched.requests);
    const mean = rates.reduce((a, b) => a + b, 0) / rates.length;
    const deviation = Math.sqrt(rates.reduce((sum, rate) => sum + (rate - mean) ** 2, 0) / rates.length);
    const threshold = mean - factor * deviation;
    return this.#ejectWorst(
      compared.filter((_, i) => (rates[i] as number) < threshold),
      (watched) => watched.failures / watched.requests,
      "success_rate",
      nowMs,
    );
  }

  #byLatency(nowMs: number): Ejection[] {
    const factor = this.#policy.latencyFactor;
    if (factor === 0) return [];
    const compared = this.#compared();
    const mean = (watched: Watched): number => watched.latencySumMs / watched.requests;
    const sorted = compared.map(mean).sort((a, b) => a - b);
    const median = sorted[Math.floor(sorted.length / 2)] ?? 0;
    return this.#ejectWorst(
      compared.filter((watched) => mean(watched) > median * factor),
      mean,
      "latency",
      nowMs,
    );
  }

  #ejectWorst(
    found: readonly Watched[],
    badness: (watched: Watched) => number,
    reason: EjectionReason,
    nowMs: number,
  ): Ejection[] {
    const worst = [...found].sort((a, b) => badness(b) - badness(a));
    return worst.flatMap((watched) => this.#eject(watched, reason, nowMs) ?? []);
  }

  /** Unless so many are ejected already; one may always be, but never the last. */
  #eject(watched: Watched, reason: EjectionReason, nowMs: number): Ejection | undefined {
    if (watched.ejectedUntilMs > 0) return undefined;
    const total = this.#watched.size;
    const most = Math.max(1, Math.floor((total * this.#policy.maxEjectionPercent) / 100));
    if (this.#ejected >= most || this.#ejected + 1 >= total) return undefined;
    watched.ejections++;
    const forMs = Math.min(this.#policy.baseEjectionMs * watched.ejections, this.#policy.maxEjectionMs);
    watched.ejectedUntilMs = nowMs + forMs;
    watched.row = 0;
    this.#ejected++;
    this.#stats.close(watched.slot, gateBits.outlier);
    return { slot: watched.slot, reason, forMs };
  }
}
