// One endpoint of a cluster, with what a data thread keeps of it while requests run.
import type { PickEndpoint } from "../decide/balance/picker.ts";
import type { BreakerState } from "../decide/resilience/breaker.ts";
import { idOf, type Upstream } from "../decide/upstreams.ts";

/** One endpoint while it is in the cluster, and until its last request has ended. */
export class Member implements PickEndpoint {
  readonly id: string;
  readonly slot: number;
  readonly slotName: string;
  upstream: Upstream;
  weight: number;
  tier: number;
  readySinceMs: number;
  /** Requests of this thread under way. */
  pending = 0;
  isGone = false;
  state: BreakerState = "closed";
  gate = 0;

  constructor(upstream: Upstream, slot: number, slotName: string, tier: number, readySinceMs: number) {
    this.id = idOf(upstream);
    this.upstream = upstream;
    this.slot = slot;
    this.slotName = slotName;
    this.weight = upstream.weight;
    this.tier = tier;
    this.readySinceMs = readySinceMs;
  }
}

interface Endpoints {
  readonly members: readonly Member[];
  /** Nothing speaks against the endpoint at `index`. */
  isOpen(index: number): boolean;
}

function isUnmet(cluster: Endpoints, met: readonly number[], index: number): boolean {
  const { slot, weight } = cluster.members[index] as Member;
  return weight > 0 && !met.includes(slot) && cluster.isOpen(index);
}

/** Whether there is an endpoint that may be used and whose slot is not among `met`. */
export function hasUnmet(cluster: Endpoints, met: readonly number[]): boolean {
  for (let index = 0; index < cluster.members.length; index++) if (isUnmet(cluster, met, index)) return true;
  return false;
}

/**
 * `picked`, or where its slot is among `met` the next endpoint, all round, that is not; `picked` all the same where there is none.
 * As with the balancer, of the tier that was picked, and after it of the nearest that has one (decide/balance/locality.ts).
 */
export function preferUnmet(cluster: Endpoints, met: readonly number[], picked: number): number {
  const { members } = cluster;
  const { slot, tier: chosen } = members[picked] as Member;
  if (!met.includes(slot)) return picked;
  let best = picked;
  let bestRank = Number.POSITIVE_INFINITY;
  for (let step = 1; step < members.length; step++) {
    const index = (picked + step) % members.length;
    const { tier } = members[index] as Member;
    const rank = tier === chosen ? -1 : tier;
    if (rank >= bestRank || !isUnmet(cluster, met, index)) continue;
    [best, bestRank] = [index, rank];
  }
  return best;
}

/** Whether what a request needs of the endpoint at `index` is as it was; `this`: the upstreams of now. */
export function isStill(this: readonly Upstream[], { upstream: was }: Member, index: number): boolean {
  const is = this[index] as Upstream;
  return (
    is.ip === was.ip &&
    is.port === was.port &&
    is.mode === was.mode &&
    is.weight === was.weight &&
    is.workload === was.workload &&
    is.local === was.local &&
    is.tunnelAddress?.port === was.tunnelAddress?.port
  );
}
