// A table that finds a part of a text without cutting it out, in few lines of cache: with ten thousand entries that is what a look-up costs.
// One flat array of threes (hash, key, value), open addressing. Pure.

type Cell<V> = number | string | V | undefined;
/** Read with `findText` alone. */
export type TextTable<V extends object> = readonly Cell<V>[];

/** So many cells are looked at in vain at most; the hash has no secret, and whoever makes routes could aim at it. */
const longestRun = 64;

function hashOf(text: string, from: number, to: number): number {
  // FNV-1a over UTF-16 units, its high bits mixed in at the end, since the place is taken from the low ones.
  let hash = -2_128_831_035;
  for (let i = from; i < to; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 16_777_619);
  return hash ^ (hash >>> 15);
}

/** undefined: too many keys fall together, and the map itself is the better table. */
export function textTable<V extends object>(entries: ReadonlyMap<string, V>): TextTable<V> | undefined {
  let size = 4;
  while (size < entries.size * 1.5) size *= 2;
  const cells = new Array<Cell<V>>(size * 3);
  for (let at = 0; at < cells.length; at += 3) {
    cells[at] = 0;
    cells[at + 1] = "";
    cells[at + 2] = undefined;
  }
  for (const [key, value] of entries) {
    const hash = hashOf(key, 0, key.length);
    let at = hash & (size - 1);
    for (let run = 0; cells[at * 3 + 2] !== undefined; run++) {
      if (run === longestRun) return undefined;
      at = (at + 1) & (size - 1);
    }
    cells[at * 3] = hash;
    cells[at * 3 + 1] = key;
    cells[at * 3 + 2] = value;
  }
  return cells;
}

/** What stands under `text.slice(from, to)`. */
export function findText<V extends object>(table: TextTable<V>, text: string, from: number, to: number): V | undefined {
  const hash = hashOf(text, from, to);
  const last = table.length / 3 - 1;
  for (let at = hash & last; ; at = (at + 1) & last) {
    const value = table[at * 3 + 2] as V | undefined;
    if (value === undefined) return undefined;
    if (table[at * 3] === hash) {
      const key = table[at * 3 + 1] as string;
      if (key.length === to - from && text.startsWith(key, from)) return value;
    }
  }
}
