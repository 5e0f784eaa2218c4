import assert from "node:assert/strict";
import { test } from "node:test";
import { type CountedTest, problems, type SuiteRun } from "./runs.ts";

const counts = (source: number, connections = source) => ({ source, destination: source, connections });
const one = (name: string, more: Partial<CountedTest> = {}): CountedTest => ({
  name,
  outcome: "passed",
  seconds: 1,
  answers: 3,
  byAddress: 0,
  redirects: {},
  parts: [],
  last: "",
  counted: counts(3),
  ...more,
});
const run = (name: string, tests: readonly CountedTest[], more: Partial<SuiteRun> = {}): SuiteRun => ({
  name,
  control: name === "control",
  seconds: 1,
  exitCode: 0,
  tests,
  skipped: [],
  report: undefined,
  ...more,
});
const control = run("control", [one("A"), one("B", { outcome: "failed" })], { exitCode: 1 });
const good = [one("A"), one("B")];

test("[TRF-1] every test passed, twice, and every request was counted", () => {
  assert.deepEqual(problems([control, run("mesh-1", good), run("mesh-2", good)], 2, true), []);
});

test("[TRF-1] what does not show conformance is said", () => {
  const said = (...tests: readonly CountedTest[]) => problems([run("mesh-1", tests)], 1, true);
  assert.deepEqual(said(), ["mesh-1: no test was run"]);
  assert.deepEqual(said(one("A", { outcome: "failed" })), ["mesh-1: A failed"]);
  assert.deepEqual(said(one("A", { answers: 0 })), ["mesh-1: A passed without a request"]);
  assert.deepEqual(said(one("A", { counted: counts(2) })), ["mesh-1: A got 3 answers, the agents counted 2 requests"]);
  assert.deepEqual(said(one("A", { byAddress: 3, counted: counts(0, 3) })), []);
  assert.deepEqual(said(one("A", { byAddress: 2, counted: counts(1) })), [
    "mesh-1: A got 2 answers from pods' addresses, the agents counted 1 connections",
  ]);
  const { counted: _, ...blind } = one("A");
  assert.deepEqual(said(blind), ["mesh-1: A: the agents' counters are not known"]);
  assert.deepEqual(problems([run("mesh-1", good, { exitCode: 1 })], 1, true), [
    "mesh-1: the suite ended with exit code 1",
  ]);
  assert.deepEqual(problems([run("mesh-1", good, { skipped: ["C"] })], 1, true), ["mesh-1: C was skipped"]);
});

test("[TRF-1] the control must fail somewhere, and has the same tests", () => {
  assert.deepEqual(problems([run("control", good), run("mesh-1", good)], 1, true), [
    "control: every test passes without a mesh",
  ]);
  assert.deepEqual(problems([control, run("mesh-1", [one("A")])], 2, true), [
    "1 of 2 runs with the mesh were made",
    "mesh-1 has 1 tests, the control 2",
  ]);
  assert.deepEqual(problems([run("control", [one("A")]), run("mesh-1", [one("A")])], 1, false), []);
});
