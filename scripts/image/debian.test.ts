import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { run } from "../../test/lab/command.ts";
import { type Fetched, fetchPackages, packageFiles, parsePins, pinLine } from "./debian.ts";
import { images, nodePackages } from "./definition.ts";

const scratch = mkdtempSync(join(tmpdir(), "fairlead-debian-"));
after(() => rmSync(scratch, { recursive: true, force: true }));

/** A package that this machine's tools make, so that no test needs a network. */
async function makePackage(files: Readonly<Record<string, string>>): Promise<Fetched> {
  const root = mkdtempSync(join(scratch, "package-"));
  mkdirSync(join(root, "DEBIAN"), { mode: 0o755 });
  writeFileSync(
    join(root, "DEBIAN/control"),
    "Package: made\nVersion: 1:2.0-1\nArchitecture: all\nMaintainer: nobody <nobody@example.test>\nDescription: made by a test\n",
  );
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(join(root, path, ".."), { recursive: true });
    writeFileSync(join(root, path), text, { mode: 0o644 });
  }
  const file = join(scratch, "made.deb");
  await run(["dpkg-deb", "--root-owner-group", "--build", root, file]);
  return {
    name: "made",
    version: "1:2.0-1",
    sha256: createHash("sha256").update(readFileSync(file)).digest("hex"),
    file,
  };
}

test("pins are read as they are written, and a bad line is told with its number", () => {
  const pin = { name: "libc6", version: "2.36-9+deb12u14", sha256: "a".repeat(64) };
  assert.deepEqual(parsePins(`# pins\n\n${pinLine(pin)}\n`), [pin]);
  for (const line of ["libc6", "libc6 1 abc", `libc6 1 ${"a".repeat(64)} more`, `../x 1 ${"a".repeat(64)}`])
    assert.throws(() => parsePins(`# pins\n${line}\n`), /debian\.lock, line 2: .* is not NAME VERSION SHA256/);
});

test("every package of every image is pinned, and none is pinned for nothing", () => {
  const pins = parsePins(readFileSync(new URL("debian.lock", import.meta.url), "utf8"));
  const wanted = new Set([...nodePackages, ...Object.values(images).flatMap((i) => i.debian)]);
  assert.deepEqual(
    pins.map((p) => p.name),
    [...wanted].sort(),
  );
});

test("libraries, programs and licences of a package are taken, and it is on record", async () => {
  const made = await makePackage({
    "lib/x86_64-linux-gnu/libmade.so.1": "library",
    "usr/sbin/made": "program",
    "usr/share/doc/made/copyright": "licence",
    "usr/share/man/man1/made.1": "manual",
    "usr/lib/x86_64-linux-gnu/gconv/ISO.so": "table",
    "usr/bin/shell": "not asked for",
  });
  const files = await packageFiles(made, scratch);
  assert.deepEqual(files.map((f) => f.path).sort(), [
    "lib/x86_64-linux-gnu/libmade.so.1",
    "usr/sbin/made",
    "usr/share/doc/made/copyright",
    "var/lib/dpkg/status.d/made",
  ]);
});

test("what is kept and pinned is taken without asking anybody", async () => {
  const made = await makePackage({ "lib/a": "a" });
  const cache = mkdtempSync(join(scratch, "cache-"));
  writeFileSync(join(cache, `made_all_${made.sha256}.deb`), readFileSync(made.file));
  const said: string[] = [];
  const [got] = await fetchPackages(cache, [made], "all", "pinned", (line) => said.push(line));
  assert.equal(got?.file, join(cache, `made_all_${made.sha256}.deb`));
  assert.deepEqual(said, []);
});
