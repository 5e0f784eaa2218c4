import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { chmodSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, utimesSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import fc from "fast-check";
import { entryHeader, folderTar } from "./tar.ts";

const scratch = mkdtempSync(join(tmpdir(), "fairlead-tar-"));
after(() => rmSync(scratch, { recursive: true, force: true }));

async function bytesOf(folder: string): Promise<Buffer> {
  const pieces: Buffer[] = [];
  for await (const piece of folderTar(folder)) pieces.push(piece);
  return Buffer.concat(pieces);
}

test("tar takes the archive apart to what was put in, long names and links included", async () => {
  const from = mkdtempSync(join(scratch, "from-"));
  const long = `${"deep/".repeat(30)}name`;
  mkdirSync(join(from, "deep/".repeat(30)), { recursive: true });
  writeFileSync(join(from, long), "far down");
  writeFileSync(join(from, "run.sh"), "#!/bin/sh\n", { mode: 0o755 });
  chmodSync(join(from, "run.sh"), 0o4755);
  writeFileSync(join(from, "grüße"), "x".repeat(1025));
  writeFileSync(join(from, "empty"), "");
  symlinkSync(`${"../".repeat(40)}somewhere`, join(from, "link"));
  const file = join(scratch, "archive.tar");
  writeFileSync(file, await bytesOf(from));
  const to = mkdtempSync(join(scratch, "to-"));
  execFileSync("tar", ["-xpf", file, "-C", to]);
  execFileSync("diff", ["-r", "--no-dereference", from, to]);
  const listing = execFileSync("tar", ["--numeric-owner", "-tvf", file], { encoding: "utf8" });
  assert.match(listing, /^-rwsr-xr-x 0\/0 +10 1970-01-01 00:00 run\.sh$/m);
});

test("the bytes depend on contents and modes alone, not on times", async () => {
  const [a, b] = [mkdtempSync(join(scratch, "a-")), mkdtempSync(join(scratch, "b-"))];
  for (const [folder, names] of [[a, ["one", "two"]] as const, [b, ["two", "one"]] as const])
    for (const name of names) writeFileSync(join(folder, name), name, { mode: 0o644 });
  utimesSync(join(b, "one"), 1, 1);
  assert.deepEqual(await bytesOf(a), await bytesOf(b));
});

test("every name that a file system allows gets through", () => {
  const name = fc.string({ unit: "grapheme", minLength: 1, maxLength: 300 }).filter((n) => !/[\0/]|^\.{1,2}$/.test(n));
  const file = join(scratch, "names.tar");
  fc.assert(
    fc.property(name, (path) => {
      const header = entryHeader({ path, type: "file", mode: 0o644, size: 0 });
      assert.equal(header.length % 512, 0);
      writeFileSync(file, Buffer.concat([header, Buffer.alloc(1024)]));
      const listed = execFileSync("tar", ["--quoting-style=literal", "--null", "-tf", file])
        .toString()
        .replace(/\n$/, "");
      assert.equal(listed, path);
    }),
    { numRuns: 40 },
  );
});

test("what cannot be in an image is refused by name", async () => {
  const folder = mkdtempSync(join(scratch, "odd-"));
  const server = createServer().listen(join(folder, "socket"));
  await new Promise((resolve) => server.once("listening", resolve));
  await assert.rejects(bytesOf(folder), /socket: only files, folders and symbolic links/);
  server.close();
});
