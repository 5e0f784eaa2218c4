import assert from "node:assert/strict";
import { mkdtempSync, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import fc from "fast-check";
import { readToken, tokenExpiry } from "./token-file.ts";

test("[IDN-3] a token is read anew as it rotates, and a file that holds none is told by its name alone", async () => {
  const dir = mkdtempSync(join(tmpdir(), "fairlead-token-"));
  try {
    const path = join(dir, "token");
    assert.match(JSON.stringify(await readToken(path)), /ENOENT/);
    // As the kubelet does it: a link that is moved to the next file.
    writeFileSync(join(dir, "a"), "head.one.sig\n");
    symlinkSync("a", path);
    assert.deepEqual(await readToken(path), { ok: true, value: "head.one.sig" });
    writeFileSync(join(dir, "b"), "head.two.sig");
    symlinkSync("b", join(dir, "next"));
    renameSync(join(dir, "next"), path);
    assert.deepEqual(await readToken(path), { ok: true, value: "head.two.sig" });
    for (const [text, says] of [
      ["", "is empty"],
      ["two\nlines", "holds no token"],
      ["x".repeat(20_000), "holds no token"],
    ] as const) {
      writeFileSync(join(dir, "b"), text);
      const read = await readToken(path);
      assert.deepEqual(read, { ok: false, error: `${path} ${says}` });
    }
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
});

test("a token's end is read from it, and anything else is no end", () => {
  const token = (claims: unknown): string => `h.${Buffer.from(JSON.stringify(claims)).toString("base64url")}.s`;
  assert.equal(tokenExpiry(token({ exp: 1700 })), 1_700_000);
  for (const claims of [{}, null, 5, { exp: "soon" }, { exp: -1 }, { exp: "1e400" }])
    assert.equal(tokenExpiry(token(claims)), 0);
  fc.assert(fc.property(fc.string(), (text) => tokenExpiry(text) >= 0));
});
