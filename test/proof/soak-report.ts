// Writes docs/soak.md and its plot after a long soak.
import { writeFileSync } from "node:fs";
import { cpus } from "node:os";
import { join } from "node:path";
import { drawLines } from "../bench/lb/line-plot.ts";
import type { MixedReport } from "../kit/mixed-load.ts";
import { PROJECT_DIR } from "../lab/paths.ts";
import type { Trend } from "./flat.ts";
import { limits, mostRise, type Reading, riseOf } from "./soak-readings.ts";

export interface SoakFacts {
  readonly minutes: number;
  /** Requests per second that were possible; undefined: the rate was given. */
  readonly most: number | undefined;
  readonly perSecond: number;
  readonly requests: Omit<MixedReport, "seconds">;
  /** By node and figure. */
  readonly trends: Readonly<Record<string, Trend>>;
  /** Beyond the start, when all clients had gone. */
  readonly left: Readonly<Record<string, number>>;
  /** Descriptors of the agents by what they are, then and at the start. */
  readonly kinds: Readonly<Record<"before" | "after", Readonly<Record<string, Readonly<Record<string, number>>>>>>;
  readonly after: Reading["agents"];
}

const titles: Readonly<Record<string, string>> = {
  memoryMb: "anonymous memory, MB",
  descriptors: "descriptors",
  threads: "threads",
};
const round = (value: number): string => value.toFixed(Math.abs(value) < 10 ? 2 : 1);
const count = (value: number): string => Math.round(value).toLocaleString("en-US");

/** `hours`: length of the second half. */
export function reportOf(facts: SoakFacts, readings: readonly Reading[], hours: number): string {
  const { minutes, most, perSecond, requests, trends, left, after } = facts;
  const load =
    most === undefined
      ? "a rate that was given"
      : `half of the ${count(most)} that were possible here with the same clients and servers`;
  const rows = Object.entries(trends).map(([name, trend]) => {
    const [node = "", figure = ""] = name.split(" ");
    const first = readings[0]?.agents[node]?.[figure as keyof Reading["agents"][string]] ?? Number.NaN;
    const last = after[node]?.[figure as keyof Reading["agents"][string]] ?? Number.NaN;
    const limit = mostRise(name, hours);
    const cells = [
      `${node}: ${titles[figure] ?? figure}`,
      round(first),
      `${round(trend.mean)} (${round(trend.least)}-${round(trend.most)})`,
      round(riseOf(name, trend)),
      round(limit),
      riseOf(name, trend) <= limit ? "yes" : "**no**",
      round(last),
    ];
    return `| ${cells.join(" | ")} |`;
  });
  const leaks = Object.entries(left).map(([name, n]) => `${name}: ${n}`);
  return [
    "# Soak",
    "",
    `Written by \`npm run prove -- soak\` after a run of at least ten minutes; this one ended on ${new Date().toISOString().slice(0, 10)}.`,
    "",
    `${count(perSecond)} requests per second for ${minutes} minutes (${load}): ${count(requests.sent)} requests of HTTP/1.1, HTTP/2 and gRPC in equal parts over ${count(requests.connections)} connections, of which ${count(requests.failed)} failed and ${count(requests.givenUp)} were given up by the client on purpose.`,
    ...Object.entries(requests.reasons).map(([reason, n]) => `- failed: ${n} x ${reason}`),
    "",
    "![Memory of the agents](soak.svg)",
    "",
    "| agent of | at the start | second half, mean (least-most) | rises | may rise | flat | when all clients had gone |",
    "| --- | --- | --- | --- | --- | --- | --- |",
    ...rows,
    "",
    leaks.length === 0
      ? "Descriptors of the agents, sockets in the pods and rows of kernel maps were as before the load when all clients had gone."
      : `Left when all clients had gone: ${leaks.join(", ")}.`,
    "",
    "Two nodes, a client and a server on each, mutual TLS between the nodes, one data thread per agent. An AuthorizationPolicy that denies a path, retries, a circuit breaker, a timeout and a rate limit are in",
    "force; the route changes every 15 s. Every 97th HTTP request closes its connection, every 401st request is given up, every 499th is beside a connection that is reset half way through its head, every 101st is",
    "denied, some answers take 150 ms or are 300 KB long. Each answer is judged: status, whole length, the number of bytes that the server got.",
    `Memory and threads are judged by the line of least squares through the second half, ${readings.length} readings in all; memory may rise by ${limits.memoryMb} MB or ${limits.memoryMbPerHour} MB per hour, whichever is more. Descriptors are judged by their floor, the least of the last quarter against the least of the one before: they follow the connections that are open, of which clients have more while answers are slow. Machine: ${cpus()[0]?.model.trim() ?? "unknown"}, ${cpus().length} cores, which clients, servers and agents share.`,
    "",
  ].join("\n");
}

export function writeReport(facts: SoakFacts, readings: readonly Reading[], hours: number): void {
  writeFileSync(join(PROJECT_DIR, "docs/soak.md"), reportOf(facts, readings, hours));
  const nodes = Object.keys(readings[0]?.agents ?? {});
  const line = (node: string, figure: "memoryMb" | "descriptors") => ({
    name: `${node}, ${titles[figure] ?? ""}`,
    points: readings.map(({ atS, agents }) => [atS, agents[node]?.[figure] ?? 0] as const),
  });
  const lines = nodes.flatMap((node) => [line(node, "memoryMb"), line(node, "descriptors")]);
  const svg = drawLines({ title: "Soak: what the agents hold", y: "MB, or descriptors", lines, bands: [] });
  writeFileSync(join(PROJECT_DIR, "docs/soak.svg"), svg);
}
