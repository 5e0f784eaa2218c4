import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { LineReader } from "./lines.ts";

test("[DIS-1] lines are the same however their bytes are cut, also within a character", () => {
  const line = fc.string({ unit: fc.constantFrom("a", "ä", "漢", "😀", " ", "\r"), maxLength: 12 });
  fc.assert(
    fc.property(fc.array(line), fc.array(fc.integer({ min: 1, max: 7 }), { minLength: 1 }), (lines, cuts) => {
      const bytes = Buffer.from(lines.map((text) => `${text}\n`).join(""));
      const reader = new LineReader(1_000);
      const seen: string[] = [];
      for (let at = 0, i = 0; at < bytes.length; i++) {
        const size = cuts[i % cuts.length] ?? 1;
        assert.equal(
          reader.push(bytes.subarray(at, at + size), (text) => seen.push(text) > 0),
          "more",
        );
        at += size;
      }
      assert.deepEqual(
        seen,
        lines.map((text) => text.replace(/\r$/, "")).filter((text) => text !== ""),
      );
      assert.equal(reader.pendingBytes, 0);
    }),
  );
});

test("[DIS-1] a line may be as long as the limit and no longer; whoever has enough gets no more", () => {
  const reader = new LineReader(5);
  const seen: string[] = [];
  const take = (text: string): boolean => seen.push(text) > 0;
  assert.equal(reader.push(Buffer.from("12345\n123"), take), "more");
  assert.equal(reader.push(Buffer.from("45\n"), take), "more");
  assert.deepEqual(seen, ["12345", "12345"]);
  assert.equal(reader.push(Buffer.from("12"), take), "more");
  assert.equal(reader.push(Buffer.from("3456"), take), "too_long");
  const other = new LineReader(5);
  assert.equal(
    other.push(Buffer.from("1\n2\n3\n"), (text) => text !== "2"),
    "stopped",
  );
});
