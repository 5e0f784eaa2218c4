// From a policy and endpoints to the picker that does as it says. Pure.
import { type Algorithm, algorithms, type HttpPolicy } from "../../api/http-policy.ts";
import { assertNever } from "../../base/result.ts";
import { MaglevPicker, RendezvousPicker, RingPicker } from "./consistent.ts";
import { EwmaPicker, LeastRequestPicker, RandomPicker } from "./draw.ts";
import type { EndpointStats } from "./endpoint-stats.ts";
import { TieredPicker, tierLoads } from "./locality.ts";
import { Members, type PickEndpoint, type Picker } from "./picker.ts";
import { RotationPicker } from "./rotation.ts";

export type ChosenAlgorithm = Exclude<Algorithm, "">;
/** Holds where neither a policy nor the service says anything (LB-5). */
export const defaultAlgorithm: ChosenAlgorithm = "ewma";

export interface PickerOptions {
  readonly policy: Pick<HttpPolicy, "balancer" | "locality">;
  /** Service.loadBalancing; counts where the policy names no algorithm. */
  readonly serviceDefault: string;
  readonly stats: EndpointStats;
  /** Monotonic ms. */
  readonly nowMs: number;
  /** The turn of round robin: one element, kept over swaps and shared by threads. */
  readonly cursor: Int32Array;
  /** Bits of gates that close them: one element, which may change at any time (panic.ts). Absent: all. */
  readonly heeded?: Uint8Array;
}

export function algorithmOf(policy: PickerOptions["policy"], serviceDefault: string): ChosenAlgorithm {
  const named = policy.balancer.algorithm || serviceDefault;
  return named !== "" && (algorithms as readonly string[]).includes(named)
    ? (named as ChosenAlgorithm)
    : defaultAlgorithm;
}

const keyed: ReadonlySet<ChosenAlgorithm> = new Set(["ring_hash", "maglev", "rendezvous"]);
/** Whether a key of the request decides (Picker.isKeyed). */
export const isKeyedAlgorithm = (algorithm: ChosenAlgorithm): boolean => keyed.has(algorithm);

/** Indexes that pick gives are those of `endpoints`. */
export function buildPicker(endpoints: readonly PickEndpoint[], options: PickerOptions): Picker {
  const { stats, policy } = options;
  const warmth = (endpoint: PickEndpoint): number => warmthOf(endpoint, policy.balancer, options.nowMs);
  const tiers = [...new Set(endpoints.map((endpoint) => endpoint.tier))].sort((a, b) => a - b);
  const members = tiers.map((tier) => {
    const own = endpoints.flatMap((endpoint, i) => (endpoint.tier === tier ? [i] : []));
    return new Members(endpoints, own, stats, warmth, options.heeded);
  });
  const pickers = members.map((own) => pickerOf(own, options));
  if (pickers.length <= 1) return pickers[0] ?? pickerOf(new Members([], [], stats, warmth), options);
  return new TieredPicker(pickers, tierLoads(members.map(healthOf), policy.locality.overprovisionPercent / 100));
}

function pickerOf(members: Members, { policy, serviceDefault, cursor }: PickerOptions): Picker {
  const { balancer } = policy;
  const algorithm = algorithmOf(policy, serviceDefault);
  switch (algorithm) {
    case "round_robin":
    case "weighted":
      return new RotationPicker(members, cursor);
    case "random":
      return new RandomPicker(members);
    case "least_request":
      return new LeastRequestPicker(members);
    case "ewma":
      return new EwmaPicker(members, balancer.penalty);
    case "ring_hash":
      return new RingPicker(members, balancer.virtualNodes);
    case "maglev":
      return new MaglevPicker(members);
    case "rendezvous":
      return new RendezvousPicker(members);
    default:
      return assertNever(algorithm);
  }
}

function healthOf(members: Members): number {
  let open = 0;
  for (let i = 0; i < members.count; i++) if (members.isOpen(i)) open++;
  return members.count === 0 ? 0 : open / members.count;
}

/** Share of its weight that an endpoint gets while it warms up: from the minimum straight up to 1 (LB-6). */
export function warmthOf(
  endpoint: Pick<PickEndpoint, "readySinceMs">,
  { slowStartMs, slowStartMinPercent }: HttpPolicy["balancer"],
  nowMs: number,
): number {
  const age = nowMs - endpoint.readySinceMs;
  if (slowStartMs === 0 || age >= slowStartMs) return 1;
  return Math.max(slowStartMinPercent / 100, age / slowStartMs);
}

/**
 * When the picker must be made anew for slow start, monotonic ms; undefined: no endpoint is warming up. Ten steps per window, at least
 * 250 ms apart.
 */
export function nextWarmingMs(
  endpoints: readonly PickEndpoint[],
  { slowStartMs }: Pick<HttpPolicy["balancer"], "slowStartMs">,
  nowMs: number,
): number | undefined {
  const isWarming = endpoints.some((endpoint) => nowMs - endpoint.readySinceMs < slowStartMs);
  return isWarming ? nowMs + Math.max(250, slowStartMs / 10) : undefined;
}
