// The fields that we read of each kind, in the shape of the Kubernetes API, whatever source they come from.
import type { EnricherSettings } from "../../agent/api/enricher.ts";
import type { RateLimitSpec, ReferenceGrantSpec, ResilienceSpec, RouteSpec } from "./http-types.ts";

export interface ObjectMeta {
  readonly name: string;
  /** "" for kinds without a namespace. */
  readonly namespace: string;
  readonly uid: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  readonly deletionTimestamp: string;
  /** RFC 3339; "" in a manifest that no API server has seen. */
  readonly creationTimestamp: string;
  /** 0 in a manifest that no API server has seen. */
  readonly generation: number;
}
export interface ContainerPort {
  readonly name: string;
  readonly containerPort: number;
  /** 0 for none. */
  readonly hostPort: number;
  /** "" for every address of the node. */
  readonly hostIP: string;
  readonly protocol: string;
}
interface Ended {
  readonly exitCode: number;
  readonly message: string;
}
export interface ContainerStatus {
  readonly name: string;
  readonly ready: boolean;
  readonly state: { readonly terminated: Ended | undefined };
  readonly lastState: { readonly terminated: Ended | undefined };
}
export interface NamespaceObject {
  readonly kind: "Namespace";
  readonly metadata: ObjectMeta;
}
/** From an API server only: a folder's nodes are known by what their pods report. */
export interface NodeObject {
  readonly kind: "Node";
  readonly metadata: ObjectMeta;
  readonly status: { readonly addresses: readonly { readonly type: string; readonly address: string }[] };
}
export interface ServiceAccountObject {
  readonly kind: "ServiceAccount";
  readonly metadata: ObjectMeta;
}
export interface PodObject {
  readonly kind: "Pod";
  readonly metadata: ObjectMeta;
  readonly spec: {
    readonly nodeName: string;
    readonly serviceAccountName: string;
    readonly hostNetwork: boolean;
    /** Conditions that others must set before the pod is ready. */
    readonly readinessGates: readonly { readonly conditionType: string }[];
    readonly containers: readonly { readonly name: string; readonly ports: readonly ContainerPort[] }[];
    readonly initContainers: readonly { readonly name: string; readonly ports: readonly ContainerPort[] }[];
  };
  readonly status: {
    readonly phase: string;
    readonly podIP: string;
    readonly podIPs: readonly { readonly ip: string }[];
    readonly hostIP: string;
    readonly hostIPs: readonly { readonly ip: string }[];
    readonly conditions: readonly { readonly type: string; readonly status: string }[];
    readonly containerStatuses: readonly ContainerStatus[];
  };
}
export interface ServicePortSpec {
  readonly name: string;
  readonly protocol: string;
  readonly appProtocol: string;
  readonly port: number;
  /** Number, name of a container port, or undefined for the same number. */
  readonly targetPort: number | string | undefined;
  readonly nodePort: number;
}
export interface ServiceObject {
  readonly kind: "Service";
  readonly metadata: ObjectMeta;
  readonly spec: {
    readonly type: string;
    readonly clusterIP: string;
    readonly clusterIPs: readonly string[];
    readonly externalIPs: readonly string[];
    readonly externalName: string;
    readonly ipFamilies: readonly string[];
    readonly ports: readonly ServicePortSpec[];
    readonly selector: Readonly<Record<string, string>>;
    readonly publishNotReadyAddresses: boolean;
    readonly sessionAffinity: string;
    readonly sessionAffinityConfig: { readonly clientIP: { readonly timeoutSeconds: number } };
    readonly internalTrafficPolicy: string;
    readonly trafficDistribution: string;
  };
  readonly status: { readonly loadBalancer: { readonly ingress: readonly { readonly ip: string }[] } };
}
export interface SliceEndpoint {
  readonly addresses: readonly string[];
  readonly conditions: { readonly ready: boolean; readonly terminating: boolean };
  readonly targetRef: { readonly kind: string; readonly name: string; readonly namespace: string } | undefined;
  readonly nodeName: string;
  readonly zone: string;
  readonly hints: EndpointHints | undefined;
}
export interface EndpointHints {
  readonly forZones: readonly { readonly name: string }[];
  readonly forNodes: readonly { readonly name: string }[];
}
export interface EndpointSliceObject {
  readonly kind: "EndpointSlice";
  readonly metadata: ObjectMeta;
  readonly addressType: string;
  readonly endpoints: readonly SliceEndpoint[];
  readonly ports: readonly { readonly name: string; readonly port: number; readonly protocol: string }[];
}
export interface TargetRef {
  readonly group: string;
  readonly kind: string;
  readonly name: string;
}
type Strings = readonly string[];
export interface AuthorizationSource {
  readonly principals: Strings;
  readonly notPrincipals: Strings;
  readonly namespaces: Strings;
  readonly notNamespaces: Strings;
  readonly ipBlocks: Strings;
  readonly notIpBlocks: Strings;
  readonly serviceAccounts: Strings;
  readonly notServiceAccounts: Strings;
  readonly requestPrincipals: Strings;
  readonly notRequestPrincipals: Strings;
  readonly remoteIpBlocks: Strings;
  readonly notRemoteIpBlocks: Strings;
}
export interface AuthorizationOperation {
  readonly ports: Strings;
  readonly notPorts: Strings;
  readonly hosts: Strings;
  readonly notHosts: Strings;
  readonly methods: Strings;
  readonly notMethods: Strings;
  readonly paths: Strings;
  readonly notPaths: Strings;
}
export interface AuthorizationRule {
  readonly from: readonly { readonly source: AuthorizationSource }[];
  readonly to: readonly { readonly operation: AuthorizationOperation }[];
  readonly when: readonly { readonly key: string; readonly values: Strings; readonly notValues: Strings }[];
}
export interface AuthorizationPolicyObject {
  readonly kind: "AuthorizationPolicy";
  readonly metadata: ObjectMeta;
  readonly spec: {
    readonly selector: { readonly matchLabels: Readonly<Record<string, string>> };
    readonly targetRef: TargetRef | undefined;
    readonly targetRefs: readonly TargetRef[];
    readonly action: "ALLOW" | "DENY" | "AUDIT" | "CUSTOM";
    readonly rules: readonly AuthorizationRule[];
  };
}
export type MtlsModeName = "UNSET" | "PERMISSIVE" | "STRICT" | "DISABLE";
export interface PeerAuthenticationObject {
  readonly kind: "PeerAuthentication";
  readonly metadata: ObjectMeta;
  readonly spec: {
    readonly selector: { readonly matchLabels: Readonly<Record<string, string>> };
    readonly mtls: { readonly mode: MtlsModeName };
    readonly portLevelMtls: ReadonlyMap<number, MtlsModeName>;
  };
}
export interface MeshSettingsObject {
  readonly kind: "MeshSettings";
  readonly metadata: ObjectMeta;
  /** What the object sets; everything else keeps its default. */
  readonly spec: {
    readonly trustDomainAliases: readonly string[] | undefined;
    readonly clusterDomain: string | undefined;
    readonly excludedPorts: readonly number[] | undefined;
    readonly excludedCidrs: readonly string[] | undefined;
    readonly serverFirstPorts: readonly number[] | undefined;
    readonly renewAt: number | undefined;
    readonly maxStaleMs: number | undefined;
    readonly unmeshedNamespaces: readonly string[] | undefined;
    readonly registryOnly: boolean | undefined;
    readonly pathNormalization: "NONE" | "BASE" | "MERGE_SLASHES" | "DECODE_AND_MERGE_SLASHES" | undefined;
    readonly trustedProxies: number | undefined;
    /** False: no ResiliencePolicy injects faults, whatever it says. */
    readonly faultInjection: boolean | undefined;
    readonly enricher: EnricherSettings | undefined;
  };
}

export interface HttpRouteObject {
  readonly kind: "HTTPRoute";
  readonly metadata: ObjectMeta;
  readonly spec: RouteSpec;
}
export interface GrpcRouteObject {
  readonly kind: "GRPCRoute";
  readonly metadata: ObjectMeta;
  readonly spec: RouteSpec;
}
export interface ReferenceGrantObject {
  readonly kind: "ReferenceGrant";
  readonly metadata: ObjectMeta;
  readonly spec: ReferenceGrantSpec;
}
export interface ResiliencePolicyObject {
  readonly kind: "ResiliencePolicy";
  readonly metadata: ObjectMeta;
  readonly spec: ResilienceSpec;
}

export interface RateLimitPolicyObject {
  readonly kind: "RateLimitPolicy";
  readonly metadata: ObjectMeta;
  readonly spec: RateLimitSpec;
}

export type MeshObject =
  | NamespaceObject
  | ServiceAccountObject
  | NodeObject
  | PodObject
  | ServiceObject
  | EndpointSliceObject
  | AuthorizationPolicyObject
  | PeerAuthenticationObject
  | HttpRouteObject
  | GrpcRouteObject
  | ReferenceGrantObject
  | ResiliencePolicyObject
  | RateLimitPolicyObject
  | MeshSettingsObject;
export type ObjectKind = MeshObject["kind"];
export type ObjectOf<K extends ObjectKind> = Extract<MeshObject, { readonly kind: K }>;

export interface ObjectRef {
  readonly kind: string;
  readonly namespace: string;
  readonly name: string;
}
/** Where an object was read: file path relative to its folder, line of its first field; "kubernetes" and 0 for an API server's. */
export interface Origin {
  readonly file: string;
  readonly line: number;
}
/** One thing that is wrong with one object or file, worded for its author. */
export interface Problem {
  readonly file: string;
  readonly line: number;
  /** Undefined when the file could not be read far enough to tell. */
  readonly object: ObjectRef | undefined;
  /** Path as in "spec.ports[0].port", "" for the whole. */
  readonly field: string;
  readonly message: string;
  readonly fix: string;
}
/** A known kind that has no effect here. */
export interface Ignored extends Origin {
  readonly object: ObjectRef;
  readonly note: string;
}

/** What a source says to the index. Calls between two `settled` belong together. */
export interface SourceSink {
  apply(object: MeshObject, origin: Origin): void;
  delete(ref: ObjectRef): void;
  /** Everything that is wrong at present, whole. */
  problems(problems: readonly Problem[], ignored: readonly Ignored[]): void;
  settled(): void;
}

/** Where the mesh's objects come from. */
export interface Source {
  /** Resolves after the first complete reading, or when `signal` aborts. */
  start(signal: AbortSignal): Promise<void>;
  /** Makes known at once what has been noticed: somebody asks for an object that may be new. Cheap. */
  rescan(): Promise<void>;
  /** Reads everything again; resolves when that is in force, or when it cannot be had for now. */
  resync(): Promise<void>;
  stop(): void | Promise<void>;
  /** Why the mesh must not be served yet, in words; undefined when it may. */
  notReady(): string | undefined;
  /** For /health. */
  details(): Readonly<Record<string, unknown>>;
  /** Where objects of a kind are written; undefined when they are not there at present, or never can be written. */
  where(kind: ObjectKind): Place | undefined;
}
/** A collection of an API server. */
export interface Place {
  /** "" for the core group. */
  readonly group: string;
  readonly version: string;
  readonly plural: string;
}

export const refOf = (object: MeshObject): ObjectRef => ({
  kind: object.kind,
  namespace: object.metadata.namespace,
  name: object.metadata.name,
});
export const refKey = (ref: ObjectRef): string => `${ref.kind}/${ref.namespace}/${ref.name}`;
/** "shop/web.yaml:12", or the file alone where there are no lines. */
export const showOrigin = ({ file, line }: Origin): string => (line > 0 ? `${file}:${line}` : file);
/** "Service shop/web", "Namespace shop". */
export const showRef = (ref: ObjectRef): string =>
  `${ref.kind} ${ref.namespace === "" ? ref.name : `${ref.namespace}/${ref.name}`}`;
