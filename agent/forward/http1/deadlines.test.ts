// The wheel of near deadlines: nobody early, nobody late, one timer.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { createFakeClock } from "../../../test/kit/fake-clock.ts";
import { Deadlines, type Due } from "./deadlines.ts";

test("[RES-6] everybody is asked once, not before the time and at most 5 ms after it, by one timer", () => {
  fc.assert(
    fc.property(
      fc.array(fc.record({ waitMs: fc.integer({ min: 0, max: 400 }), inMs: fc.integer({ min: -5, max: 1500 }) }), {
        maxLength: 40,
      }),
      fc.integer({ min: 0, max: 1e7 }),
      (all, startMs) => {
        const clock = createFakeClock();
        clock.advance(startMs);
        const wheel = new Deadlines(clock);
        const late: number[] = [];
        for (const { waitMs, inMs } of all) {
          const putMs = clock.monotonicMs();
          const at = putMs + inMs;
          const member: Due = {
            due(now, slot) {
              assert.equal(slot, given);
              late.push(now - Math.max(at, putMs));
              assert.ok(now >= at, `${at - now} ms early`);
            },
          };
          const given = wheel.put(member, at);
          assert.ok(given > 0);
          assert.ok(clock.pending <= 1);
          clock.advance(waitMs);
        }
        clock.advance(1600);
        assert.equal(late.length, all.length);
        assert.ok(
          late.every((ms) => ms <= 5),
          `${late}`,
        );
        assert.equal(clock.pending, 0, "with nobody there no timer is armed");
      },
    ),
  );
});

test("[RES-6] who is asked may stand there again; what is too far off is not taken; a loop that was held up asks all", () => {
  const clock = createFakeClock();
  const wheel = new Deadlines(clock);
  const asked: number[] = [];
  const again: Due = {
    due(now) {
      asked.push(now);
      if (asked.length < 4) wheel.put(again, now + 10);
    },
  };
  wheel.put(again, 10);
  clock.advance(100);
  assert.equal(asked.length, 4);
  assert.ok((asked[3] as number) <= 56, `${asked}`);
  assert.equal(wheel.put(again, 100 + 60_000), 0);
  assert.equal(clock.pending, 0);

  // A clock whose timers come late by a whole turn of the wheel and more.
  let now = 0;
  let fire: () => void = () => {};
  const held = new Deadlines({
    monotonicMs: () => now,
    after(_, fn) {
      fire = fn;
      return () => {};
    },
  });
  const seen: string[] = [];
  for (const [i, at] of [40, 8, 1500, 8].entries()) held.put({ due: () => void seen.push(`${i}`) }, at);
  now = 10_000;
  fire();
  assert.deepEqual(seen, ["1", "3", "0", "2"]);
});
