// The documents are as current as the code: reference generated, every command of the README there, every knob and reason named.
import assert from "node:assert/strict";
import { existsSync, globSync, lstatSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { closeReasons } from "../agent/flow.ts";
import { metricNames } from "../agent/report/metric-names.ts";
import { parseManifests } from "../controller/sources/parse.ts";
import { chartCopies } from "../scripts/gen-chart.ts";
import { crdFiles } from "../scripts/gen-crds.ts";
import { duration, reference } from "../scripts/gen-reference.ts";

const doc = readFileSync("docs/reference.md", "utf8");

test("docs/reference.md is what the code says (npm run gen)", () => {
  assert.equal(doc, reference());
});

test("definitions are what scripts/crds says (npm run gen)", () => {
  for (const [name, text] of crdFiles()) assert.equal(readFileSync(`manifests/crds/${name}`, "utf8"), text);
});

test("[OPS-1] the chart's definitions and rights are those of manifests/crds and manifests/kubernetes (npm run gen)", () => {
  for (const [path, text] of chartCopies()) {
    const file = `manifests/chart/${path}`;
    assert.ok(lstatSync(file).isFile(), `${file} is a file of its own`);
    assert.equal(readFileSync(file, "utf8"), text);
  }
});

test("durations stand in the reference as people write them", () => {
  const written = [0, 1, 250, 1_000, 90_000, 300_000, 3_600_000, 86_400_000, 604_800_000, 5_400_500].map(duration);
  assert.deepEqual(written, ["0", "1ms", "250ms", "1s", "1m30s", "5m", "1h", "24h", "7d", "1h30m500ms"]);
  assert.match(doc, /^\| `FAIRLEAD_DRAIN_MS` \| `5m, 0, 24h` \|/m);
  assert.match(doc, /^\| `FAIRLEAD_SVID_TTL_MS` \| `24h, 1s, 90d` \|/m);
  const raw = doc.split("\n").filter((line) => /^\| `FAIRLEAD_\w+_MS` \| `[^`]*(\d{4}|_|dayMs)/.test(line));
  assert.deepEqual(raw, []);
});

test("every metric, close reason and environment variable of the code is in the reference", () => {
  const missing: string[] = [];
  for (const m of Object.values(metricNames)) if (!doc.includes(`\`${m.name}\``)) missing.push(m.name);
  for (const r of Object.values(closeReasons)) if (!doc.includes(`\`${r}\``)) missing.push(r);
  for (const file of ["agent/config.ts", "controller/config.ts"])
    for (const [name] of readFileSync(file, "utf8").matchAll(/FAIRLEAD_[A-Z0-9_]+[A-Z]/g))
      if (!doc.includes(`\`${name}\``)) missing.push(name);
  assert.deepEqual(missing, []);
});

test("every example is taken as it stands", () => {
  const files = globSync("examples/**/*.yaml");
  assert.ok(files.length >= 8);
  for (const file of files) {
    const { problems, objects } = parseManifests(readFileSync(file, "utf8"), file);
    assert.deepEqual(problems, []);
    assert.ok(objects.length > 0, file);
  }
});

test("files that the README names are there", () => {
  const readme = readFileSync("README.md", "utf8");
  const named = [...readme.matchAll(/`((?:docs|examples|bin)\/[\w./-]+)`/g)].map((m) => m[1] ?? "");
  assert.ok(named.length >= 4);
  assert.deepEqual(
    named.filter((f) => !existsSync(f)),
    [],
  );
});
