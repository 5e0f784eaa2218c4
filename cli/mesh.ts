// Asks the controller and the agents of a running lab; shared by the commands that show the mesh.
import { existsSync } from "node:fs";
import { labNames, labStatus } from "../test/lab/client.ts";
import type { LabStatus } from "../test/lab/lab-options.ts";
import { type Fields, fieldsAt, listAt, type Problem } from "../test/lab/objects.ts";
import { callJson } from "../test/lab/unix-http.ts";
import { clusterOptions, defaultKubeconfig, placeOf } from "./cluster/options.ts";
import { type Call, Failure } from "./command.ts";
import { labName, problemsOf } from "./find-lab.ts";
import { type Joined, joinReplicas, type ReplicaAnswer } from "./replicas.ts";
import type { MeshView, NodeView, PodView } from "./view.ts";

export const labOption = {
  type: "string",
  value: "NAME",
  help: "the lab (default: the only one there is, or $FAIRLEAD_LAB)",
} as const;
/** Through an API server a question takes a process in the pod, on a busy node a while. */
const askMs = 15_000;
export const jsonOption = { type: "boolean", help: "print one JSON document" } as const;
/** Which mesh a command is about. */
export const meshOptions = { lab: labOption, ...clusterOptions } as const;

/** Runs `body` with the mesh that is meant: the lab or cluster that is named, else a lab that is up, else the kubeconfig's cluster. @throws Failure when there is none */
export async function withMesh<T>(call: Call, body: (mesh: MeshView) => Promise<T>): Promise<T> {
  const mesh = await meshOf(call);
  try {
    return await body(mesh);
  } finally {
    mesh.close();
  }
}

async function meshOf(call: Call): Promise<MeshView> {
  const place = placeOf(call);
  const isLab = call.text("lab") !== undefined || (process.env.FAIRLEAD_LAB ?? "") !== "";
  const isNamed = place.context !== undefined || call.text("kubeconfig") !== undefined;
  const isCluster =
    isNamed || (!isLab && labNames().length === 0 && existsSync(place.kubeconfig ?? defaultKubeconfig()));
  if (!isCluster) return labMesh(call);
  // It takes most of a second to load, which nobody should wait for who asks a lab.
  const { clusterMesh } = await import("./cluster/view.ts");
  return clusterMesh(place);
}

async function labMesh(call: Call): Promise<MeshView> {
  const status = await labStatus(labName(call.text("lab")));
  if (!status.ok) throw new Failure(status.error);
  return labView(status.value);
}

/** A running lab as a mesh. @throws Failure when it has none */
export function labView(lab: LabStatus): MeshView {
  if (lab.controller === null)
    throw new Failure(`lab ${lab.name} was started with --no-agents: there is no mesh to show`);
  return {
    title: `lab ${lab.name}`,
    named: { lab: lab.name },
    controller: lab.controller.adminSocket,
    controllers: [{ name: "controller", admin: lab.controller.adminSocket }],
    controllerHint: "fairlead lab start-controller starts it",
    nodes: lab.nodes.map((node) => ({ name: node.name, admin: node.adminSocket })),
    pods: async () => lab.pods,
    services: async () => lab.services,
    problems: lab.problems,
    close: () => {},
  };
}

/** The value or, for an expected failure, its sentence as the command's one line. */
export function need<T>(
  result: { readonly ok: true; readonly value: T } | { readonly ok: false; readonly error: string },
): T {
  if (result.ok) return result.value;
  throw new Failure(result.error);
}

export const podNames = (pods: readonly { readonly namespace: string; readonly name: string }[]): readonly string[] =>
  pods.map((p) => `${p.namespace}/${p.name}`);

/** Asks the controller. @throws Failure when it does not answer */
export async function askController(mesh: MeshView, path: string): Promise<Fields> {
  const answer = await callJson(mesh.controller, path, { timeoutMs: askMs });
  if (!answer.ok) throw new Failure(`the controller does not answer (${answer.error}); ${mesh.controllerHint}`);
  return fieldsAt(answer.value);
}

/** What every replica says of the mesh, as one. @throws Failure when none of them answers */
export async function askControllers(mesh: MeshView): Promise<Joined> {
  const answers = await Promise.all(
    mesh.controllers.map(async ({ name, admin }): Promise<ReplicaAnswer> => {
      const answer = await callJson(admin, "/v1/status", { timeoutMs: askMs });
      return answer.ok ? { name, status: fieldsAt(answer.value) } : { name, error: answer.error };
    }),
  );
  const joined = joinReplicas(answers);
  if (joined !== undefined) return joined;
  throw new Failure(`the controller does not answer (${answers[0]?.error ?? ""}); ${mesh.controllerHint}`);
}

/** What is wrong with objects, as far as the controller can be asked. */
export async function problemsIn(mesh: MeshView): Promise<readonly Problem[]> {
  const answer = await callJson(mesh.controller, "/v1/status", { timeoutMs: askMs });
  if (!answer.ok) return mesh.problems;
  return [...mesh.problems, ...listAt(fieldsAt(answer.value).objects).map(fieldsAt).flatMap(problemsOf)];
}

/** Asks one agent; the error is a sentence. */
export async function askAgent(
  node: NodeView,
  path: string,
): Promise<{ readonly value?: Fields; readonly error?: string }> {
  const answer = await callJson(node.admin, path, { timeoutMs: askMs });
  return answer.ok ? { value: fieldsAt(answer.value) } : { error: answer.error };
}

/** The pod's node. @throws Failure when no agent runs there */
export function nodeOf(mesh: MeshView, pod: Pick<PodView, "namespace" | "name" | "node">): NodeView {
  const node = mesh.nodes.find((n) => n.name === pod.node);
  if (node === undefined)
    throw new Failure(
      `${pod.namespace}/${pod.name} is on ${pod.node || "no node"}, where no agent of ${mesh.title} runs`,
    );
  return node;
}

export interface Gathered {
  readonly rows: readonly Fields[];
  /** Nodes whose agent did not answer, with why: what is shown is then not all there is. */
  readonly silent: readonly string[];
}

/** The list under `key` from every agent, each entry with its node. */
export async function gather(mesh: MeshView, path: string, key: string): Promise<Gathered> {
  const answers = await Promise.all(mesh.nodes.map(async (node) => ({ node, answer: await askAgent(node, path) })));
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
