// The judging parts of the conformance runs: a judge that lets everything pass would make every suite green.
import assert from "node:assert/strict";
import { test } from "node:test";
import { faultOf, parsePlan, visits, writePlan } from "../conformance/clients/plan.ts";
import { http2Cases, rawCases } from "../conformance/corpus.ts";
import { report } from "../conformance/report.ts";
import { casesOf } from "../conformance/suites/h2spec.ts";
import { smuggled } from "../conformance/suites/smuggling.ts";

test("[TRF-7] h2spec's report is read case by case, with what it says of a failure", () => {
  const xml = `<testsuites><testsuite name="x"><testcase package="http2/3.5" classname="Sends &#34;x&#34;" time="0.1"></testcase>
    <testcase package="http2/5.1" classname="b" time="0"><failure>Expect &lt;GOAWAY&gt;
 Actual: none</failure></testcase></testsuite></testsuites>`;
  const [first, second, ...more] = casesOf(xml, "g");
  assert.deepEqual(first, { group: "g", name: 'http2/3.5 Sends "x"', outcome: "passed" });
  assert.equal(second?.outcome, "failed");
  assert.match(second?.reason ?? "", /Expect <GOAWAY>\s+Actual: none/);
  assert.equal(more.length, 0);
});

test("[INT-7] an answer is right only if status, length, content and field are", () => {
  const want = visits.find((v) => v.name === "a long field there and back");
  assert.ok(want !== undefined && want.expected !== "error");
  const { status, length, sum, back } = want.expected;
  const right = [want.name, `${status}`, `${length}`, sum, back];
  assert.equal(faultOf(want, right), undefined);
  for (const [at, value] of [
    [1, "500"],
    [2, "7"],
    [3, "0"],
    [4, "x"],
  ] as const)
    assert.notEqual(faultOf(want, right.with(at, value)), undefined, `${at}`);
  assert.notEqual(faultOf(want, [want.name, "error", "reset"]), undefined);
  const cut = visits.find((v) => v.expected === "error");
  assert.ok(cut !== undefined);
  assert.equal(faultOf(cut, [cut.name, "error", "reset"]), undefined);
  assert.notEqual(faultOf(cut, [cut.name, "200", "1000", "x", ""]), undefined, "a cut answer that looks whole");
});

test("[INT-7] the plan survives being written as lines; names are unique", () => {
  const plain = visits.map(({ expected: _, ...visit }) => visit);
  assert.deepEqual(parsePlan(writePlan(visits)), plain);
  assert.equal(new Set(visits.map((v) => v.name)).size, visits.length);
});

test("[TRF-7] a smuggled request is found whichever way it reached the server", () => {
  const hidden = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
  const of = (answer: string, ...arrived: string[]) => ({ name: "x", answer, arrived });
  const refuse = { kind: "refuse" } as const;
  const refused = "HTTP/1.1 400 Bad Request\r\n\r\n";
  assert.equal(smuggled(refuse, of(refused)), undefined);
  assert.equal(smuggled(refuse, of("RST_STREAM 1")), undefined);
  assert.equal(
    smuggled(refuse, of(refused, "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")),
    undefined,
  );
  assert.match(smuggled(refuse, of("HTTP/1.1 200 OK\r\n\r\n")) ?? "", /not refused/);
  assert.match(smuggled(refuse, of("status 200")) ?? "", /not refused/);
  assert.equal(smuggled(refuse, of("")), undefined, "a connection that is closed without a word");
  assert.match(smuggled(refuse, of(refused, hidden)) ?? "", /a request reached/);
  assert.match(
    smuggled(refuse, of(refused, `POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 900\r\n\r\n${hidden}`)) ?? "",
    /hidden/,
  );
  const seen = { kind: "seen", targets: ["/smuggled"], bodies: [""] } as const;
  assert.equal(smuggled(seen, of("status 200", hidden)), undefined);
  assert.match(smuggled(seen, of("status 200", hidden + hidden)) ?? "", /other requests/);
  assert.match(smuggled(seen, of(refused)) ?? "", /other requests/);
  assert.match(smuggled(seen, of("status 200", hidden.replace("Host: a", "Host: a\r\nHost: b"))) ?? "", /two ways/);
  const either = { ...seen, kind: "either" } as const;
  assert.equal(smuggled(either, of(refused)), undefined);
  assert.equal(smuggled(either, of("status 200", hidden)), undefined);
  assert.match(smuggled(either, of(refused, hidden, hidden)) ?? "", /other requests/);
});

test("[TRF-7] the corpus names its cases, and has both verdicts for both versions", () => {
  for (const cases of [rawCases, http2Cases]) {
    assert.equal(new Set(cases.map((c) => c.name)).size, cases.length);
    for (const kind of ["refuse", "seen"]) assert.ok(cases.some((c) => c.verdict.kind === kind));
  }
});

test("[TRF-7] what could not run is a failure in the report, and every failure and skip has its reason there", () => {
  const text = report([
    {
      name: "one",
      about: "first",
      seconds: 1,
      circumstances: "commit abc",
      programs: [],
      cases: [],
      broken: "Go is missing",
    },
    {
      name: "two",
      about: "second",
      seconds: 2,
      circumstances: "commit abc",
      programs: ["x 1"],
      cases: [
        { group: "g", name: "a", outcome: "passed" },
        { group: "g", name: "b", outcome: "failed", reason: "not | so" },
        { group: "g", name: "c", outcome: "skipped", reason: "cannot" },
      ],
    },
  ]);
  assert.match(text, /1 passed, 2 failed, 1 skipped/);
  assert.match(text, /Could not run: Go is missing/);
  assert.match(text, /\| g \| 1 \| 1 \| 1 \|/);
  assert.match(text, /- g: b: not \\\| so/);
  assert.match(text, /- c: cannot/);
});
