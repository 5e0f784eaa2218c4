// Names that travel between the parts, each a type of its own: parse checks, format builds. No I/O.
import { err, ok, type Result } from "../base/result.ts";
import { isObjectName, shorten } from "./fields.ts";

declare const brand: unique symbol;
type Branded<B extends string> = string & { readonly [brand]: B };

/** SPIFFE trust domain, as "cluster.local". */
export type TrustDomain = Branded<"TrustDomain">;
/** Identity of a workload or node: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>` or `spiffe://<trust domain>/node/<name>`. */
export type SpiffeId = Branded<"SpiffeId">;
/** `<trust domain>/<namespace>/<pod>` */
export type WorkloadUid = Branded<"WorkloadUid">;
/** `<namespace>/<name>` of a service. */
export type ServiceName = Branded<"ServiceName">;
/** `<namespace>/<name>` of a policy. */
export type PolicyName = Branded<"PolicyName">;
/** `<namespace>/<name>` of a pod. */
export type PodName = Branded<"PodName">;
export type NodeName = Branded<"NodeName">;

export type ParsedSpiffeId =
  | {
      readonly kind: "workload";
      readonly trustDomain: TrustDomain;
      readonly namespace: string;
      readonly serviceAccount: string;
    }
  | { readonly kind: "node"; readonly trustDomain: TrustDomain; readonly node: NodeName };

export const defaultTrustDomain = "cluster.local" as TrustDomain;

/** SPIFFE-ID §2.1: lower-case letters, digits, dots, dashes and underscores, at most 255 characters. */
export function parseTrustDomain(text: string): Result<TrustDomain, string> {
  return /^[a-z0-9._-]{1,255}$/.test(text) ? ok(text as TrustDomain) : err(`"${shorten(text)}" is not a trust domain`);
}

export function parseNodeName(text: string): Result<NodeName, string> {
  return isObjectName(text) ? ok(text as NodeName) : err(`"${shorten(text)}" is not a node name`);
}

/** Accepts exactly the two shapes above: no other path, no port, user, query or upper case. */
export function parseSpiffeId(text: string): Result<SpiffeId, string> {
  return splitSpiffeId(text) === undefined
    ? err(`"${shorten(text)}" is not an identity of this mesh`)
    : ok(text as SpiffeId);
}

export function partsOf(id: SpiffeId): ParsedSpiffeId {
  const parts = splitSpiffeId(id);
  if (parts === undefined) throw new Error(`not a SpiffeId: ${id}`);
  return parts;
}

function splitSpiffeId(text: string): ParsedSpiffeId | undefined {
  if (text.length > 2048 || !text.startsWith("spiffe://")) return undefined;
  const [domain = "", ...path] = text.slice("spiffe://".length).split("/");
  const trustDomain = parseTrustDomain(domain);
  if (!trustDomain.ok) return undefined;
  const [first, second = "", third, fourth = ""] = path;
  if (path.length === 4 && first === "ns" && third === "sa" && isObjectName(second) && isObjectName(fourth)) {
    return { kind: "workload", trustDomain: trustDomain.value, namespace: second, serviceAccount: fourth };
  }
  if (path.length === 2 && first === "node" && isObjectName(second)) {
    return { kind: "node", trustDomain: trustDomain.value, node: second as NodeName };
  }
  return undefined;
}

export function workloadId(trustDomain: TrustDomain, namespace: string, serviceAccount: string): SpiffeId {
  return `spiffe://${trustDomain}/ns/${namespace}/sa/${serviceAccount}` as SpiffeId;
}

export function nodeId(trustDomain: TrustDomain, node: NodeName): SpiffeId {
  return `spiffe://${trustDomain}/node/${node}` as SpiffeId;
}

export function workloadUid(trustDomain: TrustDomain, namespace: string, pod: string): WorkloadUid {
  return `${trustDomain}/${namespace}/${pod}` as WorkloadUid;
}

export function parseWorkloadUid(text: string): Result<WorkloadUid, string> {
  const [domain = "", namespace = "", pod = "", ...rest] = text.split("/");
  const fine = rest.length === 0 && parseTrustDomain(domain).ok && isObjectName(namespace) && isObjectName(pod);
  return fine ? ok(text as WorkloadUid) : err(`"${shorten(text)}" is not <trust domain>/<namespace>/<pod>`);
}

const parsePair = <T extends string>(text: string, what: string): Result<T, string> => {
  const [namespace = "", name = "", ...rest] = text.split("/");
  return rest.length === 0 && isObjectName(namespace) && isObjectName(name)
    ? ok(text as T)
    : err(`"${shorten(text)}" is not ${what} (<namespace>/<name>)`);
};
export const parseServiceName = (text: string): Result<ServiceName, string> => parsePair(text, "a service");
export const parsePolicyName = (text: string): Result<PolicyName, string> => parsePair(text, "a policy");
export const parsePodName = (text: string): Result<PodName, string> => parsePair(text, "a pod");

export const serviceName = (namespace: string, name: string): ServiceName => `${namespace}/${name}` as ServiceName;
export const policyName = (namespace: string, name: string): PolicyName => `${namespace}/${name}` as PolicyName;
export const podName = (namespace: string, name: string): PodName => `${namespace}/${name}` as PodName;

/** Namespace and name of any `<namespace>/<name>`. */
export function splitPair(pair: ServiceName | PolicyName | PodName): readonly [namespace: string, name: string] {
  const slash = pair.indexOf("/");
  return [pair.slice(0, slash), pair.slice(slash + 1)];
}
