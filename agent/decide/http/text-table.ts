// A table that finds a part of a text without cutting it out, in few lines of cache: with ten thousand entries that is what a look-up costs.
// Open addressing by one hash. A small table is one array; a large one keeps hashes and keys packed, so that only its value is far away. Pure.

type Cell<V> = number | string | V | undefined;
/** Threes of hash, key, value. */
type Small<V> = readonly Cell<V>[];
class Packed<V> {
  /** Twos of hash and number of the entry, from 1 on; 0: none. */
  readonly slots: Int32Array;
  /** Where the keys begin; one more for the end of the last. */
  readonly begins: Int32Array;
  /** UTF-16 units of all keys; bytes, where they fit. */
  readonly units: Uint8Array | Uint16Array;
  readonly values: readonly V[];
  constructor(slots: Int32Array, keys: readonly string[], values: readonly V[]) {
    this.slots = slots;
    this.begins = new Int32Array(keys.length + 1);
    for (const [i, key] of keys.entries()) this.begins[i + 1] = (this.begins[i] as number) + key.length;
    const all = keys.join("");
    this.units = /^[\0-\xff]*$/.test(all) ? new Uint8Array(all.length) : new Uint16Array(all.length);
    for (let i = 0; i < all.length; i++) this.units[i] = all.charCodeAt(i);
    this.values = values;
  }
}
/** Read with `findText` alone. */
export type TextTable<V extends object> = Small<V> | Packed<V>;

const mostSmall = 32;
/** So many cells are looked at in vain at most; the hash has no secret, and whoever makes routes could aim at it. */
const longestRun = 64;

const firstBasis = -2_128_831_035;

function hashOf(text: string, from: number, to: number, basis = firstBasis): number {
  // FNV-1a over UTF-16 units, its high bits mixed in at the end, since the place is taken from the low ones.
  let hash = basis;
  for (let i = from; i < to; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 16_777_619);
  return hash ^ (hash >>> 15);
}

/** undefined: too many keys fall together, and the map itself is the better table. */
export function textTable<V extends object>(entries: ReadonlyMap<string, V>): TextTable<V> | undefined {
  let size = 4;
  while (size < entries.size * 1.5) size *= 2;
  const keys = [...entries.keys()];
  const values = [...entries.values()];
  const slots = new Int32Array(size * 2);
  for (const [i, key] of keys.entries()) {
    const hash = hashOf(key, 0, key.length);
    let at = hash & (size - 1);
    for (let run = 0; slots[at * 2 + 1] !== 0; run++) {
      if (run === longestRun) return undefined;
      at = (at + 1) & (size - 1);
    }
    slots[at * 2] = hash;
    slots[at * 2 + 1] = i + 1;
  }
  if (keys.length > mostSmall) return new Packed(slots, keys, values);
  const cells: Cell<V>[] = [];
  for (let at = 0; at < size; at++) {
    const entry = (slots[at * 2 + 1] as number) - 1;
    cells.push(slots[at * 2] as number, keys[entry] ?? "", values[entry]);
  }
  return cells;
}

/**
 * An object whose elements are a small table of two kinds of keys: between it and its values stands no other object. One text has two
 * hashes, one for each kind, which are never the same: each step of the hash, and its end, leads different values to different ones.
 */
export class TwoTables<V extends object> {
  [at: number]: Cell<V>;
  /** Number of cells less one; -1: none were filled. */
  last = -1;

  /** false: too many for a small table. */
  protected fill(ones: ReadonlyMap<string, V>, others: ReadonlyMap<string, V>): boolean {
    const count = ones.size + others.size;
    if (count > mostSmall) return false;
    let size = 4;
    while (size < count * 1.5) size *= 2;
    const cells = new Array<Cell<V>>(size * 3).fill(undefined);
    for (const [entries, basis] of [[ones, firstBasis] as const, [others, otherBasis] as const]) {
      for (const [key, value] of entries) {
        const hash = hashOf(key, 0, key.length, basis);
        let at = hash & (size - 1);
        while (cells[at * 3 + 2] !== undefined) at = (at + 1) & (size - 1);
        cells[at * 3] = hash;
        cells[at * 3 + 1] = key;
        cells[at * 3 + 2] = value;
      }
    }
    for (const [at, cell] of cells.entries()) this[at] = cell;
    this.last = size - 1;
    return true;
  }
}
const otherBasis = firstBasis ^ 0x5bd1_e995;

/** What stands under `text.slice(from, to)` among one kind of keys, or among the others, of a table that was filled. */
export function findOfTwo<V extends object>(
  table: TwoTables<V>,
  isOther: boolean,
  text: string,
  from: number,
  to: number,
): V | undefined {
  const hash = hashOf(text, from, to, isOther ? otherBasis : firstBasis);
  const { last } = table;
  for (let at = hash & last; ; at = (at + 1) & last) {
    const value = table[at * 3 + 2] as V | undefined;
    if (value === undefined) return undefined;
    if (table[at * 3] !== hash) continue;
    const key = table[at * 3 + 1] as string;
    if (key.length === to - from && text.startsWith(key, from)) return value;
  }
}

/** What stands under `text.slice(from, to)`. */
export function findText<V extends object>(table: TextTable<V>, text: string, from: number, to: number): V | undefined {
  const hash = hashOf(text, from, to);
  return table instanceof Packed ? findPacked(table, hash, text, from, to) : findSmall(table, hash, text, from, to);
}

function findSmall<V>(table: Small<V>, hash: number, text: string, from: number, to: number): V | undefined {
  const last = table.length / 3 - 1;
  for (let at = hash & last; ; at = (at + 1) & last) {
    const value = table[at * 3 + 2] as V | undefined;
    if (value === undefined) return undefined;
    if (table[at * 3] !== hash) continue;
    const key = table[at * 3 + 1] as string;
    if (key.length === to - from && text.startsWith(key, from)) return value;
  }
}

function findPacked<V>(table: Packed<V>, hash: number, text: string, from: number, to: number): V | undefined {
  const { slots, begins, units } = table;
  const last = slots.length / 2 - 1;
  const length = to - from;
  for (let at = hash & last; ; at = (at + 1) & last) {
    const entry = slots[at * 2 + 1] as number;
    if (entry === 0) return undefined;
    if (slots[at * 2] !== hash) continue;
    const begin = begins[entry - 1] as number;
    if ((begins[entry] as number) - begin !== length) continue;
    let same = 0;
    while (same < length && units[begin + same] === text.charCodeAt(from + same)) same++;
    if (same === length) return table.values[entry - 1];
  }
}
