// What the commands of the benchmarks take, and how their rows are said.
import { writeFileSync } from "node:fs";
import { parseArgs } from "node:util";
import type { Row } from "./rows.ts";

export interface Options {
  readonly json: string | undefined;
  readonly rounds: number;
  readonly seconds: number;
  readonly only: readonly string[] | undefined;
  /** Short: nothing is written but what `json` names. */
  readonly quick: boolean;
  /** Of `extra`, those that were given. */
  readonly flags: ReadonlySet<string>;
}

/**
 * Reads the command line; `usage` is printed for --help, and with an error. `extra`: switches of this command alone.
 * @throws what is wrong with it
 */
export function readOptions(usage: string, steps: readonly string[], extra: readonly string[] = []): Options {
  const { values } = parseArgs({
    options: {
      json: { type: "string" },
      rounds: { type: "string" },
      seconds: { type: "string" },
      only: { type: "string" },
      quick: { type: "boolean", default: false },
      help: { type: "boolean", default: false },
      ...Object.fromEntries(extra.map((name) => [name, { type: "boolean" }] as const)),
    },
  });
  if (values.help) {
    console.log(usage);
    process.exit(0);
  }
  const count = (name: "rounds" | "seconds", fallback: number): number => {
    const n = Number(values[name] ?? fallback);
    if (!Number.isInteger(n) || n < 1 || n > 60)
      throw new Error(`--${name} ${values[name]}: use a whole number from 1 to 60`);
    return n;
  };
  const only = values.only?.split(",");
  const unknown = only?.filter((name) => !steps.includes(name)) ?? [];
  if (unknown.length > 0) throw new Error(`--only ${unknown.join(",")}: no such step\n${usage}`);
  const { quick, json } = values;
  const flags = new Set(extra.filter((name) => (values as Readonly<Record<string, unknown>>)[name] === true));
  return { json, only, quick, flags, rounds: count("rounds", quick ? 1 : 3), seconds: count("seconds", quick ? 1 : 3) };
}

/** Prints every row, and writes them where `json` names a file. */
export function tellRows(rows: readonly Row[], json: string | undefined): void {
  if (json !== undefined) writeFileSync(json, `${JSON.stringify(rows, null, 1)}\n`);
  for (const row of rows) {
    const peers = Object.entries(row.peers).map(([name, value]) => `${name} ${value}`);
    const values = peers.length > 0 ? ` (${peers.join(", ")})` : "";
    const note = row.note === undefined ? "" : `; ${row.note}`;
    say(
      `${row.met ? "met   " : "MISSED"} ${row.measure}: ${row.ours} ${row.unit}${values}; ratio ${row.ratio}; goal ${JSON.stringify(row.goal)}${note}`,
    );
  }
}

export const say = (line: string): void => void process.stderr.write(`${line}\n`);

/** Runs a benchmark's command; what goes wrong is said, and is its exit code. */
export async function runBench(name: string, main: () => Promise<void>): Promise<void> {
  try {
    await main();
  } catch (error) {
    say(`${name}: ${(error as Error).message}`);
    process.exitCode = 1;
  }
}
