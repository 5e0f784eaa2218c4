// Shapes of HTTPRoute, GRPCRoute and ReferenceGrant (gateway.networking.k8s.io).
import type { GrpcMatch, PathMatch, RouteMatch } from "../../agent/api/http-match.ts";
import { noRetry, noTimeouts, type RetryPolicy, type SessionAffinity } from "../../agent/api/http-policy.ts";
import { grpcFilters, httpFilters } from "./filter-kinds.ts";
import {
  checked,
  checkPath,
  checkPattern,
  duration,
  groupName,
  headerName,
  kindName,
  mapped,
  matchKind,
  named,
  namedMatches,
  token,
  upTo,
} from "./http-schema.ts";
import type { BackendRef, FilterSpec, ParentRef, ReferenceGrantSpec, RouteRuleSpec, RouteSpec } from "./http-types.ts";
import {
  type Field,
  integer,
  object,
  objectName,
  oneOf,
  optional,
  type Path,
  port,
  type Reader,
  type Report,
  required,
  showValue,
  text,
} from "./schema.ts";

const gatewayGroup = "gateway.networking.k8s.io";
const parentRef = object<ParentRef>({
  group: optional(groupName, gatewayGroup),
  kind: optional(kindName, "Gateway"),
  namespace: optional(objectName, ""),
  name: required(objectName, "x"),
  sectionName: optional(objectName, ""),
  port: optional(port, 0),
});
/** Gateway API's defaults make a parent a Gateway; a Service is of the core group. */
const parentRefs = checked(upTo(32, parentRef), (refs, path, report) => {
  for (const [i, ref] of refs.entries())
    if (ref.kind === "Service" && ref.group !== "")
      report.problem([...path, i, "group"], `is "${ref.group}", where no Service is`, 'add group: ""');
});

const hostname: Reader<string> = (value, path, report) => {
  const given = text(value, path, report);
  objectName(given.replace(/^\*\./, ""), path, report);
  return given;
};

const backendRef = (filters: Reader<readonly FilterSpec[]>): Reader<BackendRef> =>
  checked(
    object<BackendRef>({
      group: optional(groupName, ""),
      kind: optional(kindName, "Service"),
      namespace: optional(objectName, ""),
      name: required(objectName, "x"),
      port: optional(port, 0),
      weight: optional(integer(0, 1_000_000), 1),
      filters: optional(filters, []),
    }),
    (ref, path, report) => {
      if (ref.kind === "Service" && ref.group === "" && ref.port === 0)
        report.problem([...path, "port"], "is missing", "add the port of the Service");
    },
  );

const pathKinds = named({ Exact: "exact", PathPrefix: "prefix", RegularExpression: "regex" } as const);
const pathMatch: Reader<PathMatch> = mapped(
  object({
    type: optional<PathMatch["kind"]>(pathKinds, "prefix"),
    value: optional(text, "/"),
  }),
  ({ type: kind, value }, path, report) => {
    if (kind === "regex") checkPattern(kind, value, [...path, "value"], report);
    else checkPath(value, [...path, "value"], report);
    return { kind, value };
  },
);
const methods = oneOf(["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"]);
const queryName: Reader<string> = checked(text, (value, path, report) => {
  if (value === "") report.problem(path, "is empty", "name the query parameter");
});
const httpMatch: Reader<RouteMatch> = mapped(
  object({
    path: optional<PathMatch | undefined>(pathMatch, undefined),
    headers: optional(namedMatches(headerName), []),
    queryParams: optional(namedMatches(queryName), []),
    method: optional<string>(methods, ""),
  }),
  ({ queryParams, ...rest }) => ({ ...rest, query: queryParams, grpc: undefined }),
);
const grpcName: Reader<string> = checked(text, (value, path, report) => {
  if (value === "") report.problem(path, "is empty", "leave the field out to match every one");
});
const grpcMethod: Reader<GrpcMatch> = mapped(
  object({
    type: optional(matchKind, "exact"),
    service: optional(grpcName, ""),
    method: optional(grpcName, ""),
  }),
  ({ type, service, method }, path, report) => {
    if (service === "" && method === "") report.problem(path, "names neither service nor method", "add one of them");
    for (const [field, value] of Object.entries({ service, method })) {
      if (type === "exact" && !/^[A-Za-z0-9_.]*$/.test(value))
        report.problem([...path, field], `is ${showValue(value)}, not a gRPC name`, "use letters, digits, dots and _");
      checkPattern(type, value, [...path, field], report);
    }
    return { kind: type, service, method };
  },
);
const grpcMatch: Reader<RouteMatch> = mapped(
  object({
    method: optional<GrpcMatch | undefined>(grpcMethod, undefined),
    headers: optional(namedMatches(headerName), []),
  }),
  ({ method, headers }) => ({ path: undefined, headers, query: [], method: "", grpc: method }),
);

const timeouts = mapped(
  object({
    request: optional<number | undefined>(duration(0), undefined),
    backendRequest: optional<number | undefined>(duration(0), undefined),
  }),
  ({ request, backendRequest }, path, report) => {
    if (request !== undefined && request > 0 && backendRequest !== undefined && backendRequest > request)
      report.problem([...path, "backendRequest"], "is longer than request", "shorten it");
    return { ...noTimeouts, requestMs: request, tryMs: backendRequest };
  },
);
/** Gateway API's retry (GEP-1731): connection failures are always tried again, answers by their codes. */
const retry: Reader<RetryPolicy> = mapped(
  object({
    codes: optional(upTo(64, integer(400, 599)), []),
    attempts: optional(integer(0, 100), 1),
    backoff: optional(duration(1, 60_000), noRetry.backoffMs),
  }),
  ({ codes, attempts, backoff }) => ({
    ...noRetry,
    attempts,
    on: ["connect_failure", "refused"],
    codes,
    backoffMs: backoff,
    maxBackoffMs: Math.max(noRetry.maxBackoffMs, backoff),
  }),
);
const secondsOf = mapped(duration(0, 31 * 86_400_000), (ms) => Math.ceil(ms / 1000));
const persistence: Reader<SessionAffinity> = mapped(
  object({
    sessionName: optional(token, "fairlead-session"),
    absoluteTimeout: optional(secondsOf, 0),
    idleTimeout: optional(secondsOf, 0),
    type: optional(oneOf(["Cookie", "Header"]), "Cookie"),
    cookieConfig: optional(object({ lifetimeType: optional(oneOf(["Session", "Permanent"]), "Session") }), {
      lifetimeType: "Session" as const,
    }),
  }),
  ({ sessionName, absoluteTimeout, idleTimeout, type, cookieConfig }, path, report) => {
    const isPermanent = cookieConfig.lifetimeType === "Permanent";
    if (isPermanent && absoluteTimeout === 0)
      report.problem([...path, "absoluteTimeout"], "is missing", "a permanent cookie needs an absoluteTimeout");
    return {
      kind: type === "Cookie" ? "cookie" : "header",
      name: type === "Cookie" ? sessionName : sessionName.toLowerCase(),
      lifetimeS: isPermanent ? absoluteTimeout : 0,
      absoluteS: absoluteTimeout,
      idleS: idleTimeout,
    };
  },
);

function rule(
  match: Reader<RouteMatch>,
  filters: Reader<readonly FilterSpec[]>,
  isHttp: boolean,
): Reader<RouteRuleSpec> {
  const common = {
    name: optional(objectName, ""),
    matches: optional(upTo(64, match), []),
    filters: optional(filters, []),
    backendRefs: optional(upTo(16, backendRef(filters)), []),
    sessionPersistence: optional<SessionAffinity | undefined>(persistence, undefined),
    timeouts: optional(timeouts, noTimeouts),
    retry: optional<RetryPolicy | undefined>(retry, undefined),
  };
  const { timeouts: _, retry: __, ...grpc } = common;
  const read = (isHttp ? object(common) : object(grpc)) as Reader<
    Omit<RouteRuleSpec, "affinity"> & { readonly sessionPersistence: SessionAffinity | undefined }
  >;
  return mapped(read, ({ sessionPersistence, ...rest }, path, report) => {
    const made: RouteRuleSpec = {
      ...rest,
      timeouts: rest.timeouts ?? noTimeouts,
      retry: rest.retry,
      affinity: sessionPersistence,
    };
    checkFilters(made, path, report);
    return made;
  });
}

/** What Gateway API's own validation refuses about filters of a rule. */
function checkFilters(made: RouteRuleSpec, path: Path, report: Report): void {
  const onlyPrefixes = made.matches.every((m) => m.grpc === undefined && (m.path?.kind ?? "prefix") === "prefix");
  const places = [
    { at: [...path, "filters"], filters: made.filters },
    ...made.backendRefs.map((ref, i) => ({ at: [...path, "backendRefs", i, "filters"], filters: ref.filters })),
  ];
  for (const { at, filters } of places) {
    const has = (kind: string): boolean => filters.some((f) => f.kind === "plain" && f.filter.kind === kind);
    if (has("redirect") && has("rewrite"))
      report.problem(at, "has both RequestRedirect and URLRewrite", "keep one of the two");
    for (const [i, spec] of filters.entries()) {
      if (spec.kind !== "plain" || (spec.filter.kind !== "rewrite" && spec.filter.kind !== "redirect")) continue;
      if (spec.filter.value.path?.kind !== "prefix" || onlyPrefixes) continue;
      const field = spec.filter.kind === "rewrite" ? "urlRewrite" : "requestRedirect";
      report.problem(
        [...at, i, field, "path"],
        "replaces a prefix where not every match is one",
        "match by PathPrefix",
      );
    }
  }
  if (made.backendRefs.length > 0 && made.filters.some((f) => f.kind === "plain" && f.filter.kind === "redirect"))
    report.problem([...path, "backendRefs"], "stand beside a RequestRedirect, which answers itself", "remove them");
}

function spec(ruleReader: Reader<RouteRuleSpec>): Field<RouteSpec> {
  return required(
    object<RouteSpec>(
      {
        parentRefs: optional(parentRefs, []),
        hostnames: optional(upTo(16, hostname), []),
        rules: optional(upTo(16, ruleReader), [emptyRule]),
      },
      ["useDefaultGateways"],
    ),
    { parentRefs: [], hostnames: [], rules: [] },
  );
}
/** A route without rules matches every request and has nowhere to send it (Gateway API's default). */
const emptyRule: RouteRuleSpec = {
  name: "",
  matches: [],
  filters: [],
  backendRefs: [],
  timeouts: noTimeouts,
  retry: undefined,
  affinity: undefined,
};

export const httpRoute: { readonly spec: Field<RouteSpec> } = { spec: spec(rule(httpMatch, httpFilters, true)) };
export const grpcRoute: { readonly spec: Field<RouteSpec> } = { spec: spec(rule(grpcMatch, grpcFilters, false)) };

export const referenceGrant: { readonly spec: Field<ReferenceGrantSpec> } = {
  spec: required(
    object<ReferenceGrantSpec>({
      from: required(
        upTo(
          16,
          object({
            group: required(groupName, ""),
            kind: required(kindName, "X"),
            namespace: required(objectName, "x"),
          }),
        ),
        [],
      ),
      to: required(
        upTo(
          16,
          object({ group: required(groupName, ""), kind: required(kindName, "X"), name: optional(objectName, "") }),
        ),
        [],
      ),
    }),
    { from: [], to: [] },
  ),
};
