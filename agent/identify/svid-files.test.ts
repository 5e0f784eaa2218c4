// Keys on disk: root only, whole or not at all, broken ones dropped.
import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { type StoredSvid, SvidFiles } from "./svid-files.ts";

const svid: StoredSvid = {
  identity: "spiffe://cluster.local/ns/shop/sa/a",
  keyPem: "key",
  chainPem: "chain",
  issuedAtMs: 1,
  notAfterMs: 2,
  trustGeneration: 1,
};

test("[DP-20] SVIDs survive a restart in files that only root can read", async (t) => {
  const folder = mkdtempSync(join(tmpdir(), "svids-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const files = new SvidFiles(folder);
  await files.save(svid);
  await files.save({ ...svid, chainPem: "newer" });
  const names = readdirSync(join(folder, "svids"));
  assert.equal(names.length, 1);
  assert.equal(statSync(join(folder, "svids")).mode & 0o777, 0o700);
  assert.equal(statSync(join(folder, "svids", names[0] ?? "")).mode & 0o777, 0o600);
  writeFileSync(join(folder, "svids", "broken.json"), "{");
  writeFileSync(join(folder, "svids", "moved.json"), JSON.stringify(svid));
  assert.deepEqual(await new SvidFiles(folder).load(), [{ ...svid, chainPem: "newer" }]);
  await files.remove(svid.identity);
  assert.deepEqual(await files.load(), []);
});
