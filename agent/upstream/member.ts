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

/** `picked`, or where its slot is among `tried` the next endpoint that is not and may be used; `picked` all the same where there is none. */
export function untried(
  cluster: { readonly members: readonly Member[]; isOpen(index: number): boolean },
  tried: readonly number[],
  picked: number,
): number {
  const { members } = cluster;
  for (let step = 0; step < members.length; step++) {
    const index = (picked + step) % members.length;
    const { slot, weight } = members[index] as Member;
    if (!tried.includes(slot) && (step === 0 || (weight > 0 && cluster.isOpen(index)))) return index;
  }
  return picked;
}

/** Whether `cluster` has an endpoint that may be used and whose slot is neither `last` nor among `tried`. */
export function hasUntried(
  cluster: { readonly members: readonly Member[]; isOpen(index: number): boolean },
  tried: readonly number[],
  last: number,
): boolean {
  return cluster.members.some(
    ({ slot, weight }, index) => slot !== last && weight > 0 && !tried.includes(slot) && cluster.isOpen(index),
  );
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
