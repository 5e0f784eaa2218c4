// Pods and external endpoints -> Workload records with their service memberships (DP-30). Pure.
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
import type { ClusterIndex, Indexed } from "../index/cluster-index.ts";
import { type PodObject, refOf, showRef } from "../sources/types.ts";
import { accepted, type Condition, refused } from "./conditions.ts";
import { type ExternalEndpoint, type Memberships, numberedPort } from "./memberships.ts";
import { type Namespaces, protocolAnnotation } from "./namespaces.ts";

const weightAnnotation = "fairlead.dev/weight";

export interface TranslatedWorkloads {
  readonly workloads: readonly Workload[];
  readonly conditions: readonly Condition[];
}
/** Pods that their node's agent says it could not enrol, by "namespace/name": no tunnel is announced for them (DP-9). */
export type Unenrolled = ReadonlyMap<string, string>;

/** Records of pods that did not change, kept from one translation to the next: their bytes and versions stay, too. */
export class WorkloadMemo {
  readonly #entries = new WeakMap<PodObject, { readonly key: string; readonly workload: Workload }>();
  readonly #addresses = new WeakMap<PodObject, readonly string[]>();

  addresses(pod: PodObject): readonly string[] {
    let known = this.#addresses.get(pod);
    if (known === undefined) {
      known = addressesOf(pod);
      this.#addresses.set(pod, known);
    }
    return known;
  }
  /** `key` stands for everything besides the pod that goes into its record. */
  workload(pod: PodObject, key: string, make: () => Workload): Workload {
    const known = this.#entries.get(pod);
    if (known?.key === key) return known.workload;
    const workload = make();
    this.#entries.set(pod, { key, workload });
    return workload;
  }
}

interface Place {
  readonly region: string;
  readonly zone: string;
}
const keyOf = (trustDomain: string, tunnel: TunnelKind, place: Place, services: readonly Membership[]): string => {
  let key = `${trustDomain} ${tunnel} ${place.region} ${place.zone}`;
  for (const { service, ports } of services) {
    key += ` ${service}`;
    for (const port of ports) key += `,${port.servicePort}:${port.targetPort}`;
  }
  return key;
};

export function translateWorkloads(
  index: ClusterIndex,
  namespaces: Namespaces,
  settings: MeshSettings,
  memberships: Memberships,
  unenrolled: Unenrolled,
  memo: WorkloadMemo,
): TranslatedWorkloads {
  const workloads: Workload[] = [];
  const conditions: Condition[] = [];
  const owners = new Map<string, Indexed<PodObject>>();
  for (const entry of index.all("Pod")) {
    const missing = namespaces.missing(entry);
    if (missing !== undefined) {
      conditions.push(missing);
      continue;
    }
    const pod = entry.object;
    if (isOver(pod)) {
      const trouble = pod.status.phase === "Failed" ? troubleOf(pod) : undefined;
      conditions.push(
        trouble === undefined
          ? accepted(entry, { message: `has ended (${pod.status.phase})` })
          : accepted(entry, trouble, "NotReady"),
      );
      continue;
    }
    const addresses = memo.addresses(pod);
    // Pods on the host's network share the node's addresses; everybody else's are their own.
    const clash = pod.spec.hostNetwork ? undefined : addresses.find((ip) => owners.has(ip));
    const owner = clash === undefined ? undefined : owners.get(clash);
    if (owner !== undefined) {
      conditions.push(
        refused(entry, "AddressTaken", {
          field: "status.podIPs",
          message: `the address ${clash} belongs to ${showRef(refOf(owner.object))} (${owner.origin.file})`,
          fix: "one of the two pods is gone or misreported: remove its record",
        }),
      );
      continue;
    }
    if (!pod.spec.hostNetwork) for (const ip of addresses) owners.set(ip, entry);
    const isMeshed = namespaces.isMeshed(pod);
    const problem = unenrolled.get(`${pod.metadata.namespace}/${pod.metadata.name}`);
    const tunnel = tunnelOf(pod, isMeshed && problem === undefined);
    const services = memberships.ofPod(pod);
    const place = placeOf(pod, index);
    const workload = memo.workload(pod, keyOf(settings.trustDomain, tunnel, place, services), () =>
      toWorkload(pod, addresses, settings, services, tunnel, place),
    );
    workloads.push(workload);
    const detail = { resources: [{ kind: "Workload", name: workload.uid }] };
    const account = workload.serviceAccount;
    const trouble = workload.ready ? undefined : troubleOf(pod);
    if (isMeshed && problem !== undefined) {
      conditions.push(
        accepted(entry, {
          ...detail,
          message: `is not in the mesh: ${problem}`,
          fix: "see the agent's log of its node",
        }),
      );
    } else if (trouble !== undefined) {
      conditions.push(accepted(entry, { ...detail, ...trouble }, "NotReady"));
    } else if (account !== "default" && index.get("ServiceAccount", workload.namespace, account) === undefined) {
      conditions.push(
        accepted(
          entry,
          {
            ...detail,
            field: "spec.serviceAccountName",
            message: `there is no ServiceAccount "${account}" in the namespace "${workload.namespace}"`,
            fix: "add it or correct the name",
          },
          "ServiceAccountMissing",
        ),
      );
    } else if (weightOf(pod) === undefined) {
      const field = `metadata.annotations[${weightAnnotation}]`;
      const message = `must be a whole number from 1 to 65535, not ${JSON.stringify(pod.metadata.annotations[weightAnnotation])}: 1 is taken`;
      conditions.push(accepted(entry, { ...detail, field, message, fix: "correct or remove it" }, "NotSupported"));
    } else {
      conditions.push(accepted(entry, detail));
    }
  }
  for (const external of memberships.externals) {
    if (owners.has(external.address)) continue;
    workloads.push(externalWorkload(external, settings));
  }
  return { workloads, conditions };
}

/** Ended for good: it has neither an address nor an identity any more. */
export const isOver = (pod: PodObject): boolean => pod.status.phase === "Succeeded" || pod.status.phase === "Failed";

/** The first container whose command has ended badly, worded for the pod's author; no numbers that change with every try. */
function troubleOf(
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
function weightOf({ metadata }: PodObject): number | undefined {
  const text = metadata.annotations[weightAnnotation] ?? "1";
  const weight = /^[0-9]{1,5}$/.test(text) ? Number(text) : 0;
  return weight >= 1 && weight <= 65_535 ? weight : undefined;
}

/** As the pod's labels have it, else its node's. */
function placeOf(pod: PodObject, index: ClusterIndex): Place {
  const own = pod.metadata.labels;
  const node = pod.spec.nodeName === "" ? undefined : index.get("Node", "", pod.spec.nodeName)?.object.metadata.labels;
  const [region, zone] = ["topology.kubernetes.io/region", "topology.kubernetes.io/zone"];
  return { region: own[region] ?? node?.[region] ?? "", zone: own[zone] ?? node?.[zone] ?? "" };
}

function addressesOf(pod: PodObject): readonly string[] {
  const all = [pod.status.podIP, ...pod.status.podIPs.map((entry) => entry.ip)];
  return [...new Set(all.flatMap((ip) => canonicalIp(ip) ?? []))];
}

function tunnelOf(pod: PodObject, isMeshed: boolean): TunnelKind {
  if (pod.metadata.annotations[protocolAnnotation] === "hbone") return "hbone";
  return isMeshed ? "fairlead/1" : "none";
}

function toWorkload(
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
    ready: pod.status.conditions.some((c) => c.type === "Ready" && c.status === "True"),
    draining: pod.metadata.deletionTimestamp !== "",
    weight: weightOf(pod) ?? 1,
    region: place.region,
    zone: place.zone,
    hostNetwork: pod.spec.hostNetwork,
    services,
    hbonePort: numberedPort(annotations["fairlead.dev/hbone-port"] ?? "") ?? defaultHbonePort,
    untunnelledPorts: (annotations["fairlead.dev/exclude-inbound-ports"] ?? "")
      .split(",")
      .flatMap((text) => numberedPort(text.trim()) ?? []),
    hostPorts: pod.spec.hostNetwork ? [] : hostPortsOf(pod),
  };
}

/** `hostPort` of every container on every address of the node, or the one that `hostIP` names (rule DP-6). */
function hostPortsOf(pod: PodObject): readonly HostPort[] {
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

function externalWorkload(external: ExternalEndpoint, settings: MeshSettings): Workload {
  const name = `endpoint-${external.address.replaceAll(/[.:]+/g, "-").replaceAll(/^-|-$/g, "")}`;
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
