// Requests as `top` and `tap` show them, out of what agents give.
import assert from "node:assert/strict";
import test from "node:test";
import { percentile, requestLines, requestTable, sumsOf } from "./requests.ts";
import { lineOf } from "./tap.ts";

const boundsMs = [1, 5, 10];
const row = (more: object = {}) => ({
  source: "shop/client",
  service: "shop/web",
  reporter: "source",
  count: 10,
  errors: 1,
  durations: [5, 5, 0, 0],
  boundsMs,
  ...more,
});

test("[OBS-1] top: a pair that both sides tell of counts once; rates and latency are of the time between two looks", () => {
  const first = sumsOf([row({ reporter: "destination", count: 12 }), row()], 1_000);
  assert.deepEqual(requestLines(first, undefined), [
    { source: "shop/client", service: "shop/web", count: 10, errors: 1, p50Ms: 1, p99Ms: 4.92 },
  ]);
  const next = sumsOf([row({ count: 30, durations: [5, 5, 20, 0] }), row({ source: "x/y", count: 1 })], 3_000);
  const [web, other] = requestLines(next, first);
  assert.deepEqual([web?.rate, web?.count, web?.p50Ms], [10, 30, 7.5]);
  assert.equal(other?.rate, 0.5);
  const restarted = sumsOf([row({ count: 4 })], 5_000);
  assert.equal(requestLines(restarted, next)[0]?.rate, 2);
  assert.match(requestTable(requestLines(next, first), false), /shop\/client +shop\/web +30 +10 +1 +7\.5 ms +9\.9 ms/);
});

test("percentiles: none of nothing, and no more than the last bound", () => {
  assert.equal(percentile({ durations: [0, 0, 0, 0], boundsMs }, 0.99), 0);
  assert.equal(percentile({ durations: [0, 0, 0, 7], boundsMs }, 0.5), 10);
});

test("[OBS-3] [SEC-10] a tapped request in one line: who, what, how, and what denied it; nothing of it steers the terminal", () => {
  const line = {
    time: "2026-11-21T12:00:01.123Z",
    direction: "outbound",
    method: "GET",
    authority: "web",
    path: "/a\u001b[2J",
    status: 403,
    flags: "UAEX",
    duration_us: 1_200,
    response_bytes: 20,
    "src.workload": "shop/client",
    "dst.service": "shop/web",
    denied: true,
    reason: "policy_denied",
    policy: "shop/no-admin",
    rule: 0,
  };
  assert.equal(
    lineOf("node1", line, false),
    "12:00:01.123 node1 > shop/client -> shop/web GET web/a?[2J 403 UAEX 1.2 ms, 20 B, denied by shop/no-admin rule 0",
  );
  const bare = {
    ...line,
    flags: "-",
    status: 200,
    denied: undefined,
    reason: undefined,
    route: "shop/r",
    route_rule: 1,
  };
  assert.match(
    lineOf("n", { ...bare, direction: "inbound" }, true),
    /^12.* n < .*\[32m200.*, 20 B, route shop\/r rule 1$/,
  );
});
