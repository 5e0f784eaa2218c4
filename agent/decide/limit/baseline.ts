// What is usual for a key: mean and deviation of its requests in an interval, learned in shared words. A key far above that is held to a
// part of its limit until the interval after it has calmed down. Pure: time comes in, memory is the caller's.
import type { RateBaseline } from "../../api/rate-limit.ts";

/** Words that a baseline takes in a slot. */
export const baselineWords = 8;
const interval = 0;
const count = 1;
const mean = 2;
const deviation = 3;
const learned = 4;
const loweredIn = 5;
/** When it was last asked, s; and the length of an interval, s rounded up. */
const seen = 6;
const period = 7;
/** What was learned of a key is kept for this long without requests, s. */
const keptS = 900;

/** Mean and deviation are kept as parts of a request. */
const scale = 256;
/** Share of the newest interval. */
const weight = 0.1;
const most = 2 ** 30;

/**
 * Counts one request at `words[at]` and tells whether the key is held to a part of its limit: it is far above what is usual for it.
 */
export function isFarAbove(words: Int32Array, at: number, nowMs: number, baseline: RateBaseline): boolean {
  const now = Math.floor(nowMs / baseline.intervalMs) + 1;
  const last = Atomics.load(words, at + interval);
  // Whoever sees the new interval first folds the old one in.
  if (last !== now && Atomics.compareExchange(words, at + interval, last, now) === last)
    fold(words, at, baseline, now - last, last === 0);
  words[at + seen] = Math.floor(nowMs / 1000);
  words[at + period] = Math.ceil(baseline.intervalMs / 1000);
  const requests = Atomics.add(words, at + count, 1) + 1;
  if ((words[at + learned] as number) >= baseline.learnIntervals && requests > threshold(words, at, baseline))
    Atomics.store(words, at + loweredIn, now + 1);
  return (words[at + loweredIn] as number) >= now;
}

/** Whether it may make room for another key: it came in one interval only, or not for long. */
export function isForgettable(words: Int32Array, at: number, nowMs: number): boolean {
  const seenS = words[at + seen] as number;
  const isLearned = (words[at + learned] as number) > 0;
  return nowMs / 1000 - seenS > (isLearned ? keptS : (words[at + period] as number));
}

/** Requests in an interval beyond which they are no longer usual. */
function threshold(words: Int32Array, at: number, baseline: RateBaseline): number {
  const usual = ((words[at + mean] as number) + baseline.deviations * (words[at + deviation] as number)) / scale;
  return Math.max(baseline.minRequests, usual);
}

function fold(words: Int32Array, at: number, baseline: RateBaseline, passed: number, isFirst: boolean): void {
  if (isFirst) return;
  const known = words[at + learned] as number;
  const counted = Atomics.exchange(words, at + count, 0);
  // A flood must not teach that floods are usual.
  const requests = known >= baseline.learnIntervals ? Math.min(counted, threshold(words, at, baseline)) : counted;
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
