// The mesh as Istio's ambient data plane is told it, kept up to date with what is translated for our own agents. Made only where it is wanted.
import { createHash } from "node:crypto";
import { Authorization as WireAuthorization } from "../../agent/api/istio-security.gen.ts";
import { Address } from "../../agent/api/istio-workload.gen.ts";
import { policyName, type ServiceName } from "../../agent/api/names.ts";
import type { Authorization, TrafficPolicy } from "../../agent/api/policy.ts";
import { type Service, serviceNameOf } from "../../agent/api/service.ts";
import type { Workload } from "../../agent/api/workload.ts";
import type { IstioSource, IstioType } from "../serve/istio-stream.ts";
import { encodeEntry, type Versioned } from "../serve/response.ts";
import { TypeSnapshot } from "../serve/snapshot.ts";
import {
  istioAddressName,
  istioAuthorization,
  istioService,
  istioServiceName,
  istioUid,
  istioWorkload,
  strictAuthorization,
  strictPolicy,
} from "../translate/istio.ts";
import type { ResourceChange } from "../translate/translator.ts";

export const addressType = "type.googleapis.com/istio.workload.Address";
export const authorizationType = "type.googleapis.com/istio.security.Authorization";

export class IstioView implements IstioSource {
  readonly #clusterDomain: () => string;
  readonly #addresses = new TypeSnapshot();
  readonly #authorizations = new TypeSnapshot();
  readonly #bytes = new Map<string, Uint8Array>();
  readonly #workloads = new Map<string, Workload>();
  readonly #services = new Map<ServiceName, Service>();
  readonly #policies = new Map<string, Authorization>();
  readonly #traffic = new Map<string, TrafficPolicy>();
  /** Resources at an address, and workloads of a service, by resource name. */
  readonly #at = new Map<string, Set<string>>();
  readonly #members = new Map<string, Set<string>>();
  /** Workloads of a node, by resource name. */
  readonly #on = new Map<string, Set<string>>();
  readonly #listeners = new Set<() => void>();
  #generation = 0;

  constructor(clusterDomain: () => string) {
    this.#clusterDomain = clusterDomain;
    const strict = WireAuthorization.encode(strictAuthorization).finish();
    this.#authorizations.put(authorizationType, `${strictPolicy.namespace}/${strictPolicy.name}`, strict);
  }

  get isReady(): boolean {
    return this.#generation > 0;
  }
  get generation(): number {
    return this.#generation;
  }
  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }
  type(typeUrl: string): IstioType | undefined {
    if (typeUrl === addressType)
      return {
        resources: this.#addresses,
        resolve: (name) => this.#resolve(name),
        ofNode: (node) => this.#on.get(node) ?? [],
        named: (name) => this.#named(name),
      };
    if (typeUrl === authorizationType)
      return { resources: this.#authorizations, resolve: (name) => [name], ofNode: () => [], named: () => undefined };
    return undefined;
  }

  /** Takes in what was translated; `isWhole` names everything that there is. */
  update(changes: readonly ResourceChange[], isWhole: boolean): void {
    if (isWhole) this.#forgetOthers(changes);
    const touched = new Set<string>();
    let areAllTouched = false;
    for (const { kind, name, resource } of changes) {
      if (kind === "Workload") {
        this.#setWorkload(name, resource?.kind === "Workload" ? resource.value : undefined);
        touched.add(name);
      } else if (kind === "Service") this.#setService(name, resource?.kind === "Service" ? resource.value : undefined);
      else if (kind === "Authorization") {
        areAllTouched = true;
        this.#setPolicy(name, resource?.kind === "Authorization" ? resource.value : undefined);
      } else if (kind === "TrafficPolicy") {
        areAllTouched = true;
        if (resource?.kind === "TrafficPolicy") this.#traffic.set(name, resource.value);
        else this.#traffic.delete(name);
      } else if (kind === "MeshSettings") areAllTouched = true;
    }
    for (const name of areAllTouched ? this.#workloads.keys() : touched) this.#offer(name);
    this.#generation += 1;
    for (const listener of [...this.#listeners]) listener();
  }

  #forgetOthers(changes: readonly ResourceChange[]): void {
    const there = new Set(changes.map(({ kind, name }) => `${kind} ${name}`));
    for (const name of [...this.#workloads.keys()])
      if (!there.has(`Workload ${name}`)) this.#setWorkload(name, undefined);
    for (const name of [...this.#services.keys()]) if (!there.has(`Service ${name}`)) this.#setService(name, undefined);
    for (const name of [...this.#policies.keys()])
      if (!there.has(`Authorization ${name}`)) this.#setPolicy(name, undefined);
    for (const name of [...this.#traffic.keys()]) if (!there.has(`TrafficPolicy ${name}`)) this.#traffic.delete(name);
  }

  #setWorkload(name: string, workload: Workload | undefined): void {
    const before = this.#workloads.get(name);
    if (before !== undefined) {
      const uid = istioUid(before);
      if (!before.hostNetwork) for (const ip of before.addresses) drop(this.#at, ip, uid);
      for (const { service } of before.services) drop(this.#members, service, uid);
      drop(this.#on, before.node, uid);
      this.#workloads.delete(name);
      if (workload === undefined) this.#put(uid, undefined);
    }
    if (workload === undefined) return;
    const uid = istioUid(workload);
    this.#workloads.set(name, workload);
    // On the host's network an address is many workloads'.
    if (!workload.hostNetwork) for (const ip of workload.addresses) add(this.#at, ip, uid);
    for (const { service } of workload.services) add(this.#members, service, uid);
    add(this.#on, workload.node, uid);
  }
  #setService(name: string, service: Service | undefined): void {
    const key = name as ServiceName;
    const before = this.#services.get(key);
    if (before !== undefined) {
      for (const ip of before.addresses) drop(this.#at, ip, istioServiceName(before));
      this.#services.delete(key);
      const stays = service !== undefined && service.externalName === "";
      if (!stays || istioServiceName(service) !== istioServiceName(before))
        this.#put(istioServiceName(before), undefined);
    }
    // A name for something elsewhere is resolved by whoever asks.
    if (service === undefined || service.externalName !== "") return;
    this.#services.set(serviceNameOf(service), service);
    for (const ip of service.addresses) add(this.#at, ip, istioServiceName(service));
    const bytes = Address.encode({ type: { $case: "service", value: istioService(service) } }).finish();
    this.#put(istioServiceName(service), bytes);
  }
  #setPolicy(name: string, policy: Authorization | undefined): void {
    const before = this.#policies.get(name);
    if (policy === undefined) this.#policies.delete(name);
    else this.#policies.set(name, policy);
    const one = policy ?? before;
    if (one === undefined) return;
    const wire = policy && istioAuthorization(policy);
    const bytes = wire && WireAuthorization.encode(wire).finish();
    this.#authorizations.put(authorizationType, policyName(one.namespace, one.name), bytes);
  }

  #offer(name: string): void {
    const workload = this.#workloads.get(name);
    if (workload === undefined) return;
    const value = istioWorkload(workload, {
      hostnameOf: (service) => this.#hostnameOf(service),
      authorizations: this.#policies.values(),
      trafficPolicies: this.#traffic.values(),
    });
    this.#put(istioUid(workload), Address.encode({ type: { $case: "workload", value } }).finish());
  }
  #hostnameOf(service: ServiceName): string {
    const known = this.#services.get(service);
    const [namespace, name] = service.split("/");
    return known?.hostname ?? `${name}.${namespace}.svc.${this.#clusterDomain()}`;
  }
  #put(name: string, bytes: Uint8Array | undefined): void {
    this.#addresses.put(addressType, name, bytes);
    if (bytes === undefined) this.#bytes.delete(name);
    else this.#bytes.set(name, bytes);
  }

  /** What one has to know to reach what was asked for: of a service its workloads too. */
  #resolve(asked: string): readonly string[] {
    const found = new Set<string>();
    const direct = asked.startsWith("/") ? [...(this.#at.get(asked.slice(1)) ?? [])] : [asked];
    for (const name of direct) {
      found.add(name);
      const service = [...this.#services.values()].find((one) => istioServiceName(one) === name);
      if (service !== undefined) for (const uid of this.#members.get(serviceNameOf(service)) ?? []) found.add(uid);
    }
    return [...found];
  }
  /** What is at an address, under the name that it was asked for by: that is what the answer is waited for under. */
  #named(asked: string): Versioned | undefined {
    if (!asked.startsWith(istioAddressName(""))) return undefined;
    const [first] = this.#at.get(asked.slice(1)) ?? [];
    const bytes = first === undefined ? undefined : this.#bytes.get(first);
    if (bytes === undefined) return undefined;
    const version = createHash("sha256").update(bytes).digest("base64url").slice(0, 16);
    return { name: asked, version, entry: encodeEntry(addressType, asked, version, bytes), position: 0 };
  }
}

function add(map: Map<string, Set<string>>, key: string, value: string): void {
  const set = map.get(key);
  if (set === undefined) map.set(key, new Set([value]));
  else set.add(value);
}
function drop(map: Map<string, Set<string>>, key: string, value: string): void {
  const set = map.get(key);
  set?.delete(value);
  if (set?.size === 0) map.delete(key);
}
