// Workloads indexed by uid, address, node, identity and service. Pure; one writer (mesh-state.ts).
import type { ServiceName, SpiffeId, WorkloadUid } from "../api/names.ts";
import { identityOf, type Workload } from "../api/workload.ts";
import { TextPool } from "./text-pool.ts";

/** A set per key that goes when it is empty. Most addresses and identities have one workload: it stands there without a set around it. */
class MultiMap<K> {
  readonly #sets = new Map<K, Workload | Map<WorkloadUid, Workload>>();
  put(key: K, workload: Workload): void {
    const found = this.#sets.get(key);
    if (found === undefined) this.#sets.set(key, workload);
    else if (found instanceof Map) found.set(workload.uid, workload);
    else
      this.#sets.set(
        key,
        new Map([
          [found.uid, found],
          [workload.uid, workload],
        ]),
      );
  }
  delete(key: K, uid: WorkloadUid): void {
    const found = this.#sets.get(key);
    if (found instanceof Map ? found.delete(uid) && found.size === 0 : found?.uid === uid) this.#sets.delete(key);
  }
  get(key: K): Iterable<Workload> {
    const found = this.#sets.get(key);
    return found === undefined ? [] : found instanceof Map ? found.values() : [found];
  }
  has(key: K): boolean {
    return this.#sets.has(key);
  }
  get size(): number {
    return this.#sets.size;
  }
}

export class WorkloadIndex {
  readonly #byUid = new Map<WorkloadUid, Workload>();
  readonly #byAddress = new MultiMap<string>();
  readonly #byNode = new MultiMap<string>();
  readonly #byIdentity = new MultiMap<SpiffeId>();
  readonly #byService = new MultiMap<ServiceName>();
  readonly #byHostPort = new MultiMap<string>();
  readonly #texts = new TextPool();

  get size(): number {
    return this.#byUid.size;
  }

  put(given: Workload): void {
    this.delete(given.uid);
    const workload = this.#texts.shared(given);
    this.#byUid.set(workload.uid, workload);
    for (const address of workload.addresses) this.#byAddress.put(address, workload);
    if (workload.node !== "") this.#byNode.put(workload.node, workload);
    this.#byIdentity.put(identityOf(workload), workload);
    for (const membership of workload.services) this.#byService.put(membership.service, workload);
    for (const { address, port } of workload.hostPorts) this.#byHostPort.put(`${address} ${port}`, workload);
  }

  /** Returns what was there. */
  delete(uid: WorkloadUid): Workload | undefined {
    const old = this.#byUid.get(uid);
    if (old === undefined) return undefined;
    this.#byUid.delete(uid);
    for (const address of old.addresses) this.#byAddress.delete(address, uid);
    this.#byNode.delete(old.node, uid);
    this.#byIdentity.delete(identityOf(old), uid);
    for (const membership of old.services) this.#byService.delete(membership.service, uid);
    for (const { address, port } of old.hostPorts) this.#byHostPort.delete(`${address} ${port}`, uid);
    return old;
  }

  byUid(uid: WorkloadUid): Workload | undefined {
    return this.#byUid.get(uid);
  }

  /**
   * The workload that has this address. hostNetwork pods share their node's address and are only found if nothing else has
   * it; of two that claim one address (a pod's address given out again before its end was seen) the one that is not ending wins,
   * then the one that is ready, then the one with the later uid, so that every agent picks the same.
   */
  byAddress(address: string): Workload | undefined {
    return bestOf(this.#byAddress.get(address));
  }

  /** The workload behind a `hostPort` at an address of its node, and the workload's own port; of two that claim it, as byAddress. */
  byHostPort(address: string, port: number): { readonly workload: Workload; readonly targetPort: number } | undefined {
    const workload = bestOf(this.#byHostPort.get(`${address} ${port}`));
    const found = workload?.hostPorts.find((h) => h.address === address && h.port === port);
    return workload === undefined || found === undefined ? undefined : { workload, targetPort: found.targetPort };
  }

  byNode(node: string): Iterable<Workload> {
    return this.#byNode.get(node);
  }

  hasIdentity(identity: SpiffeId): boolean {
    return this.#byIdentity.has(identity);
  }

  byIdentity(identity: SpiffeId): Iterable<Workload> {
    return this.#byIdentity.get(identity);
  }

  /** Every workload that names the service, ready or not. */
  membersOf(service: ServiceName): Iterable<Workload> {
    return this.#byService.get(service);
  }

  /** Addresses of nodes that are known through pods on the host's network. */
  isHostAddress(address: string): boolean {
    for (const workload of this.#byAddress.get(address)) if (workload.hostNetwork) return true;
    return false;
  }

  all(): Iterable<Workload> {
    return this.#byUid.values();
  }
}

function bestOf(workloads: Iterable<Workload>): Workload | undefined {
  let best: Workload | undefined;
  for (const workload of workloads)
    if (best === undefined || rank(workload) > rank(best)) best = workload;
    else if (rank(workload) === rank(best) && workload.uid > best.uid) best = workload;
  return best;
}

const rank = (workload: Workload): number =>
  (workload.hostNetwork ? 0 : 4) + (workload.draining ? 0 : 2) + (workload.ready ? 1 : 0);
