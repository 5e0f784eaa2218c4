// Rounds of loads, interleaved: in each round every step is put on every variant, one after the other, so that what else the machine does falls on all.
import { medians } from "./rows.ts";
import type { Sample } from "./steps.ts";
import type { VariantName } from "./variants.ts";

/** A variant does not do what the step asks for; the message says what it does instead. Its row says so, and it is not asked again. */
export class NotCarried extends Error {}

export interface StepOf<V> {
  readonly name: string;
  readonly variants: readonly VariantName[];
  /** Turns within one round, of which the median counts: for goals so near to 1 that a slow second would decide them. */
  readonly turns?: number;
  run(v: V, seconds: number): Promise<Sample>;
}

export interface Taken {
  readonly samples: ReadonlyMap<string, ReadonlyMap<VariantName, readonly Sample[]>>;
  /** Step -> variant -> why it has no samples. */
  readonly refusals: ReadonlyMap<string, ReadonlyMap<VariantName, string>>;
}

const short = (sample: Sample): string =>
  Object.entries(sample)
    .map(([k, v]) => `${k} ${Number(v.toPrecision(4))}`)
    .join("  ");

export async function interleave<V extends { readonly name: VariantName }>(
  steps: readonly StepOf<V>[],
  variants: readonly V[],
  o: { readonly rounds: number; readonly seconds: number },
  say: (line: string) => void,
): Promise<Taken> {
  const samples = new Map<string, Map<VariantName, Sample[]>>();
  const refusals = new Map<string, Map<VariantName, string>>();
  for (let round = 0; round < o.rounds; round++) {
    for (const step of steps) {
      const refused = refusals.get(step.name) ?? new Map<VariantName, string>();
      refusals.set(step.name, refused);
      const taking = variants.filter((v) => step.variants.includes(v.name) && !refused.has(v.name));
      // Who comes first turns from round to round, so that no one always follows the same other.
      const order = taking.map((_, i) => taking[(i + round) % taking.length]).filter((v) => v !== undefined);
      const turns = new Map<VariantName, Sample[]>();
      for (let turn = 0; turn < (step.turns ?? 1); turn++) {
        for (const v of order) {
          if (refused.has(v.name)) continue;
          try {
            turns.set(v.name, [...(turns.get(v.name) ?? []), await step.run(v, o.seconds)]);
          } catch (error) {
            if (!(error instanceof NotCarried)) throw error;
            refused.set(v.name, error.message);
            say(`${step.name} ${v.name}: ${error.message}`);
          }
        }
      }
      const ofStep = samples.get(step.name) ?? new Map<VariantName, Sample[]>();
      samples.set(step.name, ofStep);
      for (const [name, list] of turns) {
        if (refused.has(name)) continue;
        const sample = medians(list);
        say(`round ${round + 1}/${o.rounds} ${step.name} ${name}: ${short(sample)}`);
        ofStep.set(name, [...(ofStep.get(name) ?? []), sample]);
      }
    }
  }
  return { samples, refusals };
}
