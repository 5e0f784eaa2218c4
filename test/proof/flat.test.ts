// Trends of samples: what is flat, what rises, and what only swings.
import assert from "node:assert/strict";
import { test } from "node:test";
import { type Sample, secondHalf, trendOf } from "./flat.ts";

const every10s = (count: number, value: (atS: number) => number): Sample[] =>
  Array.from({ length: count }, (_, i) => ({ atS: i * 10, value: value(i * 10) }));

test("a line's rise and slope are those of its second half, whatever it did before", () => {
  const samples = every10s(361, (s) => (s < 1800 ? 100 - s / 100 : 82 + (s - 1800) / 900));
  const trend = trendOf(samples);
  assert.equal(secondHalf(samples).length, 181);
  assert.ok(Math.abs(trend.perHour - 4) < 1e-9 && Math.abs(trend.rise - 2) < 1e-9, JSON.stringify(trend));
  assert.deepEqual([trend.least, trend.most, trend.mean], [82, 84, 83]);
});

test("what only swings is flat; a leak under the swings is seen", () => {
  const swing = (s: number): number => 60 + 3 * Math.sin(s / 7);
  assert.ok(Math.abs(trendOf(every10s(181, swing)).rise) < 1);
  assert.ok(trendOf(every10s(181, (s) => swing(s) + s / 100)).rise > 8);
});

test("a burst at the end does not raise the floor, what is never given back does", () => {
  const burst = (s: number): number => 120 + ((s / 10) % 7) + (s > 1_650 ? 80 : 0);
  const bursting = trendOf(every10s(181, burst));
  assert.ok(bursting.rise > 30 && bursting.floorRise === 0, JSON.stringify(bursting));
  const leaking = trendOf(every10s(181, (s) => burst(s) + s / 30));
  assert.ok(leaking.floorRise > 14 && leaking.floorRise < 18, JSON.stringify(leaking));
});

test("fewer than two samples are no trend", () => {
  for (const count of [0, 1]) assert.throws(() => trendOf(every10s(count, () => 1)), RangeError);
});
