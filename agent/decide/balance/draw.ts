// Balancers that draw: one at random by weight, or the better of two (power of two choices) by requests in flight or by latency.
import type { Random } from "../../base/random.ts";
import type { EndpointStats } from "./endpoint-stats.ts";
import type { Members, Picker } from "./picker.ts";

const maxDraws = 8;

/** Draws positions by weight in constant time (Vose's alias method). */
export class Urn {
  readonly #share: Float64Array;
  readonly #alias: Int32Array;
  readonly #count: number;
  /** All weigh the same: it takes no urn to draw one. */
  readonly isEven: boolean;

  constructor(weights: Float64Array) {
    const count = weights.length;
    this.#count = count;
    const mean = weights.reduce((a, b) => a + b, 0) / count;
    const scaled = weights.map((weight) => weight / mean);
    this.isEven = scaled.every((weight) => Math.abs(weight - 1) < 1e-12);
    this.#share = new Float64Array(count).fill(1);
    this.#alias = Int32Array.from(weights, (_, i) => i);
    const small: number[] = [];
    const large: number[] = [];
    for (const [i, weight] of scaled.entries()) (weight < 1 ? small : large).push(i);
    while (small.length > 0 && large.length > 0) {
      const less = small.pop() as number;
      const more = large[large.length - 1] as number;
      this.#share[less] = scaled[less] as number;
      this.#alias[less] = more;
      scaled[more] = (scaled[more] as number) - (1 - (scaled[less] as number));
      if ((scaled[more] as number) < 1) small.push(large.pop() as number);
    }
  }

  draw(random: Random): number {
    const at = random.next() * this.#count;
    const position = Math.floor(at);
    if (this.isEven) return position;
    return at - position < (this.#share[position] as number) ? position : (this.#alias[position] as number);
  }
}

abstract class DrawingPicker implements Picker {
  readonly isKeyed = false;
  protected readonly members: Members;
  // Of the members, since an object less is looked at with each pick.
  protected readonly stats: EndpointStats;
  protected readonly isEven: boolean;
  readonly #count: number;
  readonly #firstSlot: number;
  readonly #isWhole: boolean;
  readonly #urn: Urn | undefined;

  constructor(members: Members, weights: Float64Array) {
    this.members = members;
    this.stats = members.stats;
    this.isEven = members.isEven;
    this.#count = members.count;
    this.#firstSlot = members.firstSlot;
    this.#isWhole = members.isWhole;
    const urn = new Urn(weights);
    this.#urn = urn.isEven ? undefined : urn;
  }

  protected slotOf(position: number): number {
    return this.#firstSlot >= 0 ? this.#firstSlot + position : this.members.slotOf(position);
  }
  #isOpen(position: number): boolean {
    return this.stats.gates[this.slotOf(position)] === 0 || this.members.isOpen(position);
  }

  /** One that may be picked and is none of the two; -1 if there seems to be none. */
  protected draw(random: Random, avoid: number, other: number): number {
    for (let i = 0; i < maxDraws; i++) {
      const position = this.#urn === undefined ? random.below(this.#count) : this.#urn.draw(random);
      if (position !== avoid && position !== other && this.#isOpen(position)) return position;
    }
    return -1;
  }

  pick(random: Random, _key: number, avoid: number): number {
    if (this.#count === 0) return -1;
    const avoided = this.#isWhole ? avoid : this.members.positionOf(avoid);
    let best = this.draw(random, avoided, -1);
    if (best < 0) return this.#scan(random, avoided);
    if (this.#count > 1) {
      const second = this.draw(random, avoided, best);
      if (second >= 0 && this.isBetter(second, best)) best = second;
    }
    return this.#isWhole ? best : this.members.indexOf(best);
  }
  #scan(random: Random, avoided: number): number {
    const { members } = this;
    return members.indexOf(members.scan(random.below(members.count), avoided));
  }

  protected abstract isBetter(position: number, than: number): boolean;
}

export class RandomPicker extends DrawingPicker {
  constructor(members: Members) {
    super(members, members.weights);
  }
  override pick(random: Random, _key: number, avoid: number): number {
    const members = this.members;
    if (members.count === 0) return -1;
    const avoided = members.positionOf(avoid);
    const position = this.draw(random, avoided, -1);
    return members.indexOf(position >= 0 ? position : members.scan(random.below(members.count), avoided));
  }
  protected override isBetter(): boolean {
    return false;
  }
}

/** Fewer requests in flight for its weight; drawn by weight, so that shares hold also where all are idle. */
export class LeastRequestPicker extends DrawingPicker {
  constructor(members: Members) {
    super(members, members.weights);
  }
  protected override isBetter(position: number, than: number): boolean {
    return this.#score(position) < this.#score(than);
  }
  #score(position: number): number {
    const load = this.stats.load(this.slotOf(position));
    return this.isEven ? load : load / (this.members.weights[position] as number);
  }
}

/** The lower (EWMA latency + requests in flight x penalty) / weight (LB-5). Weight is in the score alone, slow start also in the draw. */
export class EwmaPicker extends DrawingPicker {
  readonly #penalty: number;
  constructor(members: Members, penalty: number) {
    super(members, members.warmth);
    this.#penalty = penalty;
  }
  protected override isBetter(position: number, than: number): boolean {
    return this.score(position) < this.score(than);
  }
  score(position: number): number {
    const { stats } = this;
    const slot = this.slotOf(position);
    const cost = stats.latency(slot) + stats.load(slot) * this.#penalty;
    return this.isEven ? cost : cost / (this.members.weights[position] as number);
  }
}
