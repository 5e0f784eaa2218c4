// The CRD of MeshSettings. Its bounds are those of controller/sources/policy-kinds.ts and enricher-schema.ts; what is left out keeps its default.
import { definition } from "./definition.ts";
import { choice, fieldText, flag, integer, list, number, object, objectName, type Schema, string } from "./schema.ts";

const port = integer("A port.", 1, 65_535);
const rpm = (description: string): Schema => integer(`${description} 0, the default: none.`, 0, 10_000_000);
const weight = (description: string): Schema => number(description, 0, 1);
const header = (description: string): Schema =>
  fieldText(`${description} "" is not read.`, 256, [
    { rule: "!self.contains(' ')", message: "is not a name that HTTP allows: use letters, digits and dashes" },
  ]);

const enricher: Schema = object("Who calls, and how unusual that is, for policies, limits and logs.", {
  enable_mesh_enricher: flag("Switches it on. Default false."),
  mesh_header_map: object("Header of each key.", {
    trace_id: header("Default x-request-id."),
    namespace: header("Default x-k8s-namespace."),
    workload: header("Default x-k8s-workload."),
    service: header("Default x-k8s-service."),
    pod: header("Default x-k8s-pod."),
    zone: header("Default x-k8s-zone."),
    mesh_source: header("Default x-mesh-source."),
  }),
  mesh_cache_ttl_seconds: integer("How long what is known of a source is kept. Default 300.", 1, 86_400),
  mesh_risky_namespaces: list("Requests from them raise the score.", 1000, objectName("A namespace.")),
  mesh_score_weights: object("What raises the score, and by how much.", {
    cross_namespace: weight("From another namespace. Default 0.3."),
    risky_namespace: weight("From a risky one. Default 0.3."),
    unusual_pair: weight("From somebody who seldom calls. Default 0.3."),
    missing_headers: weight("Without the headers. Default 0.1."),
  }),
  mesh_pair_window_seconds: integer("How long pairs are counted. Default 3600.", 1, 604_800),
  mesh_trusted_peers: list(
    "Peers whose headers are believed.",
    100,
    string('A principal as "cluster.local/ns/edge/sa/*", or an address block.', 512),
  ),
  mesh_unusual_pair_count: integer("A pair seen no more often than this is unusual. Default 5.", 0, 1_000_000),
  mesh_pair_rpm_limit: rpm("Requests a minute of one pair."),
  mesh_namespace_rpm_quota: rpm("Requests a minute from one namespace to another's pods on a node."),
  mesh_limit_action: choice("Refuse what is too much, or all until the minute ends. Default limit.", [
    "limit",
    "block",
  ]),
  mesh_top_pairs: integer("Pairs in one log line. Default 10.", 1, 100),
  mesh_log_interval_seconds: integer("Between two such lines. Default 60.", 1, 86_400),
});

const spec: Schema = object("What is set; everything else keeps its default.", {
  trustDomainAliases: list(
    "Trust domains whose identities count as ours.",
    64,
    string("A trust domain.", 255, [
      {
        rule: "self.matches('^[a-z0-9._-]{1,255}$')",
        message: "is not a trust domain: use lower-case letters, digits, dots, dashes and underscores",
      },
    ]),
  ),
  clusterDomain: objectName("Ending of the names of Services. Default cluster.local."),
  excludedPorts: list("Ports that the mesh leaves alone.", 1000, port),
  excludedCidrs: list(
    "Address blocks that the mesh leaves alone.",
    1000,
    string("A block.", 64, [
      {
        rule: "self.matches('^[0-9a-fA-F.:]+(/[0-9]{1,3})?$')",
        message: 'is not an address block: write it as "10.0.0.0/8", "fd00::/8" or one address',
      },
    ]),
  ),
  serverFirstPorts: list("Ports on which the server speaks first. Default 3306, 25, 587, 110, 143, 21.", 1000, port),
  renewAt: number("Share of a certificate's life after which it is renewed. Default 0.5.", 0.1, 0.8),
  maxStaleMs: integer(
    "Age in ms at which policies from an agent's disk no longer let STRICT workloads run open. Default one day.",
    0,
    Number.MAX_SAFE_INTEGER,
  ),
  unmeshedNamespaces: list(
    "Never in the mesh, whatever their labels say. Default kube-system and fairlead-system.",
    1000,
    objectName("A namespace."),
  ),
  registryOnly: flag("Refuse destinations that the mesh does not know. Default false."),
  pathNormalization: choice("How a path is read before policies are matched. Default BASE.", [
    "NONE",
    "BASE",
    "MERGE_SLASHES",
    "DECODE_AND_MERGE_SLASHES",
  ]),
  trustedProxies: integer(
    "The address that remoteIpBlocks mean is this many entries from the right of X-Forwarded-For. Default 0: the connection's own.",
    0,
    100,
  ),
  faultInjection: flag("False: no ResiliencePolicy injects faults, whatever it says. Default true."),
  enricher,
});

export const meshSettingsCrd = definition({
  kind: "MeshSettings",
  plural: "meshsettings",
  shortName: "meshset",
  scope: "Cluster",
  description: 'MeshSettings are the settings of the whole mesh: one object, named "mesh".',
  spec,
  rules: [
    {
      rule: "self.metadata.name == 'mesh'",
      message: 'only the object named "mesh" has an effect: name it so',
    },
  ],
  columns: [["RegistryOnly", "boolean", ".spec.registryOnly"]],
});
