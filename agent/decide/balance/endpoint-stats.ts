// What balancers know of endpoints while requests run: in flight, latency, whether one may be picked. Arrays by slot, on memory that data
// threads may share (DP-25); a row of its own per thread for what is in flight, so that the counts of one that died can be dropped.

/** Why an endpoint may not be picked: bits of its gate; 0: it may. */
export const gateBits = { breaker: 1, outlier: 2, health: 4, draining: 8 } as const;
export type GateBit = (typeof gateBits)[keyof typeof gateBits];

const defaultDecayMs = 10_000;
const noAnswerMs = 1_000;
/** Told from "nothing known". */
const leastMs = 1e-6;

export class EndpointStats {
  readonly capacity: number;
  readonly threads: number;
  readonly thread: number;
  /** By slot; 0: may be picked. */
  readonly gates: Uint8Array;
  readonly #inFlight: Int32Array;
  /** ms, 0 before anything is known; and the monotonic time it is of. */
  readonly #latency: Float64Array;
  readonly #at: Float64Array;
  /** ms in which a latency fades, by slot; 0: the default. */
  readonly #decayMs: Float32Array;
  /** Monotonic ms, set by the owner once per turn of its loop: picks take no clock. */
  nowMs = 0;

  /** `memory`: of bytesFor(capacity, threads), zeroed; shared by all threads. */
  constructor(capacity: number, { threads = 1, thread = 0, memory }: Partial<StatsOptions> = {}) {
    const buffer = memory ?? new ArrayBuffer(EndpointStats.bytesFor(capacity, threads));
    this.capacity = capacity;
    this.threads = threads;
    this.thread = thread;
    this.#latency = new Float64Array(buffer, 0, capacity);
    this.#at = new Float64Array(buffer, capacity * 8, capacity);
    this.#inFlight = new Int32Array(buffer, capacity * 16, capacity * threads);
    this.#decayMs = new Float32Array(buffer, capacity * (16 + threads * 4), capacity);
    this.gates = new Uint8Array(buffer, capacity * (20 + threads * 4), capacity);
  }
  static bytesFor(capacity: number, threads: number): number {
    return capacity * (21 + 4 * threads);
  }

  /** A slot that was given to another endpoint: nothing is known of it. `decayMs`: Balancer.decayMs. */
  reset(slot: number, decayMs = defaultDecayMs): void {
    this.#decayMs[slot] = decayMs;
    this.#latency[slot] = 0;
    this.#at[slot] = 0;
    Atomics.store(this.gates, slot, 0);
    for (let t = 0; t < this.threads; t++) Atomics.store(this.#inFlight, t * this.capacity + slot, 0);
  }
  /** Drops what a thread that died had in flight. */
  forgetThread(thread: number): void {
    this.#inFlight.fill(0, thread * this.capacity, (thread + 1) * this.capacity);
  }

  begin(slot: number): void {
    Atomics.add(this.#inFlight, this.thread * this.capacity + slot, 1);
  }
  /** Once for each begin, however the request ended. */
  end(slot: number): void {
    Atomics.sub(this.#inFlight, this.thread * this.capacity + slot, 1);
  }
  /** Requests in flight on all threads. */
  load(slot: number): number {
    let sum = this.#inFlight[slot] as number;
    if (this.threads === 1) return sum;
    for (let at = slot + this.capacity; at < this.#inFlight.length; at += this.capacity)
      sum += this.#inFlight[at] as number;
    return sum;
  }

  close(slot: number, bit: GateBit): void {
    Atomics.or(this.gates, slot, bit);
  }
  open(slot: number, bit: GateBit): void {
    Atomics.and(this.gates, slot, 0xff ^ bit);
  }

  /** A latency that was seen. Peaks count at once, better ones gradually (peak EWMA): slowness is dangerous sooner than speed helps. */
  observe(slot: number, ms: number, nowMs: number): void {
    const before = this.#latency[slot] as number;
    const sinceMs = Math.max(0, nowMs - (this.#at[slot] as number));
    const kept = Math.exp(-sinceMs / this.#decay(slot));
    this.#latency[slot] = Math.max(leastMs, ms >= before ? ms : before * kept + ms * (1 - kept));
    this.#at[slot] = nowMs;
  }
  /**
   * A try that failed, after `ms`. Whoever refuses at once would look like the fastest of all: no answer counts as `noAnswerMs`, and an
   * answer with an error doubles what is known, up to that, so that one error weighs little and nothing but errors soon everything.
   */
  observeFailure(slot: number, ms: number, hasAnswered: boolean, nowMs: number): void {
    const known = Math.max(1, this.#latency[slot] as number);
    this.observe(slot, Math.max(ms, hasAnswered ? Math.min(noAnswerMs, 2 * known) : noAnswerMs), nowMs);
  }
  /** A probe's latency counts only until requests have told more. */
  seed(slot: number, ms: number, nowMs: number): void {
    if (this.#latency[slot] !== 0) return;
    this.#latency[slot] = Math.max(leastMs, ms);
    this.#at[slot] = nowMs;
  }
  /** ms, 0 when nothing is known. Fades while nothing is seen, so that a slow endpoint is tried again. */
  latency(slot: number): number {
    const ms = this.#latency[slot] as number;
    if (ms === 0) return 0;
    const sinceMs = this.nowMs - (this.#at[slot] as number);
    return sinceMs <= 0 ? ms : ms * Math.exp(-sinceMs / this.#decay(slot));
  }
  #decay(slot: number): number {
    return this.#decayMs[slot] || defaultDecayMs;
  }
}
interface StatsOptions {
  readonly threads: number;
  readonly thread: number;
  readonly memory: ArrayBufferLike;
}
