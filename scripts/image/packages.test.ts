import assert from "node:assert/strict";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { images } from "./definition.ts";
import { reachedFrom, specifiersOf } from "./imports.ts";
import { isNeededAtRunTime, packageFolders, readLock } from "./packages.ts";

const project = fileURLToPath(new URL("../..", import.meta.url));
const platform = { os: "linux", cpu: "x64", libc: "glibc" };

test("what is imported is found in every form, and types alone are not", () => {
  const source = `
    import { a } from "./a.ts";
    import { type B, c } from "./c.ts";
    import type { D } from "./d.ts";
    import "./side-effect.ts";
    export { e } from "pkg/sub";
    const f = await import("@scope/name/deep");
    const worker = new Worker(new URL("./worker.ts", import.meta.url));
    const text = 'from "nothing"';
    const used: B | D = c;`;
  const found = [...specifiersOf(source)].sort();
  assert.deepEqual(found, ["./a.ts", "./c.ts", "./side-effect.ts", "./worker.ts", "@scope/name/deep", "pkg/sub"]);
});

test("a program's files and packages are those that it can reach", () => {
  const agent = reachedFrom(project, images.agent.entries);
  assert.ok(agent.files.includes("agent/worker.ts"), "data threads are started from a file of their own");
  assert.ok(agent.packages.includes("ffi-rs"));
  for (const { name, entries } of Object.values(images)) {
    const { files, packages } = reachedFrom(project, entries);
    const own = new RegExp(`^(${name}/|agent/(api|base|kubernetes)/|cli/|test/lab/unix-http\\.ts$|package\\.json$)`);
    assert.deepEqual(
      files.filter((file) => !own.test(file)),
      [],
      `${name}: files of other parts`,
    );
    assert.deepEqual(
      files.filter((file) => file.includes(".test.")),
      [],
    );
    assert.ok(!packages.some((p) => p.startsWith("@types/")));
  }
});

test("an import that leads nowhere is told with the file that has it", () => {
  assert.throws(() => reachedFrom(project, ["agent/none.ts"]), /the image imports agent\/none.ts, which is not there/);
});

test("packages are resolved as Node does, for this platform, with all that they need", () => {
  const lock = {
    "node_modules/a": { dependencies: { b: "1", "@types/node": "1" }, optionalDependencies: { mac: "1", gone: "1" } },
    "node_modules/b": { dependencies: { c: "1" } },
    "node_modules/c": { version: "2" },
    "node_modules/b/node_modules/c": { version: "1", dependencies: { d: "1" } },
    "node_modules/d": {},
    "node_modules/mac": { os: ["darwin"] },
    "node_modules/notmusl": { os: ["!win32"], libc: ["glibc"] },
    "node_modules/unused": {},
    "node_modules/bad": { dependencies: { gone: "1" } },
  };
  assert.deepEqual(packageFolders(lock, ["a", "notmusl"], platform), [
    "node_modules/a",
    "node_modules/b",
    "node_modules/b/node_modules/c",
    "node_modules/d",
    "node_modules/notmusl",
  ]);
  assert.throws(
    () => packageFolders(lock, ["bad"], platform),
    /gone, needed by node_modules\/bad, is not in package-lock/,
  );
  assert.throws(() => packageFolders(lock, ["mac"], platform), /mac, needed by the image/);
});

test("nothing of development is among an image's packages", () => {
  const lock = readLock(project) as Readonly<Record<string, { readonly dev?: boolean }>>;
  for (const definition of Object.values(images)) {
    const folders = packageFolders(readLock(project), reachedFrom(project, definition.entries).packages, platform);
    assert.deepEqual(
      folders.filter((folder) => lock[folder]?.dev === true),
      [],
    );
  }
});

test("of a package goes what only people and compilers read", () => {
  const kept = [
    "LICENSE",
    "dist/doc/directives.js",
    "index.mjs",
    "a.proto",
    "prebuilds/linux-x64/x.node",
    "docs/LICENSE.md",
  ];
  const gone = [
    "index.d.ts",
    "src/a.ts",
    "a.js.map",
    "README.md",
    "test/a.js",
    "docs/a.js",
    "prebuilds/darwin-x64/x.node",
  ];
  for (const path of kept) assert.ok(isNeededAtRunTime(path, platform), path);
  for (const path of gone) assert.ok(!isNeededAtRunTime(path, platform), path);
});
