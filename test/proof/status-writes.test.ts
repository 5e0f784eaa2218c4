// What counts as a status that was written twice.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { statusWrites } from "./status-writes.ts";

const line = (name: string, message: string, second: number, code = 200): string =>
  JSON.stringify({
    user: { username: "controller" },
    objectRef: { resource: "httproutes", namespace: "shop", name },
    requestObject: { status: { conditions: [{ message, lastTransitionTime: `2026-01-01T00:00:0${second}Z` }] } },
    responseStatus: { code },
  });

test("[DIS-8] the same status of an object twice in turn counts, at whatever time; what was refused does not, nor what came back", () => {
  const folder = mkdtempSync(join(tmpdir(), "fairlead-writes-"));
  try {
    const file = join(folder, "audit.log");
    const lines = [
      ...[line("a", "one", 1), line("b", "one", 1), line("a", "two", 2), line("a", "one", 3)],
      ...[line("b", "one", 4), line("c", "one", 1, 409), line("c", "one", 1)],
    ];
    writeFileSync(file, `${lines.join("\n")}\n{"half":`);
    assert.deepEqual(statusWrites(file), { written: 6, refused: 1, twice: ["httproutes shop/b"] });
  } finally {
    rmSync(folder, { recursive: true });
  }
});
