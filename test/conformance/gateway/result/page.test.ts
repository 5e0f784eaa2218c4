import assert from "node:assert/strict";
import { test } from "node:test";
import { gatewayPage } from "./page.ts";
import type { SuiteRun } from "./runs.ts";

const test1 = {
  name: "MeshBasic",
  seconds: 0.25,
  answers: 6,
  byAddress: 2,
  redirects: {},
  parts: [],
  last: "",
} as const;
const run = (name: string, outcome: "passed" | "failed", report?: object): SuiteRun => ({
  name,
  control: name === "control",
  seconds: 60,
  exitCode: 0,
  tests: [
    { ...test1, outcome, ...(name === "control" ? {} : { counted: { source: 4, destination: 4, connections: 3 } }) },
  ],
  skipped: [],
  report,
});
const circumstances = {
  versions: { Kubernetes: "v1.2.3", suite: "v1.6.3" },
  where: "commit abc",
  features: ["One", "Two"],
  problems: [],
};

test("the page has every test without a mesh and with it, the suite's own verdict, and what was counted", () => {
  const report = {
    profiles: [{ name: "MESH-HTTP", core: { result: "success", statistics: { Passed: 9, Failed: 0, Skipped: 0 } } }],
  };
  const page = gatewayPage(
    [run("control", "passed"), run("mesh-1", "passed", report), run("mesh-2", "failed")],
    circumstances,
  );
  assert.match(page, /Kubernetes v1\.2\.3, suite v1\.6\.3; commit abc/);
  assert.match(page, /\*\*1 of 1\*\* \(60 s\), then \*\*0 of 1\*\* \(60 s\) passed/);
  assert.match(page, /^\| mesh-1 \| MESH-HTTP \| success: 9 passed, 0 failed \| - \|$/m);
  assert.match(page, /\(1 of 1 passed there: MeshBasic\)/);
  assert.match(
    page,
    /^\| MeshBasic \| passed \| passed, 6 answers, 4 requests and 3 connections counted, 0\.3 s \| \*\*failed\*\*, 6 answers/m,
  );
  assert.doesNotMatch(page, /Not shown/);
});

test("what is not shown is on the page", () => {
  const page = gatewayPage([run("mesh-1", "failed")], { ...circumstances, problems: ["mesh-1: MeshBasic failed"] });
  assert.match(page, /Not shown:\n\n- mesh-1: MeshBasic failed\n/);
  assert.match(page, /^\| MeshBasic \| - \| \*\*failed\*\*/m);
});
