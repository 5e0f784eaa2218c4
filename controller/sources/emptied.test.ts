// What becomes of manifest files that are found empty.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Emptied } from "./emptied.ts";

test("[DIS-2] what an emptied file held stays for a while, and again when it is emptied again", () => {
  const emptied = new Emptied(1_000);
  assert.equal(emptied.leftMs("a.yaml", "", false, 0), 0, "it never held anything");
  assert.equal(emptied.leftMs("a.yaml", "kind: Pod", true, 5), 0);
  assert.equal(emptied.leftMs("a.yaml", "", true, 10), 1_000);
  assert.equal(emptied.leftMs("a.yaml", "", true, 700), 310);
  assert.equal(emptied.leftMs("b.yaml", "", true, 700), 1_000, "another file");
  assert.equal(emptied.leftMs("a.yaml", "kind: Pod", true, 800), 0, "written");
  assert.equal(emptied.leftMs("a.yaml", "", true, 900), 1_000);
  assert.equal(emptied.leftMs("a.yaml", "", true, 1_900), 0, "it is meant");
  assert.equal(emptied.leftMs("b.yaml", "", true, 900), 800);
  emptied.forget("b.yaml");
  assert.equal(emptied.leftMs("b.yaml", "", true, 1_000), 1_000);
});
