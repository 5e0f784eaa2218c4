// ResiliencePolicy specs for property tests: sensible ones, and ones with something changed that may be wrong.
import fc from "fast-check";

export type Json = unknown;
const dur = (...texts: readonly string[]) => fc.constantFrom("1s", "250ms", "1m30s", ...texts);
const some = <T>(shape: { readonly [K in keyof T]: fc.Arbitrary<T[K]> }, requiredKeys: readonly (keyof T)[] = []) =>
  fc.record(shape as never, { requiredKeys: requiredKeys as never });
const int = (min: number, max: number) =>
  fc.oneof({ weight: 1, arbitrary: fc.constantFrom(min, max) }, { weight: 3, arbitrary: fc.integer({ min, max }) });
const name = fc.stringMatching(/^[a-z][a-z0-9]{0,8}$/);
const token = fc.stringMatching(/^[A-Za-z][A-Za-z0-9-]{0,12}$/);
const value = fc.stringMatching(/^[ -~]{0,20}$/);
const percent = int(1, 100);
const grpcCode = fc.oneof(fc.constantFrom("UNAVAILABLE", "INTERNAL", "UNAUTHENTICATED"), int(1, 16));
const headers = fc.array(
  fc.oneof(
    some({ name: token, value }, ["name", "value"]),
    fc.record({
      type: fc.constant("RegularExpression"),
      name: token,
      value: fc.constantFrom("a.*", "[0-9]+", "(a|b)c?"),
    }),
  ),
  { maxLength: 3 },
);
const expires = fc.constantFrom("2030-01-31T18:00:00Z", "2031-12-01T00:00:00.5+02:00", "1999-06-30T23:59:59-11:30");

/** The parts that S2's operator has, and of ours those that it renders. */
export const basicSpec = (names: readonly string[]) =>
  fc.record(
    {
      enabled: fc.boolean(),
      targetRefs: fc
        .uniqueArray(fc.constantFrom(...names), { minLength: 1, maxLength: 3 })
        .map((list) => list.map((target) => ({ kind: "Service", name: target }))),
      retry: some({
        enabled: fc.boolean(),
        maxAttempts: int(0, 10),
        on: fc.uniqueArray(fc.constantFrom("ConnectFailure", "Refused", "Reset", "Timeout")),
        statusCodes: fc.uniqueArray(int(400, 599), { maxLength: 5 }),
        grpcCodes: fc.uniqueArray(grpcCode, { maxLength: 3 }),
        timeout: dur("1ms"),
        backoff: fc.constantFrom({}, { base: "10ms" }, { base: "1s" }, { base: "1s", max: "2s" }, { max: "1h" }),
      }),
      timeout: some({
        enabled: fc.boolean(),
        request: fc.constantFrom("0s", "2m", "1h"),
        response: dur("0s"),
        connect: dur("1ms"),
        idle: dur("0s", "24h"),
      }),
      circuitBreaker: some({
        enabled: fc.boolean(),
        failures: int(1, 10_000),
        openTime: dur("100ms", "1h").filter((text) => text !== "1h"),
        maxOpenTime: fc.constantFrom("2m", "1h"),
      }),
      render: some({ httpRoutes: fc.boolean(), serviceAnnotations: fc.boolean() }),
    },
    { requiredKeys: ["targetRefs"] },
  );
const wide = (names: readonly string[]) =>
  fc
    .tuple(
      basicSpec(names),
      some({
        outlierEjection: some(
          {
            consecutiveErrors: int(0, 10_000),
            successRateStdev: fc.constantFrom(0, 1.9, 100),
            latencyFactor: fc.constantFrom(3, 0.5),
            minEndpoints: int(1, 1_000_000),
            interval: dur("100ms"),
            baseEjectionTime: dur("24h"),
            maxEjectionTime: fc.constantFrom("24h"),
            maxEjectionPercent: percent,
          },
          ["latencyFactor"],
        ),
        healthCheck: fc.oneof(
          some({
            path: fc.constantFrom("/", "/a/b.c"),
            host: value,
            interval: fc.constant("2s"),
            timeout: fc.constant("2s"),
            port: int(1, 65_535),
          }),
          some({ type: fc.constant("GRPC"), grpcService: value, host: value, healthyThreshold: percent }, ["type"]),
          some({ type: fc.constant("TCP"), unhealthyThreshold: percent }, ["type"]),
        ),
        connectionPool: some({
          maxConnections: int(0, 10_000_000),
          maxPending: int(0, 10_000_000),
          maxRequests: int(0, 10_000_000),
          maxRequestsPerConnection: int(0, 10_000_000),
          maxRetries: int(0, 10_000_000),
        }),
        slowStart: some({ window: dur(), minPercent: percent }, ["window"]),
        loadBalancer: fc.oneof(
          some({
            algorithm: fc.constantFrom("RoundRobin", "EWMA"),
            penalty: fc.constantFrom(0.001, 5, 1e6),
            decay: dur(),
            panicPercent: int(0, 100),
          }),
          some(
            {
              algorithm: fc.constantFrom("RingHash", "Maglev"),
              hashOn: fc.oneof(
                fc.record({ type: fc.constantFrom("Header", "Cookie", "Query"), name: token }),
                fc.constant({ type: "Source" }),
              ),
              virtualNodes: int(1, 10_000),
            },
            ["algorithm"],
          ),
        ),
        locality: some(
          {
            prefer: fc.constantFrom("Node", "Zone", "Region"),
            overprovisionPercent: int(100, 10_000),
            subsetSize: int(0, 9),
          },
          ["prefer"],
        ),
        sessionAffinity: fc.oneof(
          some(
            {
              type: fc.constant("Cookie"),
              name: token,
              cookieLifetime: dur("744h"),
              absoluteTimeout: dur(),
              idleTimeout: dur(),
            },
            ["type"],
          ),
          some({ type: fc.constant("Header"), name: token, absoluteTimeout: dur() }, ["type", "name"]),
          some({ type: fc.constant("Source"), name: fc.constant("") }, ["type"]),
        ),
        faultInjection: some(
          {
            headers,
            delay: some({ duration: dur("1h"), percent }, ["duration"]),
            abort: fc.oneof(fc.record({ status: int(200, 599) }), some({ grpcCode, percent }, ["grpcCode"])),
            expires,
          },
          ["delay", "expires"],
        ),
        tarpit: some({ headers, percent, hold: dur("10m"), status: int(400, 599), expires }, ["hold"]),
        divert: some(
          {
            headers,
            percent,
            backendRef: some({ name, namespace: name, port: int(1, 65_535) }, ["name", "port"]),
            expires,
          },
          ["backendRef"],
        ),
      }),
    )
    .map(([basic, rest]) => ({ ...basic, ...rest }) as Json);

const odd: fc.Arbitrary<Json> = fc.constantFrom<Json>(
  ...[
    0,
    1,
    -1,
    0.5,
    16,
    17,
    99,
    100,
    101,
    399,
    600,
    65_536,
    10_000_001,
    2 ** 31,
    "",
    "0",
    "0s",
    "1ms",
    "5s",
    "25h",
    "745h",
    "99999h",
  ],
  ...[
    "1.5s",
    "-1s",
    "5",
    "1d",
    "s",
    "x",
    "X-Y",
    "a b",
    "a\nb",
    "a\r\nx: y",
    "a\u0000",
    "\u00e9",
    "\u65e5",
    "\ud83d\ude00",
    "..",
    "a..b",
    "/",
    "/a//b",
  ],
  ...[
    "/../b",
    "/a?b",
    "/%2F",
    "UNAVAILABLE",
    "OK",
    "HTTP",
    "TCP",
    "GRPC",
    "Source",
    "Header",
    "Cookie",
    "Exact",
    "RegularExpression",
    "RingHash",
  ],
  ...[
    "(",
    "[a",
    "2030-02-30T00:00:00Z",
    "2030-13-01T00:00:00Z",
    "2030-01-01",
    "1960-01-01T00:00:00Z",
    "2030-01-01T24:00:00Z",
    "2030-01-01T00:00:60Z",
  ],
  ...[
    "x".repeat(254),
    "x".repeat(257),
    "x".repeat(1025),
    "/".padEnd(1025, "a"),
    "x".repeat(4097),
    true,
    false,
    [],
    {},
    [1],
    [""],
    [{}],
    { name: "x" },
  ],
);
type Path = readonly (string | number)[];
const pathsOf = (value: Json, at: Path = []): readonly Path[] =>
  typeof value === "object" && value !== null
    ? [...(at.length > 0 ? [at] : []), ...Object.entries(value).flatMap(([key, part]) => pathsOf(part, [...at, key]))]
    : [at];
function changed(value: Json, path: Path, to: Json | undefined): Json {
  const [head, ...rest] = path;
  if (head === undefined) return to;
  const copy = Array.isArray(value) ? [...value] : { ...(value as Record<string, Json>) };
  const fields = copy as Record<string, Json>;
  const next = changed(fields[head], rest, to);
  if (next === undefined && Array.isArray(copy)) copy.splice(Number(head), 1);
  else if (next === undefined) delete fields[head];
  else fields[head] = next;
  return copy;
}
const mutation = fc.record({
  at: fc.nat(),
  kind: fc.constantFrom("replace", "replace", "replace", "remove", "add", "double"),
  value: odd,
});
/** A spec that may be wrong in up to two places. */
export const anySpec = (names: readonly string[]): fc.Arbitrary<Json> =>
  fc.tuple(wide(names), fc.array(mutation, { maxLength: 2 })).map(([spec, mutations]) =>
    mutations.reduce((now: Json, { at, kind, value: to }) => {
      const paths = pathsOf(now);
      const path = paths[at % paths.length] ?? [];
      if (kind === "remove") return path.length === 0 ? now : changed(now, path, undefined);
      if (kind === "add") return changed(now, [...path.slice(0, -1), "strange"], to);
      if (kind === "double") {
        const list = path.slice(0, -1).reduce<Json>((v, key) => (v as Record<string, Json>)[key], now);
        return Array.isArray(list) ? changed(now, path.slice(0, -1), [...list, ...list]) : now;
      }
      return path.length === 0 ? now : changed(now, path, to);
    }, spec),
  );
