// The endpoints of one service's port as the clients of one namespace use them (DP-26), all data threads together (DP-25): whom a request goes to, what
// its outcome says of the endpoint, whether it may be tried again. Made anew from the replica when the state has changed.
import type { HttpPolicy, RetryPolicy } from "../api/http-policy.ts";
import { defaultPolicy } from "../api/http-policy.ts";
import type { ServiceName } from "../api/names.ts";
import type { Service, ServicePort } from "../api/service.ts";
import type { Random } from "../base/random.ts";
import { algorithmOf, buildPicker, nextWarmingMs } from "../decide/balance/build-picker.ts";
import { type Place, subsetFor, tierOf } from "../decide/balance/locality.ts";
import type { Picker } from "../decide/balance/picker.ts";
import { decideInbound } from "../decide/inbound.ts";
import { type Ejection, OutlierDetector } from "../decide/resilience/outlier.ts";
import { idOf, openUpstreams, serviceUpstreams, type Upstream } from "../decide/upstreams.ts";
import type { Verdict } from "../flow.ts";
import { defaultPoolLimits, type PoolCounts, type PoolLimits } from "../forward/server-pool.ts";
import type { RequestHead } from "../http.ts";
import type { Replica } from "../replica.ts";
import type { DecisionCounts, PickCount } from "../report/decisions.ts";
import type { EndpointChange } from "../report/endpoint-changes.ts";
import { HealthChecks, type Probe } from "./health.ts";
import { isStill, Member } from "./member.ts";
import { Panic } from "./panic.ts";
import { poolLimitsOf } from "./pool-limits.ts";
import type { ClusterCell, SharedUpstreams } from "./shared.ts";
import { Stays } from "./stays.ts";

export interface ClusterParts {
  readonly replica: Replica;
  readonly random: Random;
  readonly shared: SharedUpstreams;
  /** Monotonic, ms. */
  readonly nowMs: () => number;
  /** For active health checks, in the name of a pod of this namespace. */
  readonly probe: (namespace: string, service: ServiceName) => Probe;
  readonly decisions: DecisionCounts;
  /** What befell an endpoint. */
  readonly told: (change: EndpointChange) => void;
}
/** What a try says of its endpoint: nothing where the client or a limit of our own ended it. */
export type TryOutcome = "good" | "error" | "no_answer" | "unknown";
/** Whose, and which endpoints. */
export interface ClusterName {
  readonly namespace: string;
  readonly service: ServiceName;
  readonly port: number;
  readonly family: 4 | 6;
  readonly subset: Readonly<Record<string, string>>;
  /** See Asked.isOuter (decide/service-endpoints.ts). */
  readonly isOuter?: boolean;
}

export class Cluster {
  readonly name: ClusterName;
  readonly #parts: ClusterParts;
  #place: Place;
  readonly #cell: ClusterCell;
  readonly #picks: PickCount;
  #generation = 0;
  #members: readonly Member[] = [];
  readonly stays: Stays;
  #picker: Picker | undefined;
  #outlier: OutlierDetector | undefined;
  #health: HealthChecks | undefined;
  readonly #panic = new Panic();
  #warmAtMs = Number.POSITIVE_INFINITY;
  service: Service | undefined;
  port: ServicePort | undefined;
  policy: HttpPolicy = defaultPolicy;
  /** Why there is no endpoint. */
  refused: Pick<Verdict, "reason" | "policy"> | undefined;
  /** Grows with each change of the endpoints. */
  version = 0;
  /** Of the pools to its endpoints, all pods of the namespace together. */
  poolLimits: PoolLimits = defaultPoolLimits;
  readonly poolCounts: PoolCounts = { open: 0, waiting: 0 };
  /** Requests of this thread. */
  underWay = 0;
  usedMs: number;
  isForgotten = false;

  constructor(name: ClusterName, place: Place, parts: ClusterParts, cell: ClusterCell) {
    this.name = name;
    this.#parts = parts;
    this.#place = place;
    this.stays = new Stays(name, parts.shared.clients);
    this.usedMs = parts.nowMs();
    this.#cell = cell;
    this.#picks = parts.decisions.picksOf(`${name.service}:${name.port}`);
  }

  get members(): readonly Member[] {
    return this.#members;
  }
  /** Requests under way on all threads, and retries among them. */
  get requests(): number {
    return this.#cell.requests;
  }
  get retries(): number {
    return this.#cell.retries;
  }

  /** As the state is now, for clients at `place`: the registry may tell only later where this node is. */
  refresh(place = this.#place): void {
    const { state } = this.#parts.replica;
    if (this.#generation === state.generation) return;
    const isFirst = this.#generation === 0;
    this.#generation = state.generation;
    this.#place = place;
    const { service } = this;
    const policy = state.routings.get(this.name.service)?.policy ?? defaultPolicy;
    this.service = state.services.byName(this.name.service);
    this.port = this.service?.ports.find(({ port }) => port === this.name.port);
    const upstreams = this.#upstreams();
    const isSame =
      policy === this.policy &&
      service === this.service &&
      upstreams.length === this.#members.length &&
      this.#members.every(isStill, upstreams);
    if (policy !== this.policy) this.poolLimits = poolLimitsOf(policy);
    this.policy = policy;
    if (!isSame || this.#picker === undefined) this.#swap(upstreams, isFirst);
  }

  #upstreams(): readonly Upstream[] {
    const { replica } = this.#parts;
    const { state, knowledge } = replica;
    const { service, port } = this;
    this.refused = undefined;
    if (service === undefined || port === undefined) {
      this.refused = { reason: "no_endpoints" };
      return [];
    }
    const wanted = Object.entries(this.name.subset);
    const asked = { ...this.name, from: this.#place };
    const { upstreams: all, missing } = serviceUpstreams(state, replica, service, port, asked);
    const candidates = all.filter(({ workload: { labels } }) => wanted.every(([key, value]) => labels[key] === value));
    // What servers on this node say of every caller; what they say of this one is asked with each request.
    const { upstreams, refused } = openUpstreams(candidates, ({ ip, port }, pod) =>
      decideInbound(
        state,
        pod,
        { destination: { ip, port }, sourceIp: ip, identity: null, tunnel: "local" },
        knowledge,
        true,
      ),
    );
    this.refused = candidates.length === 0 ? { reason: all.length === 0 ? missing : "no_endpoints" } : refused;
    const chosen = subsetFor(this.#place.node, upstreams.map(idOf), this.policy.locality.subsetSize);
    return chosen.map((i) => upstreams[i] as Upstream);
  }

  #swap(upstreams: readonly Upstream[], isFirst: boolean): void {
    const { nowMs } = this.#parts;
    const before = new Map(this.#members.map((member) => [member.id, member]));
    const members: Member[] = [];
    for (const upstream of upstreams) {
      const known = before.get(idOf(upstream));
      const tier = tierOf(this.policy.locality.prefer, this.#place, upstream.workload);
      if (known === undefined) {
        // Those that are there when the cluster is first used are as warm as they will be.
        const made = this.#enter(upstream, tier, isFirst ? Number.NEGATIVE_INFINITY : nowMs());
        if (made !== undefined) members.push(made);
        continue;
      }
      before.delete(known.id);
      known.upstream = upstream;
      known.weight = upstream.weight;
      known.tier = tier;
      members.push(known);
    }
    for (const gone of before.values()) this.#leave(gone);
    this.#members = members;
    this.stays.set(
      this.policy,
      this.service,
      members.map(({ id }) => id),
    );
    this.#watchOutliers();
    this.#checkHealth();
    this.#reviewPanic();
    this.#build();
    this.version++;
  }

  #enter(upstream: Upstream, tier: number, readySinceMs: number): Member | undefined {
    const { namespace, service, port } = this.name;
    const slotName = `${namespace}>${service}:${port}>${idOf(upstream)}`;
    const slot = this.#parts.shared.take(slotName, this.policy.balancer.decayMs);
    return slot < 0 ? undefined : new Member(upstream, slot, slotName, tier, readySinceMs);
  }
  #leave(member: Member): void {
    member.isGone = true;
    if (member.pending === 0) this.#parts.shared.give(member.slotName);
  }

  #watchOutliers(): void {
    const { outlier } = this.policy;
    const { nowMs, shared } = this.#parts;
    const { stats, outliers } = shared;
    const slots = this.#members.map(({ slot }) => slot);
    if (outlier === undefined) {
      this.#outlier?.setEndpoints([]);
      this.#outlier = undefined;
    } else if (this.#outlier === undefined)
      this.#outlier = new OutlierDetector(outlier, slots, stats, nowMs(), outliers, this.#cell.swept);
    else {
      this.#outlier.setPolicy(outlier);
      this.#outlier.setEndpoints(slots);
    }
  }

  #checkHealth(): void {
    const { health } = this.policy;
    const { namespace, service } = this.name;
    if (health === undefined) {
      this.#health?.stop();
      this.#health = undefined;
      return;
    }
    this.#health ??= new HealthChecks(health, {
      ...this.#parts,
      stats: this.#parts.shared.stats,
      probe: this.#parts.probe(namespace, service),
      told: ({ id: endpoint }, isHealthy, why) => {
        this.#parts.told({ kind: "health", service, namespace, endpoint, isHealthy, why });
        this.#reviewPanic();
      },
    });
    this.#health.set(health, this.#members);
  }

  #build(): void {
    const { nowMs, shared } = this.#parts;
    const now = nowMs();
    const policy = this.stays.balancing;
    const serviceDefault = this.service?.loadBalancing ?? "";
    this.#picks.algorithm = algorithmOf(policy, serviceDefault);
    this.#picker = buildPicker(this.#members, {
      policy,
      serviceDefault,
      stats: shared.stats,
      nowMs: now,
      cursor: this.#cell.cursor,
      heeded: this.#panic.heeded,
    });
    this.#warmAtMs = nextWarmingMs(this.#members, policy.balancer, now) ?? Number.POSITIVE_INFINITY;
  }

  /** What the balancer goes by; 0 where it goes by nothing of the request. */
  keyOf(head: RequestHead, sourceIp: string): number {
    return this.#picker?.isKeyed === true ? this.stays.keyOf(head, sourceIp, this.#parts.random) : 0;
  }

  isOpen(index: number): boolean {
    const member = this.#members[index];
    if (member === undefined) return false;
    return ((this.#parts.shared.stats.gates[member.slot] as number) & (this.#panic.heeded[0] as number)) === 0;
  }

  /** Index of the endpoint for a try, -1 if none may be picked. `avoid`: index of the one just tried, or -1. */
  pick(key: number, avoid: number): number {
    this.#parts.shared.stats.nowMs = this.#parts.nowMs();
    return this.#picker?.pick(this.#parts.random, key, avoid) ?? -1;
  }

  /** As `pick`, for the first try of a client that its Service may keep with an endpoint. */
  pickFor(sourceIp: string, key: number): number {
    const now = this.#parts.nowMs();
    const kept = this.stays.find(sourceIp, now);
    const index = kept >= 0 && this.isOpen(kept) ? kept : this.pick(key, -1);
    this.stays.keep(sourceIp, index, now);
    return index;
  }

  /** Before a try goes out to the endpoint that was picked; false: its breaker lets nobody through just now. */
  begin(member: Member): boolean {
    const { nowMs, shared } = this.#parts;
    const { breakers, stats } = shared;
    const { breaker } = this.policy;
    if (breaker !== undefined && !breakers.admit(member.slot, breaker, nowMs())) return false;
    this.#picks.add(stats.gates[member.slot] === 0);
    stats.begin(member.slot);
    member.pending++;
    return true;
  }

  /** What a try under way has shown of its endpoint. */
  report(member: Member, outcome: TryOutcome, latencyMs: number): void {
    if (outcome === "unknown" || member.isGone) return;
    const { nowMs, shared } = this.#parts;
    const { breakers, stats } = shared;
    const now = nowMs();
    const failed = outcome !== "good";
    if (failed) stats.observeFailure(member.slot, latencyMs, outcome === "error", now);
    else stats.observe(member.slot, latencyMs, now);
    const { breaker } = this.policy;
    if (breaker !== undefined) {
      breakers.report(member.slot, failed, breaker, now);
      this.#noteBreaker(member);
    }
    const ejection = this.#outlier?.report(member.slot, failed, latencyMs, now);
    if (ejection !== undefined) this.#tellEjected(ejection);
  }

  /** Once for each begin, however the try ended. */
  end(member: Member): void {
    const { shared } = this.#parts;
    member.pending--;
    shared.stats.end(member.slot);
    if (member.isGone && member.pending === 0) shared.give(member.slotName);
  }

  countRequest(): void {
    this.underWay++;
    this.#cell.addRequests(1);
    this.#cell.budget.countRequest(this.#parts.nowMs());
  }
  /** Whether the budget and the limit allow one more retry, which is then taken. */
  takeRetry(retry: RetryPolicy | undefined): boolean {
    const { maxRetries } = this.policy.limits;
    if (maxRetries > 0 && this.#cell.retries >= maxRetries) return false;
    if (!this.#cell.budget.take(retry, this.#parts.nowMs())) return false;
    this.#cell.addRetries(1);
    return true;
  }
  /** Once for each request that was counted; `retries`: those it took. */
  endRequest(retries: number): void {
    this.underWay--;
    this.#cell.addRequests(-1);
    if (retries > 0) this.#cell.addRetries(-retries);
  }
  get isFull(): boolean {
    const { maxRequests } = this.policy.limits;
    return maxRequests > 0 && this.#cell.requests >= maxRequests;
  }

  /** Called several times a second. */
  sweep(now: number): void {
    const { breakers, stats } = this.#parts.shared;
    const { breaker, balancer } = this.policy;
    if (breaker !== undefined) {
      breakers.wake(
        this.#members.map(({ slot }) => slot),
        now,
      );
      for (const member of this.#members) this.#noteBreaker(member);
    }
    for (const ejection of this.#outlier?.sweep(now) ?? []) this.#tellEjected(ejection);
    this.#health?.sweep(now);
    this.#reviewPanic();
    if (balancer.slowStartMs === 0) return;
    let isDue = now >= this.#warmAtMs;
    for (const member of this.#members) {
      const gate = stats.gates[member.slot] as number;
      // Whoever comes back is warmed up like one that is new (LB-6).
      if (gate === 0 && member.gate !== 0) {
        member.readySinceMs = now;
        isDue = true;
      }
      member.gate = gate;
    }
    if (isDue) this.#build();
  }

  /** Nothing will be asked of it any more. */
  forget(): void {
    this.isForgotten = true;
    for (const member of this.#members) this.#leave(member);
    this.#members = [];
    this.#outlier?.setEndpoints([]);
    this.#health?.stop();
    this.#picker = undefined;
  }

  #noteBreaker(member: Member): void {
    const to = this.#parts.shared.breakers.state(member.slot);
    const from = member.state;
    if (to === from) return;
    member.state = to;
    const { service, namespace } = this.name;
    this.#parts.told({ kind: "breaker", service, namespace, endpoint: member.id, from, to });
  }
  /** Whether so many are ill that all are used (DIS-6). Loads of tiers are those of the endpoints that are used. */
  #reviewPanic(): void {
    const change = this.#panic.review(this.#members, this.#parts.shared.stats, this.policy.balancer.panicPercent);
    if (change === undefined) return;
    const { service, namespace } = this.name;
    this.#parts.told({ kind: "panic", service, namespace, ...change });
    if (this.#picker !== undefined) this.#build();
  }
  #tellEjected({ slot, reason, forMs }: Ejection): void {
    this.#reviewPanic();
    const member = this.#members.find((m) => m.slot === slot);
    if (member === undefined) return;
    const { service, namespace } = this.name;
    this.#parts.told({ kind: "ejected", service, namespace, endpoint: member.id, reason, forMs });
  }
}
