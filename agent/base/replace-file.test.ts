import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test, { type TestContext } from "node:test";
import { replaceFile } from "./replace-file.ts";

function folder(t: TestContext): string {
  const dir = mkdtempSync(join(tmpdir(), "fairlead-replace-"));
  t.after(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

test("[INT-11] a file is replaced with its mode, from text, bytes and pieces, and nothing stays beside it", async (t) => {
  const dir = folder(t);
  const path = join(dir, "file");
  await replaceFile(path, "text");
  assert.deepEqual([readFileSync(path, "utf8"), statSync(path).mode & 0o777], ["text", 0o600]);
  await replaceFile(path, Buffer.from([1, 2]), { mode: 0o755 });
  assert.deepEqual([[...readFileSync(path)], statSync(path).mode & 0o777], [[1, 2], 0o755]);
  await replaceFile(path, ["a", "b", "c"]);
  assert.equal(readFileSync(path, "utf8"), "abc");
  assert.deepEqual(readdirSync(dir), ["file"]);
});

test("what is no longer wanted, or fails on the way, leaves what was there", async (t) => {
  const dir = folder(t);
  const path = join(dir, "file");
  writeFileSync(path, "old");
  await replaceFile(path, "new", { isStillWanted: () => false });
  function* broken(): Generator<string> {
    yield "half";
    throw new Error("no more");
  }
  await assert.rejects(replaceFile(path, broken()), /no more/);
  await assert.rejects(replaceFile(join(dir, "absent", "file"), "x"), { code: "ENOENT" });
  assert.deepEqual([readdirSync(dir), readFileSync(path, "utf8")], [["file"], "old"]);
  mkdirSync(join(dir, "folder"));
  await assert.rejects(replaceFile(join(dir, "folder"), "x"), { code: "EISDIR" });
  assert.deepEqual(readdirSync(dir).sort(), ["file", "folder"]);
});
