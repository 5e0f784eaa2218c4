// Writes docs/benchmarks.md: what was measured, how, on what machine, and the table; pure text from rows.
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { cpus, totalmem } from "node:os";
import type { Goal, Row } from "./rows.ts";

export interface Facts {
  readonly cpu: string;
  readonly cores: number;
  readonly memoryGb: number;
  readonly kernel: string;
  readonly load: number;
  readonly versions: Readonly<Record<string, string>>;
  readonly commit: string;
}

export function machineFacts(versions: Readonly<Record<string, string>>): Facts {
  const load = Number(readFileSync("/proc/loadavg", "utf8").split(" ")[0]);
  let commit = "unknown";
  try {
    commit = execFileSync("git", ["rev-parse", "--short", "HEAD"], {
      encoding: "utf8",
      stdio: ["ignore", "pipe", "ignore"],
    }).trim();
  } catch {
    // a copy without its repository
  }
  const kernel = readFileSync("/proc/sys/kernel/osrelease", "utf8").trim();
  return {
    cpu: cpus()[0]?.model ?? "?",
    cores: cpus().length,
    memoryGb: Math.round(totalmem() / 1e9),
    kernel,
    load,
    versions,
    commit,
  };
}

const number = (n: number | undefined): string => {
  if (n === undefined || Number.isNaN(n)) return "-";
  if (n === 0) return "0";
  const size = Math.abs(n);
  if (size >= 1000) return Math.round(n).toLocaleString("en-US");
  return n.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3);
};

const goalText = (goal: Goal): string => {
  const sign = goal.op === ">=" ? "at least" : "at most";
  if ("peer" in goal)
    return `${sign} ${goal.ratio}x of ${goal.peer === "none" ? "no mesh" : goal.peer === "envoy" ? "Envoy" : goal.peer}`;
  return `${sign} ${goal.value}`;
};

const spreadText = (row: Row): string => {
  const s = row.spread.ours;
  return s === undefined ? number(row.ours) : `${number(s.median)} (${number(s.min)}-${number(s.max)})`;
};

const peerTitles = { none: "no mesh", envoy: "Envoy", haproxy: "HAProxy", nginx: "nginx" } as const;

/** A table of rows, with a column for each of `peers`. */
export function table(rows: readonly Row[], peers: readonly (keyof typeof peerTitles)[]): string[] {
  const titles = peers.map((peer) => peerTitles[peer]);
  const head = ["measure", "unit", "ours, median (least-most)", ...titles, "goal", "ratio", "met"];
  const line = (cells: readonly string[]): string => `| ${cells.join(" | ")} |`;
  const body = rows.map((row) =>
    line([
      row.note === undefined || (row.threads === undefined && !Number.isNaN(row.ratio))
        ? row.measure
        : `${row.measure} (${row.note})`,
      row.unit,
      spreadText(row),
      ...peers.map((peer) => (peer in row.peers ? number(row.peers[peer]) : "")),
      goalText(row.goal),
      "peer" in row.goal && !Number.isNaN(row.ratio) ? row.ratio.toFixed(2) : "",
      row.met ? "yes" : "**no**",
    ]),
  );
  return [line(head), line(head.map(() => "---")), ...body];
}

/** How many goals are met, and which are not. */
export function verdict(rows: readonly Row[]): string {
  const missed = rows.filter((r) => !r.met);
  const which = missed.length === 0 ? "." : `; missed: ${missed.map((r) => r.measure).join("; ")}.`;
  return `${rows.length - missed.length} of ${rows.length} goals met${which}`;
}

export const machineText = (facts: Facts): string =>
  `${facts.cpu}, ${facts.cores} cores, ${facts.memoryGb} GB, Linux ${facts.kernel}; load average at the start ${facts.load}.`;

/** The page with one part of it written anew: what stands between the part's marks, or at the end if it has none yet. */
export function withSection(page: string, name: string, lines: readonly string[]): string {
  const [begin, end] = [`<!-- ${name}: written by its command -->`, `<!-- end of ${name} -->`];
  const section = [begin, ...lines, end].join("\n");
  const [from, to] = [page.indexOf(begin), page.indexOf(end)];
  if (from < 0 || to < from) return `${page.trimEnd()}\n\n${section}\n`;
  return page.slice(0, from) + section + page.slice(to + end.length);
}

/** @param previous text of the page as it was: the part under "## Notes" is written by people and kept */
export function benchmarksPage(
  rows: readonly Row[],
  facts: Facts,
  rounds: number,
  seconds: number,
  previous: string,
): string {
  const at = previous.indexOf("\n## Notes");
  const notes = at < 0 ? "\n## Notes\n" : previous.slice(at);
  return [
    "# Benchmarks, layer 4",
    "",
    "Written by `npm run bench:l4` after a full run; only the part under Notes is kept.",
    "",
    verdict(rows),
    "",
    "![Each measure against its goal](benchmarks-l4.svg)",
    "",
    ...table(rows, ["none", "envoy", "haproxy"]),
    "",
    "## How to repeat",
    "",
    "```",
    "npm run bench:l4                      # three rounds, rewrites this page",
    "npm run bench:l4 -- --json out.json   # also the rows with raw values of every round, median and spread",
    "npm run bench:l4 -- --only requests-16 --rounds 5",
    "npm run bench:l4 -- --quick           # one short round, page untouched",
    "```",
    "",
    "## How it was measured",
    "",
    `${rounds} rounds of ${seconds} s a load, interleaved: in each round every load is put on no mesh, Envoy, HAProxy and ours one after the other, in an order that turns`,
    "from round to round; medians. Two nodes are network namespaces with a router between them, the same links, routes, MTU and offloads for everybody (the lab's own code builds both).",
    "The server is nginx with one worker and 1 KiB answers, loads are wrk (one thread), iperf3 and `native/examples/load.rs`.",
    "",
    "- Envoy and HAProxy run as mutual-TLS TCP proxy pairs, one on each node, with one worker each (`--concurrency 1`, `nbthread 1`); our agents run with one worker. None writes an access log (ours: off by default). Configurations: `test/bench/peers/`.",
    "  Clients address the peers' proxies directly, so the peers pay nothing for interception; ours are intercepted and keep the pods' addresses on the wire.",
    "- TLS 1.3 with client certificates (P-256) for all; every run first captures between the nodes, finds a marker with no mesh and fails if it finds it anywhere else.",
    "- CPU is `usage_usec` of the proxies' cgroups on both nodes, network work of the kernel on their behalf included, the same for all.",
    "- Latency at a fixed rate counts from when a request was due. What is added is the difference to no mesh within the same round.",
    "- Memory is the larger of the two nodes; RSS counts the program's file pages too.",
    "- Client, server and all proxies share the machine's cores, so requests per second are bounded by the machine; CPU per request is the number to trust most.",
    "",
    "## Machine",
    "",
    machineText(facts),
    "",
    ...Object.entries(facts.versions).map(([name, version]) => `- ${name}: ${version}`),
    `- fairlead: ${facts.commit}`,
    notes.replace(/\s+$/, ""),
    "",
  ].join("\n");
}
