import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { generate } from "../scripts/gen-proto.ts";

test("the generated wire code is what the proto files give", () => {
  const out = mkdtempSync(join(tmpdir(), "fairlead-gen-"));
  try {
    for (const path of generate(out)) {
      const committed = fileURLToPath(new URL(`../agent/api/${basename(path)}`, import.meta.url));
      assert.equal(
        readFileSync(path, "utf8"),
        readFileSync(committed, "utf8"),
        `${basename(path)} is old: npm run gen`,
      );
    }
  } finally {
    rmSync(out, { recursive: true, force: true });
  }
});
