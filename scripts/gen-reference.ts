// Writes docs/reference.md from the code: every environment variable, metric and close reason. `--out FILE` writes elsewhere (the test compares).
import { readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const read = (path: string): string => readFileSync(join(root, path), "utf8");
const cell = (text: string): string => text.replaceAll("|", "\\|").replaceAll(/\s+/g, " ").trim();
const table = (head: readonly string[], rows: readonly (readonly string[])[]): string =>
  [head, head.map(() => "---"), ...rows].map((r) => `| ${r.map(cell).join(" | ")} |`).join("\n");

/** Knobs of a config.ts: name, default as the code has it, and what the comment beside it says. */
function knobs(path: string): string[][] {
  const text = read(path);
  const notes = new Map<string, string>();
  for (const m of text.matchAll(/\/\*\* (FAIRLEAD_[A-Z0-9_]+): ([^*]+?)\s*\*\//g)) notes.set(m[1] ?? "", m[2] ?? "");
  const rows = new Map<string, string[]>();
  let comment = "";
  for (const line of text.split("\n")) {
    const note = /^\s*\/\*\* (.*?)\s*\*\/$/.exec(line);
    if (note !== null) {
      comment = note[1] ?? "";
      continue;
    }
    for (const m of line.matchAll(/"(FAIRLEAD_[A-Z0-9_]+)"(?:, ((?!dayMs)[a-z]\w*, )?(.*))?/g)) {
      const name = m[1] ?? "";
      if (rows.has(name)) continue;
      const fallback = balanced(m[3] ?? "");
      const shown = fallback.split(", ").map((word) => readable(word, name.endsWith("_MS")));
      rows.set(name, [`\`${name}\``, fallback === "" ? "" : `\`${shown.join(", ")}\``, notes.get(name) ?? comment]);
    }
    if (line.trim() !== "") comment = "";
  }
  return [...rows.values()];
}

const units = { d: 86_400_000, h: 3_600_000, m: 60_000, s: 1_000, ms: 1 } as const;

/** A duration as people write it: 90000 -> "1m30s". */
export function duration(ms: number): string {
  if (ms === 86_400_000) return "24h";
  let left = ms;
  let text = "";
  for (const [unit, size] of Object.entries(units)) {
    const count = Math.floor(left / size);
    if (count > 0) text += `${count}${unit}`;
    left -= count * size;
  }
  return text || "0";
}

/** A number of the code without its underscores, a duration as people write it; anything else as it stands. */
function readable(word: string, isDuration: boolean): string {
  const number = /^(?:(\d[\d_]*)(?: \* )?)?(dayMs)?$/.exec(word);
  if (word === "" || number === null) return word;
  const value = Number((number[1] ?? "1").replaceAll("_", "")) * (number[2] === undefined ? 1 : units.d);
  return isDuration ? duration(value) : String(value);
}

/** The arguments up to the bracket that closes the call. */
function balanced(text: string): string {
  let depth = 0;
  for (let i = 0; i < text.length; i++) {
    if (text[i] === "(") depth++;
    else if (text[i] === ")" && --depth < 0) return text.slice(0, i);
  }
  return text;
}

function metrics(path: string, pattern: RegExp): string[][] {
  return [...read(path).matchAll(pattern)].map((m) => [`\`${m[1]}\``, m[2] ?? ""]);
}

function reasons(): string[][] {
  const rows: string[][] = [];
  let doc = "";
  for (const line of read("native/src/reason.rs").split("\n")) {
    const comment = /^\s*\/\/\/ (.*)$/.exec(line);
    const reason = /^\s*\w+ = (\d+) "(\w+)";/.exec(line);
    if (comment !== null) doc = `${doc} ${comment[1]}`;
    else if (reason !== null) {
      rows.push([reason[1] ?? "", `\`${reason[2]}\``, doc]);
      doc = "";
    } else doc = "";
  }
  return rows;
}

/** The whole document. */
export function reference(): string {
  const spec = /spec\(\s*"((?:istio|fairlead|orchestrator|ratls)_\w+)",\s*"([^"]+)"/g;
  const named = /name: "(fairlead_\w+)",\s*help: "([^"]+)"/g;
  return `${[
    "# Reference",
    "Generated from the code by `npm run gen`; a test fails when it is not current.",
    "## Environment of the agent",
    "Columns: name, default and bounds, reason. Durations are set in milliseconds: 5m is `300000`.",
    table(["variable", "default, bounds", "note"], knobs("agent/config.ts")),
    "## Environment of the controller",
    table(["variable", "default, bounds", "note"], knobs("controller/config.ts")),
    "## Metrics of the agent",
    table(["metric", "what"], metrics("agent/report/metric-names.ts", spec)),
    "## Metrics of the controller",
    table(
      ["metric", "what"],
      [
        "controller/report/metrics.ts",
        "controller/report/kubernetes-metrics.ts",
        "controller/report/lease-metrics.ts",
        "controller/app/expiry-metrics.ts",
      ].flatMap((path) => metrics(path, named)),
    ),
    "## Close reasons",
    "The number is in records, the text in the access log, metrics and `explain`. Neither changes its meaning.",
    table(["code", "reason", "meaning"], reasons()),
  ].join("\n\n")}\n`;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const at = process.argv.indexOf("--out");
  writeFileSync(at > 0 ? (process.argv[at + 1] ?? "") : join(root, "docs/reference.md"), reference());
}
