// The table of close reasons is the same on both sides of the channel.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { closeReasons } from "./flow.ts";

test("close reasons are those of native/src/reason.rs", () => {
  const rust = readFileSync(new URL("../native/src/reason.rs", import.meta.url), "utf8");
  const table = Object.fromEntries([...rust.matchAll(/^\s+\w+ = (\d+) "(\w+)";/gm)].map((m) => [m[1], m[2]]));
  assert.ok(Object.keys(table).length > 30);
  assert.deepEqual({ ...closeReasons }, table);
});
