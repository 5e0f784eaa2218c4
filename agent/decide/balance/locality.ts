// Near endpoints first: tiers by node, zone and region, each taking as much of the load as it is healthy, the rest flowing over. Pure.
import type { Locality } from "../../api/http-policy.ts";
import type { Random } from "../../base/random.ts";
import { hashText, mix, unit } from "./hash.ts";
import type { Picker } from "./picker.ts";

export interface Place {
  readonly node: string;
  readonly zone: string;
  readonly region: string;
}

/** 0 is the nearest of those preferred; without a preference all are of tier 0. A place that is not known is nobody's neighbour. */
export function tierOf(prefer: Locality["prefer"], own: Place, other: Place): number {
  if (prefer === "") return 0;
  const isRegion = own.region !== "" && own.region === other.region;
  const isZone = own.zone !== "" && own.zone === other.zone && own.region === other.region;
  const isNode = own.node !== "" && own.node === other.node;
  if (prefer === "region") return isRegion ? 0 : 1;
  if (prefer === "zone") return isZone ? 0 : isRegion ? 1 : 2;
  return isNode ? 0 : isZone ? 1 : isRegion ? 2 : 3;
}

/**
 * Share of the load of each tier. `health`: part of the tier that may be picked, [0, 1]. A tier takes overprovision x its health of the
 * load, at most all that nearer ones left; if all together cannot take it, they take it in proportion.
 */
export function tierLoads(health: readonly number[], overprovision: number): number[] {
  const able = health.map((part) => Math.min(1, part * overprovision));
  const total = Math.min(
    1,
    able.reduce((a, b) => a + b, 0),
  );
  if (total === 0) return health.map(() => 0);
  let left = 1;
  return able.map((part) => {
    const load = Math.min(left, part / total);
    left = Math.max(0, left - load);
    return load < 1e-12 ? 0 : load;
  });
}

/** Endpoints of a service of which a node uses only some: the same few always, other ones on other nodes. Indexes, in order. */
export function subsetFor(node: string, ids: readonly string[], size: number): readonly number[] {
  const all = ids.map((_, i) => i);
  if (size === 0 || size >= ids.length) return all;
  const own = hashText(node);
  const bids = ids.map((id) => mix(hashText(id) ^ own));
  return all
    .sort((a, b) => (bids[b] as number) - (bids[a] as number) || a - b)
    .slice(0, size)
    .sort((a, b) => a - b);
}

export class TieredPicker implements Picker {
  readonly isKeyed: boolean;
  readonly #tiers: readonly Picker[];
  /** Upper bounds of the tiers' shares in [0, 1). */
  readonly #bounds: readonly number[];

  constructor(tiers: readonly Picker[], loads: readonly number[]) {
    this.isKeyed = tiers[0]?.isKeyed ?? false;
    this.#tiers = tiers;
    let sum = 0;
    this.#bounds = loads.map((load) => {
      sum += load;
      return sum;
    });
  }

  pick(random: Random, key: number, avoid: number): number {
    // A key chooses its tier as well, or it would not stay where it is.
    const at = this.isKeyed ? unit(mix(key ^ 0x5bd1e995)) : random.next();
    let chosen = 0;
    while (chosen < this.#bounds.length - 1 && at >= (this.#bounds[chosen] as number)) chosen++;
    let index = (this.#tiers[chosen] as Picker).pick(random, key, avoid);
    if (index >= 0 && index !== avoid) return index;
    // Nothing (else) there since the loads were reckoned: the nearest that has something.
    for (let tier = 0; tier < this.#tiers.length; tier++) {
      if (tier === chosen) continue;
      const other = (this.#tiers[tier] as Picker).pick(random, key, avoid);
      if (other >= 0 && other !== avoid) return other;
      if (other >= 0) index = other;
    }
    return index;
  }
}
