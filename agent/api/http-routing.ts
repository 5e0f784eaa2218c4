// Routing of HTTP and gRPC for the requests addressed to one service, in internal form: what HTTPRoute, GRPCRoute and ResiliencePolicy
// become. Wire form in mesh.proto.
import { checkFields, type Decoded, type Fields } from "./fields.ts";
import {
  type Backend,
  backendFromWire,
  backendToWire,
  filtersFromWire,
  filterToWire,
  type RouteFilter,
} from "./http-filters.ts";
import { matchFromWire, matchToWire, type RouteMatch } from "./http-match.ts";
import {
  affinityFromWire,
  type HttpPolicy,
  type HttpTimeouts,
  policyFromWire,
  policyToWire,
  type RetryPolicy,
  retryFromWire,
  retryToWire,
  type SessionAffinity,
  timeoutsFromWire,
  timeoutsToWire,
} from "./http-policy.ts";
import type * as wire from "./mesh.gen.ts";
import { type ServiceName, serviceName } from "./names.ts";

export interface RouteRule {
  readonly name: string;
  /** Any of them; none: every request. */
  readonly matches: readonly RouteMatch[];
  readonly filters: readonly RouteFilter[];
  /** Chosen by weight. None, or all of weight 0: 500, unless a filter answers. */
  readonly backends: readonly Backend[];
  readonly timeouts: HttpTimeouts;
  readonly retry: RetryPolicy | undefined;
  readonly affinity: SessionAffinity | undefined;
}
export interface HttpRoute {
  readonly kind: "http" | "grpc";
  readonly name: string;
  readonly namespace: string;
  /** Unix ms; 0 where the source has no times. */
  readonly createdMs: number;
  /** Of the service; none: all. */
  readonly ports: readonly number[];
  /**
   * Only for clients in this namespace, "" for all. A client for whom there are routes of its own namespace (on the port) is routed by
   * them alone, as Gateway API says of consumer routes.
   */
  readonly consumers: string;
  /** "a.example", "*.example", in lower case; none: every host. */
  readonly hostnames: readonly string[];
  readonly rules: readonly RouteRule[];
}
export interface HttpRouting {
  /** Of the service. */
  readonly name: string;
  readonly namespace: string;
  /** None: every request goes to the service's own endpoints. */
  readonly routes: readonly HttpRoute[];
  /**
   * `timeouts` and `retry` hold for requests addressed to this service, where the rule says nothing; the rest for its endpoints,
   * whichever route led there.
   */
  readonly policy: HttpPolicy;
}

export const routingServiceOf = (routing: Pick<HttpRouting, "namespace" | "name">): ServiceName =>
  serviceName(routing.namespace, routing.name);

function ruleFromWire(fields: Fields, at: string, m: wire.RouteRule): RouteRule {
  const rule: RouteRule = {
    name: fields.text(`${at}.name`, m.name),
    matches: m.matches.map((match, i) => matchFromWire(fields, `${at}.matches[${i}]`, match)),
    filters: filtersFromWire(fields, `${at}.filters`, m.filters),
    backends: m.backends.map((backend, i) => backendFromWire(fields, `${at}.backends[${i}]`, backend)),
    timeouts: timeoutsFromWire(m.timeouts),
    retry: m.retry && retryFromWire(fields, `${at}.retry`, m.retry),
    affinity: m.affinity && affinityFromWire(fields, `${at}.affinity`, m.affinity),
  };
  checkPrefixEdits(fields, at, rule);
  return rule;
}

/** A prefix can be replaced only where one was matched (Gateway API HTTPPathModifier); no match at all is the prefix "/". */
function checkPrefixEdits(fields: Fields, at: string, rule: RouteRule): void {
  if (rule.matches.every((match) => match.grpc === undefined && (match.path?.kind ?? "prefix") === "prefix")) return;
  const places = [
    { where: at, filters: rule.filters },
    ...rule.backends.map((backend, i) => ({ where: `${at}.backends[${i}]`, filters: backend.filters })),
  ];
  for (const { where, filters } of places) {
    for (const [i, filter] of filters.entries()) {
      if ((filter.kind === "rewrite" || filter.kind === "redirect") && filter.value.path?.kind === "prefix") {
        fields.problem(`${where}.filters[${i}].${filter.kind}.path`, "replaces a prefix where not every match is one");
      }
    }
  }
}

function hostPattern(fields: Fields, at: string, value: string): string {
  const bare = value.startsWith("*.") ? value.slice(2) : value;
  fields.name(at, bare);
  return value;
}

function routeFromWire(fields: Fields, at: string, m: wire.HttpRoute): HttpRoute {
  return {
    kind: fields.word(`${at}.kind`, m.kind, ["http", "grpc"] as const),
    name: fields.name(`${at}.name`, m.name),
    namespace: fields.name(`${at}.namespace`, m.namespace),
    createdMs: m.createdMs,
    ports: m.ports.map((port, i) => fields.port(`${at}.ports[${i}]`, port)),
    consumers: fields.optionalName(`${at}.consumers`, m.consumers),
    hostnames: m.hostnames.map((host, i) => hostPattern(fields, `${at}.hostnames[${i}]`, host)),
    rules: m.rules.map((rule, i) => ruleFromWire(fields, `${at}.rules[${i}]`, rule)),
  };
}

export function httpRoutingFromWire(message: wire.HttpRouting): Decoded<HttpRouting> {
  const fields = checkFields();
  return fields.finish<HttpRouting>({
    name: fields.name("name", message.name),
    namespace: fields.name("namespace", message.namespace),
    routes: message.routes.map((route, i) => routeFromWire(fields, `routes[${i}]`, route)),
    policy: policyFromWire(fields, message.policy),
  });
}

export function httpRoutingToWire(routing: HttpRouting): wire.HttpRouting {
  return {
    name: routing.name,
    namespace: routing.namespace,
    routes: routing.routes.map((route) => ({
      ...route,
      ports: [...route.ports],
      hostnames: [...route.hostnames],
      rules: route.rules.map((rule) => ({
        name: rule.name,
        matches: rule.matches.map(matchToWire),
        filters: rule.filters.map(filterToWire),
        backends: rule.backends.map(backendToWire),
        timeouts: timeoutsToWire(rule.timeouts),
        retry: rule.retry && retryToWire(rule.retry),
        affinity: rule.affinity && { ...rule.affinity },
      })),
    })),
    policy: policyToWire(routing.policy),
  };
}
