// Workload records and conditions of all pods and external endpoints, kept from one change to the next: what a change touches is made
// anew, everything else stays the same object.
import type { MeshSettings } from "../../agent/api/settings.ts";
import type { Workload } from "../../agent/api/workload.ts";
import type { ClusterIndex, Indexed } from "../index/cluster-index.ts";
import { type PodObject, refOf, showRef } from "../sources/types.ts";
import { accepted, type Condition, refused } from "./conditions.ts";
import { Contest } from "./contest.ts";
import type { Memberships } from "./memberships.ts";
import type { Namespaces } from "./namespaces.ts";
import {
  addressesOf,
  externalWorkload,
  isOver,
  keyOf,
  placeOf,
  toWorkload,
  troubleOf,
  tunnelOf,
  weightAnnotation,
  weightOf,
} from "./workload-record.ts";

/** Pods that their node's agent says it could not enrol, by "namespace/name": no tunnel is announced for them (DP-9). */
export type Unenrolled = ReadonlyMap<string, string>;
type PodEntry = Indexed<PodObject>;

/** What the records are made from, as it is now. */
export interface WorkloadInputs {
  readonly index: ClusterIndex;
  readonly namespaces: Namespaces;
  readonly settings: MeshSettings;
  readonly memberships: Memberships;
  readonly unenrolled: Unenrolled;
}
export interface WorkloadChange {
  readonly before: Workload | undefined;
  readonly after: Workload | undefined;
}
interface PodState {
  readonly entry: PodEntry;
  readonly addresses: readonly string[];
  /** What besides the pod is in the record. */
  readonly key: string;
  readonly workload: Workload | undefined;
}

export class WorkloadTable {
  readonly #pods = new Map<string, PodState>();
  readonly #byNamespace = new Map<string, Set<string>>();
  readonly #externals = new Map<string, Workload>();
  readonly #contest = new Contest();
  readonly #counts = new Map<string, number>();
  readonly #openPods = new Map<string, PodEntry | undefined>();
  readonly #openAddresses = new Set<string>();
  /**
   * `PodState.key` of this round, each by itself: pods of one service in one zone then hold one text, and looking it up makes V8 join the parts
   * that it was put together from.
   */
  readonly #keys = new Map<string, string>();

  /** `entry` undefined: the pod is gone. */
  touch(name: string, entry: PodEntry | undefined): void {
    this.#openPods.set(name, entry);
  }
  /** Something that its record is made from may be another. */
  retouch(name: string): void {
    const entry = this.#pods.get(name)?.entry;
    if (entry !== undefined && !this.#openPods.has(name)) this.#openPods.set(name, entry);
  }
  touchAddress(address: string): void {
    this.#openAddresses.add(address);
  }
  podsOf(namespace: string): Iterable<PodObject> {
    return this.#each(namespace, ({ entry }) => entry.object);
  }
  allPods(): Iterable<string> {
    return this.#pods.keys();
  }
  allExternals(): Iterable<string> {
    return this.#externals.keys();
  }

  /** All records of a namespace, or of the mesh. */
  *workloadsOf(namespace: string | undefined): Iterable<Workload> {
    if (namespace === undefined)
      for (const { workload } of this.#pods.values()) if (workload !== undefined) yield workload;
    if (namespace !== undefined)
      for (const workload of this.#each(namespace, (state) => state.workload))
        if (workload !== undefined) yield workload;
    for (const workload of this.#externals.values())
      if (namespace === undefined || workload.namespace === namespace) yield workload;
  }
  entryOf(name: string): PodEntry | undefined {
    return this.#pods.get(name)?.entry;
  }
  ofPod(name: string): Workload | undefined {
    return this.#pods.get(name)?.workload;
  }
  ofAddress(address: string): Workload | undefined {
    return this.#externals.get(address);
  }
  /** Pods that serve a service. */
  countOf(service: string): number {
    return this.#counts.get(service) ?? 0;
  }

  /** Makes anew what was touched. `say` gets the condition of each of these pods, `undefined` for one that is gone. */
  settle(
    inputs: WorkloadInputs,
    say: (key: string, condition: Condition | undefined) => void,
  ): readonly WorkloadChange[] {
    for (const [name, entry] of this.#openPods) this.#claim(name, entry, inputs.namespaces);
    const contested = this.#contest.settle();
    for (const name of contested.claimants) this.retouch(name);
    for (const address of contested.items) this.#openAddresses.add(address);
    // A slice may name a pod by its address alone.
    for (const address of this.#openAddresses) this.retouch(this.#contest.ownerOf(address) ?? "");

    const changes: WorkloadChange[] = [];
    const changed = (before: Workload | undefined, after: Workload | undefined): void => {
      if (before !== after) changes.push({ before, after });
    };
    for (const [name, entry] of this.#openPods) {
      const before = this.#pods.get(name);
      const after = entry === undefined ? undefined : this.#make(name, entry, before, inputs);
      this.#count(before?.workload, -1);
      this.#count(after?.state.workload, 1);
      if (after === undefined) this.#drop(name, before);
      else this.#keep(name, after.state);
      say(`Pod/${name}`, after?.condition);
      changed(before?.workload, after?.state.workload);
    }
    for (const address of this.#openAddresses) {
      const before = this.#externals.get(address);
      const endpoint = this.#contest.ownerOf(address) === undefined ? inputs.memberships.external(address) : undefined;
      const after = endpoint === undefined ? undefined : externalWorkload(endpoint, inputs.settings);
      if (after === undefined) this.#externals.delete(address);
      else this.#externals.set(address, after);
      if (before !== undefined && before.uid !== after?.uid) changed(before, undefined);
      changed(before?.uid === after?.uid ? before : undefined, after);
    }
    this.#openPods.clear();
    this.#openAddresses.clear();
    this.#keys.clear();
    return changes;
  }

  *#each<T>(namespace: string, read: (state: PodState) => T): Iterable<T> {
    for (const name of this.#byNamespace.get(namespace) ?? []) {
      const state = this.#pods.get(name);
      if (state !== undefined) yield read(state);
    }
  }
  #keep(name: string, state: PodState): void {
    const { namespace } = state.entry.object.metadata;
    if (!this.#pods.has(name)) {
      const others = this.#byNamespace.get(namespace);
      if (others === undefined) this.#byNamespace.set(namespace, new Set([name]));
      else others.add(name);
    }
    this.#pods.set(name, state);
  }
  #drop(name: string, state: PodState | undefined): void {
    const namespace = state?.entry.object.metadata.namespace ?? "";
    this.#pods.delete(name);
    const others = this.#byNamespace.get(namespace);
    others?.delete(name);
    if (others?.size === 0) this.#byNamespace.delete(namespace);
  }
  #shared(key: string): string {
    const known = this.#keys.get(key);
    if (known === undefined) this.#keys.set(key, key);
    return known ?? key;
  }
  #count(workload: Workload | undefined, by: number): void {
    for (const { service } of workload?.services ?? []) {
      const count = (this.#counts.get(service) ?? 0) + by;
      if (count === 0) this.#counts.delete(service);
      else this.#counts.set(service, count);
    }
  }

  /** Pods on the host's network share the node's addresses; everybody else's are their own. */
  #claim(name: string, entry: PodEntry | undefined, namespaces: Namespaces): void {
    const pod = entry?.object;
    const takesPart =
      entry !== undefined &&
      pod !== undefined &&
      !pod.spec.hostNetwork &&
      !isOver(pod) &&
      namespaces.missing(entry) === undefined;
    this.#contest.claim(name, takesPart ? this.#addresses(name, pod) : [], entry?.sequence ?? 0);
  }
  #addresses(name: string, pod: PodObject): readonly string[] {
    const known = this.#pods.get(name);
    return known?.entry.object === pod ? known.addresses : addressesOf(pod);
  }

  #make(
    name: string,
    entry: PodEntry,
    before: PodState | undefined,
    inputs: WorkloadInputs,
  ): { readonly state: PodState; readonly condition: Condition } {
    const { index, namespaces, settings, memberships, unenrolled } = inputs;
    const pod = entry.object;
    const addresses = this.#addresses(name, pod);
    const without = (condition: Condition) => ({
      state: { entry, addresses, key: "", workload: undefined },
      condition,
    });
    const missing = namespaces.missing(entry);
    if (missing !== undefined) return without(missing);
    if (isOver(pod)) {
      const trouble = pod.status.phase === "Failed" ? troubleOf(pod) : undefined;
      const ended = { message: `has ended (${pod.status.phase})` };
      return without(trouble === undefined ? accepted(entry, ended) : accepted(entry, trouble, "NotReady"));
    }
    const loss = this.#contest.lossOf(name);
    const [ownerNamespace = "", ownerName = ""] = loss?.owner.split("/") ?? [];
    const owner = loss === undefined ? undefined : index.get("Pod", ownerNamespace, ownerName);
    if (loss !== undefined && owner !== undefined) return without(addressTaken(entry, loss.item, owner));
    const isMeshed = namespaces.isMeshed(pod);
    const problem = unenrolled.get(name);
    const tunnel = tunnelOf(pod, isMeshed && problem === undefined);
    const place = placeOf(pod, index);
    const services = memberships.ofPod(pod, pod.spec.hostNetwork ? [] : addresses, place);
    const key = this.#shared(keyOf(settings.trustDomain, tunnel, place, services));
    const isSame = before?.workload !== undefined && before.entry.object === pod && before.key === key;
    const workload = isSame ? before.workload : toWorkload(pod, addresses, settings, services, tunnel, place);
    const condition = conditionOf(entry, workload, isMeshed ? problem : undefined, index);
    return { state: { entry, addresses, key, workload }, condition };
  }
}

export const podKeyOf = ({ metadata }: PodObject): string => `${metadata.namespace}/${metadata.name}`;

const addressTaken = (entry: PodEntry, address: string, owner: PodEntry): Condition =>
  refused(entry, "AddressTaken", {
    field: "status.podIPs",
    message: `the address ${address} belongs to ${showRef(refOf(owner.object))} (${owner.origin.file})`,
    fix: "one of the two pods is gone or misreported: remove its record",
  });

/** `problem`: why its agent could not enrol it though it should be. */
function conditionOf(entry: PodEntry, workload: Workload, problem: string | undefined, index: ClusterIndex): Condition {
  const pod = entry.object;
  const detail = { resources: [{ kind: "Workload", name: workload.uid }] };
  if (problem !== undefined) {
    const message = `is not in the mesh: ${problem}`;
    return accepted(entry, { ...detail, message, fix: "see the agent's log of its node" });
  }
  const trouble = workload.ready ? undefined : troubleOf(pod);
  if (trouble !== undefined) return accepted(entry, { ...detail, ...trouble }, "NotReady");
  const account = workload.serviceAccount;
  if (account !== "default" && index.get("ServiceAccount", workload.namespace, account) === undefined) {
    const field = "spec.serviceAccountName";
    const message = `there is no ServiceAccount "${account}" in the namespace "${workload.namespace}"`;
    const fix = "add it or correct the name";
    return accepted(entry, { ...detail, field, message, fix }, "ServiceAccountMissing");
  }
  if (weightOf(pod) === undefined) {
    const field = `metadata.annotations[${weightAnnotation}]`;
    const message = `must be a whole number from 1 to 65535, not ${JSON.stringify(pod.metadata.annotations[weightAnnotation])}: 1 is taken`;
    return accepted(entry, { ...detail, field, message, fix: "correct or remove it" }, "NotSupported");
  }
  return accepted(entry, detail);
}
