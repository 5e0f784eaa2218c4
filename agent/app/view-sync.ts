// Derives what the kernel's maps should hold from state, pods and decisions, and keeps KernelView in step with changes of either.
import { isDeepStrictEqual } from "node:util";
import type { PodName, ServiceName } from "../api/names.ts";
import { type Service, type ServicePort, serviceNameOf } from "../api/service.ts";
import type { Clock } from "../base/clock.ts";
import { verdictKey } from "../connection.ts";
import { localFacts } from "../connection-facts.ts";
import type { Place } from "../decide/balance/locality.ts";
import { type DirectSettings, decideDirect } from "../decide/direct-rows.ts";
import { subjectOf } from "../decide/inbound.ts";
import { isOuterAddress } from "../decide/service-endpoints.ts";
import { serviceUpstreams } from "../decide/upstreams.ts";
import type { FactsBook } from "../flow.ts";
import type { EnrolledPod, Enrolment } from "../intercept/enrol.ts";
import type { DirectRow, KernelView, ServiceRow } from "../intercept/kernel-view.ts";
import type { Changes, MeshState } from "../state/mesh-state.ts";

export interface ViewSyncParts {
  readonly state: MeshState;
  readonly pods: Enrolment;
  readonly view: KernelView;
  readonly facts: FactsBook;
  readonly clock: Clock;
  /** Whether there are maps: with nftables native keeps only who speaks a tunnel, nothing reads the rest. */
  readonly maps: () => boolean;
  readonly direct: () => DirectSettings;
  /** Direct-lane connections of these rows may be open and must end. */
  readonly withdrawn: (source: EnrolledPod, destination: EnrolledPod | undefined, rows: readonly DirectRow[]) => void;
  readonly failed: () => void;
}

const retryMs = 1_000;
const pairKey = (source: PodName, destination: PodName): string => `${source}>${destination}`;

export class ViewSync {
  readonly #parts: ViewSyncParts;
  readonly #names = new Map<string, readonly [PodName, PodName]>();
  /** Where the pods of this node are, as its services were last written for. */
  #places: readonly Place[] = [];
  #isOn = false;
  #flushing = false;
  #again = false;

  constructor(parts: ViewSyncParts) {
    this.#parts = parts;
  }

  /** Writes everything, and from now on what changes. Before the node's pods are known, what an earlier agent wrote is better. */
  start(): Promise<void> {
    this.#isOn = true;
    return this.all();
  }

  /** Everything anew: when settings or policies changed. */
  async all(): Promise<void> {
    if (!this.#isOn) return;
    const { state, maps } = this.#parts;
    for (const workload of state.workloads.all()) for (const address of workload.addresses) this.#speaker(address);
    if (!maps()) return this.flush();
    this.#moved();
    for (const service of state.services.all()) this.#service(serviceNameOf(service));
    return this.#pairs(this.#parts.pods.all());
  }

  /** What an update touched. */
  async changed(changes: Changes): Promise<void> {
    if (!this.#isOn) return;
    const { names } = changes;
    const policies =
      names.Authorization.size +
        names.TrafficPolicy.size +
        names.HttpRouting.size +
        names.RateLimit.size +
        names.MeshSettings.size >
      0;
    for (const address of changes.addresses) this.#speaker(address);
    if (!this.#parts.maps()) return this.flush();
    if (this.#moved() || names.MeshSettings.size > 0)
      for (const service of this.#parts.state.services.all()) this.#service(serviceNameOf(service));
    else for (const service of changes.services) this.#service(service);
    const { pods } = this.#parts;
    const touched = policies ? pods.all() : pods.all().filter((pod) => names.Workload.has(pod.workload.uid));
    return this.#pairs(touched);
  }

  /** Local pods that came, went or listen on other ports. */
  async podsChanged(names: readonly PodName[]): Promise<void> {
    if (!this.#isOn) return;
    const { pods, state, maps } = this.#parts;
    const touched = names.flatMap((name) => pods.byName(name) ?? []);
    for (const [owner, [source, destination]] of [...this.#names]) {
      if (pods.byName(source) === undefined || pods.byName(destination) === undefined) {
        this.#parts.view.setDirect(owner, []);
        this.#names.delete(owner);
      }
    }
    for (const pod of touched) for (const address of pod.workload.addresses) this.#speaker(address);
    if (!maps()) return this.flush();
    if (this.#moved()) for (const service of state.services.all()) this.#service(serviceNameOf(service));
    for (const pod of touched) {
      for (const membership of state.workloads.byUid(pod.workload.uid)?.services ?? [])
        this.#service(membership.service);
    }
    return this.#pairs(touched);
  }

  /** Rows of every pair that has one of `touched` on either side. */
  #pairs(touched: readonly EnrolledPod[]): Promise<void> {
    const { pods, view } = this.#parts;
    const all = pods.all();
    const chosen = new Set(touched.map((pod) => pod.name));
    let withdrawn = false;
    for (const source of all)
      for (const destination of all)
        if (chosen.has(source.name) || chosen.has(destination.name))
          withdrawn = this.#pair(source, destination) || withdrawn;
    if (withdrawn) view.raiseGeneration();
    return this.flush();
  }

  #pair(source: EnrolledPod, destination: EnrolledPod): boolean {
    const { state, facts, view, direct } = this.#parts;
    const rows: DirectRow[] = [];
    const settings = direct();
    for (const ip of destination.workload.addresses)
      for (const port of destination.listening) {
        if (destination.options.inboundPorts.includes(port)) continue;
        const decision = decideDirect(state, { source, destination, ip, port }, settings);
        if (!decision.direct) continue;
        const judged = localFacts(state, source, destination, port, decision.verdict, undefined);
        const verdict = facts.verdict(verdictKey(judged), judged);
        const bypass = source.options.bypass && destination.options.bypass;
        rows.push({ source: source.number, ip, port, verdict, bypass });
      }
    const owner = pairKey(source.name, destination.name);
    if (rows.length > 0) this.#names.set(owner, [source.name, destination.name]);
    const { removed } = view.setDirect(owner, rows);
    const denied = removed.filter((row) => destination.listening.has(row.port));
    if (denied.length > 0) this.#parts.withdrawn(source, destination, denied);
    return removed.length > 0;
  }

  #speaker(address: string): void {
    const { state, pods, view } = this.#parts;
    const workload = state.workloads.byAddress(address);
    const speaks = workload !== undefined && !workload.hostNetwork && workload.tunnel !== "none";
    view.setSpeaker(address, speaks || pods.byAddress(address) !== undefined);
  }

  /** Cluster, external and load-balancer addresses, and node ports on every node (DP-6). */
  #service(name: ServiceName): void {
    const { state, view } = this.#parts;
    const service = state.services.byName(name);
    const rows: ServiceRow[] = [];
    for (const port of service?.ports ?? []) {
      const at = (ip: string, number: number): void => {
        if (service === undefined) return;
        rows.push({ ip, port: number, backends: this.#backends(service, port, ip) });
      };
      for (const address of service?.addresses ?? []) at(address, port.port);
      if (port.nodePort !== 0) for (const address of state.settings.nodeAddresses) at(address, port.nodePort);
    }
    view.setService(name, rows);
  }

  /**
   * Whom the connect hook may choose from, at random: nobody where the agent has to choose, since the service keeps clients with an
   * endpoint, or its endpoints are others for one pod of this node than for another.
   */
  #backends(service: Service, port: ServicePort, ip: string): ServiceRow["backends"] {
    const { state, pods } = this.#parts;
    const asked = { family: ip.includes(":") ? 6 : 4, isOuter: isOuterAddress(service, ip) } as const;
    const sets = this.#places.map((from) =>
      serviceUpstreams(state, pods, service, port, { ...asked, from }).upstreams.map((u) => ({
        ...{ ip: u.ip, port: u.port, weight: u.weight },
      })),
    );
    const [backends = []] = sets;
    if (service.clientAffinityS > 0 && backends.length > 1) return [];
    return sets.every((other) => isDeepStrictEqual(other, backends)) ? backends : [];
  }

  /** Whether pods of this node are elsewhere than when services were last written. */
  #moved(): boolean {
    const { state, pods } = this.#parts;
    const all = pods.all();
    // One that has just come is where the others are.
    const known = all.filter(({ workload }) => state.workloads.byUid(workload.uid) !== undefined);
    const places = new Map<string, Place>();
    for (const pod of known.length > 0 ? known : all) {
      const { node, zone, region } = subjectOf(state, pod);
      places.set(`${node}|${zone}|${region}`, { node, zone, region });
    }
    const before = this.#places;
    this.#places = [...places.keys()].sort().map((key) => places.get(key) as Place);
    return !isDeepStrictEqual(before, this.#places);
  }

  /** Sends the differences; changes that come meanwhile go with the next round, failures are made up for later. */
  async flush(): Promise<void> {
    if (this.#flushing) {
      this.#again = true;
      return;
    }
    this.#flushing = true;
    do {
      this.#again = false;
      if (!(await this.#parts.view.flush())) {
        this.#parts.failed();
        this.#parts.clock.after(retryMs, () => void this.flush());
      }
    } while (this.#again);
    this.#flushing = false;
  }
}
