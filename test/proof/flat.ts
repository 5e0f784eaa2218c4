// Whether a figure that is sampled over time stays where it is: the rise of a straight line through the second half of its samples. Pure.

export interface Sample {
  /** Since the start. */
  readonly atS: number;
  readonly value: number;
}

export interface Trend {
  /** Of the second half. */
  readonly mean: number;
  readonly least: number;
  readonly most: number;
  /** Of the line of least squares, per hour. */
  readonly perHour: number;
  /** What that line rises from the middle of the run to its end. */
  readonly rise: number;
  /** What the least of its later half is above the least of its earlier one: bursts do not raise it, what is never given back does. */
  readonly floorRise: number;
}

/** @throws RangeError with fewer than two samples in the second half */
export function trendOf(samples: readonly Sample[]): Trend {
  const half = secondHalf(samples);
  const [first, last] = [half[0], half.at(-1)];
  if (first === undefined || last === undefined || first === last) throw new RangeError("too few samples");
  const meanX = half.reduce((sum, s) => sum + s.atS, 0) / half.length;
  const mean = half.reduce((sum, s) => sum + s.value, 0) / half.length;
  const xx = half.reduce((sum, s) => sum + (s.atS - meanX) ** 2, 0);
  const xy = half.reduce((sum, s) => sum + (s.atS - meanX) * (s.value - mean), 0);
  const perSecond = xx === 0 ? 0 : xy / xx;
  const values = half.map((s) => s.value);
  const least = (of: readonly Sample[]): number => Math.min(...of.map((sample) => sample.value));
  const later = secondHalf(half);
  return {
    mean,
    least: Math.min(...values),
    most: Math.max(...values),
    perHour: perSecond * 3600,
    rise: perSecond * (last.atS - first.atS),
    floorRise: least(later) - least(half.slice(0, half.length - later.length)),
  };
}

/** Samples from the middle of the time on. */
export function secondHalf(samples: readonly Sample[]): readonly Sample[] {
  const [first, last] = [samples[0]?.atS ?? 0, samples.at(-1)?.atS ?? 0];
  return samples.filter((s) => s.atS >= (first + last) / 2);
}
