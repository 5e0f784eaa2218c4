// Trends of samples: what is flat, what rises, and what only swings.
import assert from "node:assert/strict";
import { test } from "node:test";
import { rises, type Sample, secondHalf, trendOf } from "./flat.ts";

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

test("a rise counts where it is larger than chance makes it", () => {
  const noise = (s: number): number => 40 * (((s / 10) * 7919) % 1.0001 > 0.5 ? 1 : -1) * (((s * 37) % 101) / 101);
  const swinging = trendOf(every10s(181, (s) => 150 + noise(s)));
  assert.ok(swinging.error > 1 && Math.abs(swinging.rise) < 3 * swinging.error, JSON.stringify(swinging));
  const leaking = trendOf(every10s(181, (s) => 150 + noise(s) + s / 15));
  assert.ok(leaking.rise > 40 && rises(leaking, 10), JSON.stringify(leaking));
  // Without noise there is no chance.
  const line = trendOf(every10s(181, (s) => s / 100));
  assert.ok(line.error < 1e-9 && rises(line, 8.9) && !rises(line, 9.1), JSON.stringify(line));
});

test("fewer than two samples are no trend", () => {
  for (const count of [0, 1]) assert.throws(() => trendOf(every10s(count, () => 1)), RangeError);
});
