// What is usual for a key: mean and deviation of its requests in an interval, learned in shared words. A key far above that is held to a
// part of its limit until the interval after it has calmed down. Pure: time comes in, memory is the caller's.
import type { RateBaseline } from "../../api/rate-limit.ts";

/** Words that a baseline takes in a slot. */
export const baselineWords = 6;
const interval = 0;
const count = 1;
const mean = 2;
const deviation = 3;
const learned = 4;
const loweredIn = 5;

/** Mean and deviation are kept as parts of a request. */
const scale = 256;
/** Share of the newest interval. */
const weight = 0.1;
const most = 2 ** 30;
const hourMs = 3_600_000;

/**
 * Counts one request at `words[at]` and tells what part of its limit the key may have: 1, or less while it is far above what is usual.
 */
export function observeRate(words: Int32Array, at: number, nowMs: number, baseline: RateBaseline): number {
  const now = Math.floor(nowMs / baseline.intervalMs) + 1;
  const last = Atomics.load(words, at + interval);
  // Whoever sees the new interval first folds the old one in.
  if (last !== now && Atomics.compareExchange(words, at + interval, last, now) === last)
    fold(words, at, baseline, now - last, last === 0);
  const requests = Atomics.add(words, at + count, 1) + 1;
  if ((words[at + learned] as number) >= baseline.learnIntervals && requests > threshold(words, at, baseline))
    Atomics.store(words, at + loweredIn, now + 1);
  return (words[at + loweredIn] as number) >= now ? baseline.limitPercent / 100 : 1;
}

/** Until when what was learned is worth its place; 0: nothing was, as of a key that came only once. */
export function keptUntilMs(words: Int32Array, at: number, nowMs: number, baseline: RateBaseline): number {
  return (words[at + learned] as number) === 0 ? 0 : nowMs + Math.min(hourMs, 20 * baseline.intervalMs);
}

/** Requests in an interval beyond which they are no longer usual. */
function threshold(words: Int32Array, at: number, baseline: RateBaseline): number {
  const usual = ((words[at + mean] as number) + baseline.deviations * (words[at + deviation] as number)) / scale;
  return Math.max(baseline.minRequests, usual);
}

function fold(words: Int32Array, at: number, baseline: RateBaseline, passed: number, isFirst: boolean): void {
  if (isFirst) return;
  const known = words[at + learned] as number;
  const seen = Atomics.exchange(words, at + count, 0);
  // A flood must not teach that floods are usual.
  const requests = known >= baseline.learnIntervals ? Math.min(seen, threshold(words, at, baseline)) : seen;
  learn(words, at, requests, known === 0);
  for (let i = 1; i < Math.min(passed, 50); i++) learn(words, at, 0, false);
  Atomics.store(words, at + learned, Math.min(known + Math.max(1, passed), most));
}

function learn(words: Int32Array, at: number, requests: number, isFirst: boolean): void {
  const value = Math.min(requests * scale, most);
  const old = words[at + mean] as number;
  const off = Math.abs(value - old);
  words[at + mean] = isFirst ? value : Math.round(old + weight * (value - old));
  words[at + deviation] = isFirst
    ? Math.round(value / 2)
    : Math.round((words[at + deviation] as number) * (1 - weight) + weight * off);
}
