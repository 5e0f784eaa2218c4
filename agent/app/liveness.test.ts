// The heartbeat: given while native answers, and the end of the agent when it does not.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createFakeClock } from "../../test/kit/fake-clock.ts";
import { silentLogger } from "../base/log.ts";
import { err, ok, type Result } from "../base/result.ts";
import type { CallFault } from "../native-calls.ts";
import { startLiveness } from "./liveness.ts";

function setUp() {
  const clock = createFakeClock();
  const seen = { beats: 0, ended: 0, lines: [] as string[] };
  const state: { answer: Result<object, CallFault> } = { answer: ok({}) };
  const log = {
    ...silentLogger,
    info: (event: string) => void seen.lines.push(event),
    error: (event: string) => void seen.lines.push(event),
  };
  const stop = startLiveness({
    clock,
    log,
    beat: async () => {
      seen.beats++;
      return state.answer;
    },
    everyMs: 250,
    deadMs: 5_000,
    end: () => seen.ended++,
  });
  return { clock, seen, state, stop };
}
const hung = err({ code: "worker_hung", message: "worker 0 has not turned its loop for 5000 ms" });
const silent = err({ code: "call_timeout", message: "heartbeat: no reply within 5000 ms" });

test("[INT-14] a native half whose worker hangs for good ends the agent, once and with one line", async () => {
  const { clock, seen, state } = setUp();
  await clock.advanceAsync(10_000);
  assert.deepEqual([seen.beats, seen.ended, seen.lines.length], [40, 0, 0]);
  state.answer = hung;
  await clock.advanceAsync(9_500);
  assert.equal(seen.ended, 0);
  await clock.advanceAsync(60_000);
  assert.equal(seen.ended, 1);
  assert.deepEqual(seen.lines, ["heartbeat_failed", "native_hung"]);
});

test("[INT-14] what comes back in time ends nothing: a worker that goes on, calls that had to wait", async () => {
  const { clock, seen, state, stop } = setUp();
  for (const [answer, ms] of [
    [hung, 8_000],
    [silent, 50_000],
  ] as const) {
    state.answer = answer;
    await clock.advanceAsync(ms);
    state.answer = ok({});
    await clock.advanceAsync(1_000);
  }
  assert.equal(seen.ended, 0);
  assert.deepEqual(seen.lines, ["heartbeat_failed", "heartbeat_again", "heartbeat_failed", "heartbeat_again"]);
  state.answer = silent;
  await clock.advanceAsync(61_000);
  assert.equal(seen.ended, 1, "a call thread that answers nothing for a minute");
  stop();
});

test("an agent that stops is not ended by what its last heartbeat brings", async () => {
  const { clock, seen, state, stop } = setUp();
  state.answer = hung;
  await clock.advanceAsync(1_000);
  stop();
  await clock.advanceAsync(60_000);
  assert.equal(seen.ended, 0);
});
