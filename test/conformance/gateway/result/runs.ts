// What a run of the suite gives, and whether the runs show what they are to show: every test passed, and every request of it was the mesh's. Pure.
import type { Counts } from "./counters.ts";
import { wrongRedirects } from "./redirects.ts";
import type { TestRun } from "./suite-output.ts";

/** One test with what the mesh's own counters say about it. */
export interface CountedTest extends TestRun {
  /** Requests that agents counted on the client's side, and on the server's; undefined where they were not asked. */
  readonly counted?: Counts;
}

export interface SuiteRun {
  readonly name: string;
  readonly control: boolean;
  readonly seconds: number;
  readonly exitCode: number;
  /** Tests of the suite that were not skipped. */
  readonly tests: readonly CountedTest[];
  /** Names of tests for meshes that were skipped. */
  readonly skipped: readonly string[];
  /** What the suite says about itself, undefined where it wrote none. */
  readonly report: unknown;
}

/** What is wrong with a run with the mesh, one line each. */
function runProblems(run: SuiteRun): readonly string[] {
  const at = (text: string): string => `${run.name}: ${text}`;
  const failed = run.tests.filter((t) => t.outcome === "failed").map((t) => at(`${t.name} failed`));
  const skipped = run.skipped.map((name) => at(`${name} was skipped`));
  const uncounted = run.tests.filter((t) => t.outcome === "passed").flatMap((t) => notOurs(t).map(at));
  const astray = run.tests.filter((t) => t.outcome === "passed").flatMap((t) => wrongRedirects(t).map(at));
  const nothing = run.tests.length === 0 ? [at("no test was run")] : [];
  const all = [...nothing, ...failed, ...skipped, ...uncounted, ...astray];
  return all.length === 0 && run.exitCode !== 0 ? [at(`the suite ended with exit code ${run.exitCode}`)] : all;
}

/** Why a test's answers may not have come through the mesh. */
function notOurs({ name, answers, byAddress, counted }: CountedTest): readonly string[] {
  if (counted === undefined) return [`${name}: the agents' counters are not known`];
  const requests = answers - byAddress;
  if (requests === 0 && byAddress === 0) return [`${name} passed without a request`];
  const lines: string[] = [];
  if (counted.source < requests)
    lines.push(`${name} got ${requests} answers, the agents counted ${counted.source} requests`);
  if (counted.connections < byAddress)
    lines.push(
      `${name} got ${byAddress} answers from pods' addresses, the agents counted ${counted.connections} connections`,
    );
  return lines;
}

/** What keeps the runs from showing conformance, one line each; none if nothing does. */
export function problems(runs: readonly SuiteRun[], wantedRuns: number, isWhole: boolean): readonly string[] {
  const control = runs.find((r) => r.control);
  const meshed = runs.filter((r) => !r.control);
  const lines = meshed.flatMap(runProblems);
  if (meshed.length !== wantedRuns) lines.push(`${meshed.length} of ${wantedRuns} runs with the mesh were made`);
  if (control !== undefined && isWhole) {
    const names = new Set(control.tests.map((t) => t.name));
    if (control.tests.every((t) => t.outcome === "passed")) lines.push("control: every test passes without a mesh");
    for (const run of meshed)
      if (run.tests.length !== names.size)
        lines.push(`${run.name} has ${run.tests.length} tests, the control ${names.size}`);
  }
  return lines;
}
