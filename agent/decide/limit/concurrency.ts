// How many requests a pod has at once, found by the gradient of its latency: while it answers as fast as it can the limit grows, when it
// slows down the limit shrinks in proportion. One slot per pod in shared words; pure: time comes in.
//
//   own words: | limit | usual latency | window began | samples | sum | most at once | (2 free) | under way, one per thread ... |
import type { ConcurrencyLimit } from "../../api/rate-limit.ts";
import { mostThreads } from "../../base/shared-slots.ts";

export const concurrencyWords = 8 + mostThreads;
const limit = 0;
const longRun = 1;
const began = 2;
const samples = 3;
const sum = 4;
const most = 5;
const underWay = 8;

/** The limit is kept in hundredths. */
const scale = 100;
/** Latencies are kept in units of 8 µs, so that a window's sum fits: at most 1,000 of at most 16 s. */
const unitMs = 0.008;
const longestUnits = 2_000_000;
const maxSamples = 1_000;
const minSamples = 10;
/** Share of a new window in the latency that is taken for usual: where it was faster, and where the limit is as low as it gets. */
const downWeight = 0.1;
const restWeight = 0.2;

/** Takes a place for a request of `thread`; false: all are taken. The limit may be passed by as many as there are threads at once. */
export function enter(words: Int32Array, at: number, thread: number, config: ConcurrencyLimit): boolean {
  const now = requestsUnderWay(words, at);
  if (now >= Math.floor(currentLimit(words, at, config))) return false;
  Atomics.add(words, at + underWay + thread, 1);
  if (now + 1 > (words[at + most] as number)) words[at + most] = now + 1;
  return true;
}

/** The request is over; `latencyMs` undefined where nothing was answered, which says nothing about the server's speed. */
export function leave(
  words: Int32Array,
  at: number,
  thread: number,
  nowMs: number,
  latencyMs: number | undefined,
  config: ConcurrencyLimit,
): void {
  if (Atomics.sub(words, at + underWay + thread, 1) <= 0) Atomics.store(words, at + underWay + thread, 0);
  if (latencyMs !== undefined && (words[at + samples] as number) < maxSamples) {
    Atomics.add(words, at + samples, 1);
    Atomics.add(words, at + sum, Math.min(longestUnits, Math.max(1, Math.round(latencyMs / unitMs))));
  }
  const now = (Math.floor(nowMs) & 0x3fffffff) + 1;
  const start = Atomics.load(words, at + began);
  const passed = start === 0 ? 0 : (now - start + 0x40000000) & 0x3fffffff;
  if (start === 0) Atomics.compareExchange(words, at + began, 0, now);
  else if (passed >= config.intervalMs && (words[at + samples] as number) >= minSamples) {
    // Whoever closes the window makes the new limit.
    if (Atomics.compareExchange(words, at + began, start, now) === start) adapt(words, at, config);
  }
}

export function requestsUnderWay(words: Int32Array, at: number): number {
  let total = 0;
  for (let i = 0; i < mostThreads; i++) total += words[at + underWay + i] as number;
  return total;
}

export function currentLimit(words: Int32Array, at: number, config: ConcurrencyLimit): number {
  const kept = words[at + limit] as number;
  return kept === 0 ? config.initial : Math.min(config.max, Math.max(config.min, kept / scale));
}

/** A thread that died had requests under way that nobody will end. */
export function forgetThread(words: Int32Array, at: number, thread: number): void {
  Atomics.store(words, at + underWay + thread, 0);
}

/**
 * Latency without a queue. Slower windows are learned only at the lowest limit, where it is not our own load that makes it slow: else a
 * lasting overload would come to look usual, and the limit would grow without end.
 */
function usual(known: number, now: number, isLowest: boolean): number {
  if (known === 0) return now;
  if (now < known) return known + downWeight * (now - known);
  return isLowest ? known + restWeight * (now - known) : known;
}

function adapt(words: Int32Array, at: number, config: ConcurrencyLimit): void {
  const count = Atomics.exchange(words, at + samples, 0);
  const total = Atomics.exchange(words, at + sum, 0);
  const atOnce = Atomics.exchange(words, at + most, 0);
  if (count === 0) return;
  const now = total / count;
  const known = words[at + longRun] as number;
  const old = currentLimit(words, at, config);
  const long = usual(known, now, old <= config.min);
  words[at + longRun] = Math.max(1, Math.round(long));
  const gradient = Math.min(1, Math.max(0.5, (config.tolerance * long) / now));
  // A limit that nobody came near says nothing about whether more would do.
  if (gradient === 1 && atOnce < old / 2) return;
  const wanted = old * gradient + Math.sqrt(old);
  const next = old * (1 - config.smoothing) + wanted * config.smoothing;
  words[at + limit] = Math.round(Math.min(config.max, Math.max(config.min, next)) * scale);
}
