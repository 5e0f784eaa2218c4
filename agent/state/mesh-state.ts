// Everything the agent knows of the mesh: apply(update) -> what changed; lookups; snapshot for the disk; dump. Pure, one writer.
import { type HttpRouting, routingServiceOf } from "../api/http-routing.ts";
import type { PolicyName, ServiceName, TrustDomain, WorkloadUid } from "../api/names.ts";
import { type Authorization, policyNameOf, type TrafficPolicy } from "../api/policy.ts";
import type { RateLimit } from "../api/rate-limit.ts";
import { type MeshResource, type ResourceKind, resourceKinds } from "../api/resources.ts";
import { serviceNameOf } from "../api/service.ts";
import { defaultSettings, type MeshSettings } from "../api/settings.ts";
import type { TrustBundle } from "../api/trust.ts";
import type { Workload } from "../api/workload.ts";
import { PolicyIndex } from "./policies.ts";
import { ServiceIndex } from "./services.ts";
import { WorkloadIndex } from "./workloads.ts";

export interface Removed {
  readonly kind: ResourceKind;
  readonly name: string;
}
export interface MeshUpdate {
  readonly changed: readonly MeshResource[];
  readonly removed: readonly Removed[];
}
/** What an update touched, so that whoever derives something from the state need not look at all of it again. */
export interface Changes {
  /** Names by kind; a kind without changes has an empty set. */
  readonly names: Readonly<Record<ResourceKind, ReadonlySet<string>>>;
  /** Services whose own record or whose membership changed. */
  readonly services: ReadonlySet<ServiceName>;
  /** Workload addresses that changed their meaning: before and after. */
  readonly addresses: ReadonlySet<string>;
  readonly any: boolean;
}

interface Touched {
  readonly names: Record<ResourceKind, Set<string>>;
  readonly services: Set<ServiceName>;
  readonly addresses: Set<string>;
}

export class MeshState {
  readonly workloads = new WorkloadIndex();
  readonly services = new ServiceIndex();
  readonly authorizations = new PolicyIndex<Authorization>();
  readonly trafficPolicies = new PolicyIndex<TrafficPolicy>();
  readonly rateLimits = new PolicyIndex<RateLimit>();
  readonly #routings = new Map<ServiceName, HttpRouting>();
  readonly #bundles = new Map<TrustDomain, TrustBundle>();
  readonly #defaults: MeshSettings;
  #settings: MeshSettings;
  #generation = 1;
  #hasSettings = false;

  /** `defaults` hold until the controller's settings are known, and again if it withdraws them. */
  constructor(defaults: MeshSettings = defaultSettings) {
    this.#defaults = defaults;
    this.#settings = defaults;
  }

  /** Grows with every update that changed anything; verdicts made under another generation are void. */
  get generation(): number {
    return this.#generation;
  }
  get settings(): MeshSettings {
    return this.#settings;
  }
  /** By the service that requests are addressed to. */
  get routings(): ReadonlyMap<ServiceName, HttpRouting> {
    return this.#routings;
  }
  get bundles(): ReadonlyMap<TrustDomain, TrustBundle> {
    return this.#bundles;
  }

  apply(update: MeshUpdate): Changes {
    const names = Object.fromEntries(resourceKinds.map((kind) => [kind, new Set<string>()])) as Touched["names"];
    const touched: Touched = { names, services: new Set(), addresses: new Set() };
    for (const resource of update.changed) names[resource.kind].add(this.#put(resource, touched));
    for (const { kind, name } of update.removed) if (this.#delete(kind, name, touched)) names[kind].add(name);
    const any = resourceKinds.some((kind) => names[kind].size > 0);
    if (any) this.#generation++;
    return { ...touched, any };
  }

  /** Addresses of nodes: those of the settings, and those known through pods on a host's network. */
  isNodeAddress(address: string): boolean {
    return this.#settings.nodeAddresses.includes(address) || this.workloads.isHostAddress(address);
  }

  /** Makes every verdict void without a change of resources: local facts (enrolment, staleness) changed. */
  bump(): number {
    return ++this.#generation;
  }

  *snapshot(): Iterable<MeshResource> {
    for (const value of this.workloads.all()) yield { kind: "Workload", value };
    for (const value of this.services.all()) yield { kind: "Service", value };
    for (const value of this.authorizations.all()) yield { kind: "Authorization", value };
    for (const value of this.trafficPolicies.all()) yield { kind: "TrafficPolicy", value };
    for (const value of this.#routings.values()) yield { kind: "HttpRouting", value };
    for (const value of this.rateLimits.all()) yield { kind: "RateLimit", value };
    for (const value of this.#bundles.values()) yield { kind: "TrustBundle", value };
    if (this.#hasSettings) yield { kind: "MeshSettings", value: this.#settings };
  }

  /** How many of each kind, for status and metrics. */
  counts(): Readonly<Record<ResourceKind, number>> {
    return {
      Workload: this.workloads.size,
      Service: this.services.size,
      Authorization: this.authorizations.size,
      TrafficPolicy: this.trafficPolicies.size,
      HttpRouting: this.#routings.size,
      RateLimit: this.rateLimits.size,
      TrustBundle: this.#bundles.size,
      MeshSettings: this.#hasSettings ? 1 : 0,
    };
  }

  #put(resource: MeshResource, touched: Touched): string {
    switch (resource.kind) {
      case "Workload":
        note(this.workloads.byUid(resource.value.uid), touched);
        note(resource.value, touched);
        this.workloads.put(resource.value);
        return resource.value.uid;
      case "Service":
        this.services.put(resource.value);
        touched.services.add(serviceNameOf(resource.value));
        return serviceNameOf(resource.value);
      case "Authorization":
        this.authorizations.put(resource.value);
        return policyNameOf(resource.value);
      case "TrafficPolicy":
        this.trafficPolicies.put(resource.value);
        return policyNameOf(resource.value);
      case "HttpRouting": {
        const name = routingServiceOf(resource.value);
        this.#routings.set(name, resource.value);
        return name;
      }
      case "RateLimit":
        this.rateLimits.put(resource.value);
        return policyNameOf(resource.value);
      case "TrustBundle":
        this.#bundles.set(resource.value.trustDomain, resource.value);
        return resource.value.trustDomain;
      case "MeshSettings":
        this.#settings = resource.value;
        this.#hasSettings = true;
        return "mesh";
    }
  }

  #delete(kind: ResourceKind, name: string, touched: Touched): boolean {
    switch (kind) {
      case "Workload": {
        const old = this.workloads.delete(name as WorkloadUid);
        note(old, touched);
        return old !== undefined;
      }
      case "Service":
        touched.services.add(name as ServiceName);
        return this.services.delete(name as ServiceName) !== undefined;
      case "Authorization":
        return this.authorizations.delete(name as PolicyName) !== undefined;
      case "TrafficPolicy":
        return this.trafficPolicies.delete(name as PolicyName) !== undefined;
      case "HttpRouting":
        return this.#routings.delete(name as ServiceName);
      case "RateLimit":
        return this.rateLimits.delete(name as PolicyName) !== undefined;
      case "TrustBundle":
        return this.#bundles.delete(name as TrustDomain);
      case "MeshSettings": {
        const had = this.#hasSettings;
        this.#settings = this.#defaults;
        this.#hasSettings = false;
        return had;
      }
    }
  }
}

function note(workload: Workload | undefined, touched: Touched): void {
  for (const address of workload?.addresses ?? []) touched.addresses.add(address);
  for (const membership of workload?.services ?? []) touched.services.add(membership.service);
}
