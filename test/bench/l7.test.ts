// Layer 7's rows and page: goals name what their steps run, what is not carried is a row that says so, and only the own part of the page changes.
import assert from "node:assert/strict";
import { test } from "node:test";
import { interleave, NotCarried, type StepOf } from "./interleave.ts";
import { measures, refusedRow } from "./l7/measures.ts";
import { sectionOf } from "./l7/report.ts";
import { steps } from "./l7/steps.ts";
import { drawPlot, margin } from "./plot.ts";
import { withSection } from "./report.ts";
import { rowOf, upTo } from "./rows.ts";
import type { Sample } from "./steps.ts";
import type { VariantName } from "./variants.ts";

const options = { json: undefined, rounds: 2, seconds: 1, only: undefined, quick: false, flags: new Set<string>() };
const facts = { cpu: "a cpu", cores: 2, memoryGb: 8, kernel: "6.1", load: 0, versions: { envoy: "1" }, commit: "abc" };

test("every measure of layer 7 belongs to a step and names its peer among those that the step runs", () => {
  for (const m of measures) {
    const step = steps.find((s) => s.name === m.step);
    assert.ok(step, m.measure);
    assert.ok(step.variants.includes("ours"), m.measure);
    for (const peer of m.peers) assert.ok(step.variants.includes(peer), m.measure);
    if ("peer" in m.goal) assert.ok(m.peers.includes(m.goal.peer), m.measure);
  }
  assert.equal(new Set(measures.map((m) => m.measure)).size, measures.length);
});

test("[DP-33] rounds are interleaved, the first one changes, and who refuses is not asked again", async () => {
  const asked: string[] = [];
  const step: StepOf<{ readonly name: VariantName }> = {
    name: "s",
    variants: ["none", "envoy", "ours"],
    async run({ name }) {
      asked.push(name);
      if (name === "ours") throw new NotCarried("carried as bytes");
      return { x: 1 };
    },
  };
  const variants = (["none", "envoy", "ours"] as const).map((name) => ({ name }));
  const { samples, refusals } = await interleave([step], variants, { rounds: 2, seconds: 1 }, () => {});
  assert.deepEqual(asked, ["none", "envoy", "ours", "envoy", "none"]);
  assert.deepEqual([...(samples.get("s") ?? new Map()).keys()], ["none", "envoy"]);
  assert.equal(refusals.get("s")?.get("ours"), "carried as bytes");
});

test("what is not carried misses its goal, says why, and is no number in the JSON", () => {
  const measure = measures.find((m) => m.step === "h2");
  assert.ok(measure);
  const row = refusedRow(measure, "the HTTP lane refuses it");
  assert.deepEqual([row.met, margin(row), JSON.parse(JSON.stringify(row)).ours], [false, 0, null]);
  const page = sectionOf([row], facts, options).join("\n");
  assert.ok(page.includes("the HTTP lane refuses it") && page.includes("0 of 1 goals met"));
  assert.ok(drawPlot([row], "x", 7).includes("Layer 7"));
});

test("[DP-33] a row of layer 7 is the ratio of medians", () => {
  const measure = measures.find((m) => m.step === "hop-16" && m.metric === "cpu");
  assert.ok(measure);
  const of = new Map<VariantName, readonly { readonly cpu: number }[]>([
    ["ours", [{ cpu: 30 }, { cpu: 20 }, { cpu: 25 }]],
    ["envoy", [{ cpu: 60 }, { cpu: 55 }, { cpu: 50 }]],
    ["nginx", [{ cpu: 20 }, { cpu: 20 }, { cpu: 20 }]],
  ]);
  const row = rowOf(measure, new Map([["hop-16", of]]));
  assert.deepEqual([row?.ours, row?.ratio, row?.met], [25, 0.45455, true]);
});

test("[OBS-8] what is added at p99 is the difference to no mesh within the same round; a millisecond misses the goal", () => {
  const measure = measures.find((m) => m.step === "rate");
  assert.ok(measure);
  const p99 = (values: readonly number[]) => values.map((ms) => ({ "rate.p50": ms / 4, "rate.p99": ms }));
  const row = (ours: readonly number[]) =>
    rowOf(
      measure,
      new Map([
        [
          "rate",
          new Map<VariantName, readonly Sample[]>([
            // One round in which the whole machine was slow: it says nothing of the mesh.
            ["none", p99([0.5, 0.75, 40])],
            ["envoy", p99([2.5, 2.75, 41])],
            ["ours", p99(ours)],
          ]),
        ],
      ]),
    );
  const [good, bad] = [row([0.75, 1.125, 40.25]), row([1.5, 1.75, 40])];
  assert.deepEqual([good?.ours, good?.peers.envoy, good?.goal, good?.met], [0.25, 2, upTo(0.5), true]);
  assert.deepEqual([good?.rounds.ours, good?.unit], [[0.25, 0.375, 0.25], "ms"]);
  assert.deepEqual([bad?.ours, bad?.met], [1, false]);
  const page = sectionOf([bad ?? refusedRow(measure, "")], facts, options).join("\n");
  assert.match(page, /0 of 1 goals met; missed: between nodes, policies on requests: p99 at 1,000 requests\/s/);
});

test("a part of the page is written anew between its marks, all else is kept", () => {
  const once = withSection("# Page\n\nkept\n", "a", ["first"]);
  const twice = withSection(`${once}\nbehind\n`, "a", ["second", "line"]);
  assert.match(twice, /^# Page\n\nkept\n\n<!-- a[^\n]*\nsecond\nline\n<!-- end of a -->\n\nbehind\n$/);
});
