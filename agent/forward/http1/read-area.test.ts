// Bytes kept from one read for the next: the same bytes, in memory that is made anew only where it has to be.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { ROOM } from "./out-buffer.ts";
import { Carry, ReadArea } from "./read-area.ts";

test("[SEC-8] reads that are put off again and again in one body use one piece of memory; with the body it goes", () => {
  const carry = new Carry();
  const read = Buffer.alloc(8 * 1024 + 2 * ROOM, "x");
  carry.set(read, ROOM, read.length - ROOM);
  const first = carry.buf;
  assert.ok(first !== undefined && first.length < 2 * read.length, "no larger than what it keeps asks for");
  for (let i = 0; i < 100; i++) {
    carry.clear(true);
    carry.set(read, ROOM, read.length - ROOM);
    assert.equal(carry.buf, first);
  }
  carry.clear();
  assert.equal(carry.buf, undefined);
  carry.set(Buffer.alloc(1024 * 1024), 0, 1024 * 1024);
  carry.clear(true);
  assert.equal(carry.buf, undefined, "more than one read's worth is kept for nobody");
});

test("[SEC-8] memory of connections that are gone is used again, never by two at once, and not while it is still being written out", () => {
  const step = fc.record({
    kind: fc.constantFrom("open", "read", "large", "small", "lend", "close"),
    which: fc.nat({ max: 30 }),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 100 }), (steps) => {
      const open: ReadArea[] = [];
      const lent = new Set<ArrayBufferLike>();
      for (const { kind, which } of steps) {
        const area = open[which % Math.max(1, open.length)];
        if (kind === "open") {
          open.push(new ReadArea());
          open.at(-1)?.next();
        } else if (area === undefined) continue;
        else if (kind === "read") area.next();
        else if (kind === "large" || kind === "small") area.wantsLarge = kind === "large";
        else if (kind === "lend") {
          area.lent = true;
          lent.add(area.raw.buffer);
        } else {
          area.free();
          assert.equal(area.raw.length, 0);
          open.splice(open.indexOf(area), 1);
        }
        const inUse = open.filter((each) => !each.lent).map((each) => each.raw.buffer);
        assert.equal(new Set(inUse).size, inUse.length);
        assert.ok(!inUse.some((memory) => lent.has(memory)));
      }
      for (const area of open) area.free();
    }),
  );
  const one = new ReadArea();
  const { raw } = one;
  one.free();
  assert.equal(new ReadArea().raw, raw);
});

test("[TRF-7] what is kept is what came, with room around it, whatever is taken away and lent meanwhile", () => {
  const step = fc.record({
    kind: fc.constantFrom("append", "take", "lend", "clear", "keep"),
    size: fc.nat({ max: 20_000 }),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const carry = new Carry();
      carry.clear();
      let kept = Buffer.alloc(0);
      let next = 0;
      for (const { kind, size } of steps) {
        if (kind === "append") {
          const bytes = Buffer.alloc(size, next++ % 251);
          if (carry.isEmpty) carry.set(bytes, 0, size);
          else carry.append(bytes, 0, size);
          kept = Buffer.concat([kept, bytes]);
        } else if (kind === "take" && !carry.isEmpty) {
          const taken = Math.min(size, kept.length - 1);
          carry.set(carry.buf as Buffer, carry.from + taken, carry.to);
          kept = kept.subarray(taken);
        } else if (kind === "lend") carry.lend();
        else if (kind === "clear" || kind === "keep") {
          carry.clear(kind === "keep");
          kept = Buffer.alloc(0);
        }
        assert.equal(carry.isEmpty, kept.length === 0);
        if (carry.isEmpty) continue;
        const buf = carry.buf as Buffer;
        assert.ok(carry.from >= ROOM && carry.to + ROOM <= buf.length);
        assert.ok(buf.subarray(carry.from, carry.to).equals(kept));
      }
    }),
    { numRuns: 300 },
  );
});
