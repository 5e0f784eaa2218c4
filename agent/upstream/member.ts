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
