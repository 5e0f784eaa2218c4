// Which pairs of pods of this node may use the direct lane: the kernel lets them connect past the agent. Pure.
import type { Workload } from "../api/workload.ts";
import type { Knowledge, LocalPod, Verdict } from "../flow.ts";
import type { MeshState } from "../state/mesh-state.ts";
import { decideInbound, subjectOf } from "./inbound.ts";
import { needsL7 } from "./rules.ts";
import { servicePortsOf } from "./service-ports.ts";

export interface DirectPair {
  readonly source: LocalPod;
  readonly destination: LocalPod;
  readonly ip: string;
  readonly port: number;
}
export type DirectDecision =
  | { readonly direct: true; readonly verdict: Verdict }
  | { readonly direct: false; readonly verdict: Verdict; readonly why: DirectObstacle };
export type DirectObstacle = "no_ebpf" | "denied" | "l7_policy" | "l7_routing" | "l7_telemetry" | "same_pod";

export interface DirectSettings {
  readonly knowledge: Knowledge;
  /** Whether this node intercepts with eBPF: only its programs know the lane. */
  readonly kernelLane: boolean;
  /** Ports declared HTTP or gRPC go through the HTTP lane, which reads their requests; false while HTTP is carried as TCP. */
  readonly l7Telemetry: boolean;
}

/**
 * Direct only if the connection is allowed and nothing at L7 applies to the destination's port, whatever the protocol turns out
 * to be (DP-24). Every address of the source is tried, since a rule may name blocks of addresses: one that is denied keeps the
 * pair off the lane.
 */
export function decideDirect(state: MeshState, pair: DirectPair, settings: DirectSettings): DirectDecision {
  const sameFamily = pair.source.workload.addresses.filter((a) => a.includes(":") === pair.ip.includes(":"));
  const verdicts = sameFamily.map((sourceIp) =>
    decideInbound(
      state,
      pair.destination,
      { destination: { ip: pair.ip, port: pair.port }, sourceIp, identity: pair.source.identity, tunnel: "local" },
      settings.knowledge,
    ),
  );
  const verdict = verdicts.find((v) => !v.allow) ?? verdicts[0] ?? unreachable;
  if (!verdict.allow) return { direct: false, verdict, why: "denied" };
  if (pair.source.name === pair.destination.name) return { direct: false, verdict, why: "same_pod" };
  if (!settings.kernelLane) return { direct: false, verdict, why: "no_ebpf" };
  const subject = subjectOf(state, pair.destination);
  if (state.authorizations.inForce(subject).some(needsL7) || state.rateLimits.inForce(subject).length > 0)
    return { direct: false, verdict, why: "l7_policy" };
  if (hasRouting(state, subject, pair.port)) return { direct: false, verdict, why: "l7_routing" };
  if (settings.l7Telemetry && isDeclaredL7(state, subject, pair.port))
    return { direct: false, verdict, why: "l7_telemetry" };
  return { direct: true, verdict };
}

const unreachable: Verdict = { allow: false, reason: "no_endpoints", notes: [] };

/** Declared protocols whose requests the HTTP lane reads. */
export const isHttpProtocol = (protocol: string): boolean => l7Protocols.has(protocol);
const l7Protocols = new Set(["http", "http2", "grpc", "grpc-web", "h2c", "ws"]);

/** Whether a service that this port of the workload serves has routes or a resilience policy. */
function hasRouting(state: MeshState, workload: Workload, port: number): boolean {
  if (state.routings.size === 0) return false;
  return workload.services.some(
    ({ service, ports }) => state.routings.has(service) && ports.some((mapping) => mapping.targetPort === port),
  );
}

/** Whether a service declares this port of the workload as HTTP or gRPC. */
function isDeclaredL7(state: MeshState, workload: Workload, port: number): boolean {
  return servicePortsOf(state, workload, port).some((declared) => isHttpProtocol(declared?.protocol ?? ""));
}
