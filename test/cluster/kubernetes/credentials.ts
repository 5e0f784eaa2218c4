// The files of a cluster's keys, certificates and kubeconfigs: made where they are missing, so that nodes can be added later.
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { stringify } from "yaml";
import { nodeAddress, ranges } from "../machine/ranges.ts";
import { type ClusterPaths, nodePaths } from "../paths.ts";
import { type ApiPlace, KubeApi } from "./api.ts";
import { apiServerAddresses, apiServerNames } from "./node-config.ts";
import { Authority, type KeyPair, type Subject, tokenKeys } from "./pki.ts";

export const API_PORT = 6443;
export const apiServerUrl = (block: number): string => `https://${ranges(block).controlPlane}:${API_PORT}`;

/** Parts that others than nodes are; those with a kubeconfig ask the API server. */
const parts: Readonly<Record<string, Subject & { readonly kubeconfig: boolean }>> = {
  admin: { commonName: "admin", group: "system:masters", kubeconfig: true },
  "controller-manager": { commonName: "system:kube-controller-manager", kubeconfig: true },
  scheduler: { commonName: "system:kube-scheduler", kubeconfig: true },
  proxy: { commonName: "system:kube-proxy", kubeconfig: true },
  "kubelet-client": { commonName: "kube-apiserver-kubelet-client", group: "system:masters", kubeconfig: false },
  "front-proxy": { commonName: "front-proxy", kubeconfig: false },
};

const secret = (file: string, text: string): void => writeFileSync(file, text, { mode: 0o600 });
const read = (file: string): string => readFileSync(file, "utf8");

const keyPair = (pki: string, name: string): KeyPair => ({
  certPem: read(join(pki, `${name}.crt`)),
  keyPem: read(join(pki, `${name}.key`)),
});

function writeKeyPair(pki: string, name: string, pair: KeyPair): void {
  secret(join(pki, `${name}.key`), pair.keyPem);
  writeFileSync(join(pki, `${name}.crt`), pair.certPem); // last: it shows that the pair is whole
}

/** A kubeconfig with everything inside it, so that it can be copied. */
export function kubeconfigText(cluster: string, place: ApiPlace): string {
  const base64 = (text: string): string => Buffer.from(text).toString("base64");
  return stringify({
    apiVersion: "v1",
    kind: "Config",
    clusters: [{ name: cluster, cluster: { server: place.server, "certificate-authority-data": base64(place.caPem) } }],
    users: [
      {
        name: cluster,
        user: {
          "client-certificate-data": base64(place.client.certPem),
          "client-key-data": base64(place.client.keyPem),
        },
      },
    ],
    contexts: [{ name: cluster, context: { cluster, user: cluster } }],
    "current-context": cluster,
  });
}

/** Makes what is missing for the control plane and for `nodes` nodes. */
export async function ensureCredentials(
  cluster: ClusterPaths,
  block: number,
  nodes: number,
  nowMs: number,
): Promise<void> {
  const { pki } = cluster;
  mkdirSync(pki, { recursive: true, mode: 0o700 });
  const authority = existsSync(join(pki, "ca.crt"))
    ? await Authority.load(keyPair(pki, "ca"), nowMs)
    : await Authority.make(`fairlead-cluster ${cluster.name}`, nowMs);
  if (!existsSync(join(pki, "ca.crt"))) writeKeyPair(pki, "ca", authority.own);
  const place = (name: string): ApiPlace => ({
    server: apiServerUrl(block),
    caPem: authority.own.certPem,
    client: keyPair(pki, name),
  });
  const ensure = async (name: string, subject: Subject, kubeconfig: boolean): Promise<void> => {
    if (!existsSync(join(pki, `${name}.crt`))) writeKeyPair(pki, name, await authority.issue(subject));
    const file = join(pki, `${name}.kubeconfig`);
    if (kubeconfig && !existsSync(file)) secret(file, kubeconfigText(cluster.name, place(name)));
  };
  if (!existsSync(join(pki, "tokens.pub"))) {
    const keys = tokenKeys();
    secret(join(pki, "tokens.key"), keys.privatePem);
    writeFileSync(join(pki, "tokens.pub"), keys.publicPem);
  }
  for (const [name, subject] of Object.entries(parts)) await ensure(name, subject, subject.kubeconfig);
  const serving = { names: apiServerNames, addresses: apiServerAddresses(ranges(block).controlPlane) };
  await ensure("apiserver", { commonName: "kube-apiserver", ...serving }, false);
  for (let n = 1; n <= nodes; n++) {
    const { name } = nodePaths(cluster, n);
    const subject = { commonName: `system:node:${name}`, group: "system:nodes" };
    await ensure(name, { ...subject, names: [name], addresses: [nodeAddress(block, n)] }, true);
  }
  secret(cluster.kubeconfig, kubeconfigText(cluster.name, place("admin")));
}

/** The API with every right. */
export const adminApi = (cluster: ClusterPaths, block: number): KubeApi =>
  new KubeApi({
    server: apiServerUrl(block),
    caPem: read(join(cluster.pki, "ca.crt")),
    client: keyPair(cluster.pki, "admin"),
  });
