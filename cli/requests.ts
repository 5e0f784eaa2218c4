// The part of `fairlead top` about HTTP requests: rate, errors and latency of each pair, out of the agents' sums. Pure.
import { type Fields, listAt } from "../test/lab/objects.ts";
import { number, text } from "./mesh.ts";
import { type Cell, cell, duration, table } from "./table.ts";

/** Requests of one source to one service since the agents began, or between two looks. */
export interface RequestLine {
  readonly source: string;
  readonly service: string;
  readonly count: number;
  readonly errors: number;
  /** A second; undefined at the first look. */
  readonly rate?: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
}
/** Sums by pair, as agents gave them. */
export interface RequestSums {
  readonly atMs: number;
  readonly pairs: ReadonlyMap<string, Sum>;
}
interface Sum {
  readonly source: string;
  readonly service: string;
  readonly reporter: string;
  readonly count: number;
  readonly errors: number;
  readonly durations: readonly number[];
  readonly boundsMs: readonly number[];
}

/** Of a pair that both sides tell of, the source's word is taken: it has the whole time. */
export function sumsOf(rows: readonly Fields[], atMs: number): RequestSums {
  const pairs = new Map<string, Sum>();
  for (const row of rows) {
    const read: Sum = {
      source: text(row.source),
      service: text(row.service),
      reporter: text(row.reporter),
      count: number(row.count),
      errors: number(row.errors),
      durations: listAt(row.durations).map(number),
      boundsMs: listAt(row.boundsMs).map(number),
    };
    const key = `${read.source} ${read.service}`;
    const known = pairs.get(key);
    if (known === undefined || (known.reporter !== "source" && read.reporter === "source")) pairs.set(key, read);
    else if (known.reporter === read.reporter) pairs.set(key, added(known, read, 1));
  }
  return { atMs, pairs };
}

const added = (one: Sum, other: Sum, sign: 1 | -1): Sum => ({
  ...one,
  count: one.count + sign * other.count,
  errors: one.errors + sign * other.errors,
  durations: one.durations.map((n, i) => n + sign * (other.durations[i] ?? 0)),
});

/** What came since the look before, where there was one and it is not of agents that began anew; most requests first. */
export function requestLines(now: RequestSums, before: RequestSums | undefined): readonly RequestLine[] {
  const lines: RequestLine[] = [];
  for (const [key, sum] of now.pairs) {
    const old = before?.pairs.get(key);
    const isAnew = old !== undefined && old.count > sum.count;
    const change = old === undefined || isAnew ? sum : added(sum, old, -1);
    const seconds = before === undefined ? 0 : (now.atMs - before.atMs) / 1000;
    const shown = change.count > 0 ? change : sum;
    lines.push({
      source: sum.source,
      service: sum.service,
      count: sum.count,
      errors: sum.errors,
      ...(seconds > 0 ? { rate: change.count / seconds } : {}),
      p50Ms: percentile(shown, 0.5),
      p99Ms: percentile(shown, 0.99),
    });
  }
  return lines.sort((a, b) => (b.rate ?? 0) - (a.rate ?? 0) || b.count - a.count);
}

/** As Prometheus's histogram_quantile: evenly spread inside a bucket; the last bound for what lies above it. */
export function percentile({ durations, boundsMs }: Pick<Sum, "durations" | "boundsMs">, share: number): number {
  const total = durations.reduce((sum, n) => sum + n, 0);
  let left = total * share;
  for (let i = 0; i < boundsMs.length; i++) {
    const inside = durations[i] ?? 0;
    const low = i === 0 ? 0 : (boundsMs[i - 1] ?? 0);
    if (left <= inside && inside > 0) return low + ((boundsMs[i] ?? 0) - low) * (left / inside);
    left -= inside;
  }
  return total === 0 ? 0 : (boundsMs.at(-1) ?? 0);
}

export const requestTable = (lines: readonly RequestLine[], colour: boolean): string =>
  table(
    ["SOURCE", "SERVICE", "REQUESTS", "A SECOND", "ERRORS", "P50", "P99"],
    lines.map((l): (string | Cell)[] => [
      l.source,
      l.service,
      String(l.count),
      l.rate === undefined ? "-" : l.rate.toFixed(l.rate < 10 ? 1 : 0),
      cell(String(l.errors), l.errors > 0 ? "red" : "grey"),
      duration(l.p50Ms),
      duration(l.p99Ms),
    ]),
    colour,
  );
