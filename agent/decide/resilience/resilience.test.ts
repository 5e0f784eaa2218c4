import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import {
  type Breaker,
  defaultBreaker,
  defaultOutlier,
  noRetry,
  noTimeouts,
  type Outlier,
} from "../../api/http-policy.ts";
import { grpcTimeoutField, grpcTimeoutMs } from "../../base/grpc-timeout.ts";
import { seededRandom } from "../../base/random.ts";
import { EndpointStats } from "../balance/endpoint-stats.ts";
import { Breakers, transitions } from "./breaker.ts";
import { OutlierDetector } from "./outlier.ts";
import { type FailedTry, judgeRetry, RetryBudget, retryDelayMs } from "./retry.ts";
import { effectiveTimeouts, meshTimeouts } from "./timeouts.ts";

const setUp = (capacity = 1) => {
  const stats = new EndpointStats(capacity);
  return { stats, breakers: new Breakers(stats) };
};
const policy: Breaker = defaultBreaker;

test("[RES-4] closed -> open -> half-open -> one probe -> closed, each transition counted", () => {
  const { stats, breakers } = setUp();
  for (let i = 0; i < 4; i++) breakers.report(0, true, policy, i);
  breakers.report(0, false, policy, 4);
  for (let i = 0; i < 4; i++) breakers.report(0, true, policy, 5);
  assert.equal(breakers.state(0), "closed", "only failures in a row count");
  breakers.report(0, true, policy, 6);
  // Seen with the very report: no time passes until it is open.
  assert.deepEqual([breakers.state(0), breakers.admit(0, policy, 6), stats.gates[0]], ["open", false, 1]);
  breakers.report(0, false, policy, 7);
  assert.equal(breakers.state(0), "open", "answers to earlier requests do not close it");
  breakers.wake([0], 6 + 4999);
  assert.equal(breakers.state(0), "open");
  breakers.wake([0], 6 + 5000);
  assert.deepEqual([breakers.state(0), stats.gates[0]], ["half_open", 0]);
  assert.deepEqual(
    [breakers.admit(0, policy, 5006), breakers.admit(0, policy, 5006), stats.gates[0]],
    [true, false, 1],
  );
  breakers.report(0, false, policy, 5010);
  assert.deepEqual([breakers.state(0), breakers.admit(0, policy, 5010), stats.gates[0]], ["closed", true, 0]);
  const { opened, halfOpened, probed, closed, reopened } = transitions;
  const seen = [opened, halfOpened, probed, closed, reopened].map((t) => breakers.counts[t]);
  assert.deepEqual(seen, [1, 1, 1, 1, 0]);
});

test("[RES-4] detection takes no time: the N-th failure in a row opens it by itself, without a sweep or a timer", () => {
  for (const failures of [1, 2, 5, 100]) {
    const { stats, breakers } = setUp();
    const settings = { ...policy, failures };
    // All at one moment of a clock that stands still.
    for (let i = 1; i < failures; i++) {
      breakers.report(0, true, settings, 1000);
      assert.deepEqual([breakers.state(0), stats.gates[0]], ["closed", 0], `${i} of ${failures}`);
    }
    breakers.report(0, true, settings, 1000);
    assert.deepEqual([breakers.state(0), stats.gates[0], breakers.admit(0, settings, 1000)], ["open", 1, false]);
    assert.equal(breakers.counts[transitions.opened], 1);
  }
});

test("[RES-4] recovery backs off from 5 to 30 s, and begins anew after it closed", () => {
  const { breakers } = setUp();
  let now = 0;
  for (let i = 0; i < 5; i++) breakers.report(0, true, policy, now);
  const waits: number[] = [];
  for (let round = 0; round < 5; round++) {
    const opened = now;
    while (breakers.state(0) === "open") breakers.wake([0], ++now);
    waits.push(now - opened);
    assert.ok(breakers.admit(0, policy, now));
    breakers.report(0, true, policy, now);
  }
  assert.deepEqual(waits, [5000, 10_000, 20_000, 30_000, 30_000]);
  while (breakers.state(0) === "open") breakers.wake([0], ++now);
  assert.ok(breakers.admit(0, policy, now));
  breakers.report(0, false, policy, now);
  for (let i = 0; i < 5; i++) breakers.report(0, true, policy, now);
  breakers.wake([0], now + 5000);
  assert.equal(breakers.state(0), "half_open");
});

test("[RES-4] a probe that never reports does not keep the endpoint out for ever", () => {
  const { breakers } = setUp();
  for (let i = 0; i < 5; i++) breakers.report(0, true, policy, 0);
  breakers.wake([0], 5000);
  assert.ok(breakers.admit(0, policy, 5000));
  breakers.wake([0], 9999);
  assert.equal(breakers.state(0), "probing");
  breakers.wake([0], 10_000);
  assert.ok(breakers.admit(0, policy, 10_000));
});

test("[RES-4] an endpoint that fails 5 % of its requests trips it in less than 0.1 % of 1,000-request runs", () => {
  const random = seededRandom(1);
  const { breakers } = setUp(1000);
  for (let slot = 0; slot < 1000; slot++) {
    for (let i = 0; i < 1000; i++) breakers.report(slot, random.next() < 0.05, policy, i);
  }
  assert.ok((breakers.counts[transitions.opened] ?? 0) <= 1);
});

test("[RES-4] [DP-25] four threads on one breaker: it opens once, one of them probes", () => {
  const capacity = 2;
  const memory = new SharedArrayBuffer(EndpointStats.bytesFor(capacity, 4));
  const shared = new SharedArrayBuffer(Breakers.bytesFor(capacity));
  const threads = [0, 1, 2, 3].map(
    (thread) => new Breakers(new EndpointStats(capacity, { threads: 4, thread, memory }), shared),
  );
  for (let i = 0; i < 8; i++) threads[i % 4]?.report(1, true, policy, 0);
  assert.equal(threads[0]?.counts[transitions.opened], 1);
  for (const breakers of threads) breakers.wake([0, 1], 5000);
  assert.deepEqual(
    threads.map((breakers) => breakers.admit(1, policy, 5000)),
    [true, false, false, false],
  );
  threads[2]?.report(1, false, policy, 5001);
  assert.deepEqual(
    threads.map((breakers) => breakers.state(1)),
    ["closed", "closed", "closed", "closed"],
  );
});

test("[RES-4] whatever happens in whatever order, the gate is closed exactly while nothing may go out", () => {
  const step = fc.oneof(
    fc.record({ kind: fc.constant("report" as const), isFailure: fc.boolean() }),
    fc.record({ kind: fc.constantFrom("admit" as const, "wake" as const) }),
  );
  fc.assert(
    fc.property(fc.array(fc.tuple(step, fc.nat({ max: 4000 })), { maxLength: 60 }), (steps) => {
      const { stats, breakers } = setUp();
      const eager: Breaker = { failures: 2, openMs: 1000, maxOpenMs: 4000 };
      let now = 0;
      for (const [s, wait] of steps) {
        now += wait;
        if (s.kind === "report") breakers.report(0, s.isFailure, eager, now);
        else if (s.kind === "admit") breakers.admit(0, eager, now);
        else breakers.wake([0], now);
        const state = breakers.state(0);
        assert.equal(stats.gates[0], state === "closed" || state === "half_open" ? 0 : 1, state);
      }
      breakers.wake([0], now + 10_000);
      assert.ok(breakers.admit(0, eager, now + 10_000), "in the end it is tried again");
    }),
    { numRuns: 500 },
  );
});

const detector = (n: number, more: Partial<Outlier>) => {
  const stats = new EndpointStats(n);
  const slots = Array.from({ length: n }, (_, i) => i);
  return { stats, outliers: new OutlierDetector({ ...defaultOutlier, ...more }, slots, stats, 0) };
};

test("[RES-7] errors in a row eject at once, for longer each time, and good behaviour is remembered", () => {
  const { stats, outliers } = detector(10, { consecutiveErrors: 3 });
  const fail = (now: number) => [1, 2, 3].map(() => outliers.report(4, true, 1, now)).at(-1)?.forMs;
  assert.equal(fail(0), 30_000);
  assert.equal(stats.gates[4], 2);
  outliers.sweep(29_999);
  assert.equal(stats.gates[4], 2);
  outliers.sweep(30_000);
  assert.equal(stats.gates[4], 0);
  assert.equal(fail(30_001), 60_000);
  outliers.sweep(90_001);
  for (const now of [100_001, 110_001]) outliers.sweep(now);
  assert.equal(fail(110_002), 30_000);
  const quick = detector(10, { consecutiveErrors: 1, intervalMs: 1e9, maxEjectionMs: 70_000 });
  const times: (number | undefined)[] = [];
  for (let now = 0, i = 0; i < 4; i++) {
    times.push(quick.outliers.report(0, true, 1, now)?.forMs);
    now += 100_000;
    quick.outliers.sweep(now);
  }
  assert.deepEqual(times, [30_000, 60_000, 70_000, 70_000]);
});

test("[RES-7] no more than the maximum percentage is ejected, one always may be, the last never", () => {
  const ejectedOf = (n: number, percent: number) => {
    const { outliers } = detector(n, { consecutiveErrors: 1, maxEjectionPercent: percent });
    for (let slot = 0; slot < n; slot++) outliers.report(slot, true, 1, 0);
    return outliers.ejected;
  };
  assert.deepEqual(
    [ejectedOf(20, 10), ejectedOf(20, 50), ejectedOf(3, 10), ejectedOf(2, 100), ejectedOf(1, 100)],
    [2, 10, 1, 1, 0],
  );
});

test("[RES-7] success rate and latency against the others, only with enough requests and endpoints", () => {
  const run = (more: Partial<Outlier>, requests: number, n = 10) => {
    const { outliers } = detector(n, more);
    const random = seededRandom(5);
    for (let slot = 0; slot < n; slot++) {
      for (let i = 0; i < requests; i++)
        outliers.report(slot, slot === 2 && random.next() < 0.3, slot === 7 ? 90 : 10, 0);
    }
    return outliers.sweep(10_000).map(({ slot, reason }) => `${slot} ${reason}`);
  };
  assert.deepEqual(run({ successRateStdev: 1.9 }, 200), ["2 success_rate"]);
  assert.deepEqual(run({ latencyFactor: 3 }, 200), ["7 latency"]);
  assert.deepEqual(run({ successRateStdev: 1.9, latencyFactor: 3, maxEjectionPercent: 50 }, 200).length, 2);
  assert.deepEqual(run({ successRateStdev: 1.9, latencyFactor: 3 }, 50), []);
  assert.deepEqual(run({ successRateStdev: 1, latencyFactor: 3 }, 200, 4), []);
});

test("[RES-7] endpoints that stay keep what is known of them; those that leave free their gate", () => {
  const { stats, outliers } = detector(4, { consecutiveErrors: 1 });
  outliers.report(1, true, 1, 0);
  outliers.setEndpoints([1, 2]);
  assert.deepEqual([outliers.ejected, stats.gates[1]], [1, 2]);
  outliers.setEndpoints([2, 3]);
  assert.deepEqual([outliers.ejected, stats.gates[1]], [0, 0]);
});

const failed = (more: Partial<FailedTry>): FailedTry => ({
  cause: "status",
  status: 503,
  grpcStatus: -1,
  tries: 1,
  elapsedMs: 10,
  hasOther: false,
  method: "GET",
  answerStarted: false,
  bodyKept: true,
  ...more,
});

test("[RES-5] [DP-29] what reached nobody is always tried again; what may have had an effect only if told", () => {
  const given = { ...noRetry, attempts: 2, codes: [503], on: ["reset" as const], grpcCodes: [14] };
  assert.equal(judgeRetry(undefined, failed({ cause: "connect_failure", method: "POST" })), "retry");
  assert.equal(judgeRetry(undefined, failed({ cause: "refused", tries: 3 })), "exhausted");
  assert.equal(judgeRetry(undefined, failed({})), "not_configured");
  assert.equal(judgeRetry(given, failed({})), "retry");
  assert.equal(judgeRetry(given, failed({ status: 500 })), "not_configured");
  assert.equal(judgeRetry(given, failed({ cause: "grpc_status", grpcStatus: 14 })), "retry");
  assert.equal(judgeRetry(given, failed({ cause: "timeout" })), "not_configured");
  assert.equal(judgeRetry(given, failed({ cause: "reset", tries: 2 })), "retry");
  assert.equal(judgeRetry(given, failed({ cause: "reset", tries: 3 })), "exhausted");
  assert.equal(judgeRetry(given, failed({ method: "POST" })), "may_have_effect");
  assert.equal(judgeRetry({ ...given, anyMethod: true }, failed({ method: "POST" })), "retry");
  for (const cause of ["refused", "connect_failure", "reset"] as const) {
    assert.equal(judgeRetry(given, failed({ cause, answerStarted: true })), "answer_started");
    assert.equal(judgeRetry(given, failed({ cause, bodyKept: false })), "body_gone");
  }
});

test("[RES-5] [DP-29] with endpoints left, quick failures that reached nobody go on to five of them; a connection lost before its answer to one", () => {
  const gone = { cause: "connect_failure", hasOther: true } as const;
  assert.equal(judgeRetry(undefined, failed({ ...gone, tries: 5 })), "retry");
  assert.equal(judgeRetry(undefined, failed({ ...gone, tries: 6 })), "exhausted");
  assert.equal(judgeRetry(undefined, failed({ ...gone, tries: 3, hasOther: false })), "exhausted");
  assert.equal(judgeRetry(undefined, failed({ ...gone, tries: 3, elapsedMs: 1000 })), "exhausted");
  assert.equal(judgeRetry(undefined, failed({ ...gone, tries: 2, elapsedMs: 1000 })), "retry");
  const lost = { cause: "reset", hasOther: true } as const;
  assert.equal(judgeRetry(undefined, failed(lost)), "retry");
  assert.equal(judgeRetry(undefined, failed({ ...lost, tries: 2 })), "exhausted");
  assert.equal(judgeRetry(undefined, failed({ ...lost, method: "POST" })), "may_have_effect");
  assert.equal(judgeRetry(undefined, failed({ ...lost, hasOther: false })), "not_configured");
  assert.equal(judgeRetry({ ...noRetry, attempts: 3, codes: [503] }, failed(lost)), "retry");
  assert.equal(judgeRetry({ ...noRetry, codes: [503] }, failed(lost)), "not_configured", "told otherwise");
});

test("[RES-5] backoff: full jitter over a time that doubles up to its limit, none where nobody was reached", () => {
  const given = { ...noRetry, backoffMs: 100, maxBackoffMs: 350 };
  const random = seededRandom(3);
  for (const [tries, most] of [
    [1, 100],
    [2, 200],
    [3, 350],
    [60, 350],
  ] as const) {
    const delays = Array.from({ length: 2000 }, () => retryDelayMs(given, failed({ tries }), random));
    const mean = delays.reduce((a, b) => a + b, 0) / delays.length;
    assert.ok(Math.max(...delays) < most && Math.abs(mean / most - 0.5) < 0.03, `${tries}: ${mean}`);
  }
  assert.equal(retryDelayMs(given, failed({ cause: "refused" }), random), 0);
});

test("[RES-5] the budget: a share of the last 10 s of requests, and a few per second whatever the load", () => {
  const budget = new RetryBudget();
  const given = { ...noRetry, budgetPercent: 20, budgetMinPerS: 1 };
  const takeAll = (now: number) => {
    let taken = 0;
    while (taken < 10_000 && budget.take(given, now)) taken++;
    return taken;
  };
  assert.equal(takeAll(0), 10);
  for (let i = 0; i < 1000; i++) budget.countRequest(500);
  assert.equal(takeAll(900), 200);
  assert.equal(takeAll(9000), 0);
  assert.equal(takeAll(10_000), 10);
  assert.equal(takeAll(1e7), 10);
});

test("[RES-6] timeouts: the rule's, else the policy's, else the mesh's; 0 switches off; a try is no longer than all", () => {
  const rule = { ...noTimeouts, requestMs: 1000, connectMs: 0 };
  const given = { ...noTimeouts, requestMs: 5, tryMs: 2000, idleMs: 7 };
  assert.deepEqual(effectiveTimeouts(rule, given), {
    requestMs: 1000,
    tryMs: 1000,
    responseMs: 0,
    connectMs: 0,
    idleMs: 7,
  });
  assert.deepEqual(effectiveTimeouts(noTimeouts, noTimeouts), meshTimeouts);
});

test("[RES-6] gRPC deadlines: read in every unit, malformed ones are none, written so that they never grow", () => {
  const cases = [
    ["1H", 3_600_000],
    ["2M", 120_000],
    ["3S", 3000],
    ["4m", 4],
    ["500u", 0.5],
    ["0m", 0.001],
  ] as const;
  for (const [text, ms] of cases) assert.equal(grpcTimeoutMs(text), ms);
  for (const text of [undefined, "", "S", "1", "1s", "123456789m", "-1S", "1.5S", " 1S"]) {
    assert.equal(grpcTimeoutMs(text), undefined, String(text));
  }
  fc.assert(
    fc.property(fc.double({ min: 0, max: 1e15, noNaN: true }), (ms) => {
      const field = grpcTimeoutField(ms);
      const back = grpcTimeoutMs(field);
      assert.ok(back !== undefined && (back <= ms || back === 0.001), field);
      if (ms > 10 && ms < 1e10) assert.ok(back > ms * 0.9, field);
    }),
  );
});
