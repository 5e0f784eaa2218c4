// Service objects -> Service records: addresses (given or allocated), ports, declared protocols. Pure.
import { serviceName } from "../../agent/api/names.ts";
import type { Service, ServicePort } from "../../agent/api/service.ts";
import type { MeshSettings } from "../../agent/api/settings.ts";
import { canonicalIp } from "../../agent/base/ip.ts";
import type { ClusterIndex, Indexed } from "../index/cluster-index.ts";
import { refOf, type ServiceObject, type ServicePortSpec, showOrigin, showRef } from "../sources/types.ts";
import { allocate, type Pools } from "./cluster-ips.ts";
import { accepted, type Condition, refused } from "./conditions.ts";
import type { Namespaces } from "./namespaces.ts";
import {
  type AnnotatedProtocols,
  annotatedProtocols,
  declaredProtocol,
  isServerFirst,
  protocolsAnnotation,
} from "./protocols.ts";

type Entry = Indexed<ServiceObject>;
export interface TranslatedServices {
  readonly services: ReadonlyMap<string, { readonly record: Service; readonly entry: Entry }>;
  readonly refusals: readonly Condition[];
  /** Addresses given out, by service, to be handed in again next time so that none ever moves. */
  readonly allocations: ReadonlyMap<string, readonly string[]>;
}

export function translateServices(
  index: ClusterIndex,
  namespaces: Namespaces,
  settings: MeshSettings,
  pools: Pools,
  earlier: ReadonlyMap<string, readonly string[]>,
): TranslatedServices {
  const services = new Map<string, { record: Service; entry: Entry }>();
  const refusals: Condition[] = [];
  const owners = new Map<string, Entry>();
  const allocations = new Map<string, readonly string[]>();
  const candidates: Entry[] = [];
  for (const entry of index.all("Service")) {
    const missing = namespaces.missing(entry);
    if (missing !== undefined) refusals.push(missing);
    else candidates.push(entry);
  }
  // Given addresses first: an allocated one makes way, a given one cannot.
  const fine: Entry[] = [];
  for (const entry of candidates) {
    const given = clusterAddresses(entry.object);
    const [taken, owner] = given.map((ip) => [ip, owners.get(ip)] as const).find(([, o]) => o !== undefined) ?? [];
    if (owner !== undefined) {
      refusals.push(
        refused(entry, "AddressTaken", {
          field: "spec.clusterIP",
          message: `the address ${taken} belongs to ${showRef(refOf(owner.object))} (${showOrigin(owner.origin)})`,
          fix: "give one of the two another address, or none: then one is chosen",
        }),
      );
      continue;
    }
    for (const ip of given) owners.set(ip, entry);
    fine.push(entry);
  }
  const outer = shareOuter(fine, owners);
  const taken = new Set([...owners.keys(), ...[...outer.values()].flat()]);
  for (const entry of fine) {
    const name = keyOf(entry.object);
    const kept = (earlier.get(name) ?? []).filter(
      (ip) => !taken.has(ip) && wantedFamilies(entry.object).has(familyOf(ip)),
    );
    for (const ip of kept) taken.add(ip);
    if (kept.length > 0) allocations.set(name, kept);
  }
  for (const entry of fine) {
    const name = keyOf(entry.object);
    const own = [...(allocations.get(name) ?? [])];
    const missing = [...wantedFamilies(entry.object)].filter((family) => !own.some((ip) => familyOf(ip) === family));
    const fresh = missing.map((family) => allocate(family === "IPv4" ? pools.v4 : pools.v6, name, taken));
    if (fresh.includes(undefined)) {
      refusals.push(
        refused(entry, "AddressesExhausted", {
          field: "spec.clusterIP",
          message: `no address is left in ${pools.v4} or ${pools.v6}`,
          fix: "remove services or give this one an address",
        }),
      );
      continue;
    }
    for (const ip of fresh) if (ip !== undefined) own.push(ip);
    for (const ip of own) taken.add(ip);
    if (own.length > 0) allocations.set(name, own);
    const addresses = [...new Set([...clusterAddresses(entry.object), ...(outer.get(entry) ?? []), ...own])];
    services.set(name, { record: toRecord(entry.object, addresses, settings), entry });
  }
  return { services, refusals, allocations };
}

export const keyOf = (service: ServiceObject): string => serviceName(service.metadata.namespace, service.metadata.name);
const familyOf = (ip: string): string => (ip.includes(":") ? "IPv6" : "IPv4");
const isHeadless = (service: ServiceObject): boolean =>
  service.spec.clusterIP === "None" || service.spec.clusterIPs.includes("None");

/** Addresses that no other Service can have. */
function clusterAddresses(service: ServiceObject): readonly string[] {
  const { clusterIP, clusterIPs } = service.spec;
  return [...new Set([clusterIP, ...clusterIPs].filter((ip) => ip !== "" && ip !== "None"))];
}
/** Addresses that Services may share on different ports: nodes' own, for one, as k3s and MetalLB give them to load balancers. */
function outerAddresses(service: ServiceObject): readonly string[] {
  const ingress = service.status.loadBalancer.ingress.map((i) => canonicalIp(i.ip) ?? "");
  return [...new Set([...service.spec.externalIPs, ...ingress].filter((ip) => ip !== ""))];
}
const tcpPorts = (service: ServiceObject): readonly ServicePortSpec[] =>
  service.spec.ports.filter((port) => port.protocol === "TCP");

/** The outer addresses that each Service has: those on which nobody who was there before it has one of its ports. */
function shareOuter(
  entries: readonly Entry[],
  owners: ReadonlyMap<string, Entry>,
): ReadonlyMap<Entry, readonly string[]> {
  const claimed = new Set<string>();
  const shared = new Map<Entry, readonly string[]>();
  for (const entry of entries) {
    const claims = (ip: string): readonly string[] => tcpPorts(entry.object).map(({ port }) => `${ip} ${port}`);
    const free = outerAddresses(entry.object).filter((ip) => {
      const owner = owners.get(ip);
      return (owner === undefined || owner === entry) && !claims(ip).some((claim) => claimed.has(claim));
    });
    for (const ip of free) for (const claim of claims(ip)) claimed.add(claim);
    if (free.length > 0) shared.set(entry, free);
  }
  return shared;
}

/** Families that still need an address: both, unless the manifest names one, gives one, or wants none. */
function wantedFamilies(service: ServiceObject): ReadonlySet<string> {
  const { type, clusterIP, clusterIPs, ipFamilies } = service.spec;
  if (type === "ExternalName" || isHeadless(service) || clusterIP !== "" || clusterIPs.length > 0) return new Set();
  return new Set(ipFamilies.length > 0 ? ipFamilies : ["IPv4", "IPv6"]);
}

function toRecord(service: ServiceObject, addresses: readonly string[], settings: MeshSettings): Service {
  const { name, namespace } = service.metadata;
  const { sessionAffinity, sessionAffinityConfig, internalTrafficPolicy } = service.spec;
  const { byPort } = annotatedProtocols(service);
  return {
    name,
    namespace,
    hostname: `${name}.${namespace}.svc.${settings.clusterDomain}`,
    addresses,
    ports: tcpPorts(service).map((p) => toPort(p, byPort, settings)),
    headless: isHeadless(service),
    externalName: service.spec.type === "ExternalName" ? service.spec.externalName : "",
    loadBalancing: service.metadata.annotations["fairlead.dev/load-balancing"] ?? "",
    clientAffinityS: sessionAffinity === "ClientIP" ? sessionAffinityConfig.clientIP.timeoutSeconds : 0,
    nodeLocalAddresses:
      internalTrafficPolicy === "Local" ? addresses.filter((ip) => !outerAddresses(service).includes(ip)) : [],
    publishNotReady: service.spec.publishNotReadyAddresses,
  };
}

function toPort(spec: ServicePortSpec, annotated: AnnotatedProtocols["byPort"], settings: MeshSettings): ServicePort {
  const protocol = declaredProtocol(spec, annotated);
  const serverFirst = isServerFirst(protocol, spec.port, settings);
  return { port: spec.port, name: spec.name, protocol, nodePort: spec.nodePort, serverFirst };
}

/** The condition of a service that is in force. */
export function serviceCondition(entry: Entry, record: Service, endpoints: number): Condition {
  const resources = [{ kind: "Service", name: keyOf(entry.object) }];
  const { wrong } = annotatedProtocols(entry.object);
  if (wrong.length > 0)
    return accepted(
      entry,
      {
        resources,
        field: `metadata.annotations[${protocolsAnnotation}]`,
        message: `"${wrong.join(",")}" declares nothing: wanted is PORT=PROTOCOL with a port of this service and a protocol that is known`,
        fix: 'write for example "3306=mysql,web=http"',
      },
      "NotSupported",
    );
  const lost = outerAddresses(entry.object).filter((ip) => !record.addresses.includes(ip));
  if (lost.length > 0) {
    const message = `another Service has ${lost.join(", ")} on one of the same ports: requests to it there are that one's`;
    const fix = "give one of the two another address or port";
    const isGiven = lost.some((ip) => entry.object.spec.externalIPs.includes(ip));
    const field = isGiven ? "spec.externalIPs" : "status.loadBalancer.ingress";
    return accepted(entry, { resources, field, message, fix }, "AddressTaken");
  }
  if (endpoints > 0 || record.externalName !== "") return accepted(entry, { resources });
  const hasSelector = Object.keys(entry.object.spec.selector).length > 0;
  return accepted(
    entry,
    {
      resources,
      field: "spec.selector",
      message: hasSelector
        ? `no running pod of the namespace "${record.namespace}" has the labels ${showLabels(entry.object.spec.selector)}`
        : "has neither a selector nor an EndpointSlice",
      fix: hasSelector ? "correct the selector or start such a pod" : "add a selector or an EndpointSlice",
    },
    "NoEndpoints",
  );
}

export const showLabels = (labels: Readonly<Record<string, string>>): string =>
  Object.entries(labels)
    .map(([key, value]) => `${key}=${value}`)
    .join(",");
