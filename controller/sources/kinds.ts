// The shape of every kind that we read, and the names of those that we know but do not act on.

import * as policy from "./policy-kinds.ts";
import { rateLimitPolicy } from "./rate-limit-kind.ts";
import { resiliencePolicy } from "./resilience-kind.ts";
import { grpcRoute, httpRoute, referenceGrant } from "./route-kinds.ts";
import {
  addressOrNone,
  type Field,
  flag,
  integer,
  labels,
  list,
  nameOrNone,
  object,
  objectName,
  optional,
  type Path,
  port,
  type Reader,
  type Report,
  required,
  shared,
  text,
} from "./schema.ts";
import { services, slices } from "./service-kinds.ts";
import type { ContainerStatus, MeshObject, ObjectMeta, PodObject } from "./types.ts";

export interface Kind {
  readonly apiVersions: readonly string[];
  readonly isNamespaced: boolean;
  /** Reads a whole document; kind and apiVersion are already checked. */
  readonly read: Reader<MeshObject>;
}

export const meta: Reader<ObjectMeta> = object<ObjectMeta>(
  {
    name: required(objectName, ""),
    namespace: optional(objectName, ""),
    uid: optional(text, ""),
    labels: optional(shared(labels), {}),
    annotations: optional(shared(labels), {}),
    deletionTimestamp: optional(text, ""),
    creationTimestamp: optional(text, ""),
    generation: optional(integer(0, Number.MAX_SAFE_INTEGER), 0),
  },
  [
    "generateName",
    "resourceVersion",
    "deletionGracePeriodSeconds",
    "ownerReferences",
    "finalizers",
    "managedFields",
    "selfLink",
  ],
);
export const emptyMeta: ObjectMeta = {
  name: "",
  namespace: "",
  uid: "",
  labels: {},
  annotations: {},
  deletionTimestamp: "",
  creationTimestamp: "",
  generation: 0,
};

/** A reader of a document with metadata and the given other fields. */
function document<O extends MeshObject>(
  kind: O["kind"],
  fields: { readonly [K in Exclude<keyof O, "kind" | "metadata">]: Field<O[K]> },
  alsoKnown: readonly string[] = [],
): Reader<MeshObject> {
  const spec = { metadata: required(meta, emptyMeta), ...fields };
  const read = object(spec as unknown as Record<string, Field<unknown>>, ["apiVersion", "kind", ...alsoKnown]);
  return (value: unknown, path: Path, report: Report) =>
    ({ ...read(value, path, report), kind }) as unknown as MeshObject;
}

type Container = PodObject["spec"]["containers"][number];
const container = object<Container>(
  {
    name: required(text, ""),
    ports: optional(
      list(
        object({
          name: optional(text, ""),
          containerPort: required(port, 1),
          protocol: optional(text, "TCP"),
          hostPort: optional(integer(0, 65535), 0),
          hostIP: optional(addressOrNone, ""),
        }),
      ),
      [],
    ),
  },
  (
    "image command args workingDir envFrom env resources resizePolicy restartPolicy restartPolicyRules volumeMounts volumeDevices livenessProbe " +
    "readinessProbe startupProbe lifecycle terminationMessagePath terminationMessagePolicy imagePullPolicy securityContext stdin stdinOnce tty"
  ).split(" "),
);
const podSpec = object<PodObject["spec"]>(
  {
    nodeName: optional(nameOrNone, ""),
    serviceAccountName: optional(nameOrNone, "default"),
    hostNetwork: optional(flag, false),
    readinessGates: optional(list(object({ conditionType: required(text, "") }, [])), []),
    containers: required(shared(list(container)), []),
    initContainers: optional(shared(list(container)), []),
  },
  (
    "volumes ephemeralContainers restartPolicy terminationGracePeriodSeconds activeDeadlineSeconds dnsPolicy nodeSelector serviceAccount " +
    "automountServiceAccountToken hostPID hostIPC hostUsers hostnameOverride shareProcessNamespace securityContext imagePullSecrets hostname subdomain affinity " +
    "schedulerName tolerations hostAliases priorityClassName priority dnsConfig runtimeClassName enableServiceLinks " +
    "preemptionPolicy overhead topologySpreadConstraints setHostnameAsFQDN os schedulingGates resourceClaims resources"
  ).split(" "),
);
const stateNames = "waiting running".split(" ");
const ended = object<NonNullable<ContainerStatus["state"]["terminated"]>>(
  { exitCode: optional(integer(-1, 65535), 0), message: optional(text, "") },
  "signal reason startedAt finishedAt containerID".split(" "),
);
const state = object<ContainerStatus["state"]>(
  { terminated: optional<ContainerStatus["state"]["terminated"]>(ended, undefined) },
  stateNames,
);
const noState = { terminated: undefined };
const containerStatus = object<ContainerStatus>(
  {
    name: required(text, ""),
    ready: optional(flag, false),
    state: optional(state, noState),
    lastState: optional(state, noState),
  },
  "restartCount image imageID containerID started allocatedResources resources volumeMounts user allocatedResourcesStatus stopSignal".split(
    " ",
  ),
);
const ips = list(object({ ip: required(text, "") }));
export const noPodStatus: PodObject["status"] = {
  phase: "",
  podIP: "",
  podIPs: [],
  hostIP: "",
  hostIPs: [],
  conditions: [],
  containerStatuses: [],
};
const podStatus = object<PodObject["status"]>(
  {
    phase: optional(text, ""),
    podIP: optional(text, ""),
    podIPs: optional(ips, []),
    hostIP: optional(text, ""),
    hostIPs: optional(shared(ips), []),
    conditions: optional(
      shared(
        list(
          object({ type: required(text, ""), status: required(text, "") }, [
            "reason",
            "message",
            "lastProbeTime",
            "lastTransitionTime",
            "observedGeneration",
          ]),
        ),
      ),
      [],
    ),
    containerStatuses: optional(shared(list(containerStatus)), []),
  },
  (
    "reason message nominatedNodeName startTime initContainerStatuses qosClass ephemeralContainerStatuses " +
    "resize resourceClaimStatuses observedGeneration"
  ).split(" "),
);
const noPodSpec: PodObject["spec"] = {
  nodeName: "",
  serviceAccountName: "default",
  hostNetwork: false,
  readinessGates: [],
  containers: [],
  initContainers: [],
};

const core = ["v1"];
const fairlead = ["mesh.fairlead.dev/v1alpha1"];
const routes = ["gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1beta1"];
const istio = ["security.istio.io/v1", "security.istio.io/v1beta1"];

export const kinds: Readonly<Record<string, Kind>> = {
  Namespace: { apiVersions: core, isNamespaced: false, read: document("Namespace", {}, ["spec", "status"]) },
  ServiceAccount: {
    apiVersions: core,
    isNamespaced: true,
    read: document("ServiceAccount", {}, ["secrets", "imagePullSecrets", "automountServiceAccountToken"]),
  },
  Pod: {
    apiVersions: core,
    isNamespaced: true,
    read: document<PodObject>("Pod", { spec: required(podSpec, noPodSpec), status: optional(podStatus, noPodStatus) }),
  },
  Service: { apiVersions: core, isNamespaced: true, read: document("Service", services) },
  EndpointSlice: { apiVersions: ["discovery.k8s.io/v1"], isNamespaced: true, read: document("EndpointSlice", slices) },
  AuthorizationPolicy: {
    apiVersions: istio,
    isNamespaced: true,
    read: document("AuthorizationPolicy", policy.authorization, ["status"]),
  },
  PeerAuthentication: {
    apiVersions: istio,
    isNamespaced: true,
    read: document("PeerAuthentication", policy.peerAuthentication, ["status"]),
  },
  HTTPRoute: { apiVersions: routes, isNamespaced: true, read: document("HTTPRoute", httpRoute, ["status"]) },
  GRPCRoute: { apiVersions: routes, isNamespaced: true, read: document("GRPCRoute", grpcRoute, ["status"]) },
  ReferenceGrant: { apiVersions: routes, isNamespaced: true, read: document("ReferenceGrant", referenceGrant) },
  ResiliencePolicy: {
    apiVersions: fairlead,
    isNamespaced: true,
    read: document("ResiliencePolicy", resiliencePolicy, ["status"]),
  },
  RateLimitPolicy: {
    apiVersions: fairlead,
    isNamespaced: true,
    read: document("RateLimitPolicy", rateLimitPolicy, ["status"]),
  },
  MeshSettings: {
    apiVersions: fairlead,
    isNamespaced: false,
    read: document("MeshSettings", policy.meshSettings, ["status"]),
  },
};

/** Kinds that belong in such folders but change nothing in the mesh: a note, not a problem. */
export const ignoredKinds: ReadonlySet<string> = new Set(
  (
    "ConfigMap Secret Deployment StatefulSet DaemonSet ReplicaSet Job CronJob Ingress NetworkPolicy PersistentVolume PersistentVolumeClaim " +
    "StorageClass Role RoleBinding ClusterRole ClusterRoleBinding CustomResourceDefinition HorizontalPodAutoscaler PodDisruptionBudget " +
    "PriorityClass Endpoints Node Event Lease LimitRange ResourceQuota Kustomization"
  ).split(" "),
);
export const clusterScopedIgnored: ReadonlySet<string> = new Set(
  "PersistentVolume StorageClass ClusterRole ClusterRoleBinding CustomResourceDefinition PriorityClass Node".split(" "),
);
