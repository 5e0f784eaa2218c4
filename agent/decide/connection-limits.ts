// How many connections pods of a namespace may have to a service: the pool limits of its ResiliencePolicy, where native carries connections
// as they are. The HTTP lane keeps them per request in its own pools (upstream/pool-limits.ts). Pure.
import { serviceNameOf } from "../api/service.ts";
import type { PlanLimits } from "../flow.ts";
import type { MeshState } from "../state/mesh-state.ts";
import type { Route } from "./route.ts";

/** `namespace`: of the clients, which are counted apart from those of others (DP-26). Undefined: no policy says anything. */
export function connectionLimits(state: MeshState, namespace: string, route: Route): PlanLimits | undefined {
  if (route.kind !== "service") return undefined;
  const service = serviceNameOf(route.service);
  const policy = state.routings.get(service)?.policy;
  if (policy === undefined) return undefined;
  const { limits, timeouts, sources } = policy;
  const { maxConnections, maxPending } = limits;
  // 0 of a timeout is none, and nobody waits for ever.
  const connectTimeoutMs = timeouts.connectMs || undefined;
  if (maxConnections === 0 && connectTimeoutMs === undefined) return undefined;
  return {
    key: `${namespace}>${service}:${route.port.port}`,
    maxConnections,
    maxPending,
    ...(connectTimeoutMs === undefined ? {} : { connectTimeoutMs }),
    policy: sources[0] ?? "",
  };
}
