import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { freeBlock, MAX_NODES, nodeAddress, nodePods, ranges } from "./ranges.ts";

test("blocks of other clusters and ranges of the machine are passed over", () => {
  assert.equal(freeBlock([], []), 110);
  assert.equal(freeBlock([110, 112], []), 111);
  assert.equal(freeBlock([110], ["10.111.3.0/24", "10.112.0.7", "default", "0.0.0.0/0", "192.168.1.0/24"]), 113);
  assert.equal(freeBlock([], ["10.110.0.0/15"]), 112);
});

test("a machine whose routes take all of 10.0.0.0/8 has no block left", () => {
  assert.equal(freeBlock([], ["10.0.0.0/8"]), undefined);
  assert.equal(freeBlock([], ["8.0.0.0/5"]), undefined);
});

test("whatever is taken, a block that is given out is free of it", () => {
  const taken = fc.array(fc.tuple(fc.nat(255), fc.nat(255), fc.integer({ min: 1, max: 32 })), { maxLength: 40 });
  fc.assert(
    fc.property(taken, (rows) => {
      const block = freeBlock(
        [],
        rows.map(([b, c, length]) => `10.${b}.${c}.0/${length}`),
      );
      if (block === undefined) return;
      for (const [b, , length] of rows) {
        const shift = Math.max(0, 16 - length);
        assert.notEqual(((10 << 8) | b) >> shift, ((10 << 8) | block) >> shift);
      }
    }),
  );
});

test("nodes have addresses outside the pods' range, and pods of a node inside", () => {
  const r = ranges(110);
  assert.equal(r.network, "10.110.255.0/24");
  assert.equal(nodeAddress(110, MAX_NODES), "10.110.255.110");
  assert.equal(nodePods(110, 2), "10.110.2.0/24");
  assert.equal(r.pods, "10.110.0.0/17");
  assert.ok(MAX_NODES < 128);
});
