import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import type { TreeEntry } from "./tar.ts";
import { inOrder } from "./tree.ts";
import { writeTree } from "./write-tree.ts";

const scratch = mkdtempSync(join(tmpdir(), "fairlead-tree-"));
after(() => rmSync(scratch, { recursive: true, force: true }));

const file = (path: string, text = path, mode = 0o644): TreeEntry => {
  const bytes = Buffer.from(text);
  return { path, type: "file", mode, size: bytes.length, content: { bytes } };
};

test("folders stand before what is in them, once, with the mode that was asked for", () => {
  const tmp: TreeEntry = { path: "tmp", type: "folder", mode: 0o1777, size: 0 };
  const tree = inOrder([file("usr/lib/b"), file("tmp/x"), tmp, file("usr/lib/a"), file("a")]);
  assert.deepEqual(
    tree.map((e) => `${e.path} ${e.mode.toString(8)}`),
    ["a 644", "tmp 1777", "tmp/x 644", "usr 755", "usr/lib 755", "usr/lib/a 644", "usr/lib/b 644"],
  );
  assert.throws(() => inOrder([file("a"), file("a")]), /a would be in the image twice/);
});

test("a tree becomes a folder with modes and links, and never one that has something in it", () => {
  const to = join(scratch, "root");
  const link: TreeEntry = { path: "bin/link", type: "link", mode: 0o777, size: 0, target: "run" };
  writeTree(inOrder([file("bin/run", "#!", 0o755), link, { path: "tmp", type: "folder", mode: 0o1777, size: 0 }]), to);
  assert.equal(statSync(join(to, "bin/run")).mode & 0o7777, 0o755);
  assert.equal(statSync(join(to, "tmp")).mode & 0o7777, 0o1777);
  assert.equal(readFileSync(join(to, "bin/link"), "utf8"), "#!");
  assert.throws(() => writeTree([], to), /is not empty: give a new folder/);
});
