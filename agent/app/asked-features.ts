// What the enricher would have found out about a request that `explain` is asked about: only whoever asks can say. Where nobody does, the
// answer names what policies depend on.
import type { RequestFeatures } from "../api/enricher.ts";
import { err, ok, type Result } from "../base/result.ts";
import { type FeatureName, featureOf } from "../decide/feature-condition.ts";
import type { MeshState } from "../state/mesh-state.ts";
import type { PolicySubject } from "../state/policies.ts";

export type AskedFeatures = ReadonlyMap<FeatureName, string>;

/** Reads any number of `feature=mesh.KEY=VALUE`. */
export function askedFeatures(given: readonly string[]): Result<AskedFeatures, string> {
  const features = new Map<FeatureName, string>();
  for (const feature of given) {
    const at = feature.indexOf("=");
    const key = at < 0 ? feature : feature.slice(0, at);
    const name = featureOf(key.startsWith("features.") ? key : `features.${key}`);
    const value = feature.slice(at + 1);
    if (at < 0 || name === undefined)
      return err(`feature: "${feature}" is not mesh.KEY=VALUE with a key that the enricher knows (docs/enricher.md)`);
    if (name === "score" && !/^[0-9](\.[0-9]{1,6})?$/.test(value))
      return err(`feature: "${value}" is no score: write it as 0.6`);
    features.set(name, value);
  }
  return ok(features);
}

/** As the enricher would give them; undefined where nothing is said. */
export function featuresOf(asked: AskedFeatures): RequestFeatures | undefined {
  if (asked.size === 0) return undefined;
  const mesh = Object.fromEntries([...asked].filter(([name]) => name !== "score"));
  return { mesh, score: Number(asked.get("score") ?? 0), anomalies: [] };
}

/** Keys of conditions of the policies in force for `subject` whose values were not given, in their order. */
export function neededFeatures(state: MeshState, subject: PolicySubject, asked: AskedFeatures): readonly string[] {
  const keys = state.authorizations
    .inForce(subject)
    .flatMap(({ rules }) => rules.flatMap(({ when }) => when.map(({ key }) => key)));
  const isNeeded = (key: string): boolean => {
    const name = featureOf(key);
    return name !== undefined && !asked.has(name);
  };
  return [...new Set(keys)].filter(isNeeded);
}
