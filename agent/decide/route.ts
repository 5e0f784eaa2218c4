// Where a connection of a pod leads: a service, a workload by its own address, past the mesh, or nowhere. Pure.
import type { Service, ServicePort } from "../api/service.ts";
import type { Workload } from "../api/workload.ts";
import { cidrContains, parseCidr, parseIp } from "../base/ip.ts";
import type { Endpoint, LocalPods } from "../flow.ts";
import type { MeshState } from "../state/mesh-state.ts";

export type Route =
  | {
      readonly kind: "service";
      readonly service: Service;
      readonly port: ServicePort;
      readonly via: "address" | "node_port";
    }
  /** `to` is the workload's own address and port: what was asked for, or what is behind a port of its node. */
  | { readonly kind: "workload"; readonly workload: Workload; readonly to: Endpoint }
  | { readonly kind: "passthrough"; readonly why: "excluded_by_mesh" | "unknown_host" | "host_network" }
  | { readonly kind: "refuse"; readonly why: "unknown_destination" };

/**
 * `destination` is what the app asked for. The order: what the mesh leaves out, addresses of services, node ports and host ports on
 * known nodes (DP-6), addresses of workloads (those of this node known by the node itself, DP-22), and last what the registry does not know (DIS-7), which `registryOnly` refuses.
 */
export function routeOf(state: MeshState, locals: LocalPods, destination: Endpoint): Route {
  if (isExcluded(state, destination)) return { kind: "passthrough", why: "excluded_by_mesh" };
  const at = state.services.byAddress(destination.ip, destination.port);
  if (at !== undefined) return { kind: "service", service: at.service, port: at.port, via: "address" };
  // A known service without that port: nobody else can have the address, so nothing is there to pass through to. But load balancers may
  // be at an address of a node (k3s), whose other ports are the node's own.
  if (state.services.hasAddress(destination.ip) && !state.isNodeAddress(destination.ip))
    return { kind: "refuse", why: "unknown_destination" };
  const workload = locals.byAddress(destination.ip)?.workload ?? state.workloads.byAddress(destination.ip);
  if (workload !== undefined && !workload.hostNetwork) return { kind: "workload", workload, to: destination };
  if (state.isNodeAddress(destination.ip)) {
    const behind = state.services.byNodePort(destination.port);
    if (behind !== undefined) return { kind: "service", service: behind.service, port: behind.port, via: "node_port" };
    return hostPortRoute(state, destination) ?? { kind: "passthrough", why: "host_network" };
  }
  if (state.settings.registryOnly) return { kind: "refuse", why: "unknown_destination" };
  return { kind: "passthrough", why: "unknown_host" };
}

/** The pod behind `hostPort`, at its address of the family that the client used; else any. */
function hostPortRoute(state: MeshState, destination: Endpoint): Route | undefined {
  const found = state.workloads.byHostPort(destination.ip, destination.port);
  if (found === undefined) return undefined;
  const { workload, targetPort } = found;
  const isV6 = destination.ip.includes(":");
  const ip = workload.addresses.find((address) => address.includes(":") === isV6) ?? workload.addresses[0];
  return ip === undefined ? undefined : { kind: "workload", workload, to: { ip, port: targetPort } };
}

function isExcluded(state: MeshState, destination: Endpoint): boolean {
  const { excludedPorts, excludedCidrs } = state.settings;
  if (excludedPorts.includes(destination.port)) return true;
  if (excludedCidrs.length === 0) return false;
  const bytes = parseIp(destination.ip);
  if (bytes === undefined) return false;
  return excludedCidrs.some((text) => {
    const cidr = parseCidr(text);
    return cidr !== undefined && cidrContains(cidr, bytes);
  });
}
