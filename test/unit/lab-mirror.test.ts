// The lab's copy of the manifests folder.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { namespace } from "../kit/objects.ts";
import { Mirror } from "../lab/mirror.ts";

test("[DIS-9] a manifest that the lab catches empty while it is written loses nothing; one that stays empty does", (t) => {
  const dir = mkdtempSync(join(tmpdir(), "fairlead-mirror-"));
  t.after(() => rmSync(dir, { recursive: true, force: true }));
  const file = join(dir, "shop.yaml");
  let nowMs = 0;
  const mirror = new Mirror(dir, join(dir, ".copy"), () => nowMs);
  const look = (text: string, atMs: number): number => {
    writeFileSync(file, text);
    nowMs = atMs;
    mirror.sync();
    return mirror.objects().length;
  };
  const text = namespace("shop");
  assert.equal(look("", 0), 0, "one that was never anything else");
  assert.equal(look(text, 1), 1);
  assert.deepEqual([look("", 10_000), look("", 11_000), look(text, 12_000)], [1, 1, 1]);
  assert.deepEqual([look("", 20_000), look("", 30_000)], [1, 0]);
});
