// The ways to go on to a service or workload, each with how it is spoken to: on this node, through a tunnel, or plainly. Pure.
import type { SpiffeId } from "../api/names.ts";
import type { Service, ServicePort } from "../api/service.ts";
import { identityOf, type Workload } from "../api/workload.ts";
import type { Endpoint, EndpointMode, LocalPod, LocalPods, PlanEndpoint, Verdict } from "../flow.ts";
import type { MeshState } from "../state/mesh-state.ts";
import { mtlsFor } from "./mtls.ts";
import { type Asked, serviceEndpoints, whyNone } from "./service-endpoints.ts";

export interface Upstream {
  readonly ip: string;
  readonly port: number;
  readonly mode: EndpointMode;
  readonly workload: Workload;
  /** Whom the TLS peer may be; empty unless a tunnel is used. */
  readonly identities: readonly SpiffeId[];
  readonly tunnelAddress?: Endpoint;
  readonly weight: number;
  /** The pod, when it is enrolled on this node. */
  readonly local?: LocalPod;
}

/** "<address>:<port>". */
export const idOf = ({ ip, port }: Pick<Upstream, "ip" | "port">): string =>
  ip.includes(":") ? `[${ip}]:${port}` : `${ip}:${port}`;

export interface ServiceUpstreams {
  readonly upstreams: readonly Upstream[];
  /** Why there is none. */
  readonly missing: "no_endpoints" | "no_local_endpoint";
}
/** The endpoints of a service's port that this client may use (service-endpoints.ts). */
export function serviceUpstreams(
  state: MeshState,
  locals: LocalPods,
  service: Service,
  port: ServicePort,
  asked: Asked,
): ServiceUpstreams {
  const endpoints = serviceEndpoints(state, service, port, asked);
  const upstreams = endpoints.flatMap(({ workload, to, leftOut }) =>
    to === undefined || leftOut !== undefined ? [] : [upstreamTo(state, locals, workload, to)],
  );
  return { upstreams, missing: whyNone(endpoints) };
}

export interface Judged {
  readonly upstreams: readonly Upstream[];
  /** Verdicts of the upstreams that are on this node, by index. */
  readonly verdicts: readonly (Verdict | undefined)[];
  /** Where none is left: the verdict of the first. */
  readonly refused: Verdict | undefined;
}
/** Leaves out those on this node that let nobody in; what others say is their own agents' matter. */
export function openUpstreams(
  candidates: readonly Upstream[],
  verdictOf: (upstream: Upstream, pod: LocalPod) => Verdict,
): Judged {
  const judged = candidates.map((upstream) => ({
    upstream,
    verdict: upstream.local && verdictOf(upstream, upstream.local),
  }));
  const open = judged.filter(({ verdict }) => verdict?.allow !== false);
  return {
    upstreams: open.map((o) => o.upstream),
    verdicts: open.map((o) => o.verdict),
    refused: open.length === 0 ? judged[0]?.verdict : undefined,
  };
}

/** An upstream as native is told of it. */
export function planEndpoint({ ip, port, mode, identities, tunnelAddress, weight, local }: Upstream): PlanEndpoint {
  return {
    ip,
    port,
    mode,
    weight,
    ...(identities.length === 0 ? {} : { identities }),
    ...(tunnelAddress === undefined ? {} : { tunnelAddress }),
    ...(local === undefined ? {} : { pod: local.name }),
  };
}

/** How a workload is reached at one of its own addresses and ports. */
export function upstreamTo(state: MeshState, locals: LocalPods, workload: Workload, to: Endpoint): Upstream {
  const local = workload.hostNetwork ? undefined : locals.byAddress(to.ip);
  const base = { ...to, workload, identities: [], weight: workload.weight };
  if (local !== undefined) return { ...base, mode: "local", local };
  const kind = tunnelFor(state, workload, to.port);
  if (kind === "plain") return { ...base, mode: "plain" };
  const identities = [identityOf(workload)];
  if (kind === "fairlead/1") return { ...base, mode: kind, identities };
  return { ...base, mode: kind, identities, tunnelAddress: { ip: to.ip, port: workload.hbonePort } };
}

/**
 * A destination that announces a tunnel is spoken to through it and in no other way: a tunnel that fails is a failed connection,
 * never plaintext (DP-9). Plain is what the destination itself asks for: no tunnel announced, mTLS DISABLE, or a port left out.
 */
function tunnelFor(state: MeshState, workload: Workload, port: number): "fairlead/1" | "hbone" | "plain" {
  if (workload.tunnel === "none" || workload.hostNetwork || workload.untunnelledPorts.includes(port)) return "plain";
  return mtlsFor(state, workload, port).mode === "disable" ? "plain" : workload.tunnel;
}
