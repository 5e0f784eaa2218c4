import assert from "node:assert/strict";
import { test } from "node:test";
import { faultLabel, faultOf, faultOfAnswer, faultOfEvent, showFault } from "./fault.ts";

const nowMs = Date.parse("2026-01-01T00:00:00Z");
const waits = (header: string | undefined, body = ""): number | undefined => {
  const fault = faultOfAnswer(429, body, header, nowMs);
  return fault.kind === "status" ? fault.retryAfterMs : undefined;
};

test("[DIS-1] Retry-After in seconds, as a date and in the Status object; nobody is kept for longer than five minutes", () => {
  assert.equal(waits("7"), 7_000);
  assert.equal(waits("Thu, 01 Jan 2026 00:00:09 GMT"), 9_000);
  assert.equal(waits("Wed, 31 Dec 2025 00:00:00 GMT"), 0);
  assert.equal(waits("86400"), 300_000);
  assert.equal(waits("soon"), undefined);
  assert.equal(waits(undefined, '{"details":{"retryAfterSeconds":3}}'), 3_000);
  assert.equal(waits("1", '{"details":{"retryAfterSeconds":3}}'), 1_000);
  for (const details of ["{}", "null", "7", '{"retryAfterSeconds":"x"}', '{"retryAfterSeconds":-1}'])
    assert.equal(waits(undefined, `{"details":${details}}`), undefined);
});

test("[DIS-1] whatever an error's body is, it is told in one bounded line and counted under a few names", () => {
  const deep = JSON.parse(`${"[".repeat(30_000)}${"]".repeat(30_000)}`);
  for (const body of [
    "",
    "<html>\n<body>",
    "null",
    "[]",
    '{"message":7,"reason":[]}',
    "x".repeat(1_000),
    '{"details":null}',
  ]) {
    const text = showFault(faultOfAnswer(502, body, undefined, nowMs));
    assert.match(text, /^the API server answered 502/);
    assert.ok(text.length < 400 && !text.includes("\n"));
  }
  for (const object of [undefined, null, 7, "x", [], {}, deep, { code: "x" }, { code: 410, message: 3 }])
    assert.equal(faultOfEvent(object).kind, "status");
  const labels = [0, 302, 400, 401, 403, 404, 409, 410, 422, 429, 500, 504].map((code) =>
    faultLabel(faultOfAnswer(code, "", undefined, nowMs)),
  );
  assert.deepEqual(
    labels.join(" "),
    "refused refused refused unauthorized forbidden missing conflict expired refused throttled server server",
  );
  assert.equal(faultLabel(faultOf("timeout", "x".repeat(1_000))), "timeout");
});
