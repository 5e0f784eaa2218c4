// What is generated from bpf/ and committed must be what the sources give: objects byte for byte, layouts as text.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test from "node:test";

const root = join(import.meta.dirname, "../..");
const hint = "run: npm run gen, and commit the result";

function inScratch(work: (folder: string) => void): void {
  const folder = mkdtempSync(join(tmpdir(), "fairlead-bpf-"));
  try {
    work(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

const runInto = (script: string, folder: string): void => {
  execFileSync(process.execPath, [join(root, "bpf", script), "--out", folder], {
    stdio: ["ignore", "ignore", "inherit"],
  });
};

test("[INT-1] committed BPF objects are what the sources compile to, byte for byte, wherever they lie", () => {
  inScratch((folder) => {
    runInto("build.mjs", folder);
    const committed = readdirSync(join(root, "bpf/prebuilt")).sort();
    assert.deepEqual(readdirSync(folder).sort(), committed, hint);
    for (const name of committed) {
      const object = readFileSync(join(root, "bpf/prebuilt", name));
      assert.ok(readFileSync(join(folder, name)).equals(object), `bpf/prebuilt/${name} differs; ${hint}`);
      assert.ok(!object.includes(root), `bpf/prebuilt/${name} holds a path of the machine that built it`);
    }
  });
});

test("[DP-18] layouts of maps in TypeScript and Rust are those of bpf/layout.h", () => {
  inScratch((folder) => {
    runInto("gen-layout.mjs", folder);
    for (const [name, committed] of [
      ["layout.gen.ts", "agent/intercept/layout.gen.ts"],
      ["layout.gen.rs", "native/src/kernel/layout.gen.rs"],
    ] as const) {
      const text = readFileSync(join(root, committed), "utf8");
      assert.equal(readFileSync(join(folder, name), "utf8"), text, `${committed} is not up to date; ${hint}`);
    }
  });
});
