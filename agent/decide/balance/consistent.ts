// Balancers by key: the same key goes to the same endpoint on every node, and few keys move when endpoints come and go.
import type { Random } from "../../base/random.ts";
import { hashText, mix, unit } from "./hash.ts";
import type { Members, Picker } from "./picker.ts";

/** Points of a ring at most, whatever the weights. */
const maxPoints = 262_144;
const golden = 0x9e3779b1;

/** Ketama-like: each endpoint stands at many points of a circle; a key belongs to the next point clockwise. */
export class RingPicker implements Picker {
  readonly isKeyed = true;
  readonly #members: Members;
  readonly #points: Uint32Array;
  readonly #owners: Int32Array;

  /** `virtualNodes`: points of an endpoint of weight 1. */
  constructor(members: Members, virtualNodes: number) {
    this.#members = members;
    const wanted = Array.from(members.weights, (weight) => weight * virtualNodes);
    const sum = wanted.reduce((a, b) => a + b, 0);
    const scale = Math.min(1, maxPoints / sum);
    const counts = wanted.map((count) => Math.max(1, Math.round(count * scale)));
    const packed = new Float64Array(counts.reduce((a, b) => a + b, 0));
    let at = 0;
    for (const [position, count] of counts.entries()) {
      const base = hashText(members.ids[position] as string);
      for (let i = 0; i < count; i++) packed[at++] = mix(base + Math.imul(i, golden)) * 2 ** 20 + position;
    }
    packed.sort();
    this.#points = Uint32Array.from(packed, (value) => Math.floor(value / 2 ** 20));
    this.#owners = Int32Array.from(packed, (value) => value % 2 ** 20);
  }

  pick(_random: Random, key: number, avoid: number): number {
    const members = this.#members;
    const length = this.#points.length;
    if (length === 0) return -1;
    let low = 0;
    let high = length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#points[middle] as number) < key) low = middle + 1;
      else high = middle;
    }
    const avoided = members.positionOf(avoid);
    // Keys of a closed endpoint go to its successors, as they will when it is gone.
    const most = Math.min(length, 64);
    for (let i = 0; i < most; i++) {
      const position = this.#owners[(low + i) % length] as number;
      if (position !== avoided && members.isOpen(position)) return members.index[position] as number;
    }
    return members.indexOf(members.scan(this.#owners[low % length] as number, avoided));
  }
}

/** Primes: about a hundred places for each endpoint keep shares within a percent. */
const tableSizes = [65_537, 655_373];

/** Maglev (Eisenbud et al., NSDI 2016, §3.4): endpoints take places of a table in turn, each in its own permutation. */
export class MaglevPicker implements Picker {
  readonly isKeyed = true;
  readonly #members: Members;
  readonly #table: Int32Array;

  constructor(members: Members) {
    this.#members = members;
    this.#table = maglevTable(members);
  }

  pick(_random: Random, key: number, avoid: number): number {
    const members = this.#members;
    if (members.count === 0) return -1;
    const avoided = members.positionOf(avoid);
    let hash = key;
    for (let i = 0; i < 64; i++) {
      const position = this.#table[hash % this.#table.length] as number;
      if (position !== avoided && members.isOpen(position)) return members.index[position] as number;
      hash = mix(hash + golden);
    }
    return members.indexOf(members.scan(hash % members.count, avoided));
  }
}

function maglevTable({ count, ids, weights }: Members): Int32Array {
  const size = tableSizes[count > 600 ? 1 : 0] as number;
  const table = new Int32Array(size).fill(-1);
  if (count === 0) return table;
  const at = new Uint32Array(count);
  const step = new Uint32Array(count);
  for (const [position, id] of ids.entries()) {
    const hash = hashText(id);
    at[position] = hash % size;
    step[position] = (mix(hash + golden) % (size - 1)) + 1;
  }
  const heaviest = weights.reduce((a, b) => Math.max(a, b), 0);
  const credit = new Float64Array(count);
  for (let filled = 0; ; ) {
    for (let position = 0; position < count; position++) {
      // The heaviest takes a place in each round, the others when they have saved up for one.
      credit[position] = (credit[position] as number) + (weights[position] as number) / heaviest;
      if ((credit[position] as number) < 1 - 1e-9) continue;
      credit[position] = (credit[position] as number) - 1;
      let place = at[position] as number;
      while (table[place] !== -1) place = (place + (step[position] as number)) % size;
      table[place] = position;
      at[position] = (place + (step[position] as number)) % size;
      if (++filled === size) return table;
    }
  }
}

/** Rendezvous (highest random weight): every endpoint bids for the key. Exact shares and no table, at a cost that grows with the set. */
export class RendezvousPicker implements Picker {
  readonly isKeyed = true;
  readonly #members: Members;
  readonly #hashes: Uint32Array;

  constructor(members: Members) {
    this.#members = members;
    this.#hashes = Uint32Array.from(members.ids, hashText);
  }

  pick(_random: Random, key: number, avoid: number): number {
    const members = this.#members;
    const avoided = members.positionOf(avoid);
    let best = -1;
    let highest = -1;
    for (let position = 0; position < members.count; position++) {
      if (position === avoided || !members.isOpen(position)) continue;
      // -w / ln(u) is highest with a chance of w / sum of all.
      const bid =
        -(members.weights[position] as number) / Math.log(unit(mix((this.#hashes[position] as number) ^ key)));
      if (bid > highest) {
        highest = bid;
        best = position;
      }
    }
    if (best < 0 && avoided >= 0 && members.isOpen(avoided)) best = avoided;
    return members.indexOf(best);
  }
}
