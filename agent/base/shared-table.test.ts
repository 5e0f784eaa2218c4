// The shared table: places are kept, found again, and given up only when they may be; with one thread and with four.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Worker } from "node:worker_threads";
import fc from "fast-check";
import { SharedTable } from "./shared-table.ts";
import { addText, seededHash } from "./text-hash.ts";

const tableOf = (slots: number, own: number): SharedTable =>
  new SharedTable(new SharedArrayBuffer(SharedTable.bytes(slots, own)), slots, own);
const hashOf = (text: string) => {
  const hash = seededHash(1, 2);
  addText(hash, text);
  return hash;
};
const never = (_at: number): boolean => false;

test("[DP-25] a key keeps its slot and what it counts, whatever other keys come; a full set is said, not hidden", () => {
  fc.assert(
    fc.property(fc.array(fc.string(), { maxLength: 300 }), (keys) => {
      const table = tableOf(64, 2);
      const counts = new Map<string, number>();
      for (const key of keys) {
        const { high, low } = hashOf(key);
        const at = table.locate(high, low, never);
        if (at < 0) {
          assert.ok(!counts.has(key), "a key that has a slot is always found");
          continue;
        }
        Atomics.add(table.words, at, 1);
        counts.set(key, (counts.get(key) ?? 0) + 1);
      }
      for (const [key, count] of counts) {
        const { high, low } = hashOf(key);
        assert.equal(table.words[table.find(high, low)], count);
      }
    }),
  );
});

test("a slot that may be forgotten is taken over, zeroed, and only when no empty one is left", () => {
  const table = tableOf(8, 2);
  const at = (key: string, isFree = never): number => table.locate(hashOf(key).high, hashOf(key).low, isFree);
  const first = at("first");
  table.words[first] = 7;
  const others = ["b", "c", "d", "e", "f", "g", "h"].map((key) => at(key, () => true));
  assert.equal(new Set([first, ...others]).size, 8);
  assert.equal(at("ninth"), -1);
  assert.equal(
    at("ninth", (slot) => slot === first),
    first,
  );
  assert.equal(table.words[first], 0);
  assert.equal(table.find(hashOf("first").high, hashOf("first").low), -1);
  const seen: number[] = [];
  table.each((slot) => seen.push(slot));
  assert.equal(seen.length, 8);
});

test("texts that differ, or are cut differently, have other hashes; the seed changes all of them", () => {
  fc.assert(
    fc.property(fc.array(fc.string(), { maxLength: 4 }), fc.array(fc.string(), { maxLength: 4 }), (a, b) => {
      const hash = (parts: readonly string[], seed = 1) => {
        const h = seededHash(seed, 2);
        for (const part of parts) addText(h, part);
        return `${h.high} ${h.low}`;
      };
      assert.equal(hash(a) === hash(b), JSON.stringify(a) === JSON.stringify(b));
      if (a.length > 0) assert.notEqual(hash(a), hash(a, 5));
    }),
    { numRuns: 2000 },
  );
  const seen = new Set<number>();
  for (let i = 0; i < 50_000; i++) seen.add(hashOf(`10.244.${i >> 8}.${i & 255}`).low & 0xffff);
  assert.ok(seen.size > 30_000, `${seen.size} of 65536 places`);
});

test("[DP-25] four threads count together, each key in one place", { timeout: 60_000 }, async () => {
  const slots = 256;
  const buffer = new SharedArrayBuffer(SharedTable.bytes(slots, 2));
  const code = `
    const { workerData, parentPort } = require("node:worker_threads");
    (async () => {
      const { SharedTable } = await import(workerData.table);
      const { addText, seededHash } = await import(workerData.hash);
      const table = new SharedTable(workerData.buffer, ${slots}, 2);
      for (let i = 0; i < 40_000; i++) {
        const hash = seededHash(1, 2);
        addText(hash, "key " + (i % 50));
        const at = table.locate(hash.high, hash.low, () => false);
        if (at < 0) throw new Error("no slot");
        Atomics.add(table.words, at, 1);
      }
      parentPort.postMessage("done");
    })();`;
  const workerData = {
    buffer,
    table: new URL("./shared-table.ts", import.meta.url).href,
    hash: new URL("./text-hash.ts", import.meta.url).href,
  };
  await Promise.all(
    [0, 1, 2, 3].map(
      () =>
        new Promise<void>((resolve, reject) => {
          const worker = new Worker(code, { eval: true, workerData });
          worker.once("error", reject);
          worker.once("exit", () => resolve());
        }),
    ),
  );
  const table = new SharedTable(buffer, slots, 2);
  let total = 0;
  table.each((at) => {
    total += table.words[at] as number;
  });
  assert.equal(total, 160_000);
  let whole = 0;
  for (let i = 0; i < 50; i++) {
    const { high, low } = hashOf(`key ${i}`);
    if (table.words[table.find(high, low)] === 3_200) whole++;
  }
  // A thread that is stopped just while it takes a slot over lets another one take a second slot for the key.
  assert.ok(whole >= 48, `${whole} of 50`);
});
