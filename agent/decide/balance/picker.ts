// What every balancer is: an object made of a set of endpoints, swapped whole when the set or its weights change, asked once per try.
import type { Random } from "../../base/random.ts";
import type { EndpointStats } from "./endpoint-stats.ts";

export interface PickEndpoint {
  /** The same on every node as long as the endpoint lives ("<address>:<port>"): consistent hashes are made of it. */
  readonly id: string;
  /** 0: never picked. */
  readonly weight: number;
  /** Its place in EndpointStats. */
  readonly slot: number;
  /** 0 is the nearest (locality.ts). */
  readonly tier: number;
  /** Monotonic ms since which it is ready (again); slow start counts from here. */
  readonly readySinceMs: number;
}

export interface Picker {
  /** The key decides: see keys.ts. Others ignore it. */
  readonly isKeyed: boolean;
  /**
   * Index of an endpoint, -1 if none may be picked. `avoid`: index of the one just tried (-1: none), taken again only if there is no
   * other. A closed gate (EndpointStats) is never picked.
   */
  pick(random: Random, key: number, avoid: number): number;
}

const allHeeded = Uint8Array.of(0xff);

/** Endpoints of one picker with their weights of the moment (slow start included), all above 0. */
export class Members {
  readonly count: number;
  readonly stats: EndpointStats;
  /** Positions are indexes, since all are members; and all weigh the same. Then these arrays need not be looked at. */
  readonly isWhole: boolean;
  readonly isEven: boolean;
  /** Of the first, where the slots follow each other; else -1. */
  readonly firstSlot: number;
  /** Index in the whole set. */
  readonly index: Int32Array;
  readonly weights: Float64Array;
  /** Share of its own weight that slow start grants, (0, 1]. */
  readonly warmth: Float64Array;
  readonly ids: readonly string[];
  readonly #slots: Int32Array;
  readonly #heeded: Uint8Array;
  /** Position by index in the whole set, -1 for one that is not a member. */
  readonly #positions: Int32Array;

  constructor(
    endpoints: readonly PickEndpoint[],
    members: readonly number[],
    stats: EndpointStats,
    warmthOf: (endpoint: PickEndpoint) => number,
    heeded: Uint8Array = allHeeded,
  ) {
    this.#heeded = heeded;
    const usable = members.filter((i) => (endpoints[i] as PickEndpoint).weight > 0);
    const own = usable.map((i) => endpoints[i] as PickEndpoint);
    this.count = own.length;
    this.index = Int32Array.from(usable);
    this.warmth = Float64Array.from(own, warmthOf);
    this.weights = Float64Array.from(own, (endpoint, i) => endpoint.weight * (this.warmth[i] as number));
    this.#slots = Int32Array.from(own, (endpoint) => endpoint.slot);
    const first = own[0]?.slot ?? -1;
    this.firstSlot = own.every((endpoint, i) => endpoint.slot === first + i) ? first : -1;
    this.ids = own.map((endpoint) => endpoint.id);
    this.stats = stats;
    this.isWhole = usable.length === endpoints.length;
    this.isEven = this.weights.every((weight) => weight === this.weights[0]);
    this.#positions = new Int32Array(endpoints.length).fill(-1);
    for (let i = 0; i < this.count; i++) this.#positions[this.index[i] as number] = i;
  }

  slotOf(position: number): number {
    return this.firstSlot >= 0 ? this.firstSlot + position : (this.#slots[position] as number);
  }
  isOpen(position: number): boolean {
    const gate = this.stats.gates[this.slotOf(position)] as number;
    return gate === 0 || (gate & (this.#heeded[0] as number)) === 0;
  }
  positionOf(index: number): number {
    return index < 0 || this.isWhole ? index : (this.#positions[index] ?? -1);
  }
  indexOf(position: number): number {
    return position < 0 || this.isWhole ? position : (this.index[position] as number);
  }
  /** The first that may be picked from `start` on, all round; `avoid` (a position) last; -1: none. */
  scan(start: number, avoid: number): number {
    for (let i = 0; i < this.count; i++) {
      const position = (start + i) % this.count;
      if (position !== avoid && this.isOpen(position)) return position;
    }
    return avoid >= 0 && this.isOpen(avoid) ? avoid : -1;
  }
}
