// What slow start and a breaker do over time, from the real parts in simulated time: rows for a plot.
import { defaultBreaker, defaultPolicy } from "../../../agent/api/http-policy.ts";
import { seededRandom } from "../../../agent/base/random.ts";
import { buildPicker, type ChosenAlgorithm, nextWarmingMs } from "../../../agent/decide/balance/build-picker.ts";
import { EndpointStats } from "../../../agent/decide/balance/endpoint-stats.ts";
import type { PickEndpoint } from "../../../agent/decide/balance/picker.ts";
import { type BreakerState, Breakers } from "../../../agent/decide/resilience/breaker.ts";
import { Timeline } from "./timeline.ts";

/** Values over time, s. */
export interface Line {
  readonly name: string;
  readonly points: readonly (readonly [seconds: number, value: number])[];
}

const RATE = 2000;
const SERVICE_MS = 5;
const JOINS_MS = 5_000;
export const SLOW_START_MS = 10_000;

/** Share of requests that the fourth of four endpoints gets, which joins after 5 s and warms up for 10 s. */
export function slowStartTrace(algorithm: ChosenAlgorithm, seconds = 20, everyMs = 500): Line {
  const random = seededRandom(3);
  const stats = new EndpointStats(4);
  const balancer = { ...defaultPolicy.balancer, algorithm, slowStartMs: SLOW_START_MS };
  const cursor = new Int32Array(1);
  const all = [0, 1, 2, 3].map((slot): PickEndpoint => {
    const readySinceMs = slot === 3 ? JOINS_MS : -1e9;
    return { id: `10.0.0.${slot}:80`, weight: 1, slot, tier: 0, readySinceMs };
  });
  const pickerAt = (nowMs: number) => {
    const policy = { ...defaultPolicy, balancer };
    const set = nowMs < JOINS_MS ? all.slice(0, 3) : all;
    const changesMs = nowMs < JOINS_MS ? JOINS_MS : (nextWarmingMs(set, balancer, nowMs) ?? Number.POSITIVE_INFINITY);
    return { picker: buildPicker(set, { policy, serviceDefault: "", stats, nowMs, cursor }), changesMs };
  };
  let { picker, changesMs } = pickerAt(0);
  const ends = new Timeline<number>();
  let due = ends.next();
  const points: [number, number][] = [];
  let [got, sent] = [0, 0];
  for (let nowMs = 0; nowMs < seconds * 1000; nowMs += 1000 / RATE) {
    if (nowMs >= changesMs) ({ picker, changesMs } = pickerAt(nowMs));
    for (due ??= ends.next(); due !== undefined && due.at <= nowMs; due = ends.next()) {
      stats.end(due.what);
      stats.observe(due.what, SERVICE_MS, due.at);
    }
    stats.nowMs = nowMs;
    const picked = picker.pick(random, random.below(2 ** 32), -1);
    stats.begin(picked);
    ends.add(nowMs + SERVICE_MS, picked);
    sent++;
    if (picked === 3) got++;
    if (sent < (everyMs / 1000) * RATE) continue;
    points.push([(nowMs + 1) / 1000 - everyMs / 2000, (100 * got) / sent]);
    [got, sent] = [0, 0];
  }
  return { name: algorithm, points };
}

export interface BreakerTrace {
  /** Per second: requests that the failing endpoint got, and how many of all failed. */
  readonly lines: readonly Line[];
  readonly states: readonly { readonly fromS: number; readonly toS: number; readonly state: BreakerState }[];
}
export const FAILS = { fromS: 5, toS: 17 } as const;

/** One of four endpoints fails from 5 s to 17 s; breakers with their defaults, 400 requests per second, no retries. */
export function breakerTrace(seconds = 30, everyMs = 250): BreakerTrace {
  const random = seededRandom(5);
  const stats = new EndpointStats(4);
  const breakers = new Breakers(stats);
  const set = [0, 1, 2, 3].map((slot) => ({ id: `10.0.0.${slot}:80`, weight: 1, slot, tier: 0, readySinceMs: -1e9 }));
  const policy = { ...defaultPolicy, balancer: { ...defaultPolicy.balancer, algorithm: "round_robin" as const } };
  const cursor = new Int32Array(1);
  const picker = buildPicker(set, { policy, serviceDefault: "", stats, nowMs: 0, cursor });
  const toIt: [number, number][] = [];
  const failures: [number, number][] = [];
  const states: { fromS: number; toS: number; state: BreakerState }[] = [];
  let [got, failed] = [0, 0];
  const stepMs = 2.5;
  const perS = 1000 / everyMs;
  for (let nowMs = stepMs; nowMs <= seconds * 1000; nowMs += stepMs) {
    if (nowMs % 50 === 0) breakers.wake([0, 1, 2, 3], nowMs);
    let picked = picker.pick(random, 0, -1);
    if (!breakers.admit(picked, defaultBreaker, nowMs)) picked = picker.pick(random, 0, picked);
    const fails = picked === 0 && nowMs >= FAILS.fromS * 1000 && nowMs < FAILS.toS * 1000;
    breakers.report(picked, fails, defaultBreaker, nowMs);
    if (picked === 0) got++;
    if (fails) failed++;
    const state = breakers.state(0);
    const last = states.at(-1);
    if (last?.state === state) last.toS = nowMs / 1000;
    else states.push({ fromS: last?.toS ?? 0, toS: nowMs / 1000, state });
    if (nowMs % everyMs !== 0) continue;
    toIt.push([(nowMs - everyMs / 2) / 1000, got * perS]);
    failures.push([(nowMs - everyMs / 2) / 1000, failed * perS]);
    [got, failed] = [0, 0];
  }
  const lines = [
    { name: "requests to the failing endpoint", points: toIt },
    { name: "failed requests", points: failures },
  ];
  return { lines, states };
}
