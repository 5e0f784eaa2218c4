// The arithmetic of the benchmark: medians, ratios, goals, what is added over no mesh; and that page and plot show every row.
import assert from "node:assert/strict";
import { test } from "node:test";
import { drawPlot, margin } from "./plot.ts";
import { benchmarksPage } from "./report.ts";
import { measures, type Row, rowOf, type Samples, spreadOf } from "./rows.ts";
import { type Sample, steps } from "./steps.ts";
import type { VariantName } from "./variants.ts";

const samples: Samples = new Map<string, ReadonlyMap<VariantName, readonly Sample[]>>([
  [
    "requests-16",
    new Map<VariantName, readonly Sample[]>([
      ["none", [{ "requests.16": 90_000 }, { "requests.16": 100_000 }, { "requests.16": 95_000 }]],
      ["envoy", [{ "cpu-per-request.16": 50 }, { "cpu-per-request.16": 60 }, { "cpu-per-request.16": 52 }]],
      ["haproxy", [{ "cpu-per-request.16": 45 }]],
      ["ours", [{ "cpu-per-request.16": 30 }, { "cpu-per-request.16": 40 }, { "cpu-per-request.16": 31 }]],
    ]),
  ],
  [
    "rate",
    new Map<VariantName, readonly Sample[]>([
      ["none", [{ "rate.p99": 0.2 }, { "rate.p99": 0.5 }]],
      ["ours", [{ "rate.p99": 0.4 }, { "rate.p99": 0.6 }]],
    ]),
  ],
]);
const row = (metric: string): Row => {
  const found = measures.find((m) => m.metric === metric);
  assert.ok(found);
  const made = rowOf(found, samples);
  assert.ok(made);
  return made;
};

test("[DP-33] a row holds medians, the raw values of every round, the spread, and the ratio of medians", () => {
  const made = row("cpu-per-request.16");
  assert.equal(made.ours, 31);
  assert.deepEqual(made.peers, { envoy: 52, haproxy: 45 });
  assert.deepEqual(made.rounds.ours, [30, 40, 31]);
  assert.deepEqual(made.spread.envoy, { median: 52, min: 50, max: 60 });
  assert.equal(made.ratio, 0.59615);
  assert.equal(made.met, true);
});

test("[DP-34] memory comes with the number of threads, of ours and of each peer", () => {
  const taken = { "idle.anon": 80, threads: 12 };
  const of = new Map<VariantName, readonly Sample[]>([
    ["ours", [taken, { ...taken, threads: 14 }, taken]],
    ["envoy", [{ "idle.anon": 40, threads: 9 }]],
  ]);
  const memory = measures.find((m) => m.metric === "idle.anon");
  assert.ok(memory);
  const made = rowOf(memory, new Map([["memory", of]]));
  assert.deepEqual([made?.threads, made?.note], [{ ours: 12, envoy: 9 }, "threads: ours 12, envoy 9"]);
});

test("what is added over no mesh is the difference within a round", () => {
  const made = row("rate.added-p99");
  assert.deepEqual(made.rounds.ours, [0.2, 0.1]);
  assert.equal(made.met, true);
});

test("a measure that was not taken gives no row, and an even number of rounds the middle of two", () => {
  const memory = measures.find((m) => m.metric === "idle.anon");
  assert.ok(memory);
  assert.equal(rowOf(memory, samples), undefined);
  assert.deepEqual(spreadOf([4, 1, 3, 2]), { median: 2.5, min: 1, max: 4 });
});

test("every measure belongs to a step and names its peer among those that the step runs", () => {
  for (const m of measures) {
    const step = steps.find((s) => s.name === m.step);
    assert.ok(step, m.measure);
    assert.ok(step.variants.includes(m.subject), m.measure);
    if ("peer" in m.goal) assert.ok(m.peers.includes(m.goal.peer) && step.variants.includes(m.goal.peer), m.measure);
  }
  assert.equal(new Set(measures.map((m) => m.measure)).size, measures.length);
});

test("the page keeps the notes that people wrote, and page and plot show every row", () => {
  const rows = [row("cpu-per-request.16"), row("rate.added-p99")];
  const facts = {
    cpu: "a cpu",
    cores: 2,
    memoryGb: 8,
    kernel: "6.1",
    load: 0,
    versions: { envoy: "1" },
    commit: "abc",
  };
  const page = benchmarksPage(rows, facts, 3, 3, "# old\n\n## Notes\n\nkept\n");
  assert.match(page, /## Notes\n\nkept\n$/);
  const plot = drawPlot(rows, "x < y");
  for (const made of rows) {
    assert.ok(page.includes(made.measure));
    assert.ok(plot.includes(made.measure));
  }
  assert.ok(plot.includes("x &lt; y"));
  assert.ok(Math.abs(margin(row("cpu-per-request.16")) - 0.75 / 0.59615) < 0.001);
});
