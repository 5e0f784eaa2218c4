// docs/conformance/http.md from what ran: a table of groups per suite, then every case that failed or was skipped with its reason.
import type { Case, SuiteResult } from "./suite.ts";

export interface Ran extends SuiteResult {
  readonly name: string;
  readonly about: string;
  readonly seconds: number;
  /** Commit and kernel. */
  readonly circumstances: string;
  /** Why the suite could not run at all. */
  readonly broken?: string;
}

const inCell = (text: string): string => text.replaceAll("|", "\\|").replace(/\s+/g, " ").trim();

function suiteSection(ran: Ran): string {
  const lines = [`## ${ran.name}`, "", `${ran.about}. Run in ${ran.seconds} s; ${ran.circumstances}.`, ""];
  if (ran.programs.length > 0) lines.push(`Programs: ${ran.programs.join(", ")}.`, "");
  if (ran.broken !== undefined) return [...lines, `**Could not run: ${inCell(ran.broken)}**`, ""].join("\n");
  lines.push("| what | passed | failed | skipped |", "| --- | --- | --- | --- |");
  const groups = new Map<string, Case[]>();
  for (const c of ran.cases) groups.set(c.group, [...(groups.get(c.group) ?? []), c]);
  for (const [group, cases] of groups) {
    const of = (outcome: string): number => cases.filter((c) => c.outcome === outcome).length;
    lines.push(`| ${inCell(group)} | ${of("passed")} | ${of("failed")} | ${of("skipped")} |`);
  }
  for (const outcome of ["failed", "skipped"] as const) {
    const reasons = new Map<string, string[]>();
    for (const c of ran.cases.filter((x) => x.outcome === outcome)) {
      const key = outcome === "failed" ? `${c.group}: ${c.name}: ${c.reason}` : `${c.name}: ${c.reason}`;
      reasons.set(key, [...(reasons.get(key) ?? []), c.group]);
    }
    if (reasons.size > 0) lines.push("", outcome === "failed" ? "Failed:" : "Skipped:", "");
    for (const [reason, of] of reasons)
      lines.push(`- ${inCell(reason)}${of.length > 1 ? ` (${of.length} times)` : ""}`);
  }
  return [...lines, ""].join("\n");
}

/** The page. */
export function report(ran: readonly Ran[]): string {
  const cases = ran.flatMap((r) => r.cases);
  const of = (outcome: string): number => cases.filter((c) => c.outcome === outcome).length;
  const broken = ran.filter((r) => r.broken !== undefined).length;
  return `# Conformance, HTTP

Written by \`npm run conformance\`. Programs and suites that others wrote, through the agents of a lab of two nodes: a client's pod on node 1, servers on node 1
("one node") and node 2 ("between nodes"). Everything of theirs is fetched in pinned versions into \`build/conformance\` (Go, Python with venv, npm and a JDK are needed; what is missing is said, and its suite fails).
Each group also fails unless \`istio_requests_total\` of the agents on both sides shows its requests: what is carried as bytes does not count.

**${of("passed")} passed, ${of("failed") + broken} failed, ${of("skipped")} skipped**.

${ran.map(suiteSection).join("\n")}`;
}
