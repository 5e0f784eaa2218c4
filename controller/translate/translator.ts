// The index -> resources for agents and conditions, kept from one change to the next. Endpoints (pods, slices, nodes, service accounts) cost what
// they touch; services, policies and routes are few and change seldom: what depends on one of them is made anew as a whole.

import type { HttpRouting } from "../../agent/api/http-routing.ts";
import { type MeshResource, type ResourceKind, resourceName } from "../../agent/api/resources.ts";
import type { MeshSettings } from "../../agent/api/settings.ts";
import type { Workload } from "../../agent/api/workload.ts";
import type { ClusterIndex, IndexChange, Indexed } from "../index/cluster-index.ts";
import {
  type EndpointSliceObject,
  type ObjectKind,
  type ObjectRef,
  type PodObject,
  refKey,
  refOf,
  type ServiceAccountObject,
} from "../sources/types.ts";
import { defaultPools, type Pools } from "./cluster-ips.ts";
import { ConditionBook, type ConditionChange } from "./condition-book.ts";
import { accepted, type Condition } from "./conditions.ts";
import { Coverage } from "./coverage.ts";
import { Memberships, selects, serviceOfSlice } from "./memberships.ts";
import { Namespaces } from "./namespaces.ts";
import { NodeAddresses } from "./node-addresses.ts";
import { translatePolicies } from "./policies.ts";
import { translateRateLimits } from "./rate-limits.ts";
import { joinRouting, translateResilience } from "./resilience.ts";
import { translateRoutes } from "./routes.ts";
import { same } from "./same.ts";
import { serviceCondition, type TranslatedServices, translateServices } from "./services.ts";
import { faultsAreOn, readSettings } from "./settings.ts";
import { podKeyOf, type Unenrolled, WorkloadTable } from "./workloads.ts";

export interface TranslatorOptions {
  /** Settings before any MeshSettings object; the trust domain and lifetimes come from the controller's own configuration. */
  readonly settings: MeshSettings;
  readonly rootNamespace: string;
  readonly pools?: Pools;
  /** Addresses that services were given earlier. */
  readonly allocations: ReadonlyMap<string, readonly string[]>;
}
export interface ResourceChange {
  readonly kind: ResourceKind;
  readonly name: string;
  /** undefined: it is gone. */
  readonly resource: MeshResource | undefined;
}
/** What a round changed; a resource may be named though it says the same as before. */
export interface TranslatedChanges {
  readonly resources: readonly ResourceChange[];
  readonly conditions: readonly ConditionChange[];
}

/** Objects that belong to endpoints; a change of any other kind concerns services, policies and routes. */
const endpointKinds: ReadonlySet<string> = new Set(["Pod", "EndpointSlice", "Node", "ServiceAccount"]);
const noServices: TranslatedServices = { services: new Map(), refusals: [], allocations: new Map() };

export class Translator {
  readonly #index: ClusterIndex;
  readonly #options: TranslatorOptions;
  readonly #nodeAddresses = new NodeAddresses();
  readonly #memberships = new Memberships();
  readonly #workloads = new WorkloadTable();
  readonly #coverage = new Coverage((namespace) => this.#workloads.workloadsOf(namespace));
  readonly #limitCoverage = new Coverage((namespace) => this.#workloads.workloadsOf(namespace));
  readonly #book = new ConditionBook();
  readonly #offered = new Map<ResourceKind, Map<string, MeshResource>>();
  #changes: ResourceChange[] = [];
  #settings: MeshSettings;
  /** As #settings, without addresses of nodes. */
  #base: MeshSettings;
  #namespaces: Namespaces;
  #services = noServices;
  #unenrolled: Unenrolled = new Map();
  #isStarted = false;

  constructor(index: ClusterIndex, options: TranslatorOptions) {
    this.#index = index;
    this.#options = options;
    this.#settings = options.settings;
    this.#base = options.settings;
    this.#namespaces = new Namespaces(index, options.settings);
    this.#services = { ...noServices, allocations: options.allocations };
  }

  get settings(): MeshSettings {
    return this.#settings;
  }
  get allocations(): ReadonlyMap<string, readonly string[]> {
    return this.#services.allocations;
  }
  get services(): TranslatedServices["services"] {
    return this.#services.services;
  }

  /** Takes in what changed in the index since the last round, and of pods that their agents could not enrol. */
  update(unenrolled: Unenrolled): TranslatedChanges {
    const taken = this.#index.takeChanges();
    const changes = this.#isStarted ? taken : everything(this.#index);
    const kinds = new Set(changes.map((change) => change.ref.kind));
    for (const change of changes) this.#takeEndpoint(change);
    const isOtherMesh = this.#readSettings(kinds);
    const touchesMore = isOtherMesh || [...kinds].some((kind) => !endpointKinds.has(kind));
    if (isOtherMesh || kinds.has("Namespace")) this.#readNamespaces(changes, isOtherMesh);
    if (isOtherMesh || kinds.has("Namespace") || kinds.has("Service")) this.#readServices();
    this.#readMemberships();
    this.#readUnenrolled(unenrolled);
    this.#readWorkloads(isOtherMesh);
    if (touchesMore) this.#readRouting();
    // Both are asked: each forgets what it was told.
    const [policies, limits] = [this.#coverage.settle(), this.#limitCoverage.settle()];
    if (touchesMore || policies) this.#readPolicies();
    if (touchesMore || limits) this.#readLimits();
    this.#isStarted = true;
    const resources = this.#changes;
    this.#changes = [];
    return { resources, conditions: this.#book.takeChanges() };
  }

  /** All resources as they are offered. */
  resources(): readonly MeshResource[] {
    const of = (kind: ResourceKind): Iterable<MeshResource> => this.#offered.get(kind)?.values() ?? [];
    const pods = this.#index.all("Pod").flatMap(({ object }) => this.#workloads.ofPod(podKeyOf(object)) ?? []);
    const externals = this.#memberships
      .externalAddresses()
      .flatMap((address) => this.#workloads.ofAddress(address) ?? []);
    return [
      ...of("MeshSettings"),
      ...[...pods, ...externals].map((value) => ({ kind: "Workload", value }) as const),
      ...of("Service"),
      ...of("Authorization"),
      ...of("TrafficPolicy"),
      ...of("RateLimit"),
      ...of("HttpRouting"),
    ];
  }
  routing(): readonly HttpRouting[] {
    const all = [...(this.#offered.get("HttpRouting")?.values() ?? [])];
    return all.flatMap((resource) => (resource.kind === "HttpRouting" ? [resource.value] : []));
  }
  /** What is to be said of one object. */
  conditionOf(ref: ObjectRef): Condition | undefined {
    return this.#book.get(refKey(ref));
  }
  workloads(): Iterable<Workload> {
    return this.#workloads.workloadsOf(undefined);
  }
  /** What is to be said of routes, policies and settings. */
  *policyConditions(): Iterable<Condition> {
    for (const layer of ["settings", "policies", "routing", "limits"]) yield* this.#book.layer(layer);
  }
  /** What is to be said of every object, in an order for readers. */
  conditions(): readonly Condition[] {
    const book = this.#book;
    const of = (kind: ObjectKind) =>
      this.#index.all(kind).flatMap(({ object }) => book.get(refKey(refOf(object))) ?? []);
    const services = [...this.#services.services.values()];
    return [
      ...book.layer("settings"),
      ...of("Namespace"),
      ...of("Node"),
      ...of("ServiceAccount"),
      ...this.#services.refusals,
      ...of("Pod"),
      ...book.layer("policies"),
      ...book.layer("routing"),
      ...book.layer("limits"),
      ...services.flatMap(({ entry }) => book.get(refKey(refOf(entry.object))) ?? []),
      ...of("EndpointSlice"),
    ];
  }

  #takeEndpoint({ ref, before, after }: IndexChange): void {
    const key = refKey(ref);
    switch (ref.kind) {
      case "Pod":
        this.#nodeAddresses.change(before?.object, after?.object);
        this.#workloads.touch(`${ref.namespace}/${ref.name}`, after as Indexed<PodObject> | undefined);
        return;
      case "Node":
        this.#nodeAddresses.change(before?.object, after?.object);
        this.#book.say(key, after && accepted(after));
        if (!same(before?.object.metadata.labels, after?.object.metadata.labels)) this.#retouchNode(ref.name);
        return;
      case "EndpointSlice":
        this.#memberships.slice(
          before as Indexed<EndpointSliceObject> | undefined,
          after as Indexed<EndpointSliceObject> | undefined,
        );
        this.#saySlice(key, after as Indexed<EndpointSliceObject> | undefined);
        return;
      case "ServiceAccount":
        this.#book.say(key, after && (this.#namespaces.missing(after) ?? accepted(after)));
        for (const pod of this.#workloads.podsOf(ref.namespace))
          if (pod.spec.serviceAccountName === ref.name) this.#workloads.retouch(podKeyOf(pod));
        return;
      case "Namespace":
        this.#book.say(key, after && accepted(after));
    }
  }
  #retouchNode(name: string): void {
    for (const key of this.#workloads.allPods())
      if (this.#workloads.entryOf(key)?.object.spec.nodeName === name) this.#workloads.retouch(key);
  }

  /** Whether anything but addresses of nodes is another now. */
  #readSettings(kinds: ReadonlySet<string>): boolean {
    const isFirst = !this.#isStarted;
    let isOther = isFirst;
    if (isFirst || kinds.has("MeshSettings")) {
      const { settings, conditions } = readSettings(this.#index, this.#options.settings);
      this.#book.sayLayer("settings", conditions);
      isOther ||= !same(settings, this.#base);
      this.#base = settings;
    }
    const nodeAddresses = this.#nodeAddresses.all;
    if (isOther || !same(nodeAddresses, this.#settings.nodeAddresses)) {
      this.#settings = { ...this.#base, nodeAddresses };
      this.#offer("MeshSettings", [{ kind: "MeshSettings", value: this.#settings }]);
    }
    return isOther;
  }

  #readNamespaces(changes: readonly IndexChange[], isOtherMesh: boolean): void {
    this.#namespaces = new Namespaces(this.#index, this.#settings);
    const touched = new Set(changes.filter(({ ref }) => ref.kind === "Namespace").map(({ ref }) => ref.name));
    const isTouched = (name: string): boolean => isOtherMesh || touched.has(name);
    if (isOtherMesh) for (const key of this.#workloads.allPods()) this.#workloads.retouch(key);
    else
      for (const name of touched)
        for (const pod of this.#workloads.podsOf(name)) this.#workloads.retouch(podKeyOf(pod));
    for (const entry of this.#index.all("ServiceAccount") as readonly Indexed<ServiceAccountObject>[]) {
      if (!isTouched(entry.object.metadata.namespace)) continue;
      this.#book.say(refKey(refOf(entry.object)), this.#namespaces.missing(entry) ?? accepted(entry));
    }
    for (const entry of this.#index.all("EndpointSlice"))
      if (isTouched(entry.object.metadata.namespace)) this.#saySlice(refKey(refOf(entry.object)), entry);
  }

  #readServices(): void {
    const before = this.#services;
    const pools = this.#options.pools ?? defaultPools;
    const after = translateServices(this.#index, this.#namespaces, this.#settings, pools, before.allocations);
    this.#services = after;
    this.#offer(
      "Service",
      [...after.services.values()].map(({ record }) => ({ kind: "Service", value: record })),
    );
    for (const key of new Set([...before.services.keys(), ...after.services.keys()])) {
      const [old, now] = [before.services.get(key)?.entry, after.services.get(key)?.entry];
      if (old === now) continue;
      this.#memberships.service(key, now);
      // If it is still there and refused, that is said with the other refusals.
      if (old !== undefined && now === undefined) this.#book.say(refKey(refOf(old.object)), undefined);
      if (old === undefined || now === undefined)
        for (const slice of this.#memberships.slicesOf(key)) this.#saySlice(refKey(refOf(slice.object)), slice);
    }
  }

  #readMemberships(): void {
    const { pods, selectors, addresses } = this.#memberships.settle();
    for (const key of pods) this.#workloads.retouch(key);
    for (const { namespace, selector } of selectors)
      for (const pod of this.#workloads.podsOf(namespace))
        if (selects(selector, pod.metadata.labels)) this.#workloads.retouch(podKeyOf(pod));
    for (const address of addresses) this.#workloads.touchAddress(address);
  }
  #readUnenrolled(unenrolled: Unenrolled): void {
    const before = this.#unenrolled;
    this.#unenrolled = unenrolled;
    for (const [key, reason] of unenrolled) if (before.get(key) !== reason) this.#workloads.retouch(key);
    for (const key of before.keys()) if (!unenrolled.has(key)) this.#workloads.retouch(key);
  }
  #readWorkloads(isOtherMesh: boolean): void {
    if (isOtherMesh) for (const address of this.#workloads.allExternals()) this.#workloads.touchAddress(address);
    const inputs = {
      index: this.#index,
      namespaces: this.#namespaces,
      settings: this.#settings,
      memberships: this.#memberships,
      unenrolled: this.#unenrolled,
    };
    const changes = this.#workloads.settle(inputs, (key, condition) => this.#book.say(key, condition));
    const services = new Set<string>(isOtherMesh ? this.#services.services.keys() : []);
    for (const { before, after } of changes) {
      this.#coverage.change(before, after);
      this.#limitCoverage.change(before, after);
      for (const { service } of before?.services ?? []) services.add(service);
      for (const { service } of after?.services ?? []) services.add(service);
      const workload = after ?? (before as Workload);
      this.#changes.push({
        kind: "Workload",
        name: workload.uid,
        resource: after && { kind: "Workload", value: after },
      });
    }
    for (const name of services) this.#sayService(name);
  }

  #sayService(name: string): void {
    const known = this.#services.services.get(name);
    if (known === undefined) return;
    const endpoints = this.#workloads.countOf(name) + this.#memberships.externalsOf(name);
    this.#book.say(refKey(refOf(known.entry.object)), serviceCondition(known.entry, known.record, endpoints));
  }
  #saySlice(key: string, entry: Indexed<EndpointSliceObject> | undefined): void {
    if (entry === undefined) {
      this.#book.say(key, undefined);
      return;
    }
    const service = serviceOfSlice(entry.object);
    const isOrphan = !this.#services.services.has(service);
    const name = service.slice(service.indexOf("/") + 1);
    const detail = {
      field: 'metadata.labels["kubernetes.io/service-name"]',
      message: name === "" ? "names no service" : `names the service "${name}", which is missing`,
      fix: "set the label to the name of a Service in this namespace",
    };
    const own = isOrphan ? accepted(entry, detail, "TargetMissing") : accepted(entry);
    this.#book.say(key, this.#namespaces.missing(entry) ?? own);
  }

  /** Routes and resilience, and what is said of services: all of it hangs on what services there are. */
  #readRouting(): void {
    const { services, refusals } = this.#services;
    const routes = translateRoutes(this.#index, this.#namespaces, services);
    const resilience = translateResilience(this.#index, this.#namespaces, services, faultsAreOn(this.#index));
    const routing: readonly HttpRouting[] = joinRouting(routes.routes, resilience.policies, services);
    this.#offer(
      "HttpRouting",
      routing.map((value) => ({ kind: "HttpRouting", value })),
    );
    this.#book.sayLayer("routing", [...routes.conditions, ...resilience.conditions]);
    this.#book.sayLayer("refused services", refusals);
    for (const name of services.keys()) this.#sayService(name);
  }
  #readPolicies(): void {
    this.#coverage.clear();
    const isEnriching = this.#settings.enricher.enable_mesh_enricher;
    const { rootNamespace } = this.#options;
    const policies = translatePolicies(this.#index, this.#namespaces, rootNamespace, this.#coverage, isEnriching);
    this.#offer(
      "Authorization",
      policies.authorizations.map((value) => ({ kind: "Authorization", value })),
    );
    this.#offer(
      "TrafficPolicy",
      policies.trafficPolicies.map((value) => ({ kind: "TrafficPolicy", value })),
    );
    this.#book.sayLayer("policies", policies.conditions);
  }
  #readLimits(): void {
    this.#limitCoverage.clear();
    const { rootNamespace } = this.#options;
    const { services } = this.#services;
    const limits = translateRateLimits(this.#index, this.#namespaces, rootNamespace, services, this.#limitCoverage);
    this.#offer(
      "RateLimit",
      limits.rateLimits.map((value) => ({ kind: "RateLimit", value })),
    );
    this.#book.sayLayer("limits", limits.conditions);
  }

  /** Makes these all resources of a kind. */
  #offer(kind: ResourceKind, all: readonly MeshResource[]): void {
    const before = this.#offered.get(kind);
    const after = new Map(all.map((resource) => [resourceName(resource), resource]));
    this.#offered.set(kind, after);
    for (const [name, resource] of after)
      if (before?.get(name)?.value !== resource.value) this.#changes.push({ kind, name, resource });
    for (const name of before?.keys() ?? [])
      if (!after.has(name)) this.#changes.push({ kind, name, resource: undefined });
  }
}

const everything = (index: ClusterIndex): readonly IndexChange[] =>
  [...index.entries()].map((after) => ({ ref: refOf(after.object), before: undefined, after }));
