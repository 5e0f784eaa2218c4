// `npm run bench:lb`: every balancer on simulated services, with seeds, and which one is the default by it; one real run in the lab; traces of
// slow start and of a breaker as plots. Writes rows (JSON), its part of docs/benchmarks.md and the plots. `--quick`: one seed, nothing written but the rows.
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { algorithms } from "../../agent/api/http-policy.ts";
import { type ChosenAlgorithm, defaultAlgorithm } from "../../agent/decide/balance/build-picker.ts";
import { drawLines } from "./lb/line-plot.ts";
import { realRun } from "./lb/real.ts";
import { best, type Result, sectionOf, summarise } from "./lb/report.ts";
import { scenarios } from "./lb/scenarios.ts";
import { type Outcome, simulate } from "./lb/simulate.ts";
import { breakerTrace, FAILS, SLOW_START_MS, slowStartTrace } from "./lb/traces.ts";
import { readOptions, runBench, say } from "./options.ts";
import { PROJECT } from "./peers.ts";
import { withSection } from "./report.ts";
import { removeLeftovers } from "./topology.ts";

const names = scenarios.map((s) => s.name);
const usage = `npm run bench:lb -- [--json FILE] [--rounds N] [--quick]
--rounds: seeds a scenario is run with, 5 if left out`;
const everyAlgorithm = algorithms.filter((a): a is ChosenAlgorithm => a !== "");

function plots(): Readonly<Record<string, string>> {
  const { lines, states } = breakerTrace();
  const shades = { closed: "#eaf4ee", open: "#f7e3de", half_open: "#f6efd8", probing: "#f6efd8" } as const;
  const shown = ["round_robin", "ewma", "least_request", "maglev"] as const;
  return {
    "benchmarks-lb-slow-start.svg": drawLines({
      title: "Slow start: share of requests of the fourth of four endpoints, which joins after 5 s",
      y: "percent of requests",
      lines: shown.map((algorithm) => slowStartTrace(algorithm)),
      bands: [{ fromS: 5, toS: 5 + SLOW_START_MS / 1000, label: "slow start, 10 s", colour: "#f1f5fa" }],
    }),
    "benchmarks-lb-breaker.svg": drawLines({
      title: `Breaker: one of four endpoints fails from ${FAILS.fromS} s to ${FAILS.toS} s`,
      y: "per second of 400 requests; behind it the breaker's state",
      lines,
      bands: states.map(({ fromS, toS, state }) => ({ fromS, toS, label: state, colour: shades[state] })),
    }),
  };
}

async function main(): Promise<void> {
  const o = readOptions(usage, names);
  const seeds = o.quick ? 1 : process.argv.includes("--rounds") ? o.rounds : 5;
  const results: Result[] = scenarios
    .filter(({ name }) => o.only === undefined || o.only.includes(name))
    .map((scenario) => {
      const outcomes = new Map<ChosenAlgorithm, readonly Outcome[]>();
      for (const algorithm of everyAlgorithm) {
        const runs = Array.from({ length: seeds }, (_, seed) => simulate(scenario, algorithm, 1000 + seed));
        outcomes.set(algorithm, runs);
      }
      const result = { scenario: scenario.name, outcomes };
      for (const [algorithm, outcome] of Object.entries(summarise(result)))
        say(
          `${scenario.name}: ${algorithm} p50 ${outcome.p50Ms.toFixed(1)} p99 ${outcome.p99Ms.toFixed(0)} p999 ${outcome.p999Ms.toFixed(0)} ms, failed ${(100 * outcome.failed).toFixed(2)} %`,
        );
      return result;
    });
  const winner = best(results);
  say(`best over all: ${winner.algorithm}; the default is ${defaultAlgorithm}`);
  const withReal = !o.quick && o.only === undefined;
  if (withReal && process.getuid?.() !== 0) say("no real run: it needs root (network namespaces and eBPF)");
  const canReal = withReal && process.getuid?.() === 0;
  if (canReal) await removeLeftovers();
  const real = canReal ? await realRun(5, say) : undefined;
  if (o.json !== undefined) {
    const rows = results.map(({ scenario, outcomes }) => ({ scenario, outcomes: Object.fromEntries(outcomes) }));
    writeFileSync(
      o.json,
      `${JSON.stringify({ rows, scores: winner.scores, best: winner.algorithm, real }, null, 1)}\n`,
    );
  }
  if (o.quick || o.only !== undefined) return;
  const page = join(PROJECT, "docs/benchmarks.md");
  const previous = existsSync(page) ? readFileSync(page, "utf8") : "";
  writeFileSync(page, withSection(previous, "balancers", sectionOf(results, winner, seeds, real)));
  for (const [file, text] of Object.entries(plots())) writeFileSync(join(PROJECT, "docs", file), text);
}

await runBench("bench:lb", main);
