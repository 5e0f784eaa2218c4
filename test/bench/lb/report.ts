// Which balancer is best over all scenarios, and the part of docs/benchmarks.md about it; pure.
import { type ChosenAlgorithm, defaultAlgorithm } from "../../../agent/decide/balance/build-picker.ts";
import { spreadOf } from "../rows.ts";
import { type RealAlgorithm, type RealOutcome, realAlgorithms, realMeansMs, realRate } from "./real.ts";
import type { Outcome } from "./simulate.ts";

export interface Result {
  readonly scenario: string;
  /** One outcome per seed. */
  readonly outcomes: ReadonlyMap<ChosenAlgorithm, readonly Outcome[]>;
}

/** Medians over the seeds. */
export function summarise({ outcomes }: Result): Readonly<Record<string, Outcome>> {
  const median = (runs: readonly Outcome[], of: (o: Outcome) => number): number => spreadOf(runs.map(of)).median;
  return Object.fromEntries(
    [...outcomes].map(([algorithm, runs]) => [
      algorithm,
      {
        p50Ms: median(runs, (o) => o.p50Ms),
        p99Ms: median(runs, (o) => o.p99Ms),
        p999Ms: median(runs, (o) => o.p999Ms),
        failed: median(runs, (o) => o.failed),
      },
    ]),
  );
}

export interface Winner {
  readonly algorithm: string;
  /** By algorithm, 1 being the best in everything. */
  readonly scores: Readonly<Record<string, number>>;
}

/** A failed request counts as one of this many ms in the mean that a scenario is judged by: what a client waits before it gives up. */
const failedMs = 1000;

/** What a scenario costs with a balancer: its 99th percentile, and the time that failures cost a client on average. */
export const costOf = ({ p99Ms, failed }: Outcome): number => Math.min(p99Ms, failedMs) + failed * failedMs;

/** The lowest geometric mean, over all scenarios, of the cost over that of the scenario's best. */
export function best(results: readonly Result[]): Winner {
  const logs = new Map<string, number>();
  for (const result of results) {
    const entries = Object.entries(summarise(result));
    const least = Math.min(...entries.map(([, outcome]) => costOf(outcome)));
    for (const [algorithm, outcome] of entries)
      logs.set(algorithm, (logs.get(algorithm) ?? 0) + Math.log(costOf(outcome) / least) / results.length);
  }
  const scores = Object.fromEntries([...logs].map(([algorithm, log]) => [algorithm, Math.exp(log)]));
  const [first] = Object.entries(scores).sort(([, a], [, b]) => a - b);
  return { algorithm: first?.[0] ?? "", scores };
}

const cell = ({ p50Ms, p99Ms, failed }: Outcome): string => {
  const lost = failed >= 0.0005 ? `, ${(100 * failed).toFixed(failed < 0.01 ? 2 : 1)} % failed` : "";
  return `${p50Ms.toFixed(p50Ms < 100 ? 1 : 0)} / ${p99Ms.toFixed(0)}${lost}`;
};

/** The real run's table; nothing without one. */
function realLines(real: Readonly<Record<RealAlgorithm, RealOutcome>> | undefined): string[] {
  if (real === undefined) return [];
  return [
    "",
    `A real run, through the agents of the lab: four servers that take ${realMeansMs.join(", ")} ms on average and serve four requests at a time, ${realRate} requests per second, the balancer`,
    "changed by a ResiliencePolicy between the runs; latency counts from when a request was due.",
    "",
    "| balancer | p50, ms | p99, ms |",
    "| --- | --- | --- |",
    ...realAlgorithms.map((name) => `| ${name} | ${real[name].p50Ms.toFixed(1)} | ${real[name].p99Ms.toFixed(0)} |`),
  ];
}

export function sectionOf(
  results: readonly Result[],
  winner: Winner,
  seeds: number,
  real?: Readonly<Record<RealAlgorithm, RealOutcome>>,
): string[] {
  const order = Object.entries(winner.scores)
    .sort(([, a], [, b]) => a - b)
    .map(([algorithm]) => algorithm);
  const line = (cells: readonly string[]): string => `| ${cells.join(" | ")} |`;
  const verdict =
    winner.algorithm === defaultAlgorithm
      ? `\`${defaultAlgorithm}\` is the default, and best over all.`
      : `\`${winner.algorithm}\` is best over all; the default is \`${defaultAlgorithm}\`.`;
  return [
    "# Benchmarks, balancers",
    "",
    `Written by \`npm run bench:lb\`. ${verdict} Median (p50) / p99 in ms, medians of ${seeds} seeds; "failed" are errors and what took over a second.`,
    "",
    line(["scenario", ...order]),
    line(["---", ...order.map(() => "---")]),
    ...results.map((result) => {
      const summary = summarise(result);
      return line([
        result.scenario,
        ...order.map((a) => {
          const outcome = summary[a];
          return outcome === undefined ? "" : cell(outcome);
        }),
      ]);
    }),
    line(["**over all** (1 = best in everything)", ...order.map((a) => (winner.scores[a] ?? Number.NaN).toFixed(2))]),
    "",
    "The agents' own pickers, statistics and breakers in simulated time: several nodes that each know of their own requests alone, endpoints with so many workers and a line",
    "before them, requests at random times at 60 to 70 % of what the endpoints can do. Over all is the geometric mean of a scenario's cost over that of its best, cost being p99 (at most 1 s) and a",
    "second for each failed request on average. The hashing balancers keep a client at its endpoint, which is what they are for: 2,000 clients, the k-th sends in proportion to 1/k.",
    ...realLines(real),
    "",
    "![Slow start](benchmarks-lb-slow-start.svg)",
    "",
    "![Breaker](benchmarks-lb-breaker.svg)",
  ];
}
