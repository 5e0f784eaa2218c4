// Which workload serves which service on which port: from EndpointSlices where there are any, else from selectors. Pure.
import type { ServiceName } from "../../agent/api/names.ts";
import type { Membership, PortMapping } from "../../agent/api/workload.ts";
import type { ClusterIndex } from "../index/cluster-index.ts";
import type { EndpointSliceObject, PodObject, ServiceObject, ServicePortSpec } from "../sources/types.ts";

const serviceLabel = "kubernetes.io/service-name";

/** An address of an EndpointSlice that is no pod's: it can be reached, but has no identity and no agent. */
export interface ExternalEndpoint {
  readonly namespace: string;
  readonly address: string;
  readonly isReady: boolean;
  readonly zone: string;
  readonly services: readonly { readonly service: ServiceName; readonly ports: readonly PortMapping[] }[];
}

export interface Memberships {
  ofPod(pod: PodObject): readonly Membership[];
  readonly externals: readonly ExternalEndpoint[];
  /** Pods and external endpoints behind a service, counted while `ofPod` is asked. */
  countOf(service: string): number;
}

/** Whether every wanted label is there; an empty selector matches nothing here (a Service without one has no pods of its own). */
export const selects = (
  selector: Readonly<Record<string, string>>,
  labels: Readonly<Record<string, string>>,
): boolean => {
  let some = false;
  for (const key in selector) {
    if (labels[key] !== selector[key]) return false;
    some = true;
  }
  return some;
};

export const numberedPort = (text: string): number | undefined => {
  const port = /^[0-9]{1,5}$/.test(text) ? Number(text) : 0;
  return port >= 1 && port <= 65535 ? port : undefined;
};

interface Member {
  readonly name: ServiceName;
  readonly service: ServiceObject;
  readonly slices: readonly EndpointSliceObject[];
}

export function resolveMemberships(
  index: ClusterIndex,
  services: ReadonlyMap<string, { readonly entry: { readonly object: ServiceObject } }>,
): Memberships {
  const slicesOf = new Map<string, EndpointSliceObject[]>();
  for (const { object } of index.all("EndpointSlice")) {
    const key = `${object.metadata.namespace}/${object.metadata.labels[serviceLabel] ?? ""}`;
    const slices = slicesOf.get(key);
    if (slices === undefined) slicesOf.set(key, [object]);
    else slices.push(object);
  }
  const bySelector = new Map<string, Member[]>();
  const byPod = new Map<string, Membership[]>();
  const byAddress = new Map<string, ExternalEndpoint>();
  const counts = new Map<string, number>();
  for (const [key, { entry }] of services) {
    const service = entry.object;
    const member: Member = { name: key as ServiceName, service, slices: slicesOf.get(key) ?? [] };
    if (member.slices.length > 0) readSlices(member, byPod, byAddress);
    else {
      const inNamespace = bySelector.get(service.metadata.namespace);
      if (inNamespace === undefined) bySelector.set(service.metadata.namespace, [member]);
      else inNamespace.push(member);
    }
  }
  const count = (name: string): void => void counts.set(name, (counts.get(name) ?? 0) + 1);
  for (const external of byAddress.values()) for (const { service } of external.services) count(service);
  return {
    externals: [...byAddress.values()],
    countOf: (service) => counts.get(service) ?? 0,
    ofPod(pod) {
      const { namespace, name, labels } = pod.metadata;
      const found: Membership[] = [...(byPod.get(`${namespace}/${name}`) ?? [])];
      for (const { service, name: of } of bySelector.get(namespace) ?? []) {
        if (!selects(service.spec.selector, labels)) continue;
        const ports = service.spec.ports.flatMap((port) => mapPort(port, pod) ?? []);
        found.push({ service: of, ports });
      }
      for (const membership of found) count(membership.service);
      return found.sort((a, b) => (a.service < b.service ? -1 : 1));
    },
  };
}

function mapPort(port: ServicePortSpec, pod: PodObject): PortMapping | undefined {
  if (port.protocol !== "TCP") return undefined;
  const target = port.targetPort ?? port.port;
  const number = typeof target === "number" ? target : namedPort(pod, target);
  return number === undefined ? undefined : { servicePort: port.port, targetPort: number };
}

function namedPort(pod: PodObject, name: string): number | undefined {
  for (const container of pod.spec.containers) {
    const port = container.ports.find((p) => p.name === name && p.protocol === "TCP");
    if (port !== undefined) return port.containerPort;
  }
  return undefined;
}

function readSlices(member: Member, byPod: Map<string, Membership[]>, byAddress: Map<string, ExternalEndpoint>): void {
  const { namespace } = member.service.metadata;
  for (const slice of member.slices) {
    const ports = slice.ports.flatMap((p) => {
      if (p.protocol !== "TCP") return [];
      const of = member.service.spec.ports.find((s) => s.name === p.name && s.protocol === "TCP");
      return of === undefined ? [] : [{ servicePort: of.port, targetPort: p.port }];
    });
    const membership: Membership = { service: member.name, ports };
    for (const endpoint of slice.endpoints) {
      const ref = endpoint.targetRef;
      if (ref?.kind === "Pod") {
        const key = `${ref.namespace || namespace}/${ref.name}`;
        const list = byPod.get(key) ?? [];
        // A dual-stack service has a slice for each family; the pod is a member once.
        if (!list.some((m) => m.service === member.name)) byPod.set(key, [...list, membership]);
        continue;
      }
      for (const address of slice.addressType === "FQDN" ? [] : endpoint.addresses) {
        const known = byAddress.get(address);
        byAddress.set(address, {
          namespace,
          address,
          isReady: endpoint.conditions.ready && !endpoint.conditions.terminating,
          zone: endpoint.zone,
          services: [...(known?.services ?? []), membership],
        });
      }
    }
  }
}
