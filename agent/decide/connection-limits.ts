// How many connections pods of a namespace may have to a service: the pool limits of its ResiliencePolicy, for connections that are carried
// as they are. The HTTP lane keeps them per request in its own pools (upstream/pool-limits.ts). Pure.
import type { ServiceName } from "../api/names.ts";
import { serviceNameOf } from "../api/service.ts";
import type { PlanLimits } from "../flow.ts";
import type { MeshState } from "../state/mesh-state.ts";
import type { Route } from "./route.ts";

/** `namespace`: of the clients, which are counted apart from those of others (DP-26). Undefined: no policy says anything. */
export function connectionLimits(state: MeshState, namespace: string, route: Route): PlanLimits | undefined {
  const target = targetOf(state, route);
  const policy = target && state.routings.get(target.service)?.policy;
  if (target === undefined || policy === undefined) return undefined;
  const { limits, timeouts, sources } = policy;
  const { maxConnections, maxPending } = limits;
  // 0 of a timeout is none, and nobody waits for ever.
  const connectTimeoutMs = timeouts.connectMs || undefined;
  if (maxConnections === 0 && connectTimeoutMs === undefined) return undefined;
  return {
    key: `${namespace}>${target.service}:${target.port}`,
    maxConnections,
    maxPending,
    ...(connectTimeoutMs === undefined ? {} : { connectTimeoutMs }),
    policy: sources[0] ?? "",
  };
}

interface Target {
  readonly service: ServiceName;
  readonly port: number;
}

/**
 * A headless Service has no address of its own: connections to it are those to its pods. Of several before one port the first by name that
 * has a policy.
 */
function targetOf(state: MeshState, route: Route): Target | undefined {
  if (route.kind === "service") return { service: serviceNameOf(route.service), port: route.port.port };
  if (route.kind !== "workload" || state.routings.size === 0) return undefined;
  const { workload, to } = route;
  // Of its own pods a node knows by itself, and only discovery says which services they are behind.
  const { services } = state.workloads.byUid(workload.uid) ?? workload;
  let found: Target | undefined;
  for (const { service, ports } of services) {
    const port = ports.find(({ targetPort }) => targetPort === to.port)?.servicePort;
    if (port === undefined || (found !== undefined && found.service <= service)) continue;
    if (state.services.byName(service)?.headless !== true || state.routings.get(service)?.policy === undefined)
      continue;
    found = { service, port };
  }
  return found;
}
