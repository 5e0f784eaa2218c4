// Which workload serves which service on which port: from EndpointSlices where there are any, else from selectors. Kept from one change
// to the next: a slice or service that changes is read again with the slices of its service, and says whose membership may be another.
import type { ServiceName } from "../../agent/api/names.ts";
import type { Membership, PortMapping } from "../../agent/api/workload.ts";
import { canonicalIp } from "../../agent/base/ip.ts";
import type { Indexed } from "../index/cluster-index.ts";
import type {
  EndpointHints,
  EndpointSliceObject,
  PodObject,
  ServiceObject,
  ServicePortSpec,
} from "../sources/types.ts";

const serviceLabel = "kubernetes.io/service-name";
/** "namespace/name" of the service that a slice belongs to; nothing after the slash if it names none. */
export const serviceOfSlice = ({ metadata }: EndpointSliceObject): string =>
  `${metadata.namespace}/${metadata.labels[serviceLabel] ?? ""}`;

/** An address of an EndpointSlice that is no pod's: it can be reached, but has no identity and no agent. */
export interface ExternalEndpoint {
  readonly namespace: string;
  readonly address: string;
  readonly isReady: boolean;
  readonly zone: string;
  readonly services: readonly Membership[];
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

type ServiceEntry = Indexed<ServiceObject>;
type SliceEntry = Indexed<EndpointSliceObject>;
type Outside = Omit<ExternalEndpoint, "services"> & { readonly membership: Membership };
/** What a service in force says of its endpoints. */
interface Reading {
  readonly entry: ServiceEntry;
  /** False: it has slices, and its selector says nothing. */
  readonly isBySelector: boolean;
  /** By "namespace/name". */
  readonly pods: ReadonlyMap<string, Membership>;
  readonly outside: readonly Outside[];
}
/** What may be another after a round. */
export interface MembershipChanges {
  /** "namespace/name" */
  readonly pods: ReadonlySet<string>;
  /** Of which namespaces pods with such labels, too. */
  readonly selectors: readonly { readonly namespace: string; readonly selector: Readonly<Record<string, string>> }[];
  readonly addresses: ReadonlySet<string>;
}

export class Memberships {
  readonly #slices = new Map<string, Map<string, SliceEntry>>();
  readonly #readings = new Map<string, Reading>();
  /** By service; a list, since nearly all have one. */
  readonly #byPod = new Map<string, readonly Membership[]>();
  readonly #byAddress = new Map<string, Set<string>>();
  readonly #bySelector = new Map<string, Map<string, ServiceEntry>>();
  readonly #open = new Map<string, ServiceEntry | undefined>();

  slice(before: SliceEntry | undefined, after: SliceEntry | undefined): void {
    if (before !== undefined) {
      const key = serviceOfSlice(before.object);
      const slices = this.#slices.get(key);
      slices?.delete(before.object.metadata.name);
      if (slices?.size === 0) this.#slices.delete(key);
      this.#reopen(key);
    }
    if (after !== undefined) {
      const key = serviceOfSlice(after.object);
      const slices = this.#slices.get(key);
      if (slices === undefined) this.#slices.set(key, new Map([[after.object.metadata.name, after]]));
      else slices.set(after.object.metadata.name, after);
      this.#reopen(key);
    }
  }
  /** `entry` undefined: the service is not in force any more. */
  service(key: string, entry: ServiceEntry | undefined): void {
    this.#open.set(key, entry);
  }

  settle(): MembershipChanges {
    const pods = new Set<string>();
    const addresses = new Set<string>();
    const selectors: { namespace: string; selector: Readonly<Record<string, string>> }[] = [];
    for (const [key, entry] of this.#open) {
      const before = this.#readings.get(key);
      const after = entry === undefined ? undefined : this.#read(key as ServiceName, entry);
      for (const reading of [before, after]) {
        for (const pod of reading?.pods.keys() ?? []) {
          if (before?.pods.get(pod) !== after?.pods.get(pod)) pods.add(pod);
        }
        for (const { address } of reading?.outside ?? []) addresses.add(address);
        if (reading?.isBySelector && before?.entry !== after?.entry) selectors.push(selectorOf(reading));
      }
      if (before?.isBySelector !== after?.isBySelector)
        for (const reading of [before, after]) if (reading?.isBySelector) selectors.push(selectorOf(reading));
      this.#put(key, before, after);
    }
    this.#open.clear();
    return { pods, selectors, addresses };
  }

  /** Services that the pod serves, by name. `addresses` are its own: a slice may name it by one of them alone. */
  ofPod(pod: PodObject, addresses: readonly string[], place: { readonly zone: string }): readonly Membership[] {
    const { namespace, name, labels } = pod.metadata;
    const listed = this.#byPod.get(`${namespace}/${name}`) ?? [];
    const found = [...listed];
    for (const address of addresses) {
      if (!this.#byAddress.has(address)) continue;
      for (const membership of this.external(address)?.services ?? [])
        if (!found.some((known) => known.service === membership.service)) found.push(membership);
    }
    for (const [key, { object }] of this.#bySelector.get(namespace) ?? []) {
      if (!selects(object.spec.selector, labels)) continue;
      const ports = object.spec.ports.flatMap((port) => mapPort(port, pod) ?? []);
      found.push({ service: key as ServiceName, ports, ...ownHints(object, pod, place) });
    }
    return found.length === listed.length ? listed : found.sort(byService);
  }

  /** What is behind an address that is no pod's. Where services differ in what they say of it, the one that was there last holds. */
  external(address: string): ExternalEndpoint | undefined {
    const readings = [...(this.#byAddress.get(address) ?? [])].flatMap((key) => this.#readings.get(key) ?? []);
    const all = readings.sort(bySequence).flatMap((r) => r.outside.filter((one) => one.address === address));
    const last = all.at(-1);
    if (last === undefined) return undefined;
    const { namespace, isReady, zone } = last;
    return { namespace, address, isReady, zone, services: joined(all.map((one) => one.membership)) };
  }
  /** All addresses that are no pods', in the order in which services name them. */
  externalAddresses(): readonly string[] {
    const readings = [...this.#readings.values()].filter((r) => r.outside.length > 0).sort(bySequence);
    return [...new Set(readings.flatMap((r) => r.outside.map((one) => one.address)))];
  }
  slicesOf(service: string): Iterable<SliceEntry> {
    return this.#slices.get(service)?.values() ?? [];
  }
  /** How many addresses behind a service are no pods'. */
  externalsOf(service: string): number {
    const outside = this.#readings.get(service)?.outside ?? [];
    return outside.length === 0 ? 0 : new Set(outside.map((one) => one.address)).size;
  }

  #reopen(key: string): void {
    const entry = this.#readings.get(key)?.entry;
    if (entry !== undefined && !this.#open.has(key)) this.#open.set(key, entry);
  }

  #read(name: ServiceName, entry: ServiceEntry): Reading {
    const slices = [...(this.#slices.get(name)?.values() ?? [])].sort((a, b) => a.sequence - b.sequence);
    const known = this.#readings.get(name)?.pods;
    const pods = new Map<string, Membership>();
    const outside: Outside[] = [];
    const { namespace } = entry.object.metadata;
    for (const { object: slice } of slices) {
      const membership: Membership = { service: name, ports: portsOf(slice, entry.object) };
      for (const endpoint of slice.endpoints) {
        const hinted = withHints(membership, endpoint.hints);
        const ref = endpoint.targetRef;
        if (ref?.kind === "Pod") {
          const key = `${ref.namespace || namespace}/${ref.name}`;
          // A dual-stack service has a slice for each family; the pod is a member once.
          if (!pods.has(key)) pods.set(key, sameOr(known?.get(key), hinted));
          continue;
        }
        const isReady = endpoint.conditions.ready && !endpoint.conditions.terminating;
        for (const text of slice.addressType === "FQDN" ? [] : endpoint.addresses) {
          const address = canonicalIp(text) ?? text;
          outside.push({ namespace, address, isReady, zone: endpoint.zone, membership: hinted });
        }
      }
    }
    return { entry, isBySelector: slices.length === 0, pods, outside };
  }

  #put(key: string, before: Reading | undefined, after: Reading | undefined): void {
    for (const pod of before?.pods.keys() ?? []) {
      if (after?.pods.has(pod)) continue;
      const others = this.#byPod.get(pod)?.filter(({ service }) => service !== key) ?? [];
      if (others.length === 0) this.#byPod.delete(pod);
      else this.#byPod.set(pod, others);
    }
    // Most pods of a slice are members of this alone, and in the same words: one list for all of them.
    const alone = new Map<Membership, readonly Membership[]>();
    for (const [pod, membership] of after?.pods ?? []) {
      const known = this.#byPod.get(pod) ?? [];
      if (known.includes(membership)) continue;
      const others = known.filter(({ service }) => service !== key);
      const list =
        others.length === 0 ? (alone.get(membership) ?? [membership]) : [...others, membership].sort(byService);
      if (others.length === 0) alone.set(membership, list);
      this.#byPod.set(pod, list);
    }
    for (const { address } of before?.outside ?? []) {
      const of = this.#byAddress.get(address);
      of?.delete(key);
      if (of?.size === 0) this.#byAddress.delete(address);
    }
    for (const { address } of after?.outside ?? []) {
      const of = this.#byAddress.get(address);
      if (of === undefined) this.#byAddress.set(address, new Set([key]));
      else of.add(key);
    }
    if (before?.isBySelector) {
      const { namespace } = before.entry.object.metadata;
      const inNamespace = this.#bySelector.get(namespace);
      inNamespace?.delete(key);
      if (inNamespace?.size === 0) this.#bySelector.delete(namespace);
    }
    if (after === undefined) {
      this.#readings.delete(key);
      return;
    }
    this.#readings.set(key, after);
    if (!after.isBySelector) return;
    const { namespace } = after.entry.object.metadata;
    const inNamespace = this.#bySelector.get(namespace);
    if (inNamespace === undefined) this.#bySelector.set(namespace, new Map([[key, after.entry]]));
    else inNamespace.set(key, after.entry);
  }
}

const byService = (a: Membership, b: Membership): number => (a.service < b.service ? -1 : 1);
const bySequence = (a: Reading, b: Reading): number => a.entry.sequence - b.entry.sequence;
const selectorOf = ({ entry }: Reading) => ({
  namespace: entry.object.metadata.namespace,
  selector: entry.object.spec.selector,
});

/** Ports by which a service's slice is reached, by the names that the two have in common. */
const portsOf = (slice: EndpointSliceObject, service: ServiceObject): readonly PortMapping[] =>
  slice.ports.flatMap((p) => {
    if (p.protocol !== "TCP") return [];
    const of = service.spec.ports.find((s) => s.name === p.name && s.protocol === "TCP");
    return of === undefined ? [] : [{ servicePort: of.port, targetPort: p.port }];
  });

/** One membership for each service, with the ports of all. */
function joined(all: readonly Membership[]): readonly Membership[] {
  const byService = new Map<ServiceName, Membership>();
  for (const one of all) {
    const known = byService.get(one.service);
    const more = one.ports.filter((port) => !known?.ports.some((p) => p.servicePort === port.servicePort));
    byService.set(one.service, known === undefined ? one : { ...known, ports: [...known.ports, ...more] });
  }
  return [...byService.values()];
}

/** The known membership if it says the same: whoever holds it need not change. */
function sameOr(known: Membership | undefined, membership: Membership): Membership {
  if (known === undefined || known.ports.length !== membership.ports.length) return membership;
  const isSame = membership.ports.every((port, i) => {
    const other = known.ports[i];
    return port.servicePort === other?.servicePort && port.targetPort === other.targetPort;
  });
  const isHintedSame = hintsOf(known) === hintsOf(membership);
  return isSame && isHintedSame ? known : membership;
}

const hintsOf = ({ forZones, forNodes }: Membership): string => `${forZones ?? ""}|${forNodes ?? ""}`;
const namesOf = (hints: readonly { readonly name: string }[]): readonly string[] =>
  hints.flatMap(({ name }) => (name === "" ? [] : [name]));

function withHints(membership: Membership, hints: EndpointHints | undefined): Membership {
  if (hints === undefined) return membership;
  const forZones = namesOf(hints.forZones);
  const forNodes = namesOf(hints.forNodes);
  if (forZones.length === 0 && forNodes.length === 0) return membership;
  return {
    ...membership,
    ...(forZones.length === 0 ? {} : { forZones }),
    ...(forNodes.length === 0 ? {} : { forNodes }),
  };
}

const nearness: ReadonlySet<string> = new Set(["PreferClose", "PreferSameZone", "PreferSameNode"]);
/** The hints that a pod's slice would have of `trafficDistribution`: where nobody writes slices, they are ours to make. */
function ownHints(
  { spec }: ServiceObject,
  pod: PodObject,
  { zone }: { readonly zone: string },
): Pick<Membership, "forZones" | "forNodes"> {
  const { trafficDistribution: wish } = spec;
  if (!nearness.has(wish)) return {};
  const node = wish === "PreferSameNode" ? pod.spec.nodeName : "";
  return { ...(zone === "" ? {} : { forZones: [zone] }), ...(node === "" ? {} : { forNodes: [node] }) };
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
