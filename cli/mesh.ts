// Asks the controller and the agents of a running lab; shared by the commands that show the mesh.
import { labStatus } from "../test/lab/client.ts";
import type { LabStatus, NodeStatus } from "../test/lab/lab-options.ts";
import { type Fields, fieldsAt, listAt } from "../test/lab/objects.ts";
import { callJson } from "../test/lab/unix-http.ts";
import { type Call, Failure } from "./command.ts";
import { labName } from "./find-lab.ts";

export const labOption = {
  type: "string",
  value: "NAME",
  help: "the lab (default: the only one there is, or $FAIRLEAD_LAB)",
} as const;
export const jsonOption = { type: "boolean", help: "print one JSON document" } as const;

/** The lab that a command is about. @throws Failure when there is none, or it has no mesh */
export async function meshOf(call: Call): Promise<LabStatus> {
  const status = await labStatus(labName(call.text("lab")));
  if (!status.ok) throw new Failure(status.error);
  if (status.value.controller === null)
    throw new Failure(`lab ${status.value.name} was started with --no-agents: there is no mesh to show`);
  return status.value;
}

/** The value or, for an expected failure, its sentence as the command's one line. */
export function need<T>(
  result: { readonly ok: true; readonly value: T } | { readonly ok: false; readonly error: string },
): T {
  if (result.ok) return result.value;
  throw new Failure(result.error);
}

export const podNames = (lab: LabStatus): readonly string[] => lab.pods.map((p) => `${p.namespace}/${p.name}`);

/** Asks the controller. @throws Failure when it does not answer */
export async function askController(lab: LabStatus, path: string): Promise<Fields> {
  if (lab.controller === null) throw new Failure(`lab ${lab.name} has no controller`);
  const answer = await callJson(lab.controller.adminSocket, path, { timeoutMs: 5000 });
  if (!answer.ok)
    throw new Failure(`the controller does not answer (${answer.error}); fairlead lab start-controller starts it`);
  return fieldsAt(answer.value);
}

/** Asks one agent; the error is a sentence. */
export async function askAgent(
  node: NodeStatus,
  path: string,
): Promise<{ readonly value?: Fields; readonly error?: string }> {
  const answer = await callJson(node.adminSocket, path, { timeoutMs: 5000 });
  return answer.ok ? { value: fieldsAt(answer.value) } : { error: answer.error };
}

export interface Gathered {
  readonly rows: readonly Fields[];
  /** Nodes whose agent did not answer, with why: what is shown is then not all there is. */
  readonly silent: readonly string[];
}

/** The list under `key` from every agent, each entry with its node. */
export async function gather(lab: LabStatus, path: string, key: string): Promise<Gathered> {
  const answers = await Promise.all(lab.nodes.map(async (node) => ({ node, answer: await askAgent(node, path) })));
  return {
    rows: answers.flatMap(({ node, answer }) =>
      listAt(answer.value?.[key]).map((row): Fields => ({ node: node.name, ...fieldsAt(row) })),
    ),
    silent: answers.flatMap(({ node, answer }) =>
      answer.error === undefined ? [] : [`agent of ${node.name}: ${answer.error}`],
    ),
  };
}

export const text = (value: unknown): string => (value === null || value === undefined ? "" : String(value));
export const number = (value: unknown): number => Number(value ?? 0) || 0;
/** "cluster.local/ns/shop/sa/web" of a SPIFFE id: the scheme is the same everywhere. */
export const shortIdentity = (id: unknown): string => text(id).replace(/^spiffe:\/\//, "") || "-";
