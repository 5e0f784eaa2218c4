// The table of texts against a Map, for any keys and any part of a text; and keys that were made to fall together.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { findOfTwo, findText, TwoTables, textTable } from "./text-table.ts";

const text = fc.string({ unit: fc.constantFrom("a", "b", "/", "A", "é", "\u{1f600}"), maxLength: 12 });

test("[TRF-1] a part of a text is found as a map would find it", () => {
  fc.assert(
    fc.property(
      fc.array(text, { maxLength: 40 }),
      fc.array(text, { maxLength: 10 }),
      text,
      text,
      (keys, more, a, b) => {
        const map = new Map(keys.map((key) => [key, { key }]));
        const table = textTable(map);
        assert.ok(table);
        for (const key of [...keys, ...more])
          assert.equal(findText(table, a + key + b, a.length, a.length + key.length), map.get(key));
      },
    ),
    { numRuns: 500 },
  );
});

class Both extends TwoTables<{ key: string }> {
  readonly isFilled: boolean;
  constructor(ones: ReadonlyMap<string, { key: string }>, others: ReadonlyMap<string, { key: string }>) {
    super();
    this.isFilled = this.fill(ones, others);
  }
}

test("[TRF-1] two kinds of keys in one table are told apart, also where both have the same; too many are not taken", () => {
  const keysOf = fc.array(text, { maxLength: 24 });
  fc.assert(
    fc.property(keysOf, keysOf, text, text, text, (ones, others, more, a, b) => {
      const maps = [ones, others].map((keys) => new Map(keys.map((key) => [key, { key }])));
      const [first = new Map(), second = new Map()] = maps;
      const table = new Both(first, second);
      assert.equal(table.isFilled, first.size + second.size <= 32);
      if (!table.isFilled) return assert.equal(table.last, -1);
      for (const key of [...ones, ...others, more])
        for (const [isOther, map] of [[false, first] as const, [true, second] as const])
          assert.equal(findOfTwo(table, isOther, a + key + b, a.length, a.length + key.length), map.get(key));
    }),
    { numRuns: 500 },
  );
});

test("[TRF-1] ten thousand paths are all found, and none that is not there", () => {
  const paths = Array.from({ length: 10_000 }, (_, i) => `/api/v1/resource-${i}`);
  const table = textTable(new Map(paths.map((path) => [path, { path }])));
  assert.ok(table);
  for (const path of paths) assert.equal(findText(table, `${path}/x`, 0, path.length)?.path, path);
  assert.equal(findText(table, "/api/v1/resource-10000", 0, 22), undefined);
  assert.equal(findText(table, "", 0, 0), undefined);
});

test("keys that were made to fall together are left to the engine's map, whose hash nobody can aim at", () => {
  // The place is the hash's low bits: a search finds keys that share them in a moment, as whoever makes routes could.
  const hash = (key: string): number => {
    let h = -2_128_831_035;
    for (let i = 0; i < key.length; i++) h = Math.imul(h ^ key.charCodeAt(i), 16_777_619);
    return h ^ (h >>> 15);
  };
  const keys: string[] = [];
  for (let i = 0; keys.length < 80; i++) if ((hash(`/${i}`) & 127) === 5) keys.push(`/${i}`);
  assert.equal(textTable(new Map(keys.map((key) => [key, { key }]))), undefined);
});
