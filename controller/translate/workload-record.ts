// A pod, or an address that is no pod's -> its Workload record (DP-30). Pure.
import { type NodeName, workloadUid } from "../../agent/api/names.ts";
import type { MeshSettings } from "../../agent/api/settings.ts";
import {
  defaultHbonePort,
  type HostPort,
  type Membership,
  type TunnelKind,
  type Workload,
} from "../../agent/api/workload.ts";
import { canonicalIp } from "../../agent/base/ip.ts";
import type { ClusterIndex } from "../index/cluster-index.ts";
import type { PodObject } from "../sources/types.ts";
import { type ExternalEndpoint, numberedPort } from "./memberships.ts";
import { protocolAnnotation } from "./namespaces.ts";

export const weightAnnotation = "fairlead.dev/weight";

export interface Place {
  readonly region: string;
  readonly zone: string;
}
/** Everything besides the pod that goes into its record. */
export const keyOf = (
  trustDomain: string,
  tunnel: TunnelKind,
  place: Place,
  services: readonly Membership[],
): string => {
  let key = `${trustDomain} ${tunnel} ${place.region} ${place.zone}`;
  for (const { service, ports, forZones, forNodes } of services) {
    key += ` ${service}`;
    for (const port of ports) key += `,${port.servicePort}:${port.targetPort}`;
    if (forZones !== undefined || forNodes !== undefined) key += `|${forZones ?? ""}|${forNodes ?? ""}`;
  }
  return key;
};

/** Ended for good: it has neither an address nor an identity any more. */
export const isOver = (pod: PodObject): boolean => pod.status.phase === "Succeeded" || pod.status.phase === "Failed";

/** The first container whose command has ended badly, worded for the pod's author; no numbers that change with every try. */
export function troubleOf(
  pod: PodObject,
): { readonly field: string; readonly message: string; readonly fix: string } | undefined {
  for (const { name, ready, state, lastState } of pod.status.containerStatuses) {
    const ended = state.terminated ?? lastState.terminated;
    if (ready || ended === undefined) continue;
    const index = pod.spec.containers.findIndex((container) => container.name === name);
    return {
      field: `spec.containers[${Math.max(0, index)}].command`,
      message: `container "${name}" ended with exit code ${ended.exitCode}${ended.message === "" ? "" : `: ${ended.message.slice(0, 200)}`}`,
      fix: "correct the command; the pod's log has the rest of what it said",
    };
  }
  return undefined;
}

/** Share of the load beside other endpoints, for one that costs more or can do more (LB-7); undefined: what is said is no such number. */
export function weightOf({ metadata }: PodObject): number | undefined {
  const text = metadata.annotations[weightAnnotation] ?? "1";
  const weight = /^[0-9]{1,5}$/.test(text) ? Number(text) : 0;
  return weight >= 1 && weight <= 65_535 ? weight : undefined;
}

/** As the pod's labels have it, else its node's. */
export function placeOf(pod: PodObject, index: ClusterIndex): Place {
  const own = pod.metadata.labels;
  const node = pod.spec.nodeName === "" ? undefined : index.get("Node", "", pod.spec.nodeName)?.object.metadata.labels;
  const [region, zone] = ["topology.kubernetes.io/region", "topology.kubernetes.io/zone"];
  return { region: own[region] ?? node?.[region] ?? "", zone: own[zone] ?? node?.[zone] ?? "" };
}

export function addressesOf(pod: PodObject): readonly string[] {
  const all = [pod.status.podIP, ...pod.status.podIPs.map((entry) => entry.ip)];
  return [...new Set(all.flatMap((ip) => canonicalIp(ip) ?? []))];
}

export function tunnelOf(pod: PodObject, isMeshed: boolean): TunnelKind {
  if (pod.metadata.annotations[protocolAnnotation] === "hbone") return "hbone";
  return isMeshed ? "fairlead/1" : "none";
}

export function toWorkload(
  pod: PodObject,
  addresses: readonly string[],
  settings: MeshSettings,
  services: readonly Membership[],
  tunnel: TunnelKind,
  place: Place,
): Workload {
  const { namespace, name, labels, annotations } = pod.metadata;
  return {
    uid: workloadUid(settings.trustDomain, namespace, name),
    name,
    namespace,
    serviceAccount: pod.spec.serviceAccountName || "default",
    trustDomain: settings.trustDomain,
    node: pod.spec.nodeName as NodeName | "",
    addresses,
    labels,
    tunnel,
    ready: hasCondition(pod, "Ready", "True"),
    ...(isNodeSilent(pod) && { nodeSilent: true }),
    draining: pod.metadata.deletionTimestamp !== "",
    weight: weightOf(pod) ?? 1,
    region: place.region,
    zone: place.zone,
    hostNetwork: pod.spec.hostNetwork,
    services,
    hbonePort: numberedPort(annotations["fairlead.dev/hbone-port"] ?? "") ?? defaultHbonePort,
    untunnelledPorts: untunnelledOf(annotations["fairlead.dev/exclude-inbound-ports"]),
    hostPorts: pod.spec.hostNetwork ? [] : hostPortsOf(pod),
  };
}

/** Of pods that have none, which are nearly all. */
const none: readonly never[] = [];
const untunnelledOf = (ports: string | undefined): readonly number[] =>
  ports === undefined ? none : ports.split(",").flatMap((text) => numberedPort(text.trim()) ?? []);

/**
 * When a node's kubelet is not heard of, Kubernetes takes the condition Ready from its pods and leaves what the kubelet said last of their
 * containers (MarkPodsNotReady, pkg/controller/util/node): after an outage of the API server that befalls every pod of the cluster at once.
 */
function isNodeSilent(pod: PodObject): boolean {
  return (
    hasCondition(pod, "Ready", "False") &&
    hasCondition(pod, "ContainersReady", "True") &&
    pod.spec.readinessGates.every((gate) => hasCondition(pod, gate.conditionType, "True"))
  );
}
const hasCondition = ({ status }: PodObject, type: string, wanted: "True" | "False"): boolean =>
  status.conditions.some((c) => c.type === type && c.status === wanted);

/** `hostPort` of every container on every address of the node, or the one that `hostIP` names (rule DP-6). */
function hostPortsOf(pod: PodObject): readonly HostPort[] {
  if (pod.spec.containers.every(({ ports }) => ports.every(({ hostPort }) => hostPort === 0))) return none;
  const hosts = [pod.status.hostIP, ...pod.status.hostIPs.map((host) => host.ip)];
  const node = [...new Set(hosts.flatMap((ip) => canonicalIp(ip) ?? []))];
  return pod.spec.containers
    .flatMap((container) => container.ports)
    .filter((port) => port.hostPort !== 0 && port.protocol === "TCP")
    .flatMap(({ hostPort, hostIP, containerPort }) =>
      node
        .filter((address) => hostIP === "" || hostIP === "0.0.0.0" || hostIP === "::" || hostIP === address)
        .map((address) => ({ address, port: hostPort, targetPort: containerPort })),
    );
}

export function externalWorkload(external: ExternalEndpoint, settings: MeshSettings): Workload {
  // "::" stays two dashes, so that no two addresses have the same name; a name does not end with one.
  const name = `endpoint-${external.address.replaceAll(/[.:]/g, "-").replace(/-$/, "-0")}`;
  return {
    uid: workloadUid(settings.trustDomain, external.namespace, name),
    name,
    namespace: external.namespace,
    serviceAccount: "",
    trustDomain: settings.trustDomain,
    node: "",
    addresses: [external.address],
    labels: {},
    tunnel: "none",
    ready: external.isReady,
    draining: false,
    weight: 1,
    region: "",
    zone: external.zone,
    hostNetwork: false,
    services: external.services,
    hbonePort: defaultHbonePort,
    untunnelledPorts: [],
    hostPorts: [],
  };
}
