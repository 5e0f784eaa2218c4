// A plain reading of Gateway API v1 for the differential test: which match of which route a request falls under. Written from the API's
// text, one sentence after the other, with no thought of speed; shares no code with agent/decide.
import type { FieldMatch, RouteMatch } from "../../agent/api/http-match.ts";
import type { HttpRoute } from "../../agent/api/http-routing.ts";

export interface PlainRequest {
  readonly method: string;
  readonly host: string;
  readonly path: string;
  readonly query: readonly (readonly [string, string])[];
  readonly headers: Readonly<Record<string, string>>;
}
export interface Found {
  readonly route: string;
  readonly rule: number;
  readonly match: number;
}

const whole = (source: string, value: string): boolean => new RegExp(`^(?:${source})$`).test(value);

/** "Hostnames that are prefixed with a wildcard label (`*.`) are interpreted as a suffix match": one label or more. */
function hostnameMatches(hostname: string, host: string): boolean {
  return hostname.startsWith("*.")
    ? host.endsWith(hostname.slice(1)) && host.length > hostname.length - 1
    : hostname === host;
}

/** "Matching is case sensitive and done on a path element by element basis. ... A trailing slash is ignored." */
function prefixMatches(prefix: string, path: string): boolean {
  const elements = (text: string): string[] => text.replace(/\/+$/, "").split("/");
  const wanted = elements(prefix);
  // Of the path no slash is ignored: "/a/" has an empty last element.
  const given = path.split("/");
  return wanted.every((element, i) => given[i] === element);
}

/** "If multiple entries specify equivalent names, only the first entry with an equivalent name MUST be considered for a match." */
function considered(fields: readonly FieldMatch[]): FieldMatch[] {
  const seen = new Set<string>();
  return fields.filter(({ name }) => !seen.has(name) && seen.add(name));
}
function fieldMatches(field: FieldMatch, value: string | undefined): boolean {
  if (value === undefined) return false;
  return field.kind === "exact" ? value === field.value : whole(field.value, value);
}

function matches(spec: RouteMatch, kind: HttpRoute["kind"], request: PlainRequest): boolean {
  if (kind === "grpc") {
    if (!request.headers["content-type"]?.startsWith("application/grpc")) return false;
    if (spec.grpc !== undefined && (spec.grpc.service !== "" || spec.grpc.method !== "")) {
      const parts = /^\/([^/]+)\/([^/]*)$/.exec(request.path);
      if (parts === null) return false;
      const fits = (wanted: string, given = ""): boolean =>
        wanted === "" || (spec.grpc?.kind === "regex" ? whole(wanted, given) : wanted === given);
      if (!fits(spec.grpc.service, parts[1]) || !fits(spec.grpc.method, parts[2])) return false;
    }
  } else {
    // "If this field is not specified, a default prefix match on the "/" path is provided."
    const path = spec.path ?? { kind: "prefix", value: "/" };
    if (path.kind === "exact" && request.path !== path.value) return false;
    if (path.kind === "prefix" && !prefixMatches(path.value, request.path)) return false;
    if (path.kind === "regex" && !whole(path.value, request.path)) return false;
  }
  if (spec.method !== "" && spec.method !== request.method) return false;
  if (!considered(spec.headers).every((field) => fieldMatches(field, request.headers[field.name]))) return false;
  return considered(spec.query).every((field) =>
    fieldMatches(field, request.query.find(([name]) => name === field.name)?.[1]),
  );
}

/** The numbers by which one match goes before another: the first that differs decides, the larger wins. */
function precedence(route: HttpRoute, hostname: string, spec: RouteMatch): readonly number[] {
  const path = spec.path ?? { kind: "prefix", value: "/" };
  const isWildcard = hostname.startsWith("*.");
  const host = [
    // "Characters in a matching non-wildcard hostname." "Characters in a matching hostname."
    isWildcard ? 0 : hostname.length,
    hostname.length,
  ];
  const { grpc } = spec;
  const isRegex = grpc?.kind === "regex" && (grpc.service !== "" || grpc.method !== "");
  const call =
    route.kind === "http"
      ? [0, 0, 0]
      : [
          1, // kinds of routes: gRPC before HTTP (GEP-1426)
          // "Characters in a matching service." "Characters in a matching method." Expressions are the implementation's to place:
          // after services, before methods.
          isRegex ? 1 : grpc?.service ? 2 + grpc.service.length : 0,
          isRegex ? 0 : (grpc?.method.length ?? 0),
        ];
  const request =
    route.kind === "grpc"
      ? [0, 0, 0]
      : [
          // "Exact" path match, then expressions (the implementation's to place; the longest first), "Prefix" path match with largest
          // number of characters; a trailing slash counts for nothing.
          path.kind === "exact" ? 2 : path.kind === "regex" ? 1 : 0,
          path.kind === "regex"
            ? path.value.length
            : path.kind === "prefix"
              ? path.value.replace(/\/+$/, "").length
              : 0,
          // "Method match."
          spec.method === "" ? 0 : 1,
        ];
  // "Largest number of header matches." "Largest number of query param matches."
  return [...host, ...call, ...request, considered(spec.headers).length, considered(spec.query).length];
}

/** The match that decides, undefined for none ("a 404 status code MUST be returned"). */
export function evaluate(routes: readonly HttpRoute[], request: PlainRequest): Found | undefined {
  const found: { found: Found; order: readonly number[]; route: HttpRoute }[] = [];
  for (const route of routes) {
    for (const hostname of route.hostnames.length === 0 ? [""] : route.hostnames) {
      if (hostname !== "" && !hostnameMatches(hostname, request.host)) continue;
      for (const [r, rule] of route.rules.entries()) {
        const none: RouteMatch = { path: undefined, headers: [], query: [], method: "", grpc: undefined };
        for (const [m, spec] of (rule.matches.length === 0 ? [none] : rule.matches).entries()) {
          if (!matches(spec, route.kind, request)) continue;
          const name = `${route.namespace}/${route.name}`;
          found.push({ found: { route: name, rule: r, match: m }, order: precedence(route, hostname, spec), route });
        }
      }
    }
  }
  found.sort((a, b) => {
    for (const [i, value] of a.order.entries()) if (value !== b.order[i]) return (b.order[i] ?? 0) - value;
    // "The oldest Route based on creation timestamp." One that has none counts as the youngest.
    const [ageA, ageB] = [a.route.createdMs || Number.MAX_SAFE_INTEGER, b.route.createdMs || Number.MAX_SAFE_INTEGER];
    if (ageA !== ageB) return ageA - ageB;
    // "The Route appearing first in alphabetical order by {namespace}/{name}."
    if (a.found.route !== b.found.route) return a.found.route < b.found.route ? -1 : 1;
    // "the FIRST matching rule (in list order) with a match meeting the above criteria."
    return a.found.rule - b.found.rule || a.found.match - b.found.match;
  });
  return found[0]?.found;
}
