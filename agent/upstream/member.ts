// One endpoint of a cluster, with what a data thread keeps of it while requests run.
import type { PickEndpoint } from "../decide/balance/picker.ts";
import type { BreakerState } from "../decide/resilience/breaker.ts";
import type { Upstream } from "../decide/upstreams.ts";

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
/** "<address>:<port>". */
export const idOf = ({ ip, port }: Upstream): string => (ip.includes(":") ? `[${ip}]:${port}` : `${ip}:${port}`);

interface Endpoints {
  readonly members: readonly Member[];
  /** Nothing speaks against the endpoint at `index`. */
  isOpen(index: number): boolean;
}

/** Index of the first endpoint from `from` on, and round, that may be used and whose slot is not among `met`; -1: there is none. */
export function firstUnmet(cluster: Endpoints, met: readonly number[], from = 0): number {
  const { members } = cluster;
  for (let step = 0; step < members.length; step++) {
    const index = (from + step) % members.length;
    const { slot, weight } = members[index] as Member;
    if (weight > 0 && !met.includes(slot) && cluster.isOpen(index)) return index;
  }
  return -1;
}

/** `picked`, or where its slot is among `met` the next endpoint that is not; `picked` all the same where there is none. */
export function preferUnmet(cluster: Endpoints, met: readonly number[], picked: number): number {
  if (!met.includes((cluster.members[picked] as Member).slot)) return picked;
  const other = firstUnmet(cluster, met, picked);
  return other < 0 ? picked : other;
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
