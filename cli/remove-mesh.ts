// What the chart runs before it takes the mesh off a cluster: policies go while there is a controller that can let them go, then every node's
// agent takes its programs, pins and the CNI plugin off its node. With --leftovers what the controllers made goes, after them. Ends with 0 when nothing is left, else with 1 and a line for each thing that is.
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { messageOf } from "../agent/base/log.ts";
import { isMissing, showFault } from "../agent/kubernetes/fault.ts";
import type { RawObject } from "../agent/kubernetes/wire.ts";
import { Cluster } from "./cluster/connect.ts";
import type { PodStream } from "./cluster/pod-stream.ts";

const GROUP = "/apis/mesh.fairlead.dev";
const LOOK_MS = 1_000;

export interface RemovalOptions {
  readonly namespace: string;
  /** Policies of the mesh's own kinds stay. */
  readonly keepPolicies: boolean;
  readonly deadlineMs: number;
}
interface Answer {
  readonly state?: string;
  readonly pods?: number;
  readonly problems?: readonly string[];
}

/** What the cluster is asked; in tests something that plays it. */
export interface RemovalCluster {
  list(path: string, query?: Readonly<Record<string, string>>): Promise<readonly RawObject[]>;
  find(path: string): Promise<RawObject | undefined>;
  remove(path: string): Promise<void>;
  /** Tells the agent in this pod to leave its node. @returns what it answers */
  leave(namespace: string, pod: string): Promise<Answer>;
}

/**
 * Removes all that the chart's own objects do not name. Repeating it is harmless.
 * @returns what is left, one line each
 */
export async function removeMesh(
  cluster: RemovalCluster,
  options: RemovalOptions,
  say: (line: string) => void,
  now: () => number = () => performance.now(),
): Promise<readonly string[]> {
  const deadline = now() + options.deadlineMs;
  const policies = new Map<string, string>();
  if (!options.keepPolicies) await removePolicies(cluster, deadline, say, now, policies);
  const left = new Map<string, string>();
  const done = new Set<string>();
  for (;;) {
    const agents = await cluster.list(`/api/v1/namespaces/${options.namespace}/pods`, {
      labelSelector: "app.kubernetes.io/name=fairlead,app.kubernetes.io/component=agent",
    });
    // Another has taken its place, under another name, and answers for the node.
    for (const name of left.keys()) if (!agents.some((pod) => pod.metadata.name === name)) left.delete(name);
    const waiting = agents.filter((pod) => !done.has(pod.metadata.name) && isRunning(pod));
    await Promise.all(
      waiting.map(async (pod) => {
        const { name } = pod.metadata;
        const node = nodeOf(pod);
        const told = await cluster.leave(options.namespace, name).catch((error: unknown) => messageOf(error));
        if (typeof told !== "string" && told.state === "removed") {
          done.add(name);
          left.delete(name);
          say(`node ${node}: the mesh is off it`);
        } else left.set(name, `node ${node}: ${typeof told === "string" ? told : showAnswer(told)}`);
      }),
    );
    const unreached = agents.filter((pod) => !done.has(pod.metadata.name));
    for (const pod of unreached)
      if (!isRunning(pod)) left.set(pod.metadata.name, `node ${nodeOf(pod)}: its agent does not run (${phaseOf(pod)})`);
    if (unreached.length === 0 || now() > deadline) return [...policies.values(), ...left.values()];
    await sleep(LOOK_MS);
  }
}

/**
 * Removes what the controllers made for themselves in a namespace that stays, once none of them is there to write it again.
 * @returns what is left, one line each
 */
export async function removeLeftovers(
  cluster: Pick<RemovalCluster, "list" | "remove">,
  { namespace, deadlineMs }: Pick<RemovalOptions, "namespace" | "deadlineMs">,
  say: (line: string) => void,
  now: () => number = () => performance.now(),
): Promise<readonly string[]> {
  const deadline = now() + deadlineMs;
  const core = `/api/v1/namespaces/${namespace}`;
  for (;;) {
    const writers = await cluster.list(`${core}/pods`, {
      labelSelector: "app.kubernetes.io/name=fairlead,app.kubernetes.io/component=controller",
    });
    if (writers.length === 0) break;
    if (now() > deadline)
      return writers.map(({ metadata }) => `pod ${namespace}/${metadata.name} is still there, and what it writes`);
    await sleep(LOOK_MS);
  }
  const ours = await cluster.list(`${core}/configmaps`);
  const names = ours.map((o) => o.metadata.name).filter((name) => ownConfigMap.test(name));
  const paths = [
    ...names.map((name) => `${core}/configmaps/${name}`),
    `${core}/secrets/fairlead-ca`,
    `/apis/coordination.k8s.io/v1/namespaces/${namespace}/leases/fairlead-controller`,
  ];
  for (const path of paths) {
    await cluster.remove(path);
    say(`${path} is removed`);
  }
  return [];
}
/** The trusted roots, and what each replica said of its agents. */
const ownConfigMap = /^fairlead-(ca-root$|agents-)/;

/** Kinds as the server has them now: none where their definitions are gone already. */
async function removePolicies(
  cluster: RemovalCluster,
  deadline: number,
  say: (line: string) => void,
  now: () => number,
  left: Map<string, string>,
): Promise<void> {
  for (;;) {
    const objects = await policies(cluster);
    for (const name of [...left.keys()]) if (!objects.some((o) => o.path === name)) left.delete(name);
    if (objects.length === 0) return;
    for (const { path, isLeaving, name } of objects) {
      left.set(path, `${name} is still there: something holds it (its finalizers)`);
      if (isLeaving) continue;
      await cluster.remove(path);
      say(`${name} is removed`);
    }
    if (now() > deadline) return;
    await sleep(LOOK_MS / 4);
  }
}

async function policies(cluster: RemovalCluster): Promise<{ path: string; name: string; isLeaving: boolean }[]> {
  const group = (await cluster.find(GROUP)) as
    | { readonly preferredVersion?: { readonly version?: string } }
    | undefined;
  const version = group?.preferredVersion?.version;
  if (version === undefined) return [];
  const kinds = (await cluster.find(`${GROUP}/${version}`)) as
    | { readonly resources?: readonly { readonly name: string; readonly kind: string; readonly namespaced: boolean }[] }
    | undefined;
  const found: { path: string; name: string; isLeaving: boolean }[] = [];
  for (const { name: plural, kind, namespaced } of kinds?.resources ?? []) {
    if (plural.includes("/")) continue;
    for (const { metadata } of await cluster.list(`${GROUP}/${version}/${plural}`)) {
      const place = namespaced ? `namespaces/${metadata.namespace}/` : "";
      found.push({
        path: `${GROUP}/${version}/${place}${plural}/${metadata.name}`,
        name: `${kind} ${namespaced ? `${metadata.namespace}/` : ""}${metadata.name}`,
        isLeaving: metadata.deletionTimestamp !== undefined,
      });
    }
  }
  return found;
}

const status = (pod: RawObject): { readonly phase?: string } => (pod as { status?: { phase?: string } }).status ?? {};
const phaseOf = (pod: RawObject): string => status(pod).phase ?? "unknown";
const isRunning = (pod: RawObject): boolean => phaseOf(pod) === "Running";
const nodeOf = (pod: RawObject): string =>
  (pod as { spec?: { nodeName?: string } }).spec?.nodeName ?? `of ${pod.metadata.name}`;
const showAnswer = ({ state, pods, problems = [] }: Answer): string =>
  problems.length > 0 ? problems.join("; ") : `${state ?? "no answer"}, ${pods ?? 0} pods are still in the mesh`;

/** A real cluster. */
export function overApi(cluster: Cluster): RemovalCluster {
  return {
    list: (path, query) => cluster.list(path, query),
    find: (path) => cluster.find(path),
    async remove(path) {
      const answer = await cluster.api.send({ method: "DELETE", path });
      if (!answer.ok && !isMissing(answer.error)) throw new Error(`${path}: ${showFault(answer.error)}`);
    },
    async leave(namespace, name) {
      const command = ["/usr/local/bin/fairlead", "ask", "--post", "{}", "/v1/uninstall"];
      const stream = await cluster.run({ namespace, name, container: "agent" }, command);
      return JSON.parse(await textOf(stream)) as Answer;
    },
  };
}

async function textOf(stream: PodStream): Promise<string> {
  let text = "";
  for await (const piece of stream) text += String(piece);
  return text;
}

if (import.meta.main) {
  const { values } = parseArgs({
    options: {
      namespace: { type: "string", default: "fairlead-system" },
      "keep-policies": { type: "boolean", default: false },
      leftovers: { type: "boolean", default: false },
      seconds: { type: "string" },
    },
  });
  const cluster = new Cluster({ namespace: values.namespace, kubeconfig: undefined, context: undefined });
  const options = {
    namespace: values.namespace,
    keepPolicies: values["keep-policies"],
    deadlineMs: Number(values.seconds ?? (values.leftovers ? "150" : "240")) * 1000,
  };
  const remove = values.leftovers ? removeLeftovers : removeMesh;
  const left = await remove(overApi(cluster), options, (line) => console.log(line));
  for (const line of left) console.error(line);
  if (left.length > 0 && !values.leftovers)
    console.error(
      "helm uninstall --no-hooks goes on without this; then each node that is named needs docs/install.md, By hand",
    );
  cluster.close();
  process.exit(left.length === 0 ? 0 : 1);
}
