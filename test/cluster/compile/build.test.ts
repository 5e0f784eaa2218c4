import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { buildKey, buildModule } from "./build.ts";
import { type Module, modules, moduleVersion, requiredVersion } from "./modules.ts";

const scratch = mkdtempSync(join(tmpdir(), "fairlead-build-"));
after(() => rmSync(scratch, { recursive: true, force: true }));
const toolchain = { version: "go1.26.0", arch: "amd64" };
const HELLO = 'package main\n\nimport "os"\n\nvar version = "none"\n\nfunc main() { os.Stdout.WriteString(version) }\n';

/** A module of one program. Its version is that of a module that it requires but does not use, so nothing has to be fetched. */
function module(name: string, source: string): Module {
  const folder = join(scratch, name);
  mkdirSync(join(folder, "hello"), { recursive: true });
  writeFileSync(join(folder, "go.mod"), `module example.test/${name}\n\ngo 1.24\n\nrequire example.test/used v1.2.3\n`);
  writeFileSync(join(folder, "go.sum"), "");
  writeFileSync(join(folder, "hello/main.go"), source);
  const variables = (version: string): readonly string[] => [`main.version=${version}`];
  return { name, folder, of: "example.test/used", programs: { hello: "./hello" }, variables };
}

test("versions are those that the pins require", () => {
  const goMod =
    "module a\n\nrequire (\n\tk8s.io/api v0.36.3 // indirect\n\tk8s.io/kubernetes v1.36.3\n)\nrequire example.test/one v1.0.0\n";
  assert.equal(requiredVersion(goMod, "k8s.io/kubernetes"), "v1.36.3");
  assert.equal(requiredVersion(goMod, "example.test/one"), "v1.0.0");
  assert.throws(() => requiredVersion(goMod, "k8s.io/kube"), /not required/);
  for (const m of Object.values(modules)) assert.match(moduleVersion(m), /^v\d+\.\d+\.\d+$/);
  assert.equal(moduleVersion(modules.kube), moduleVersion(modules.apiserver));
});

test("what is built goes by everything that it is made of", () => {
  const keys = Object.values(modules).map((m) => buildKey(m, toolchain));
  assert.equal(new Set(keys).size, keys.length);
  assert.deepEqual(
    Object.values(modules).map((m) => buildKey(m, toolchain)),
    keys,
  );
  for (const other of [
    { ...toolchain, version: "go1.26.1" },
    { ...toolchain, arch: "arm64" },
  ])
    assert.notEqual(buildKey(modules.etcd, other), keys[0]);
});

test("a program is built once, with its version inside, and said so", async () => {
  const cache = join(scratch, "cache");
  const said: string[] = [];
  const hello = module("hello", HELLO);
  const first = await buildModule(cache, hello, (line) => said.push(line));
  assert.equal(first.version, "v1.2.3");
  assert.equal(execFileSync(join(first.folder, "hello"), { encoding: "utf8" }), "v1.2.3");
  assert.match(said.join("\n"), /^hello v1\.2\.3: building\n(.*\n)*hello v1\.2\.3: built in \d+ s$/);
  said.length = 0;
  assert.deepEqual(await buildModule(cache, hello, (line) => said.push(line)), { ...first, seconds: 0 });
  assert.deepEqual(said, []);
  writeFileSync(join(hello.folder, "hello/main.go"), `${HELLO}// another\n`);
  assert.notEqual((await buildModule(cache, hello, () => undefined)).folder, first.folder);
});

test("what does not compile is told in the compiler's words, and leaves nothing to be taken for a program", async () => {
  const cache = join(scratch, "cache-bad");
  const bad = module("bad", "package main\n\nfunc main() { missing() }\n");
  await assert.rejects(
    buildModule(cache, bad, () => undefined),
    /hello v1\.2\.3: go build .*exit code 1: .*undefined: missing/s,
  );
  assert.deepEqual(
    readdirSync(cache).filter((name) => !name.endsWith(".new")),
    [],
  );
});
