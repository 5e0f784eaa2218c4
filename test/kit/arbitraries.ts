// Generators of domain records for property tests.
import fc from "fast-check";
import { type EnricherSettings, meshKeys, meshLimitActions } from "../../agent/api/enricher.ts";
import type { NodeName, ServiceName, TrustDomain } from "../../agent/api/names.ts";
import { serviceName, workloadUid } from "../../agent/api/names.ts";
import {
  type Authorization,
  type Operation,
  operationOf,
  type Rule,
  type Source,
  sourceOf,
  type TrafficPolicy,
} from "../../agent/api/policy.ts";
import { limitHeaders, limitKeyKinds, type RateLimit } from "../../agent/api/rate-limit.ts";
import type { MeshResource } from "../../agent/api/resources.ts";
import type { Service } from "../../agent/api/service.ts";
import type { MeshSettings } from "../../agent/api/settings.ts";
import type { TrustBundle } from "../../agent/api/trust.ts";
import type { Workload } from "../../agent/api/workload.ts";
import { canonicalIp } from "../../agent/base/ip.ts";
import { httpRoutings } from "./http-arbitraries.ts";

export const names = fc.stringMatching(/^[a-z]([-a-z0-9]{0,10}[a-z0-9])?$/);
// Plain prototypes, as the decoder makes them, so that deepEqual compares contents only.
const record = <T>(model: { [K in keyof T]: fc.Arbitrary<T[K]> }): fc.Arbitrary<T> =>
  fc.record(model, { noNullPrototype: true }) as fc.Arbitrary<T>;
const domains = fc.constantFrom("cluster.local", "prod.example", "a_b-c.d") as fc.Arbitrary<TrustDomain>;
const ports = fc.integer({ min: 1, max: 65535 });
export const addresses = fc.oneof(fc.ipV4(), fc.ipV6()).map((text) => canonicalIp(text) ?? "::");
const labels = fc.dictionary(names, names, { maxKeys: 4, noNullPrototype: true });
const services = fc.tuple(names, names).map(([ns, name]) => serviceName(ns, name)) as fc.Arbitrary<ServiceName>;
const list = <T>(of: fc.Arbitrary<T>) => fc.array(of, { maxLength: 3 });

export const workloads: fc.Arbitrary<Workload> = record({
  name: names,
  namespace: names,
  serviceAccount: names,
  trustDomain: domains,
  node: fc.oneof(fc.constant("" as const), names as fc.Arbitrary<NodeName>),
  addresses: list(addresses),
  labels,
  tunnel: fc.constantFrom("none", "fairlead/1", "hbone"),
  ready: fc.boolean(),
  nodeSilent: fc.constantFrom(undefined, true),
  draining: fc.boolean(),
  weight: fc.integer({ min: 1, max: 1000 }),
  region: fc.string(),
  zone: fc.string(),
  hostNetwork: fc.boolean(),
  services: list(
    fc.record(
      {
        service: services,
        ports: list(record({ servicePort: ports, targetPort: ports })),
        forZones: fc.array(names, { minLength: 1, maxLength: 3 }),
        forNodes: fc.array(names, { minLength: 1, maxLength: 3 }),
      },
      { requiredKeys: ["service", "ports"], noNullPrototype: true },
    ),
  ),
  hbonePort: ports,
  untunnelledPorts: list(ports),
  hostPorts: list(record({ address: addresses, port: ports, targetPort: ports })),
}).map(({ nodeSilent, ...w }) => ({
  ...w,
  ...(nodeSilent && { nodeSilent }),
  uid: workloadUid(w.trustDomain, w.namespace, w.name),
})) as fc.Arbitrary<Workload>;

export const meshServices: fc.Arbitrary<Service> = record({
  name: names,
  namespace: names,
  hostname: names.map((n) => `${n}.ns.svc.cluster.local`),
  addresses: list(addresses),
  ports: list(
    record({
      port: ports,
      name: names,
      protocol: fc.constantFrom("", "tcp", "http", "grpc"),
      nodePort: fc.oneof(fc.constant(0), ports),
      serverFirst: fc.boolean(),
    }),
  ),
  headless: fc.boolean(),
  externalName: fc.oneof(fc.constant(""), names),
  loadBalancing: fc.constantFrom("", "ewma"),
  clientAffinityS: fc.integer({ min: 0, max: 86_400 }),
  nodeLocalAddresses: list(addresses),
  publishNotReady: fc.boolean(),
});

const blocks = fc.tuple(fc.ipV4(), fc.integer({ min: 0, max: 32 })).map(([ip, bits]) => `${ip}/${bits}`);
const text = list(fc.string());
const sources: fc.Arbitrary<Source> = record({
  principals: text,
  notNamespaces: text,
  ipBlocks: list(blocks),
  serviceAccounts: text,
  requestPrincipals: text,
}).map(sourceOf);
const operations: fc.Arbitrary<Operation> = record({
  ports: list(ports.map(String)),
  notPorts: list(ports.map(String)),
  methods: text,
  paths: text,
}).map(operationOf);
const conditions = record({ key: names, values: text, notValues: text });
const rules: fc.Arbitrary<Rule> = record({ from: list(sources), to: list(operations), when: list(conditions) });

const policyHead = {
  name: names,
  namespace: names,
  scope: fc.constantFrom("mesh", "namespace", "workload"),
  selector: labels,
} as const;
export const authorizations = record({
  ...policyHead,
  action: fc.constantFrom("allow", "deny", "audit", "custom"),
  dryRun: fc.boolean(),
  rules: list(rules),
  targetServices: list(services),
}) as fc.Arbitrary<Authorization>;

const modes = fc.constantFrom("unset", "permissive", "strict", "disable");
export const trafficPolicies = record({
  ...policyHead,
  mode: modes,
  portModes: fc
    .uniqueArray(fc.tuple(ports, modes), { selector: ([port]) => port, maxLength: 3 })
    .map((entries) => new Map(entries.sort(([a], [b]) => a - b))),
  createdMs: fc.nat(),
  dryRun: fc.boolean(),
}) as fc.Arbitrary<TrafficPolicy>;

export const trustBundles: fc.Arbitrary<TrustBundle> = record({
  trustDomain: domains,
  rootsPem: fc.array(
    fc.base64String({ minLength: 4 }).map((b) => `-----BEGIN CERTIFICATE-----\n${b}\n-----END CERTIFICATE-----\n`),
    { minLength: 1, maxLength: 3 },
  ),
  generation: fc.nat(),
  jwks: fc.constantFrom("", '{"keys":[]}'),
});

const mostly = <T>(value: fc.Arbitrary<T>) => fc.option(value, { nil: undefined });
export const rateLimits = record({
  ...policyHead,
  targetServices: list(services),
  dryRun: fc.boolean(),
  responseHeaders: fc.constantFrom(...limitHeaders),
  limits: fc.array(
    record({
      name: names,
      key: fc.constantFrom(...limitKeyKinds),
      header: fc.constantFrom("x-tenant", "x-api-key"),
      ipv4Prefix: fc.integer({ min: 1, max: 32 }),
      ipv6Prefix: fc.integer({ min: 1, max: 128 }),
      requests: fc.integer({ min: 1, max: 10_000_000 }),
      windowMs: fc.integer({ min: 1, max: 86_400_000 }),
      burst: fc.integer({ min: 1, max: 10_000_000 }),
      methods: text,
      paths: list(fc.constantFrom("/a", "/b*", "*c", "/{*}/d")),
      baseline: mostly(
        record({
          intervalMs: fc.integer({ min: 100, max: 3_600_000 }),
          learnIntervals: fc.integer({ min: 1, max: 10_000 }),
          deviations: fc.double({ min: 0.1, max: 100, noNaN: true }),
          minRequests: fc.integer({ min: 1, max: 1_000_000 }),
          limitPercent: fc.integer({ min: 1, max: 100 }),
        }),
      ),
    }),
    { minLength: 1, maxLength: 3 },
  ),
  concurrency: mostly(
    record({
      initial: fc.integer({ min: 20, max: 30 }),
      min: fc.integer({ min: 1, max: 20 }),
      max: fc.integer({ min: 30, max: 100_000 }),
      tolerance: fc.double({ min: 1, max: 10, noNaN: true }),
      smoothing: fc.double({ min: 0.01, max: 1, noNaN: true }),
      intervalMs: fc.integer({ min: 100, max: 60_000 }),
    }),
  ),
}) as fc.Arbitrary<RateLimit>;

const weight = fc.double({ min: 0, max: 1, noNaN: true, noDefaultInfinity: true }).map((n) => n + 0);
const enrichers: fc.Arbitrary<EnricherSettings> = record({
  enable_mesh_enricher: fc.boolean(),
  mesh_header_map: fc.dictionary(fc.constantFrom(...meshKeys), fc.constantFrom("x-a", "x-b"), {
    noNullPrototype: true,
  }),
  mesh_cache_ttl_seconds: fc.integer({ min: 1, max: 86_400 }),
  mesh_risky_namespaces: list(names),
  mesh_score_weights: record({
    cross_namespace: weight,
    risky_namespace: weight,
    unusual_pair: weight,
    missing_headers: weight,
  }),
  mesh_pair_window_seconds: fc.integer({ min: 1, max: 604_800 }),
  mesh_trusted_peers: list(fc.constantFrom("*", "cluster.local/ns/edge/sa/*", "10.0.0.0/8")),
  mesh_unusual_pair_count: fc.nat(1000),
  mesh_pair_rpm_limit: fc.nat(1000),
  mesh_namespace_rpm_quota: fc.nat(1000),
  mesh_limit_action: fc.constantFrom(...meshLimitActions),
  mesh_top_pairs: fc.integer({ min: 1, max: 100 }),
  mesh_log_interval_seconds: fc.integer({ min: 1, max: 86_400 }),
});

export const meshSettings: fc.Arbitrary<MeshSettings> = record({
  trustDomain: domains,
  trustDomainAliases: list(domains),
  clusterDomain: names,
  excludedPorts: list(ports),
  excludedCidrs: list(blocks),
  serverFirstPorts: list(ports),
  svidTtlMs: fc.integer({ min: 1000, max: 2 ** 40 }),
  renewAt: fc.double({ min: 0.1, max: 0.8, noNaN: true }),
  maxStaleMs: fc.nat(),
  unmeshedNamespaces: list(names),
  registryOnly: fc.boolean(),
  nodeAddresses: list(addresses),
  pathNormalization: fc.constantFrom("none", "base", "merge_slashes", "decode_and_merge_slashes"),
  trustedProxies: fc.integer({ min: 0, max: 100 }),
  enricher: enrichers,
});

export const meshResources: fc.Arbitrary<MeshResource> = fc.oneof(
  workloads.map((value) => ({ kind: "Workload", value }) as const),
  meshServices.map((value) => ({ kind: "Service", value }) as const),
  authorizations.map((value) => ({ kind: "Authorization", value }) as const),
  trafficPolicies.map((value) => ({ kind: "TrafficPolicy", value }) as const),
  httpRoutings.map((value) => ({ kind: "HttpRouting", value }) as const),
  rateLimits.map((value) => ({ kind: "RateLimit", value }) as const),
  trustBundles.map((value) => ({ kind: "TrustBundle", value }) as const),
  meshSettings.map((value) => ({ kind: "MeshSettings", value }) as const),
);
