// Generators of HTTP routing records for property tests.
import fc from "fast-check";
import type { Backend, RouteFilter } from "../../agent/api/http-filters.ts";
import type { FieldMatch, RouteMatch } from "../../agent/api/http-match.ts";
import { algorithms, defaultPolicy, type HttpPolicy, type HttpTimeouts } from "../../agent/api/http-policy.ts";
import type { HttpRouting, RouteRule } from "../../agent/api/http-routing.ts";
import { serviceName } from "../../agent/api/names.ts";

const names = fc.stringMatching(/^[a-z]([-a-z0-9]{0,6}[a-z0-9])?$/);
const record = <T>(model: { [K in keyof T]: fc.Arbitrary<T[K]> }): fc.Arbitrary<T> =>
  fc.record(model, { noNullPrototype: true }) as fc.Arbitrary<T>;
const list = <T>(of: fc.Arbitrary<T>) => fc.array(of, { maxLength: 3 });
const maybe = <T>(of: fc.Arbitrary<T>): fc.Arbitrary<T | undefined> => fc.option(of, { nil: undefined });
const ports = fc.integer({ min: 1, max: 65535 });
const percents = fc.integer({ min: 0, max: 100 });
const paths = list(names).map((parts) => `/${parts.join("/")}`);
const values = fc.stringMatching(/^[ -~]{0,8}$/);
const regexes = fc.constantFrom("a+", "[a-z]*x", "(foo|bar).*", "v[0-9]{1,3}", "(?i)abc", "");

const exactOrRegex = fc.oneof(
  values.map((value) => ({ kind: "exact", value }) as const),
  regexes.map((value) => ({ kind: "regex", value }) as const),
);
export const fieldMatches: fc.Arbitrary<FieldMatch> = fc
  .tuple(names, exactOrRegex)
  .map(([name, match]) => ({ name, ...match }));
const httpMatches: fc.Arbitrary<RouteMatch> = record({
  path: maybe(
    fc.oneof(
      paths.map((value) => ({ kind: "exact", value }) as const),
      paths.map((value) => ({ kind: "prefix", value }) as const),
      regexes.map((value) => ({ kind: "regex", value }) as const),
    ),
  ),
  headers: list(fieldMatches),
  query: list(fieldMatches),
  method: fc.constantFrom("", "GET", "POST"),
  grpc: fc.constant(undefined),
});
const grpcMatches: fc.Arbitrary<RouteMatch> = record({
  path: fc.constant(undefined),
  headers: list(fieldMatches),
  query: fc.constant([]),
  method: fc.constant(""),
  grpc: maybe(
    record({
      kind: fc.constant("exact" as const),
      service: fc.constantFrom("", "a.B"),
      method: fc.constantFrom("", "C"),
    }),
  ),
});

const plainBackends: fc.Arbitrary<Backend> = record({
  service: fc.tuple(names, names).map(([ns, name]) => serviceName(ns, name)),
  port: ports,
  weight: fc.integer({ min: 0, max: 1000 }),
  filters: fc.constant([]),
  subset: fc.dictionary(names, names, { maxKeys: 2, noNullPrototype: true }),
  invalid: fc.constant(""),
});
const pairs = list(fc.tuple(names, values)).map((all) => all.flat());
const changes = record({ remove: list(names), set: pairs, add: pairs });
const forbidden = [
  "connection",
  "content-length",
  "host",
  "keep-alive",
  "te",
  "trailer",
  "transfer-encoding",
  "upgrade",
];
const safeChanges = changes.filter(
  ({ remove, set, add }) => ![...remove, ...set, ...add].some((n) => forbidden.includes(n)),
);
const fullPath = paths.map((value) => ({ kind: "full", value }) as const);
const statuses = fc.integer({ min: 400, max: 599 });

export const filters: fc.Arbitrary<RouteFilter> = fc.oneof(
  safeChanges.map((value) => ({ kind: "requestHeaders", value }) as const),
  safeChanges.map((value) => ({ kind: "responseHeaders", value }) as const),
  record({
    scheme: fc.constantFrom("", "http", "https"),
    hostname: fc.oneof(fc.constant(""), names),
    port: fc.oneof(fc.constant(0), ports),
    path: maybe(fullPath),
    status: fc.constantFrom(301, 302, 303, 307, 308),
  }).map((value) => ({ kind: "redirect", value }) as RouteFilter),
  record({ hostname: fc.oneof(fc.constant(""), names), path: maybe(fullPath) }).map(
    (value) => ({ kind: "rewrite", value }) as const,
  ),
  record({ backend: plainBackends, numerator: percents, denominator: fc.constant(100) }).map(
    (value) => ({ kind: "mirror", value }) as const,
  ),
  record({
    allowOrigins: list(fc.constantFrom("*", "https://a.example", "https://*.example", "http://b.example:8080")),
    allowCredentials: fc.boolean(),
    allowMethods: list(fc.constantFrom("*", "GET", "PUT")),
    allowHeaders: list(fc.constantFrom("*", "x-a", "X-B")),
    exposeHeaders: list(fc.constantFrom("*", "x-a", "X-B")),
    maxAgeS: fc.integer({ min: 1, max: 86400 }),
  }).map((value) => ({ kind: "cors", value }) as const),
  record({ status: statuses, body: fc.string(), contentType: fc.constantFrom("text/plain", "application/json") }).map(
    (value) => ({ kind: "direct", value }) as const,
  ),
  record({
    headers: list(fieldMatches),
    delayMs: fc.nat(),
    delayPercent: percents,
    abortStatus: fc.oneof(fc.constant(0), statuses),
    abortGrpc: maybe(fc.integer({ min: 0, max: 16 })),
    abortPercent: percents,
    expiresMs: fc.nat(),
  }).map((value) => ({ kind: "fault", value }) as const),
  record({ backend: plainBackends, percent: percents, headers: list(fieldMatches), expiresMs: fc.nat() }).map(
    (value) => ({ kind: "divert", value }) as const,
  ),
  record({
    holdMs: fc.integer({ min: 0, max: 600_000 }),
    status: statuses,
    percent: percents,
    headers: list(fieldMatches),
    expiresMs: fc.nat(),
  }).map((value) => ({ kind: "tarpit", value }) as const),
);
const backends: fc.Arbitrary<Backend> = fc.oneof(
  fc.tuple(plainBackends, list(filters)).map(([backend, own]) => ({ ...backend, filters: own })),
  plainBackends.map((backend) => ({ ...backend, subset: {}, invalid: "service not found" })),
);
const ms = maybe(fc.nat());
const timeouts: fc.Arbitrary<HttpTimeouts> = record({
  requestMs: ms,
  tryMs: ms,
  responseMs: ms,
  connectMs: ms,
  idleMs: ms,
});
const retries = record({
  attempts: fc.integer({ min: 0, max: 100 }),
  on: list(fc.constantFrom("connect_failure" as const, "refused" as const, "reset" as const, "timeout" as const)),
  codes: list(statuses),
  grpcCodes: list(fc.integer({ min: 1, max: 16 })),
  backoffMs: fc.integer({ min: 1, max: 100 }),
  maxBackoffMs: fc.integer({ min: 100, max: 10_000 }),
  budgetPercent: fc.integer({ min: 1, max: 100 }),
  budgetMinPerS: fc.integer({ min: 1, max: 100 }),
  anyMethod: fc.boolean(),
  maxBodyBytes: fc.integer({ min: 1, max: 2 ** 24 }),
});
const times = { lifetimeS: fc.nat(), absoluteS: fc.nat(), idleS: fc.nat() };
const affinities = fc.oneof(
  record({ kind: fc.constantFrom("cookie" as const, "header" as const), name: names, ...times }),
  record({ kind: fc.constant("source" as const), name: fc.constant(""), ...times }),
);
export const rulesOf = (matches: fc.Arbitrary<RouteMatch>): fc.Arbitrary<RouteRule> =>
  record({
    name: fc.oneof(fc.constant(""), names),
    matches: list(matches),
    filters: list(filters),
    backends: list(backends),
    timeouts,
    retry: maybe(retries),
    affinity: maybe(affinities),
  });
const positive = fc.integer({ min: 1, max: 100 });
export const httpPolicies: fc.Arbitrary<HttpPolicy> = fc.oneof(
  fc.constant(defaultPolicy),
  record({
    sources: list(names),
    balancer: fc
      .tuple(fc.constantFrom(...algorithms), fc.nat(), positive, fc.nat(100))
      .map(([algorithm, slowStartMs, slowStartMinPercent, panicPercent]) => ({
        ...defaultPolicy.balancer,
        algorithm,
        hashOn: "header" as const,
        hashName: "x-user",
        slowStartMs,
        slowStartMinPercent,
        panicPercent,
      })),
    locality: record({
      prefer: fc.constantFrom("" as const, "region" as const, "zone" as const, "node" as const),
      overprovisionPercent: fc.integer({ min: 100, max: 1000 }),
      subsetSize: fc.nat(),
    }),
    affinity: maybe(affinities),
    timeouts,
    retry: maybe(retries),
    breaker: maybe(record({ failures: positive, openMs: positive, maxOpenMs: positive })),
    outlier: maybe(
      record({
        consecutiveErrors: fc.nat(),
        successRateStdev: fc.double({ min: 0.1, max: 100, noNaN: true }),
        minEndpoints: positive,
        minRequests: positive,
        latencyFactor: fc.double({ min: 0.1, max: 100, noNaN: true }),
        intervalMs: positive,
        baseEjectionMs: positive,
        maxEjectionMs: positive,
        maxEjectionPercent: positive,
      }),
    ),
    limits: record({
      maxConnections: fc.nat(),
      maxPending: fc.nat(),
      maxRequests: fc.nat(),
      maxRequestsPerConnection: fc.nat(),
      maxRetries: fc.nat(),
    }),
    health: maybe(
      record({
        kind: fc.constantFrom("http" as const, "grpc" as const, "tcp" as const),
        path: paths,
        host: names,
        grpcService: names,
        port: fc.oneof(fc.constant(0), ports),
        intervalMs: fc.integer({ min: 100, max: 1000 }),
        timeoutMs: positive,
        unhealthy: positive,
        healthy: positive,
      }),
    ),
  }),
);

const route = (kind: "http" | "grpc", matches: fc.Arbitrary<RouteMatch>) =>
  record({
    kind: fc.constant(kind),
    name: names,
    namespace: names,
    createdMs: fc.nat(),
    ports: list(ports),
    consumers: fc.oneof(fc.constant(""), names),
    hostnames: list(fc.constantFrom("a.example", "*.example", "b.c.example")),
    rules: list(rulesOf(matches)),
  });
export const httpRoutings: fc.Arbitrary<HttpRouting> = record({
  name: names,
  namespace: names,
  routes: list(fc.oneof(route("http", httpMatches), route("grpc", grpcMatches))),
  policy: httpPolicies,
});
