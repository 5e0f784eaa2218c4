// Shape of `spec.enricher` of the MeshSettings: names, defaults and bounds as docs/enricher.md has them.
import {
  defaultEnricher,
  type EnricherSettings,
  isTrustedPeer,
  type MeshKey,
  meshKeys,
  meshLimitActions,
} from "../../agent/api/enricher.ts";
import { checked, headerName, mapped, upTo } from "./http-schema.ts";
import { flag, integer, number, object, objectName, oneOf, optional, type Reader, showValue, text } from "./schema.ts";

const d = defaultEnricher;
type HeaderFields = Readonly<Record<MeshKey, string>>;
/** A header that is "" is not read. */
const headerOrNone: Reader<string> = (value, path, report) => (value === "" ? "" : headerName(value, path, report));
const headerMap: Reader<EnricherSettings["mesh_header_map"]> = mapped(
  object<HeaderFields>(
    Object.fromEntries(
      meshKeys.map((key) => [key, optional(headerOrNone, d.mesh_header_map[key] ?? "")]),
    ) as Parameters<typeof object<HeaderFields>>[0],
  ),
  (headers, path, report) => {
    const given = Object.entries(headers).filter(([, header]) => header !== "");
    given.forEach(([key, header], i) => {
      if (given.findIndex(([, other]) => other === header) !== i)
        report.problem([...path, key], `is "${header}", as another key is`, "give each key its own header");
    });
    return Object.fromEntries(given);
  },
);
const w = d.mesh_score_weights;
const weight = number(0, 1);
const weights = object<EnricherSettings["mesh_score_weights"]>({
  cross_namespace: optional(weight, w.cross_namespace),
  risky_namespace: optional(weight, w.risky_namespace),
  unusual_pair: optional(weight, w.unusual_pair),
  missing_headers: optional(weight, w.missing_headers),
});
const trustedPeer: Reader<string> = checked(text, (value, path, report) => {
  if (!isTrustedPeer(value))
    report.problem(
      path,
      `is ${showValue(value)}, neither a principal nor an address block`,
      'write it as "cluster.local/ns/edge/sa/*" or "10.0.0.0/8"',
    );
});
const rpm = integer(0, 10_000_000);

export const enricherSettings: Reader<EnricherSettings> = object<EnricherSettings>({
  enable_mesh_enricher: optional(flag, d.enable_mesh_enricher),
  mesh_header_map: optional(headerMap, d.mesh_header_map),
  mesh_cache_ttl_seconds: optional(integer(1, 86_400), d.mesh_cache_ttl_seconds),
  mesh_risky_namespaces: optional(upTo(1000, objectName), d.mesh_risky_namespaces),
  mesh_score_weights: optional(weights, w),
  mesh_pair_window_seconds: optional(integer(1, 604_800), d.mesh_pair_window_seconds),
  mesh_trusted_peers: optional(upTo(100, trustedPeer), d.mesh_trusted_peers),
  mesh_unusual_pair_count: optional(integer(0, 1_000_000), d.mesh_unusual_pair_count),
  mesh_pair_rpm_limit: optional(rpm, d.mesh_pair_rpm_limit),
  mesh_namespace_rpm_quota: optional(rpm, d.mesh_namespace_rpm_quota),
  mesh_limit_action: optional(oneOf(meshLimitActions), d.mesh_limit_action),
  mesh_top_pairs: optional(integer(1, 100), d.mesh_top_pairs),
  mesh_log_interval_seconds: optional(integer(1, 86_400), d.mesh_log_interval_seconds),
});
