// docs/conformance/gateway.md from what ran: what was run on what, and every test without a mesh and with it. Pure.
import type { SuiteRun } from "./runs.ts";

export interface Circumstances {
  /** What ran with which version, e.g. "Kubernetes" -> "v1.36.3". */
  readonly versions: Readonly<Record<string, string>>;
  /** Commit and kernel. */
  readonly where: string;
  readonly features: readonly string[];
  /** What keeps the runs from showing conformance. */
  readonly problems: readonly string[];
}

interface Profile {
  readonly name: string;
  readonly core?: Tally;
  readonly extended?: Tally;
}
interface Tally {
  readonly result: string;
  readonly statistics: { readonly Passed: number; readonly Failed: number; readonly Skipped: number };
}

const tally = (part: Tally | undefined): string =>
  part === undefined ? "-" : `${part.result}: ${part.statistics.Passed} passed, ${part.statistics.Failed} failed`;

function profileLines(run: SuiteRun): readonly string[] {
  const { profiles = [] } = (run.report ?? {}) as { profiles?: readonly Profile[] };
  return profiles.map((p) => `| ${run.name} | ${p.name} | ${tally(p.core)} | ${tally(p.extended)} |`);
}

const verdict = (outcome: string | undefined): string =>
  outcome === undefined ? "-" : outcome === "passed" ? "passed" : "**failed**";

/** One row per test: without the mesh, with it, and what the agents counted. */
function testLines(control: SuiteRun | undefined, meshed: readonly SuiteRun[]): readonly string[] {
  return (
    (meshed[0] ?? control)?.tests.map(({ name }) => {
      const of = (run: SuiteRun | undefined) => run?.tests.find((t) => t.name === name);
      const without = of(control)?.outcome;
      const cells = meshed.map((run) => {
        const test = of(run);
        if (test === undefined) return "-";
        const { answers, byAddress, counted } = test;
        const bytes = byAddress === 0 ? "" : ` and ${counted?.connections ?? "?"} connections`;
        return `${verdict(test.outcome)}, ${answers} answers, ${counted?.source ?? "?"} requests${bytes} counted, ${test.seconds.toFixed(1)} s`;
      });
      const luck = without === "passed" ? "passed" : without === undefined ? "-" : "failed";
      return `| ${name} | ${luck} | ${cells.join(" | ")} |`;
    }) ?? []
  );
}

/** The page. */
export function gatewayPage(runs: readonly SuiteRun[], c: Circumstances): string {
  const control = runs.find((r) => r.control);
  const meshed = runs.filter((r) => !r.control);
  const passed = (run: SuiteRun): number => run.tests.filter((t) => t.outcome === "passed").length;
  const results = meshed.map((r) => `**${passed(r)} of ${r.tests.length}** (${r.seconds} s)`).join(", then ");
  const lucky = control?.tests.filter((t) => t.outcome === "passed").map((t) => t.name) ?? [];
  const versions = Object.entries(c.versions).map(([name, version]) => `${name} ${version}`);
  return `# Conformance, Gateway API for meshes

Written by \`npm run conformance -- gateway\`: the Gateway API's own conformance suite, unmodified (its Go module is built as it is published; ours is only the
test function that calls it), on a Kubernetes of two nodes made for it. Profiles MESH-HTTP and MESH-GRPC with all core tests and all ${c.features.length} extended features:
${c.features.join(", ")}.

${versions.join(", ")}; ${c.where}. The suite's own report of the last run: [gateway-report.yaml](gateway-report.yaml).

With the mesh: ${results === "" ? "not run" : results} passed.${c.problems.length === 0 ? "" : `\n\nNot shown:\n\n${c.problems.map((p) => `- ${p}`).join("\n")}`}

| run | profile | core | extended |
| --- | --- | --- | --- |
${meshed.flatMap(profileLines).join("\n")}

Tests can pass by luck, since kube-proxy too spreads requests over pods: so the suite runs first on such a cluster without a mesh${control === undefined ? "" : ` (${passed(control)} of ${control.tests.length} passed there: ${lucky.join(", ") || "none"})`}.
And a test counts only if the agents counted its requests: \`istio_requests_total\` with \`reporter="source"\` of the suite's namespaces must have grown by at
least as many as the suite got answers; for requests to a pod's own address, which the mesh carries as bytes, \`istio_tcp_connections_opened_total\`.

| test | without a mesh | ${meshed.map((r) => r.name).join(" | ")} |
| --- | --- | ${meshed.map(() => "---").join(" | ")} |
${testLines(control, meshed).join("\n")}
`;
}
