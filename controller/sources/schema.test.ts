import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { labels, list, type Report, shared, text } from "./schema.ts";

const silent: Report = { problem: () => assert.fail("nothing is wrong") };

test("[PRF-3] short values that say the same are one object, and what is read is what was written, however many there were", () => {
  const read = shared(labels);
  fc.assert(
    fc.property(fc.array(fc.dictionary(fc.string(), fc.string())), (values) => {
      for (const value of values) {
        const first = read(value, [], silent);
        assert.deepEqual(first, labels(value, [], silent));
        if (JSON.stringify(value).length <= 512) assert.equal(read({ ...value }, [], silent), first);
      }
    }),
  );
  const before = read({ app: "web" }, [], silent);
  for (let i = 0; i < 5_000; i++) assert.deepEqual(read({ app: `${i}` }, [], silent), { app: `${i}` });
  const after = read({ app: "web" }, [], silent);
  assert.deepEqual(after, before);
  assert.notEqual(after, before, "it was forgotten meanwhile");
  const long = { said: "x".repeat(600) };
  assert.deepEqual(read(long, [], silent), long);
  assert.notEqual(read(long, [], silent), read(long, [], silent), "what is long is not kept");
});

test("problems of a shared value are told each time", () => {
  const told: string[] = [];
  const report: Report = { problem: (path) => told.push(path.join(".")) };
  const read = shared(list(text));
  for (let i = 0; i < 2; i++) read(["a", 1], ["x"], report);
  assert.deepEqual(told, ["x.1", "x.1"]);
});
