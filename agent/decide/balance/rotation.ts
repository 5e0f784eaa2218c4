// Round robin, smoothly by weight: a fixed order in which each endpoint stands as often as it weighs, evenly spread, and a cursor.
import type { Random } from "../../base/random.ts";
import type { Members, Picker } from "./picker.ts";

/** Weights whose sum is larger are rounded to fit. */
const longestOrder = 65_536;
/** So many closed gates in a row, and the rest is searched one by one. */
const maxSkips = 16;

export class RotationPicker implements Picker {
  readonly isKeyed = false;
  readonly #members: Members;
  readonly #order: Int32Array;
  readonly #cursor: Int32Array;

  /** `cursor`: one element, shared by all threads and kept when the picker is swapped. */
  constructor(members: Members, cursor: Int32Array) {
    this.#members = members;
    this.#order = orderOf(members.weights);
    this.#cursor = cursor;
  }

  pick(_random: Random, _key: number, avoid: number): number {
    const members = this.#members;
    const length = this.#order.length;
    if (length === 0) return -1;
    const avoided = members.positionOf(avoid);
    let position = 0;
    for (let skips = 0; skips < maxSkips; skips++) {
      const turn = Atomics.add(this.#cursor, 0, 1) >>> 0;
      position = this.#order[turn % length] as number;
      if (position !== avoided && members.isOpen(position)) return members.index[position] as number;
    }
    return members.indexOf(members.scan(position + 1, avoided));
  }
}

// Staggers endpoints of one weight evenly over the time between their turns.
const goldenStep = 0.618_033_988_749_895;

/** Positions in the order of their turns: the k-th of w turns of an endpoint falls at (k + its phase) / w. */
export function orderOf(weights: Float64Array): Int32Array {
  const whole = wholeWeights(weights);
  const length = whole.reduce((sum, weight) => sum + weight, 0);
  // One number per turn: when (31 bits) and who (20 bits), so that they sort without a comparison function.
  const turns = new Float64Array(length);
  let at = 0;
  for (const [position, weight] of whole.entries()) {
    const phase = (0.5 + position * goldenStep) % 1;
    for (let k = 0; k < weight; k++) {
      turns[at++] = Math.floor(((k + phase) / weight) * 2 ** 31) * 2 ** 20 + position;
    }
  }
  return Int32Array.from(turns.sort(), (turn) => turn % 2 ** 20);
}

/** The smallest whole numbers in (nearly) the same proportion. */
function wholeWeights(weights: Float64Array): number[] {
  const hundredths = Array.from(weights, (weight) => Math.max(1, Math.round(weight * 100)));
  const divisor = hundredths.reduce(gcd, 0) || 1;
  const whole = hundredths.map((weight) => weight / divisor);
  const sum = whole.reduce((a, b) => a + b, 0);
  return sum <= longestOrder ? whole : whole.map((weight) => Math.max(1, Math.round((weight * longestOrder) / sum)));
}
function gcd(a: number, b: number): number {
  let [x, y] = [a, b];
  while (y !== 0) [x, y] = [y, x % y];
  return x;
}
