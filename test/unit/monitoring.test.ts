// What we give to Prometheus: promtool takes the rules that we ship and their tests, every metric in them is one of ours, and ours are named
// as Prometheus asks.
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { createMetrics } from "../../agent/base/metrics.ts";
import { metricNames } from "../../agent/report/metric-names.ts";
import { controllerMetrics } from "../../controller/report/metrics.ts";

const root = join(import.meta.dirname, "../..");
const rules = join(root, "manifests/monitoring/rules.yaml");
const promtool = (...args: readonly string[]): string => execFileSync("promtool", args, { encoding: "utf8" });

test("[OBS-2] the rules for Prometheus are in order, and fire when they should and not before", () => {
  assert.match(promtool("check", "rules", rules), /SUCCESS: \d+ rules found/);
  assert.match(promtool("test", "rules", join(root, "manifests/monitoring/rules.test.yaml")), /SUCCESS/);
});

test("[OBS-2] every metric that a rule asks for is one that agent or controller have, or another rule records", () => {
  const text = readFileSync(rules, "utf8");
  const reference = readFileSync(join(root, "docs/reference.md"), "utf8");
  const expressions = text.split("\n").filter((line) => !/^ *(#|summary:|action:|- alert:|- record:)/.test(line));
  const used = new Set(expressions.join("\n").match(/\b(istio|fairlead)_[a-z_]+\b/g));
  const records = [...text.matchAll(/- record: (\S+)/g)].map(([, name]) => name as string);
  assert.ok(used.size > 15 && records.length > 3);
  const parts = records.flatMap((name) => name.split(":"));
  const unknown = [...used].filter((name) => {
    const metric = name.replace(/_bucket$/, "");
    return !reference.includes(`\`${metric}\``) && !parts.includes(name);
  });
  assert.deepEqual(unknown, []);
});

test("[OBS-1] names and help texts of our metrics are as promtool asks; the one that is not is Istio's", async () => {
  const metrics = createMetrics();
  for (const spec of Object.values(metricNames)) {
    const labels = Object.fromEntries(spec.labels.map((label) => [label, "x"]));
    if (spec.name.endsWith("_total")) metrics.counter<string>(spec).add(labels);
    else metrics.gauge<string>(spec).set(labels, 1);
  }
  controllerMetrics(metrics);
  const { stdout, stderr } = spawnSync("promtool", ["check", "metrics"], {
    input: await metrics.text(),
    encoding: "utf8",
  });
  const complaints = `${stdout}${stderr}`.split("\n").filter((line) => line !== "");
  assert.deepEqual(complaints, [
    'istio_request_duration_milliseconds use base unit "seconds" instead of "milliseconds"',
  ]);
});
