// HTTPRoute and GRPCRoute -> the routes of each Service that they name as parent, and what is said of each parent. Pure.
import { formatProblems } from "../../agent/api/fields.ts";
import { defaultPolicy, noTimeouts } from "../../agent/api/http-policy.ts";
import {
  type HttpRoute,
  httpRoutingFromWire,
  httpRoutingToWire,
  type RouteRule,
} from "../../agent/api/http-routing.ts";
import { type ServiceName, serviceName } from "../../agent/api/names.ts";
import type { Service } from "../../agent/api/service.ts";
import type { ClusterIndex, Indexed } from "../index/cluster-index.ts";
import type { ParentRef } from "../sources/http-types.ts";
import type { ServiceRecords } from "./backend-refs.ts";
import { accepted, type Condition, type Reason } from "./conditions.ts";
import type { Namespaces } from "./namespaces.ts";
import { type RouteObject, resolveRules } from "./route-rules.ts";
import { type Attachment, conditionOf, type Dropped, type Refusal } from "./route-status.ts";

export interface TranslatedRoutes {
  /** Routes by the service that is their parent. */
  readonly routes: ReadonlyMap<ServiceName, readonly HttpRoute[]>;
  readonly conditions: readonly Condition[];
}

/** Protocols of ports on which requests are understood; "" is found out by looking. */
const httpProtocols: ReadonlySet<string> = new Set(["", "http", "http2", "grpc"]);
export const isHttpPort = (port: Service["ports"][number]): boolean => httpProtocols.has(port.protocol);

export function translateRoutes(
  index: ClusterIndex,
  namespaces: Namespaces,
  services: ServiceRecords,
): TranslatedRoutes {
  const routes = new Map<ServiceName, HttpRoute[]>();
  const conditions: Condition[] = [];
  // GRPCRoutes first: on one port of one service they take precedence over HTTPRoutes (GEP-1426).
  const entries: readonly Indexed<RouteObject>[] = [...index.all("GRPCRoute"), ...index.all("HTTPRoute")];
  for (const entry of entries) {
    const missing = namespaces.missing(entry);
    conditions.push(missing ?? attach(entry, index, services, routes));
  }
  for (const entry of index.all("ReferenceGrant")) conditions.push(namespaces.missing(entry) ?? accepted(entry));
  return { routes, conditions };
}

function attach(
  entry: Indexed<RouteObject>,
  index: ClusterIndex,
  services: ServiceRecords,
  routes: Map<ServiceName, HttpRoute[]>,
): Condition {
  const { spec, metadata, kind } = entry.object;
  const { rules: all, problems } = resolveRules(entry.object, services, index);
  const { rules, dropped } = usable(entry.object, all);
  const attachments: Attachment[] = [];
  const taken = new Map<ServiceName, Set<number>>();
  for (const [i, ref] of spec.parentRefs.entries()) {
    if (ref.kind !== "Service" || ref.group !== "") continue;
    const service = serviceName(ref.namespace || metadata.namespace, ref.name);
    const consumers = ref.namespace !== "" && ref.namespace !== metadata.namespace ? metadata.namespace : "";
    const found = portsOf(ref, service, services, `spec.parentRefs[${i}]`);
    const free = Array.isArray(found)
      ? found.filter((port) => kind === "GRPCRoute" || !isTaken(routes.get(service) ?? [], port, consumers))
      : [];
    const refusal = Array.isArray(found)
      ? free.length === 0
        ? conflicted(service, `spec.parentRefs[${i}]`)
        : unusable(all, rules, dropped)
      : (found as Refusal);
    attachments.push({ ref, service, refusal });
    if (refusal !== undefined) continue;
    const own = taken.get(service) ?? new Set();
    for (const port of free) own.add(port);
    taken.set(service, own);
  }
  for (const [service, ports] of taken) {
    const list = routes.get(service) ?? [];
    list.push(toRoute(entry.object, service, ports, rules, services));
    routes.set(service, list);
  }
  return conditionOf(entry, attachments, problems, dropped, [...taken.keys()]);
}

/** The ports of a parent that the route holds for. */
function portsOf(ref: ParentRef, name: ServiceName, services: ServiceRecords, at: string): readonly number[] | Refusal {
  const service = services.get(name)?.record;
  const no = (reason: Reason, field: string, message: string, fix: string): Refusal => ({
    reason,
    field: `${at}${field}`,
    message,
    fix,
  });
  if (service === undefined)
    return no("NoMatchingParent", ".name", `there is no Service ${name}`, "add it or correct the name");
  if (service.headless || service.externalName !== "") {
    const message = `Service ${name} has no address of its own by which requests to it could be told`;
    return no("UnsupportedValue", ".name", message, "use a Service with a cluster IP");
  }
  const named = service.ports.filter(
    (p) => (ref.port === 0 || p.port === ref.port) && (ref.sectionName === "" || p.name === ref.sectionName),
  );
  if (named.length === 0) {
    const field = ref.port === 0 ? ".sectionName" : ".port";
    const message = `Service ${name} has no such TCP port (it has ${service.ports.map((p) => p.port).join(", ") || "none"})`;
    return no("NoMatchingParent", field, message, "use a port of the Service");
  }
  const ports = named.filter(isHttpPort).map((p) => p.port);
  if (ports.length > 0) return ports;
  const declared = [...new Set(named.map((p) => p.protocol))].join(", ");
  const message = `the ports of Service ${name} are declared ${declared}, which is not HTTP`;
  return no("UnsupportedProtocol", "", message, "declare the port http, http2 or grpc (appProtocol)");
}

const isTaken = (routes: readonly HttpRoute[], port: number, consumers: string): boolean =>
  routes.some(
    (r) => r.kind === "grpc" && r.consumers === consumers && (r.ports.length === 0 || r.ports.includes(port)),
  );
const conflicted = (service: ServiceName, field: string): Refusal => ({
  reason: "Conflicted",
  field,
  message: `a GRPCRoute holds the same ports of Service ${service}`,
  fix: "give the two kinds different ports, or write one kind only",
});

function toRoute(
  route: RouteObject,
  service: ServiceName,
  ports: ReadonlySet<number>,
  rules: readonly RouteRule[],
  services: ServiceRecords,
): HttpRoute {
  const { name, namespace, creationTimestamp } = route.metadata;
  const all = services.get(service)?.record.ports ?? [];
  // Of a policy that holds whole for the service: the route is for other programs, and here comes after everybody's.
  const isRendered = route.metadata.annotations["fairlead.dev/resilience-policy"] !== undefined;
  return {
    kind: route.kind === "GRPCRoute" ? "grpc" : "http",
    name,
    namespace,
    createdMs: isRendered ? youngestMs : Math.max(0, Date.parse(creationTimestamp) || 0),
    ports: all.every((p) => ports.has(p.port)) ? [] : [...ports].sort((a, b) => a - b),
    consumers: service.startsWith(`${namespace}/`) ? "" : namespace,
    // Of a Service's routes they mean nothing (GEP-1426).
    hostnames: [],
    rules: isRendered ? rules.map((rule) => ({ ...rule, timeouts: noTimeouts, retry: undefined })) : rules,
  };
}
const youngestMs = Date.UTC(9999, 0);

/**
 * What agents would refuse is left out here, so that one bad rule keeps neither the route's other rules nor a service's other routes from
 * them.
 */
function usable(
  route: RouteObject,
  rules: readonly RouteRule[],
): { readonly rules: readonly RouteRule[]; readonly dropped: readonly Dropped[] } {
  if (whyRefused(route, rules) === undefined) return { rules, dropped: [] };
  const dropped: Dropped[] = [];
  const kept = rules.filter((rule, at) => {
    const why = whyRefused(route, [rule]);
    if (why !== undefined) {
      const here = (text: string): string => text.replaceAll("spec.rules[0]", `spec.rules[${at}]`);
      dropped.push({ rule: at, field: here(why.field), message: here(why.message) });
    }
    return why === undefined;
  });
  // Together they may be too many where each alone is fine.
  const whole = dropped.length === 0 ? whyRefused(route, rules) : undefined;
  return whole === undefined ? { rules: kept, dropped } : { rules: [], dropped: [{ rule: 0, ...whole }] };
}
function unusable(
  all: readonly RouteRule[],
  kept: readonly RouteRule[],
  [first]: readonly Dropped[],
): Refusal | undefined {
  if (first === undefined || kept.length > 0 || all.length === 0) return undefined;
  return { reason: "UnsupportedValue", field: first.field, message: first.message, fix: "correct the value" };
}
function whyRefused(
  route: RouteObject,
  rules: readonly RouteRule[],
): { readonly field: string; readonly message: string } | undefined {
  const { name, namespace } = route.metadata;
  const kind = route.kind === "GRPCRoute" ? ("grpc" as const) : ("http" as const);
  const one: HttpRoute = { kind, name, namespace, createdMs: 0, ports: [], consumers: "", hostnames: [], rules };
  const decoded = httpRoutingFromWire(
    httpRoutingToWire({ name: "x", namespace: "x", routes: [one], policy: defaultPolicy }),
  );
  if (decoded.ok) return undefined;
  const inSpec = (path: string): string => path.replace("routes[0]", "spec");
  return {
    field: inSpec(decoded.error[0]?.path ?? ""),
    message: formatProblems(decoded.error.slice(0, 3).map((p) => ({ ...p, path: inSpec(p.path) }))),
  };
}
