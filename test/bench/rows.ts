// The measures and their goals as a table, and the arithmetic from raw samples to rows of the JSON file. Pure.
import type { Sample } from "./steps.ts";
import type { VariantName } from "./variants.ts";

export type Goal =
  | { readonly peer: VariantName; readonly op: ">=" | "<="; readonly ratio: number }
  | { readonly op: ">=" | "<="; readonly value: number };

export interface Measure {
  readonly measure: string;
  readonly unit: string;
  readonly step: string;
  /** Key of the samples. */
  readonly metric: string;
  /** The variant that stands for this project. */
  readonly subject: "ours" | "bypass";
  readonly peers: readonly VariantName[];
  readonly goal: Goal;
}

export interface Spread {
  readonly median: number;
  readonly min: number;
  readonly max: number;
}

export interface Row {
  readonly measure: string;
  readonly unit: string;
  readonly ours: number;
  readonly peers: Readonly<Record<string, number>>;
  readonly goal: Goal;
  /** ours / peer, or ours / value. */
  readonly ratio: number;
  readonly met: boolean;
  readonly rounds: Readonly<Record<string, readonly number[]>>;
  readonly spread: Readonly<Record<string, Spread>>;
  /** Threads of the processes whose memory it is, by variant (DP-34). */
  readonly threads?: Readonly<Record<string, number>>;
  readonly note?: string;
}

/** Raw samples: step -> variant -> one sample a round. */
export type Samples = ReadonlyMap<string, ReadonlyMap<VariantName, readonly Sample[]>>;

export const most = (peer: VariantName, ratio: number): Goal => ({ peer, op: "<=", ratio });
export const least = (peer: VariantName, ratio: number): Goal => ({ peer, op: ">=", ratio });
export const upTo = (value: number): Goal => ({ op: "<=", value });
export const atLeast = (value: number): Goal => ({ op: ">=", value });
const all = ["none", "envoy", "haproxy"] as const;
const proxies = ["envoy", "haproxy"] as const;
type Short = readonly [measure: string, unit: string, metric: string, goal: Goal];
const of = (
  step: string,
  peers: readonly VariantName[],
  list: readonly Short[],
  subject: "ours" | "bypass" = "ours",
): Measure[] => list.map(([measure, unit, metric, goal]) => ({ measure, unit, step, metric, subject, peers, goal }));

export const measures: readonly Measure[] = [
  ...of(
    "same-node",
    ["none"],
    [
      ["same node, direct lane: requests", "1/s", "near.requests", least("none", 0.97)],
      // "At least 0.97x" of a latency: no more than 1/0.97 of it.
      ["same node, direct lane: p99 under full load", "ms", "near.p99", most("none", 1.03)],
      ["same node, direct lane: one stream", "Gbit/s", "near.gbits", least("none", 0.97)],
    ],
  ),
  ...of(
    "same-node",
    ["none"],
    [["same node, bypass opted in: requests", "1/s", "near.requests", least("none", 1.3)]],
    "bypass",
  ),
  ...of("requests-16", proxies, [
    ["across nodes: CPU of both agents per request, 16 connections", "µs", "cpu-per-request.16", most("envoy", 0.75)],
  ]),
  ...of("requests-64", proxies, [
    ["across nodes: CPU of both agents per request, 64 connections", "µs", "cpu-per-request.64", most("envoy", 0.75)],
  ]),
  ...of("requests-16", all, [["across nodes: requests, 16 connections", "1/s", "requests.16", least("envoy", 1.25)]]),
  ...of("requests-64", all, [["across nodes: requests, 64 connections", "1/s", "requests.64", least("envoy", 1.25)]]),
  ...of("new-connections", all, [["across nodes: new connections, warm", "1/s", "new.per-second", least("envoy", 5)]]),
  ...of("new-connections", proxies, [
    ["across nodes: CPU of both agents per new connection, warm", "µs", "new.cpu", most("envoy", 0.15)],
  ]),
  ...of("storms", proxies, [
    ["2,000 connections within 1 s, cold pool: CPU of both agents", "ms", "cold.cpu", most("envoy", 0.6)],
    ["2,000 connections within 1 s, cold pool: refused", "connections", "cold.refused", upTo(0)],
    ["reconnect storm after a server restart: CPU of both agents", "ms", "restart.cpu", most("envoy", 0.6)],
    ["reconnect storm after a server restart: refused", "connections", "restart.refused", upTo(0)],
  ]),
  ...[1, 4].flatMap((n) => [
    ...of(`streams-${n}`, all, [
      [
        `across nodes: throughput, ${n === 1 ? "one stream" : "four streams"}`,
        "Gbit/s",
        `gbits.${n}`,
        least("envoy", 1.1),
      ],
    ]),
    ...of(`streams-${n}`, proxies, [
      [
        `across nodes: CPU of both agents per GB, ${n === 1 ? "one stream" : "four streams"}`,
        "s",
        `cpu-per-gb.${n}`,
        most("envoy", 0.9),
      ],
    ]),
  ]),
  ...of("rate", proxies, [["across nodes: p99 at 1,000 requests/s, over no mesh", "ms", "rate.added-p99", upTo(0.3)]]),
  ...of("memory", proxies, [
    ["agent memory, idle: RssAnon", "MB", "idle.anon", upTo(90)],
    ["agent memory, idle: RSS", "MB", "idle.rss", upTo(140)],
    ["agent memory, 1,000 idle connections more: RssAnon", "MB", "held.anon", upTo(20)],
    ["agent memory, 1,000 idle connections more: RSS", "MB", "held.rss", upTo(20)],
  ]),
  ...of(
    "workloads",
    [],
    [
      ["agent memory, 10,000 workloads known more: RssAnon", "MB", "known.anon", upTo(30)],
      ["agent memory, 10,000 workloads known more: RSS", "MB", "known.rss", upTo(30)],
    ],
  ),
];

export function spreadOf(values: readonly number[]): Spread {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const upper = sorted[middle] ?? Number.NaN;
  const lower = sorted[middle - 1] ?? upper;
  return {
    median: sorted.length % 2 === 1 ? upper : (lower + upper) / 2,
    min: sorted[0] ?? Number.NaN,
    max: sorted.at(-1) ?? Number.NaN,
  };
}

/** Median of each number over several samples. */
export function medians(samples: readonly Sample[]): Sample {
  const names = Object.keys(samples[0] ?? {});
  return Object.fromEntries(names.map((name) => [name, spreadOf(samples.map((s) => s[name] ?? Number.NaN)).median]));
}

/** Five significant digits: more would be noise in the file. */
const tidy = (n: number): number => (Number.isInteger(n) ? n : Number(n.toPrecision(5)));

const compare = (a: number, op: ">=" | "<=", b: number): boolean => (op === ">=" ? a >= b : a <= b);

/** Values of one metric per round; what is added over no mesh is the difference within the same round. */
function valuesOf(samples: Samples, step: string, variant: VariantName, metric: string): readonly number[] {
  const own = samples.get(step)?.get(variant) ?? [];
  if (metric !== "rate.added-p99") return own.flatMap((s) => (s[metric] === undefined ? [] : [s[metric]]));
  const base = samples.get(step)?.get("none") ?? [];
  return own.map((s, round) => (s["rate.p99"] ?? Number.NaN) - (base[round]?.["rate.p99"] ?? Number.NaN));
}

/** Threads by variant, of steps that counted them. */
function threadsOf(m: Measure, samples: Samples): Readonly<Record<string, number>> | undefined {
  const counted = (["ours", ...m.peers] as const).flatMap((name) => {
    const values = valuesOf(samples, m.step, name === "ours" ? m.subject : name, "threads");
    return values.length === 0 ? [] : [[name, spreadOf(values).median] as const];
  });
  return counted.length === 0 ? undefined : Object.fromEntries(counted);
}

const pairsOf = (of: Readonly<Record<string, number>>): string =>
  Object.entries(of)
    .map(([name, n]) => `${name} ${n}`)
    .join(", ");

/** One row, or undefined if the measure was not taken. */
export function rowOf(m: Measure, samples: Samples): Row | undefined {
  const mine = valuesOf(samples, m.step, m.subject, m.metric);
  if (mine.length === 0) return undefined;
  const rounds: Record<string, readonly number[]> = { ours: mine };
  for (const peer of m.peers) rounds[peer] = valuesOf(samples, m.step, peer, m.metric);
  const spread = Object.fromEntries(Object.entries(rounds).map(([name, values]) => [name, spreadOf(values)]));
  const median = (name: string): number => spread[name]?.median ?? Number.NaN;
  const ours = median("ours");
  const { goal } = m;
  const threads = threadsOf(m, samples);
  const ratio = "peer" in goal ? ours / median(goal.peer) : goal.value === 0 ? ours : ours / goal.value;
  return {
    measure: m.measure,
    unit: m.unit,
    ours: tidy(ours),
    peers: Object.fromEntries(m.peers.map((peer) => [peer, tidy(median(peer))])),
    goal,
    ratio: tidy(ratio),
    met: "peer" in goal ? compare(ratio, goal.op, goal.ratio) : compare(ours, goal.op, goal.value),
    rounds: Object.fromEntries(Object.entries(rounds).map(([name, values]) => [name, values.map(tidy)])),
    spread: Object.fromEntries(
      Object.entries(spread).map(([name, s]) => [name, { median: tidy(s.median), min: tidy(s.min), max: tidy(s.max) }]),
    ),
    ...(threads === undefined ? {} : { threads, note: `threads: ${pairsOf(threads)}` }),
  };
}
