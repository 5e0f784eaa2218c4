import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { SuiteOutput, type TestRun } from "./suite-output.ts";

const said = `=== RUN   TestConformance
    conformance.go:103: Running conformance tests with:
    suite.go:447: 2026-01-01T00:00:00Z: Test Setup: Applying base manifests
=== RUN   TestConformance/GatewayInfrastructure
    conformance.go:60: Skipping test
--- SKIP: TestConformance/GatewayInfrastructure (0.01s)
=== NAME  TestConformance
    suite.go:552: 2026-01-01T00:00:00Z: Sleeping 3s for test isolation
=== RUN   TestConformance/MeshBasic
    apply.go:200: 2026-01-01T00:00:00Z: Creating x
=== RUN   TestConformance/MeshBasic/0_request_to_'echo/'_should_receive_one_of_[200]
=== NAME  TestConformance/MeshBasic
    pod.go:77: 2026-01-01T00:00:01Z: Got resp RawContent:       [0] Url=http://echo
        [0] StatusCode=200
        [0] ResponseHeader=Location:http://elsewhere/
        [0 body] RequestHeader=X:--- PASS: not one

    pod.go:77: 2026-01-01T00:00:01Z: Got resp RawContent:       [0] Url=http://echo
    pod.go:242: 2026-01-01T00:00:02Z: Processed 500 requests
    \x16--- PASS: TestConformance/MeshBasic (1.50s)
        --- PASS: TestConformance/MeshBasic/0_request_to_'echo/'_should_receive_one_of_[200] (0.32s)
=== NAME  TestConformance
    suite.go:552: 2026-01-01T00:00:00Z: Sleeping 3s for test isolation
\x16=== RUN   TestConformance/MeshPorts
=== RUN   TestConformance/MeshPorts/No_port_set
    pod.go:77: 2026-01-01T00:00:01Z: Got resp RawContent:       [0] Url=http://10.1.2.3:8080
    pod.go:77: 2026-01-01T00:00:01Z: Got resp RawContent:       [0] Url=http://[fd00::1]:8080
    pod.go:80: 2026-01-01T00:00:03Z: Response expectation failed
    http.go:400: timeout
    --- FAIL: TestConformance/MeshPorts (8.00s)
        --- FAIL: TestConformance/MeshPorts/No_port_set (8.00s)
\x16--- FAIL: TestConformance (10.00s)
FAIL
`;

const read = (pieces: readonly string[]): { runs: readonly TestRun[]; told: readonly string[] } => {
  const told: string[] = [];
  let nowMs = 0;
  const clock = (): number => {
    nowMs += 500;
    return nowMs;
  };
  const output = new SuiteOutput("TestConformance", clock, {
    began: (name) => told.push(`began ${name}`),
    pausing: (name) => told.push(`pausing after ${name}`),
    ended: (run) => told.push(`ended ${run.name}`),
  });
  for (const piece of pieces) output.feed(piece);
  return { runs: output.runs, told };
};

test("tests, their answers and how they ended are read", () => {
  const { runs, told } = read([said]);
  assert.deepEqual(
    runs.map((r) => [r.name, r.outcome, r.seconds, r.answers, r.byAddress]),
    [
      ["GatewayInfrastructure", "skipped", 0.5, 0, 0],
      ["MeshBasic", "passed", 0.5, 502, 0],
      ["MeshPorts", "failed", 0.5, 2, 2],
    ],
  );
  assert.deepEqual(runs[1]?.redirects, { "http://echo": ["http://elsewhere/"] });
  assert.equal(runs[0]?.last, "");
  assert.match(runs[2]?.last ?? "", /Response expectation failed\nhttp\.go:400: timeout$/);
  assert.deepEqual(told, [
    "began GatewayInfrastructure",
    "ended GatewayInfrastructure",
    "pausing after GatewayInfrastructure",
    "began MeshBasic",
    "ended MeshBasic",
    "pausing after MeshBasic",
    "began MeshPorts",
    "ended MeshPorts",
  ]);
});

test("it does not matter where the output is cut", () => {
  const whole = read([said]);
  fc.assert(
    fc.property(fc.array(fc.nat(said.length), { maxLength: 20 }), (cuts) => {
      const at = [0, ...cuts.sort((a, b) => a - b), said.length];
      const pieces = at.slice(1).map((end, i) => said.slice(at[i], end));
      assert.deepEqual(read(pieces), whole);
    }),
  );
});

test("any text is read", () => {
  const word = fc.constantFrom(
    "=== RUN   ",
    "--- PASS: ",
    "TestConformance",
    "/",
    "a",
    " (1.0s)",
    "\n",
    ": Got resp ",
    "\r",
  );
  fc.assert(
    fc.property(
      fc.array(word).map((w) => w.join("")),
      (text) => void read([text]),
    ),
  );
});

test("what is said of one answer may be interrupted by another subtest's", () => {
  const { runs } = read([
    `=== RUN   TestConformance/MeshTwo
=== RUN   TestConformance/MeshTwo/a
=== RUN   TestConformance/MeshTwo/b
=== NAME  TestConformance/MeshTwo/a
    pod.go:70: 2026-01-01T00:00:01Z: Got resp RawContent:       [0] Url=http://echo/a
=== NAME  TestConformance/MeshTwo/b
    pod.go:70: 2026-01-01T00:00:01Z: Got resp RawContent:       [0] Url=http://echo/b
        [0] ResponseHeader=Location:http://place/b
=== NAME  TestConformance/MeshTwo/a
        [0] ResponseHeader=Location:http://place/a
--- PASS: TestConformance/MeshTwo (1.00s)
`,
  ]);
  assert.deepEqual(runs[0]?.redirects, { "http://echo/a": ["http://place/a"], "http://echo/b": ["http://place/b"] });
});
