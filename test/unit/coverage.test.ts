import assert from "node:assert/strict";
import { test } from "node:test";
import { countLines, executed } from "../../scripts/coverage.ts";

const text = "a();\n\nif (x) {\n  b();\n}\nc();\n";
const inner = { startOffset: text.indexOf("{"), endOffset: text.indexOf("}") + 1 };
const script = (count: number) => [
  {
    ranges: [
      { startOffset: 0, endOffset: text.length, count: 1 },
      { ...inner, count },
    ],
  },
];

test("[TST-1] the innermost range counts, blank lines do not, and what one process executed is executed", () => {
  const without = executed(text.length, script(0));
  const counted = countLines(text, [without]);
  assert.deepEqual([counted.lines, counted.covered, counted.missed], [5, 2, [3, 4, 5]]);
  assert.equal(countLines(text, [without, executed(text.length, script(2))]).covered, 5);
  assert.equal(countLines(text, []).covered, 0);
});
