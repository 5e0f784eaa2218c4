// Sets of endpoints and pickers over them for tests of balancing.
import { algorithms, defaultPolicy, type HttpPolicy } from "../../agent/api/http-policy.ts";
import type { Random } from "../../agent/base/random.ts";
import { buildPicker, type ChosenAlgorithm } from "../../agent/decide/balance/build-picker.ts";
import { EndpointStats } from "../../agent/decide/balance/endpoint-stats.ts";
import { hashText } from "../../agent/decide/balance/hash.ts";
import type { PickEndpoint, Picker } from "../../agent/decide/balance/picker.ts";

export const everyAlgorithm = algorithms.filter((a): a is ChosenAlgorithm => a !== "");

/** One endpoint per weight, with its index as its slot, ready for ages. */
export const endpointsOf = (
  weights: readonly number[],
  more: (i: number) => Partial<PickEndpoint> = () => ({}),
): PickEndpoint[] =>
  weights.map((weight, i) => ({ id: `10.0.0.${i}:80`, weight, slot: i, tier: 0, readySinceMs: -1e9, ...more(i) }));
export const even = (n: number): number[] => new Array<number>(n).fill(1);

interface Setup {
  readonly stats?: EndpointStats;
  readonly balancer?: Partial<HttpPolicy["balancer"]>;
  readonly nowMs?: number;
  readonly cursor?: Int32Array;
}
export function pickerFor(algorithm: ChosenAlgorithm, endpoints: readonly PickEndpoint[], setup: Setup = {}): Picker {
  return buildPicker(endpoints, {
    policy: { ...defaultPolicy, balancer: { ...defaultPolicy.balancer, ...setup.balancer, algorithm } },
    serviceDefault: "",
    stats: setup.stats ?? new EndpointStats(endpoints.length),
    nowMs: setup.nowMs ?? 0,
    cursor: setup.cursor ?? new Int32Array(1),
  });
}

/** How often each of `n` endpoints is picked, with another key each time. */
export function countPicks(picker: Picker, picks: number, n: number, random: Random): number[] {
  const out = new Array<number>(n).fill(0);
  for (let i = 0; i < picks; i++) {
    const index = picker.pick(random, hashText(`key ${i}`), -1);
    if (index >= 0) out[index] = (out[index] ?? 0) + 1;
  }
  return out;
}
