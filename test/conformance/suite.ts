// What a conformance suite is: programs that others wrote, run through the mesh in a lab, and each of their cases with its outcome.
import { type TestLab, withLab } from "../kit/lab.ts";
import { waitFor } from "../kit/wait.ts";

export interface Case {
  /** What was run where, e.g. "h2spec, HTTP/2 server, between nodes". */
  readonly group: string;
  readonly name: string;
  readonly outcome: "passed" | "failed" | "skipped";
  /** Why it failed or was skipped. */
  readonly reason?: string;
}

export interface Suite {
  readonly name: string;
  readonly about: string;
  /** @throws Error saying what is missing where the suite cannot run at all */
  run(say: (line: string) => void): Promise<SuiteResult>;
}

export interface SuiteResult {
  /** Programs with their versions. */
  readonly programs: readonly string[];
  readonly cases: readonly Case[];
}

/** Where the client's request goes: its pod is on node1. */
export interface Place {
  readonly name: string;
  readonly node: "node1" | "node2";
  /** Behind the names of pods and services there. */
  readonly suffix: "near" | "far";
}
export const places: readonly Place[] = [
  { name: "one node", node: "node1", suffix: "near" },
  { name: "between nodes", node: "node2", suffix: "far" },
];

export const passed = (group: string, name: string): Case => ({ group, name, outcome: "passed" });
export const failed = (group: string, name: string, reason: string): Case => ({
  group,
  name,
  outcome: "failed",
  reason: reason.trim().slice(-600),
});
export const skipped = (group: string, name: string, reason: string): Case => ({
  group,
  name,
  outcome: "skipped",
  reason,
});
/** A case that passed if there is no reason why not. */
export const judged = (group: string, name: string, reason: string | undefined): Case =>
  reason === undefined ? passed(group, name) : failed(group, name, reason);

export const textOf = (e: unknown): string => (e instanceof Error ? e.message : String(e));

/** A lab of two nodes whose agents read HTTP. */
export const withHttpLab = (
  manifests: Readonly<Record<string, string>>,
  body: (lab: TestLab) => Promise<void>,
): Promise<void> => withLab(manifests, { nodes: 2, agentEnv: { FAIRLEAD_DATA_THREADS: "1" } }, body);

/** Requests to a service that both ends of the mesh counted so far: on the client's node as source, on the server's as destination. */
async function totals(lab: TestLab, service: string, place: Place): Promise<readonly [number, number]> {
  const name = `destination_service_name="${service}"`;
  return [
    await lab.metric("node1", "istio_requests_total", 'reporter="source"', name),
    await lab.metric(place.node, "istio_requests_total", 'reporter="destination"', name),
  ];
}

/** Runs `body`, and judges by the agents' own metrics whether at least `least` requests to the service were read by them. */
export async function counted(
  lab: TestLab,
  group: string,
  service: string,
  place: Place,
  body: () => Promise<readonly Case[]>,
  least: (cases: readonly Case[]) => number,
): Promise<readonly Case[]> {
  const before = await totals(lab, service, place);
  const cases = await body();
  const need = least(cases);
  let seen: readonly [number, number] = before;
  const enough = async (): Promise<boolean> => {
    seen = await totals(lab, service, place);
    return seen[0] - before[0] >= need && seen[1] - before[1] >= need;
  };
  const told = await waitFor("the agents' metrics", enough, 20_000).catch(() => false);
  const reason = `of ${need} requests at least, the client's node counted ${seen[0] - before[0]}, the server's ${seen[1] - before[1]}`;
  return [...cases, judged(group, "istio_requests_total counts its requests", told ? undefined : reason)];
}
