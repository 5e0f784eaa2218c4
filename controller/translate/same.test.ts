import assert from "node:assert/strict";
import { test } from "node:test";
import { isDeepStrictEqual } from "node:util";
import fc from "fast-check";
import { same } from "./same.ts";

test("same is what Node's own deep comparison says of plain values", () => {
  const { value } = fc.letrec((tie) => ({
    value: fc.oneof(
      { depthSize: "small" },
      fc.constantFrom(0, -0, 1, Number.NaN, "", "a", true, false, null, undefined),
      fc.array(tie("value"), { maxLength: 3 }),
      fc.dictionary(fc.constantFrom("a", "b", "constructor"), tie("value"), { maxKeys: 3, noNullPrototype: true }),
      fc.array(fc.tuple(fc.constantFrom("a", "b"), tie("value")), { maxLength: 2 }).map((entries) => new Map(entries)),
    ),
  }));
  fc.assert(
    fc.property(value, value, (a, b) => {
      assert.equal(same(a, b), isDeepStrictEqual(a, b));
      assert.ok(same(a, structuredClone(a)));
    }),
    { numRuns: 2_000 },
  );
});
