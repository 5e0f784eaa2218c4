// Which endpoints of a service's port a client may use, as Kubernetes has it: ready ones, of its own node where the service wants that
// (`internalTrafficPolicy`), those that hints name for its node or zone. Pure.
import { type Service, type ServicePort, serviceNameOf } from "../api/service.ts";
import type { Membership, Workload } from "../api/workload.ts";
import type { Endpoint } from "../flow.ts";
import type { MeshState } from "../state/mesh-state.ts";
import type { Place } from "./balance/locality.ts";

/** Why an endpoint is not used. */
export type LeftOut = "no_such_port" | "no_address" | "not_ready" | "ending" | "other_node" | "other_zone";
export interface ServiceEndpoint {
  readonly workload: Workload;
  /** Where it is reached; absent where it cannot be. */
  readonly to?: Endpoint;
  /** Absent: it is used. */
  readonly leftOut?: LeftOut;
}
/** Whose question it is. */
export interface Asked {
  /** Where the client is. */
  readonly from: Place;
  readonly family: 4 | 6;
  /** By an address from outside the cluster or a port of a node, to which `internalTrafficPolicy` does not speak. */
  readonly isOuter?: boolean;
}

/** Whether a service's address, at which a client asks for it, is one of those. */
export const isOuterAddress = (service: Service, ip: string): boolean =>
  service.nodeLocalAddresses.length > 0 && !service.nodeLocalAddresses.includes(ip);

/**
 * Every member, in the order of the registry. Those that end are used only where nobody else is left, as with kube-proxy; so are those of which
 * only their node's silence says that they are not ready, since a control plane that was away says that of all at once.
 */
export function serviceEndpoints(
  state: MeshState,
  service: Service,
  port: ServicePort,
  asked: Asked,
): readonly ServiceEndpoint[] {
  const { from } = asked;
  const members = membersOf(state, service, port, asked);
  const isNodeLocal = service.nodeLocalAddresses.length > 0 && asked.isOuter !== true;
  const isNear = (member: Member): boolean => !isNodeLocal || isOnNode(member.workload, from);
  const hasReady = members.some((member) => member.stage === "ready" && isNear(member));
  const hint = isNodeLocal ? undefined : hintInForce(members, from);
  return members.map((member) => {
    const { workload, to } = member;
    const leftOut = leftOutOf(member);
    return { workload, ...(to === undefined ? {} : { to }), ...(leftOut === undefined ? {} : { leftOut }) };
  });

  function leftOutOf(member: Member): LeftOut | undefined {
    if (member.missing !== undefined) return member.missing;
    if (member.stage === "not_ready") return "not_ready";
    if (!isNear(member)) return "other_node";
    if (member.stage === "ending") return hasReady ? "ending" : undefined;
    if (member.stage === "silent") return hasReady ? "not_ready" : undefined;
    if (hint === "node" && !member.membership.forNodes?.includes(from.node)) return "other_node";
    return hint === "zone" && !member.membership.forZones?.includes(from.zone) ? "other_zone" : undefined;
  }
}

/** Why there is none, of endpoints that are all left out. */
export const whyNone = (endpoints: readonly ServiceEndpoint[]): "no_endpoints" | "no_local_endpoint" =>
  endpoints.some(({ leftOut }) => leftOut === "other_node") ? "no_local_endpoint" : "no_endpoints";

interface Member {
  readonly workload: Workload;
  readonly membership: Membership;
  readonly to: Endpoint | undefined;
  readonly missing: "no_such_port" | "no_address" | undefined;
  readonly stage: "ready" | "ending" | "silent" | "not_ready";
}

function membersOf(state: MeshState, service: Service, port: ServicePort, { family }: Asked): readonly Member[] {
  const name = serviceNameOf(service);
  const members: Member[] = [];
  for (const workload of state.workloads.membersOf(name)) {
    const membership = workload.services.find((one) => one.service === name);
    if (membership === undefined) continue;
    const target = membership.ports.find((p) => p.servicePort === port.port)?.targetPort;
    const ip = addressOf(workload, family);
    const to = target === undefined || ip === undefined ? undefined : { ip, port: target };
    const missing = target === undefined ? "no_such_port" : ip === undefined ? "no_address" : undefined;
    members.push({ workload, membership, to, missing, stage: missing === undefined ? stageOf() : "not_ready" });

    function stageOf(): Member["stage"] {
      if (service.publishNotReady) return "ready";
      if (!workload.ready) return workload.nodeSilent && !workload.draining ? "silent" : "not_ready";
      return workload.draining ? "ending" : "ready";
    }
  }
  return members;
}

/**
 * The hints that hold: of nodes before those of zones, and only those that every ready endpoint has and that name the client's own at
 * least once. Else all endpoints are used: half a set of hints means that it is just being written.
 */
function hintInForce(members: readonly Member[], from: Place): "node" | "zone" | undefined {
  const ready = members.filter(({ stage }) => stage === "ready");
  const holds = (of: "forNodes" | "forZones", own: string): boolean =>
    own !== "" &&
    ready.every(({ membership }) => membership[of] !== undefined) &&
    ready.some(({ membership }) => membership[of]?.includes(own));
  if (holds("forNodes", from.node)) return "node";
  return holds("forZones", from.zone) ? "zone" : undefined;
}

const isOnNode = (workload: Workload, from: Place): boolean => from.node !== "" && workload.node === from.node;

/** The address of the family that the client used, so that the wire shows one family from end to end; else any. */
function addressOf(workload: Workload, family: 4 | 6): string | undefined {
  return workload.addresses.find((a) => a.includes(":") === (family === 6)) ?? workload.addresses[0];
}
