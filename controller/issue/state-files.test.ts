// Files of the controller's state: what is added is in the file of that name, whatever happened to it in between.
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { openStateFiles } from "./state-files.ts";

test("[IDN-9] lines are added to the file that has the name now: after it was written anew, removed, or taken away by somebody else", (t) => {
  const dir = mkdtempSync(join(tmpdir(), "state-"));
  t.after(() => rmSync(dir, { recursive: true, force: true }));
  const files = openStateFiles(dir);
  const add = (text: string): string => {
    files.append("lines", text);
    return readFileSync(join(dir, "lines"), "utf8");
  };
  assert.deepEqual([add("a"), add("b")], ["a", "ab"]);
  files.write("lines", "anew ");
  assert.deepEqual([add("c"), add("d")], ["anew c", "anew cd"]);
  files.remove("lines");
  assert.deepEqual([add("e"), add("f")], ["e", "ef"]);
  rmSync(join(dir, "lines"));
  assert.deepEqual([add("g"), add("h")], ["g", "gh"]);
});
