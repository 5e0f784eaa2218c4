// `npm run bench:l7`: measures no mesh, Envoy, nginx and ours as HTTP proxies in interleaved rounds; writes rows (JSON), its part of
// docs/benchmarks.md and a plot.
import { execFile } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { interleave } from "./interleave.ts";
import { measures, refusedRow } from "./l7/measures.ts";
import { sectionOf } from "./l7/report.ts";
import { steps } from "./l7/steps.ts";
import { type Built, startBare, startMesh } from "./l7/variants.ts";
import { startWatched } from "./l7/watched.ts";
import { type Options, readOptions, runBench, say, tellRows } from "./options.ts";
import { PROJECT } from "./peers.ts";
import { drawPlot } from "./plot.ts";
import { machineFacts, withSection } from "./report.ts";
import { type Row, rowOf, spreadOf, upTo } from "./rows.ts";
import { removeLeftovers } from "./topology.ts";

const decision = "decision";
const names = [...steps.map((s) => s.name), decision];
const usage = `npm run bench:l7 -- [--json FILE] [--rounds N] [--seconds S] [--only STEP[,STEP]] [--quick]
steps: ${names.join(", ")}`;

interface DecisionRow {
  readonly measure: string;
  readonly ratio?: number;
  readonly raw?: readonly (readonly [few: number, many: number])[];
}

/** What a decision costs among 10,000 routes, over what it costs among 10: `bench:decision`, in a process of its own. */
async function decisionRows(rounds: number): Promise<Row[]> {
  const dir = mkdtempSync(join(tmpdir(), "fairlead-bench-"));
  try {
    const json = join(dir, "rows.json");
    const script = join(PROJECT, "test/bench/decision.ts");
    await promisify(execFile)(process.execPath, [
      ...["--disable-warning=ExperimentalWarning", script, "--json", json, "--rounds", String(rounds)],
    ]);
    const rows = JSON.parse(readFileSync(json, "utf8")) as readonly DecisionRow[];
    return rows.flatMap(({ measure, ratio, raw }) => {
      if (ratio === undefined || raw === undefined) return [];
      const each = raw.map(([few, many]) => many / few);
      return [
        {
          measure: `decision, 10,000 routes over 10: ${measure}`,
          unit: "x",
          ours: Number(ratio.toPrecision(4)),
          peers: {},
          goal: upTo(1.5),
          ratio: Number((ratio / 1.5).toPrecision(4)),
          met: ratio <= 1.5,
          rounds: { ours: each.map((n) => Number(n.toPrecision(4))) },
          spread: { ours: { ...spreadOf(each), median: ratio } },
        },
      ];
    });
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

function write(o: Options, rows: readonly Row[], facts: ReturnType<typeof machineFacts>): void {
  tellRows(rows, o.json);
  if (o.quick || o.only !== undefined) return;
  const page = join(PROJECT, "docs/benchmarks.md");
  const previous = existsSync(page) ? readFileSync(page, "utf8") : "";
  writeFileSync(page, withSection(previous, "layer 7", sectionOf(rows, facts, o)));
  const subtitle = `${facts.cpu}, ${facts.cores} cores, Linux ${facts.kernel}; ${o.rounds} rounds, medians`;
  writeFileSync(join(PROJECT, "docs/benchmarks-l7.svg"), drawPlot(rows, subtitle, 7));
}

async function measured(o: Options, built: readonly Built[]): Promise<Row[]> {
  const watched = built.find((b) => b.watched !== undefined)?.watched;
  const variants = built.flatMap((b) => b.variants).map((v) => (v.name === "ours" ? { ...v, watched } : v));
  const chosen = steps.filter((step) => o.only === undefined || o.only.includes(step.name));
  const { samples, refusals } = await interleave(chosen, variants, o, say);
  return measures.flatMap((m) => {
    const why = refusals.get(m.step)?.get("ours");
    const row = why === undefined ? rowOf(m, samples) : refusedRow(m, why);
    return row === undefined ? [] : [row];
  });
}

async function main(): Promise<void> {
  const o = readOptions(usage, names);
  if (process.getuid?.() !== 0) throw new Error("the benchmark needs root (network namespaces and eBPF)");
  await removeLeftovers();
  const built: Built[] = [];
  const down = async (): Promise<void> => {
    for (const b of built.splice(0).reverse()) await b.down();
  };
  for (const signal of ["SIGINT", "SIGTERM"] as const)
    process.once(signal, () => void down().finally(() => process.exit(130)));
  try {
    const facts = machineFacts({});
    if (facts.load > 0.5) say(`load average ${facts.load}: something else is running; absolute numbers will suffer`);
    const withLoads = o.only === undefined || o.only.some((name) => name !== decision);
    if (withLoads) built.push(await startBare(say));
    // Before the others, so that the agents whose memory is measured are not the first ever to start (node-flags.ts).
    if (o.only === undefined || o.only.includes("telemetry")) built.push(await startWatched(say));
    if (withLoads) built.push(await startMesh(say));
    const versions = Object.assign({}, ...built.map((b) => b.versions)) as Record<string, string>;
    const rows = withLoads ? await measured(o, built) : [];
    await down();
    if (o.only === undefined || o.only.includes(decision)) rows.push(...(await decisionRows(o.quick ? 3 : 15)));
    write(o, rows, { ...facts, versions });
  } catch (error) {
    for (const b of built) say(b.logs());
    throw error;
  } finally {
    await down();
  }
}

await runBench("bench:l7", main);
