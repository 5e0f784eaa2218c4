// What the steps of the demo share: the lab's name, how to run things in pods, and the words of the report.

import type { Finished } from "../command.ts";
import { type Fields, fieldsAt, listAt } from "../objects.ts";
import { type LabPaths, nodePaths } from "../paths.ts";
import { runInPod } from "../programs.ts";
import { callJson } from "../unix-http.ts";

export interface DemoContext {
  readonly lab: string;
  readonly paths: LabPaths;
  readonly nodes: readonly string[];
  readonly say: (line: string) => void;
}

/** One proof of the demo: what was claimed, whether it held, and the numbers behind it. */
export interface Proof {
  readonly name: string;
  readonly ok: boolean;
  readonly text: string;
  readonly facts: Readonly<Record<string, unknown>>;
}

/** One row of "who talks to whom". */
export interface Talk {
  readonly source: string;
  readonly destination: string;
  readonly service: string;
  readonly lane: string;
  readonly sourceIdentity: string;
  readonly destinationIdentity: string;
  readonly connections: number;
  /** Of HTTP; `sent` and `received` are then their bodies. */
  readonly requests: number;
  readonly sent: number;
  readonly received: number;
  readonly medianMs: number;
}

export const inPod = (at: DemoContext, pod: string, command: string, timeoutMs = 15_000): Promise<Finished> =>
  runInPod(at.lab, pod, ["sh", "-c", command], timeoutMs);

/** Asks the agent of a node; an agent that does not answer gives an empty record. */
export async function askAgent(at: DemoContext, node: string, path: string): Promise<Fields> {
  const answer = await callJson(nodePaths(at.paths, node).adminSocket, path, { timeoutMs: 5000 });
  return answer.ok ? fieldsAt(answer.value) : {};
}

/** A list under `key` from every node's agent, each entry with its node. */
export async function fromAgents(at: DemoContext, path: string, key: string): Promise<Fields[]> {
  const lists = await Promise.all(
    at.nodes.map(async (node) =>
      listAt((await askAgent(at, node, path))[key]).map((entry): Fields => ({ ...fieldsAt(entry), node })),
    ),
  );
  return lists.flat();
}

export const textOf = (value: unknown): string => (typeof value === "string" ? value : "");
export const numberOf = (value: unknown): number => (typeof value === "number" ? value : Number(value ?? 0) || 0);

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? 0;
}
