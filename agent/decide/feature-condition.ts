// Conditions of AuthorizationPolicies on what the enricher found out: "features.mesh.namespace" and the like, and "features.mesh.score". Pure.
import { type MeshKey, meshKeys, type RequestFeatures } from "../api/enricher.ts";

const prefix = "features.mesh.";
export type FeatureName = MeshKey | "score";

/** What a condition's key asks for; undefined: nothing of the enricher's. */
export function featureOf(key: string): FeatureName | undefined {
  if (!key.startsWith(prefix)) return undefined;
  const name = key.slice(prefix.length);
  return name === "score" ? name : meshKeys.find((known) => known === name);
}

/** ">=0.6" */
export type Comparison = (score: number) => boolean;
export function parseComparison(text: string): Comparison | undefined {
  const match = /^(>=|<=|>|<)\s*([0-9](?:\.[0-9]{1,6})?)$/.exec(text);
  if (match === null) return undefined;
  const bound = Number(match[2]);
  switch (match[1]) {
    case ">=":
      return (score) => score >= bound;
    case "<=":
      return (score) => score <= bound;
    case ">":
      return (score) => score > bound;
    default:
      return (score) => score < bound;
  }
}

/** The value as text, for patterns and for logs; undefined: not known. */
export const featureText = (name: FeatureName, features: RequestFeatures | undefined): string | undefined =>
  name === "score" ? features?.score.toString() : features?.mesh?.[name];
