// How far a call is from what is usual: anomalies, each with its weight. Pure.
import type { EnricherSettings, MeshAnomaly, MeshFeatures } from "../api/enricher.ts";

/** `calls`: of the pair in its window, this one included; undefined: nobody counted. */
export function anomaliesOf(
  settings: EnricherSettings,
  mesh: MeshFeatures,
  destinationNamespace: string,
  calls: number | undefined,
): readonly MeshAnomaly[] {
  const found: MeshAnomaly[] = [];
  const { namespace } = mesh;
  const { mesh_risky_namespaces: risky } = settings;
  if (namespace !== undefined && namespace !== destinationNamespace) found.push("cross_namespace");
  if ((namespace !== undefined && risky.includes(namespace)) || risky.includes(destinationNamespace))
    found.push("risky_namespace");
  if (calls !== undefined && calls <= settings.mesh_unusual_pair_count) found.push("unusual_pair");
  if (namespace === undefined || mesh.workload === undefined) found.push("missing_headers");
  return found;
}

/** Sum of the weights, in thousandths: 0.3 three times is 0.9. */
export function scoreOf(settings: EnricherSettings, anomalies: readonly MeshAnomaly[]): number {
  let score = 0;
  for (const anomaly of anomalies) score += settings.mesh_score_weights[anomaly];
  return Math.round(score * 1000) / 1000;
}
