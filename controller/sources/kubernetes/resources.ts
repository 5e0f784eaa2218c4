// The collections of the API server that we mirror, and how their objects are read into ours.
import { messageOf } from "../../../agent/base/log.ts";
import type { RawObject } from "../../../agent/kubernetes/wire.ts";
import { emptyMeta, kinds, meta } from "../kinds.ts";
import { list, object, optional, type Path, type Reader, required, showPath, text } from "../schema.ts";
import type { MeshObject, NodeObject, ObjectKind, ObjectRef, Origin, Problem } from "../types.ts";

/** A collection of an API server. */
export interface Collected {
  /** "" for the core group. */
  readonly group: string;
  /** Best first. */
  readonly versions: readonly string[];
  readonly plural: string;
}
export interface Resource extends Collected {
  readonly kind: ObjectKind;
  readonly isNamespaced: boolean;
  /** Defined by a CRD, so it may be absent, come and go. */
  readonly isOptional: boolean;
  readonly read: Reader<MeshObject>;
}

const node = object<Omit<NodeObject, "kind">>({
  metadata: required(meta, emptyMeta),
  status: optional(
    object({ addresses: optional(list(object({ type: optional(text, ""), address: optional(text, "") })), []) }),
    { addresses: [] },
  ),
});
const readNode: Reader<MeshObject> = (value, path, report) => ({ kind: "Node", ...node(value, path, report) });

const plurals = {
  Namespace: "namespaces",
  ServiceAccount: "serviceaccounts",
  Node: "nodes",
  Pod: "pods",
  Service: "services",
  EndpointSlice: "endpointslices",
  AuthorizationPolicy: "authorizationpolicies",
  PeerAuthentication: "peerauthentications",
  HTTPRoute: "httproutes",
  GRPCRoute: "grpcroutes",
  ReferenceGrant: "referencegrants",
  ResiliencePolicy: "resiliencepolicies",
  RateLimitPolicy: "ratelimitpolicies",
  MeshSettings: "meshsettings",
} as const satisfies Readonly<Record<ObjectKind, string>>;

/** Served by every API server. */
const builtIn: ReadonlySet<string> = new Set([
  "Namespace",
  "ServiceAccount",
  "Node",
  "Pod",
  "Service",
  "EndpointSlice",
]);

export const resources: readonly Resource[] = Object.entries(plurals).map(([name, plural]) => {
  const kind = name as ObjectKind;
  const known = kind === "Node" ? { apiVersions: ["v1"], isNamespaced: false, read: readNode } : kinds[kind];
  if (known === undefined) throw new Error(`${kind} has no reader`);
  const [first = "v1"] = known.apiVersions;
  return {
    kind,
    plural,
    group: first.includes("/") ? first.slice(0, first.indexOf("/")) : "",
    versions: known.apiVersions.map((version) => version.slice(version.indexOf("/") + 1)),
    isNamespaced: known.isNamespaced,
    isOptional: !builtIn.has(kind),
    read: known.read,
  };
});

/** "/api/v1/pods", "/apis/discovery.k8s.io/v1/endpointslices" */
export const pathOf = ({ group, plural }: Pick<Collected, "group" | "plural">, version: string): string =>
  group === "" ? `/api/${version}/${plural}` : `/apis/${group}/${version}/${plural}`;
/** Name of the CRD: "httproutes.gateway.networking.k8s.io". */
export const crdOf = ({ group, plural }: Pick<Collected, "group" | "plural">): string => `${plural}.${group}`;

/** All objects of a cluster have the same origin: the object itself says where it is. */
export const clusterOrigin: Origin = { file: "kubernetes", line: 0 };

export interface ReadObject {
  /** undefined when it is refused: then there are problems. */
  readonly object: MeshObject | undefined;
  readonly problems: readonly Problem[];
}

/** Annotations that somebody acts on; the rest (a whole manifest by `kubectl apply`, for one) would only fill memory. */
const annotationNames = /^(([a-z0-9-]+[.])*(fairlead[.]dev|istio[.]io)|(balancer|retry|timeout)[.]linkerd[.]io)\//;
const metadataFields = ["name", "namespace", "uid", "labels", "deletionTimestamp", "creationTimestamp", "generation"];

/** Checks and converts one object. Only what we read is kept. Never throws, whatever the object. */
export function readObject(resource: Resource, raw: RawObject): ReadObject {
  try {
    return read(resource, raw);
  } catch (error) {
    // Nested too deep for the stack, for one. Whatever it is: it is this object's trouble and no other's.
    const message = `cannot be read: ${messageOf(error)}`;
    const problem = {
      ...clusterOrigin,
      object: refOfRaw(resource, raw),
      field: "spec",
      message,
      fix: "make it simpler",
    };
    return { object: undefined, problems: [problem] };
  }
}

function read(resource: Resource, raw: RawObject): ReadObject {
  const ref = refOfRaw(resource, raw);
  const problems: Problem[] = [];
  const report = {
    problem(path: Path, message: string, fix: string) {
      problems.push({ ...clusterOrigin, object: ref, field: showPath(path), message, fix });
    },
    // The API server vouches for its own kinds, and a newer one has fields that we have not heard of. In a policy or route
    // such a field may be what matters, so there it is refused.
    ignoresUnknown: !resource.isOptional,
  };
  const object = resource.read(
    { ...raw, metadata: trimMetadata(raw.metadata), ...mendSlice(resource, raw) },
    [],
    report,
  );
  if (problems.length > 0) return { object: undefined, problems };
  const isPlaced = object.metadata.namespace === ref.namespace;
  return {
    object: isPlaced ? object : { ...object, metadata: { ...object.metadata, namespace: ref.namespace } },
    problems,
  };
}

export const refOfRaw = ({ kind, isNamespaced }: Resource, { metadata }: RawObject): ObjectRef => ({
  kind,
  namespace: isNamespaced ? (metadata.namespace ?? "default") : "",
  name: metadata.name,
});

function trimMetadata(metadata: RawObject["metadata"]): Readonly<Record<string, unknown>> {
  const out: Record<string, unknown> = {};
  for (const name of metadataFields) if (metadata[name] !== undefined) out[name] = metadata[name];
  const { annotations } = metadata;
  if (typeof annotations === "object" && annotations !== null)
    out.annotations = Object.fromEntries(Object.entries(annotations).filter(([name]) => annotationNames.test(name)));
  return out;
}

/** What a slice may hold that we can do nothing with: names instead of addresses, and ports that name no number. */
function mendSlice({ kind }: Resource, raw: RawObject): Readonly<Record<string, unknown>> {
  if (kind !== "EndpointSlice") return {};
  const { ports } = raw;
  return {
    ...(raw.addressType === "FQDN" ? { endpoints: [] } : {}),
    ...(Array.isArray(ports) ? { ports: ports.filter((port: { port?: unknown } | null) => port?.port != null) } : {}),
  };
}
