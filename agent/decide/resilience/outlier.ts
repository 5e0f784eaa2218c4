// Outlier detection over the endpoints of one service as one source namespace sees them (DP-26): who fails or lags behind the others is
// not picked for a while. Counts are per interval, over all data threads; the clock is an argument.
import type { Outlier } from "../../api/http-policy.ts";
import { type EndpointStats, gateBits } from "../balance/endpoint-stats.ts";

export type EjectionReason = "consecutive_errors" | "success_rate" | "latency";
export interface Ejection {
  readonly slot: number;
  readonly reason: EjectionReason;
  readonly forMs: number;
}

const wordsEach = 6;
const row = 0;
const requests = 1;
const failures = 2;
/** In eighths of a ms. */
const latency = 3;
/** Times ejected, less one per interval of good behaviour. */
const ejections = 4;
const standing = 5;
// Of `standing`. Between the two others while an ejection is being written down.
const isIn = 0;
const isOut = 1;
const isLeaving = 2;
const latencyUnits = 8;

/** What detectors have counted of endpoints, by slot, on memory that data threads may share (DP-25). */
export class OutlierCounts {
  readonly capacity: number;
  /** Monotonic ms at which an ejection ends. */
  readonly until: Float64Array;
  readonly #words: Int32Array;

  /** `memory`: of bytesFor(capacity), zeroed; shared by all threads that share the gates. */
  constructor(capacity: number, memory: ArrayBufferLike = new ArrayBuffer(OutlierCounts.bytesFor(capacity))) {
    this.capacity = capacity;
    this.until = new Float64Array(memory, 0, capacity);
    this.#words = new Int32Array(memory, capacity * 8, capacity * wordsEach);
  }
  static bytesFor(capacity: number): number {
    return capacity * (8 + 4 * wordsEach);
  }

  get(slot: number, word: number): number {
    return Atomics.load(this.#words, slot * wordsEach + word);
  }
  set(slot: number, word: number, value: number): void {
    Atomics.store(this.#words, slot * wordsEach + word, value);
  }
  /** The sum. */
  add(slot: number, word: number, more: number): number {
    return Atomics.add(this.#words, slot * wordsEach + word, more) + more;
  }
  /** Whether this thread changed it. */
  swap(slot: number, word: number, from: number, to: number): boolean {
    return Atomics.compareExchange(this.#words, slot * wordsEach + word, from, to) === from;
  }
  /** Forgets all of a slot. */
  reset(slot: number): void {
    this.#words.fill(0, slot * wordsEach, (slot + 1) * wordsEach);
  }
  /** A thread has died: what it was just writing down does not hold. */
  repair(): void {
    for (let slot = 0; slot < this.capacity; slot++) this.swap(slot, standing, isLeaving, isIn);
  }
}

export class OutlierDetector {
  readonly #stats: EndpointStats;
  readonly #counts: OutlierCounts;
  /** When endpoints were last compared, monotonic ms (its lower 30 bits). */
  readonly #swept: Int32Array;
  #policy: Outlier;
  #slots: ReadonlySet<number> = new Set();

  /** `counts` and `swept` (one element): shared by the detectors of all threads for the same endpoints. */
  constructor(
    policy: Outlier,
    slots: readonly number[],
    stats: EndpointStats,
    nowMs: number,
    counts = new OutlierCounts(stats.capacity),
    swept: Int32Array = new Int32Array(1),
  ) {
    this.#policy = policy;
    this.#stats = stats;
    this.#counts = counts;
    this.#swept = swept;
    Atomics.compareExchange(swept, 0, 0, timeOf(nowMs));
    this.setEndpoints(slots);
  }

  /** What is known of endpoints that stay is kept. */
  setEndpoints(slots: readonly number[]): void {
    const now = new Set(slots);
    for (const slot of this.#slots) if (!now.has(slot)) this.#readmit(slot);
    this.#slots = now;
  }
  setPolicy(policy: Outlier): void {
    this.#policy = policy;
  }
  get ejected(): number {
    let count = 0;
    for (const slot of this.#slots) if (this.#counts.get(slot, standing) !== isIn) count++;
    return count;
  }

  /** The outcome of one try. Errors in a row eject at once. */
  report(slot: number, isFailure: boolean, latencyMs: number, nowMs: number): Ejection | undefined {
    if (!this.#slots.has(slot)) return undefined;
    const counts = this.#counts;
    counts.add(slot, requests, 1);
    counts.add(slot, latency, Math.round(latencyMs * latencyUnits));
    if (!isFailure) {
      if (counts.get(slot, row) !== 0) counts.set(slot, row, 0);
      return undefined;
    }
    counts.add(slot, failures, 1);
    const inARow = counts.add(slot, row, 1);
    const limit = this.#policy.consecutiveErrors;
    return limit > 0 && inARow >= limit ? this.#eject(slot, "consecutive_errors", nowMs) : undefined;
  }

  /** Called every second or so: ends ejections, and once per interval one of all threads compares the endpoints with each other. */
  sweep(nowMs: number): readonly Ejection[] {
    const ejected = this.#isDue(nowMs) ? this.#compare(nowMs) : [];
    for (const slot of this.#slots)
      if (this.#counts.get(slot, standing) === isOut && nowMs >= (this.#counts.until[slot] as number))
        this.#readmit(slot);
    return ejected;
  }

  #isDue(nowMs: number): boolean {
    const last = Atomics.load(this.#swept, 0);
    const now = timeOf(nowMs);
    // The clock's lower bits begin anew every 12 days.
    if (((now - last) & timeMask) < this.#policy.intervalMs) return false;
    return Atomics.compareExchange(this.#swept, 0, last, now) === last;
  }

  #readmit(slot: number): void {
    if (!this.#counts.swap(slot, standing, isOut, isIn)) return;
    this.#counts.set(slot, row, 0);
    this.#stats.open(slot, gateBits.outlier);
  }

  #compare(nowMs: number): readonly Ejection[] {
    const counts = this.#counts;
    const ejected = [...this.#byRate(nowMs), ...this.#byLatency(nowMs)];
    for (const slot of this.#slots) {
      if (counts.get(slot, standing) === isIn && counts.get(slot, ejections) > 0) counts.add(slot, ejections, -1);
      for (const word of [requests, failures, latency]) counts.set(slot, word, 0);
    }
    return ejected;
  }

  /** Endpoints with enough requests to be compared; none if there are too few of them. */
  #compared(): readonly number[] {
    const { minRequests, minEndpoints } = this.#policy;
    const all = [...this.#slots].filter(
      (slot) => this.#counts.get(slot, standing) === isIn && this.#counts.get(slot, requests) >= minRequests,
    );
    return all.length < minEndpoints ? [] : all;
  }
  #failureRate(slot: number): number {
    return this.#counts.get(slot, failures) / this.#counts.get(slot, requests);
  }
  #meanLatency(slot: number): number {
    return this.#counts.get(slot, latency) / this.#counts.get(slot, requests);
  }

  #byRate(nowMs: number): Ejection[] {
    const factor = this.#policy.successRateStdev;
    if (factor === 0) return [];
    const compared = this.#compared();
    const rates = compared.map((slot) => 1 - this.#failureRate(slot));
    const mean = rates.reduce((a, b) => a + b, 0) / rates.length;
    const deviation = Math.sqrt(rates.reduce((sum, rate) => sum + (rate - mean) ** 2, 0) / rates.length);
    const threshold = mean - factor * deviation;
    const found = compared.filter((_, i) => (rates[i] as number) < threshold);
    return this.#ejectWorst(found, (slot) => this.#failureRate(slot), "success_rate", nowMs);
  }

  #byLatency(nowMs: number): Ejection[] {
    const factor = this.#policy.latencyFactor;
    if (factor === 0) return [];
    const compared = this.#compared();
    const sorted = compared.map((slot) => this.#meanLatency(slot)).sort((a, b) => a - b);
    const median = sorted[Math.floor(sorted.length / 2)] ?? 0;
    const found = compared.filter((slot) => this.#meanLatency(slot) > median * factor);
    return this.#ejectWorst(found, (slot) => this.#meanLatency(slot), "latency", nowMs);
  }

  #ejectWorst(
    found: readonly number[],
    badness: (slot: number) => number,
    reason: EjectionReason,
    nowMs: number,
  ): Ejection[] {
    const worst = [...found].sort((a, b) => badness(b) - badness(a));
    return worst.flatMap((slot) => this.#eject(slot, reason, nowMs) ?? []);
  }

  /** Unless so many are ejected already; one may always be, but never the last. Of two threads that go beyond it at once both go back. */
  #eject(slot: number, reason: EjectionReason, nowMs: number): Ejection | undefined {
    const counts = this.#counts;
    if (!counts.swap(slot, standing, isIn, isLeaving)) return undefined;
    const total = this.#slots.size;
    const most = Math.max(1, Math.floor((total * this.#policy.maxEjectionPercent) / 100));
    const ejected = this.ejected;
    if (ejected > most || ejected >= total) {
      counts.set(slot, standing, isIn);
      return undefined;
    }
    const forMs = Math.min(this.#policy.baseEjectionMs * counts.add(slot, ejections, 1), this.#policy.maxEjectionMs);
    counts.until[slot] = nowMs + forMs;
    counts.set(slot, row, 0);
    this.#stats.close(slot, gateBits.outlier);
    counts.set(slot, standing, isOut);
    return { slot, reason, forMs };
  }
}

const timeMask = 0x3fff_ffff;
/** Never 0, which says that nothing was compared yet. */
const timeOf = (nowMs: number): number => (Math.floor(nowMs) & timeMask) + 1;
