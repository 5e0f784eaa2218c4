// A workload (pod) as agents know it; wire form in mesh.proto. Membership in services lives here, not on the service (DP-30).
import { checkFields, type Decoded, invert, sortedRecord } from "./fields.ts";
import * as wire from "./mesh.gen.ts";
import {
  defaultTrustDomain,
  type NodeName,
  parseServiceName,
  parseTrustDomain,
  type ServiceName,
  type SpiffeId,
  type TrustDomain,
  type WorkloadUid,
  workloadId,
  workloadUid,
} from "./names.ts";

/** How this workload's node can be spoken to: not at all, our tunnel, or HTTP/2 CONNECT as ztunnel does. */
export type TunnelKind = "none" | "fairlead/1" | "hbone";

export interface PortMapping {
  readonly servicePort: number;
  readonly targetPort: number;
}
export interface Membership {
  readonly service: ServiceName;
  readonly ports: readonly PortMapping[];
  /** Zones and nodes whose clients should use it (hints of an EndpointSlice); absent: no hint. */
  readonly forZones?: readonly string[];
  readonly forNodes?: readonly string[];
}
/** An address and port of the node that lead to a port of the pod (`hostPort`). */
export interface HostPort {
  readonly address: string;
  readonly port: number;
  readonly targetPort: number;
}
export interface Workload {
  readonly uid: WorkloadUid;
  readonly name: string;
  readonly namespace: string;
  /** "" for an endpoint outside the mesh, which has no identity. */
  readonly serviceAccount: string;
  readonly trustDomain: TrustDomain;
  /** "" while the pod is not scheduled. */
  readonly node: NodeName | "";
  /** Canonical texts (base/ip.ts). */
  readonly addresses: readonly string[];
  readonly labels: Readonly<Record<string, string>>;
  readonly tunnel: TunnelKind;
  readonly ready: boolean;
  /** Not ready only because its node is not heard of: its containers were when it was last. */
  readonly nodeSilent?: boolean;
  /** Being deleted: open connections go on, new ones go elsewhere. */
  readonly draining: boolean;
  readonly weight: number;
  readonly region: string;
  readonly zone: string;
  readonly hostNetwork: boolean;
  readonly services: readonly Membership[];
  readonly hbonePort: number;
  /** Own ports that its agent leaves to the app: never spoken to through a tunnel. */
  readonly untunnelledPorts: readonly number[];
  readonly hostPorts: readonly HostPort[];
}

export const defaultHbonePort = 15008;
const tunnels: Readonly<Record<number, TunnelKind>> = {
  [wire.Tunnel.TUNNEL_NONE]: "none",
  [wire.Tunnel.TUNNEL_FAIRLEAD_1]: "fairlead/1",
  [wire.Tunnel.TUNNEL_HBONE]: "hbone",
};
const tunnelNumbers = invert(tunnels);

export function identityOf(workload: Pick<Workload, "trustDomain" | "namespace" | "serviceAccount">): SpiffeId {
  return workloadId(workload.trustDomain, workload.namespace, workload.serviceAccount);
}

/** The service that stands before a workload's own port: of several the first by name, so that it is the same each time. */
export const serviceBeforePort = ({ services }: Pick<Workload, "services">, port: number): ServiceName | undefined =>
  services
    .filter(({ ports }) => ports.some(({ targetPort }) => targetPort === port))
    .map(({ service }) => service)
    .sort()[0];

export function workloadFromWire(message: wire.Workload): Decoded<Workload> {
  const fields = checkFields();
  const trustDomain = fields.parsed("trust_domain", parseTrustDomain(message.trustDomain), defaultTrustDomain);
  const namespace = fields.name("namespace", message.namespace);
  const name = fields.name("name", message.name);
  const uid = workloadUid(trustDomain, namespace, name);
  if (message.uid !== "" && message.uid !== uid) fields.problem("uid", `must be "${uid}"`);
  return fields.finish<Workload>({
    uid,
    name,
    namespace,
    serviceAccount: fields.optionalName("service_account", message.serviceAccount),
    trustDomain,
    node: fields.optionalName("node", message.node) as NodeName | "",
    addresses: message.addresses.map((address, i) => fields.address(`addresses[${i}]`, address)),
    labels: message.labels,
    tunnel: fields.oneOf("tunnel", message.tunnel, tunnels, "none"),
    ready: message.ready,
    ...(message.nodeSilent && { nodeSilent: true }),
    draining: message.draining,
    weight: message.weight === 0 ? 1 : message.weight,
    region: message.region,
    zone: message.zone,
    hostNetwork: message.hostNetwork,
    services: message.services.map((membership, i) => ({
      service: fields.parsed(`services[${i}].service`, parseServiceName(membership.service), "" as ServiceName),
      ports: membership.ports.map((port, j) => ({
        servicePort: fields.port(`services[${i}].ports[${j}].service_port`, port.servicePort),
        targetPort: fields.port(`services[${i}].ports[${j}].target_port`, port.targetPort),
      })),
      ...(membership.forZones.length === 0 ? {} : { forZones: membership.forZones }),
      ...(membership.forNodes.length === 0 ? {} : { forNodes: membership.forNodes }),
    })),
    hbonePort: fields.optionalPort("hbone_port", message.hbonePort, defaultHbonePort),
    untunnelledPorts: message.untunnelledPorts.map((port, i) => fields.port(`untunnelled_ports[${i}]`, port)),
    hostPorts: message.hostPorts.map(({ address, port, targetPort }, i) => ({
      address: fields.address(`host_ports[${i}].address`, address),
      port: fields.port(`host_ports[${i}].port`, port),
      targetPort: fields.port(`host_ports[${i}].target_port`, targetPort),
    })),
  });
}

export function workloadToWire(workload: Workload): wire.Workload {
  return {
    // A change of a pod goes to every agent, so bytes count: what follows from other fields, or is the default, is left out. This is the
    // resource's name on the stream.
    uid: "",
    name: workload.name,
    namespace: workload.namespace,
    serviceAccount: workload.serviceAccount,
    trustDomain: workload.trustDomain,
    node: workload.node,
    addresses: [...workload.addresses],
    labels: sortedRecord(workload.labels),
    tunnel: tunnelNumbers[workload.tunnel] as wire.Tunnel,
    ready: workload.ready,
    nodeSilent: workload.nodeSilent === true,
    draining: workload.draining,
    weight: workload.weight === 1 ? 0 : workload.weight,
    region: workload.region,
    zone: workload.zone,
    hostNetwork: workload.hostNetwork,
    services: workload.services.map((m) => ({
      service: m.service,
      ports: m.ports.map((p) => ({ ...p })),
      forZones: [...(m.forZones ?? [])],
      forNodes: [...(m.forNodes ?? [])],
    })),
    hbonePort: workload.hbonePort === defaultHbonePort ? 0 : workload.hbonePort,
    untunnelledPorts: [...workload.untunnelledPorts],
    hostPorts: workload.hostPorts.map((port) => ({ ...port })),
  };
}
