// The objects that a new cluster gets, and what is asked of the API about its state.
import { readFileSync } from "node:fs";
import { parseAllDocuments } from "yaml";
import type { KubeApi, KubeObject } from "./api.ts";

interface Conditioned {
  readonly metadata: { readonly name: string };
  readonly status?: { readonly conditions?: readonly { readonly type: string; readonly status: string }[] };
}

/** Names of the nodes that say that they are ready. */
export async function readyNodes(api: KubeApi): Promise<string[]> {
  const { items } = await api.get<{ items: readonly Conditioned[] }>("/api/v1/nodes");
  const isReady = (node: Conditioned): boolean =>
    node.status?.conditions?.some((c) => c.type === "Ready" && c.status === "True") === true;
  return items.filter(isReady).map((node) => node.metadata.name);
}

/**
 * Whether the nodes' kubelets answer and have said that they are ready. What the API says alone may be from before a node's restart: it is
 * believed for 40 s.
 */
export async function nodesWork(api: KubeApi, names: readonly string[]): Promise<boolean> {
  const ready = await readyNodes(api);
  if (!names.every((name) => ready.includes(name))) return false;
  const answers = await Promise.all(names.map((name) => api.call("GET", `/api/v1/nodes/${name}/proxy/healthz`)));
  return answers.every((text) => text === "ok");
}

/** Objects of YAML documents. */
export const parseObjects = (text: string): KubeObject[] =>
  parseAllDocuments(text).map((document) => document.toJS() as KubeObject);

export async function applyDns(api: KubeApi, image: string): Promise<void> {
  const text = readFileSync(new URL("coredns.yaml", import.meta.url), "utf8");
  for (const object of parseObjects(text.replaceAll("image: IMAGE", `image: ${image}`))) await api.apply(object);
}

export async function dnsReady(api: KubeApi): Promise<boolean> {
  const path = "/apis/apps/v1/namespaces/kube-system/deployments/coredns";
  const found = await api.get<{ status?: { readyReplicas?: number } }>(path);
  return (found.status?.readyReplicas ?? 0) > 0;
}

/** Whether pods can be created in namespace `default`. */
export async function defaultAccount(api: KubeApi): Promise<boolean> {
  await api.get("/api/v1/namespaces/default/serviceaccounts/default");
  return true;
}
