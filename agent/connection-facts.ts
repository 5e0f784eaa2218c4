// What a connection's record will say of it, taken from the decision: source, destination, service, verdict. Pure.
import type { Service } from "./api/service.ts";
import { identityOf, type Workload } from "./api/workload.ts";
import { type Arrival, subjectOf } from "./decide/inbound.ts";
import type { OutboundDecision } from "./decide/outbound.ts";
import type { Route } from "./decide/route.ts";
import { serviceBefore } from "./decide/service-ports.ts";
import type { Endpoint, LocalPod, LocalPods, PlanFacts, ServiceFacts, Verdict, VerdictFacts } from "./flow.ts";
import type { MeshState } from "./state/mesh-state.ts";

export function planFacts(source: LocalPod, destination: Endpoint, decision: OutboundDecision): PlanFacts {
  const { route } = decision;
  const service = route.kind === "service" ? { service: describe(route.service) } : {};
  const base = {
    kind: "plan" as const,
    source: source.workload,
    sourceIdentity: source.identity,
    destination,
    ...service,
  };
  if (decision.kind === "refuse") {
    const policy = decision.policy === undefined ? {} : { policy: decision.policy };
    const refused = decision.verdict ?? { allow: false, reason: decision.reason, ...policy, notes: [] };
    return { ...base, protocol: "", targets: [], refused };
  }
  const targets = decision.upstreams.map(({ mode, workload }) => ({ mode, workload }));
  const passthrough = route.kind === "passthrough" ? { passthrough: route.why } : {};
  return { ...base, protocol: decision.protocol, targets, ...passthrough };
}

/** Both ends on this node, through the agent or past it (`direct`). */
export function localFacts(
  state: MeshState,
  source: LocalPod,
  destination: LocalPod,
  port: number,
  verdict: Verdict,
  route: Route | undefined,
): VerdictFacts {
  const service = route?.kind === "service" ? describe(route.service) : serviceOf(state, destination, port);
  return {
    kind: "verdict",
    source: source.workload,
    sourceIdentity: source.identity,
    destination: destination.workload,
    destinationIdentity: destination.identity,
    port,
    tunnel: "local",
    ...(service === undefined ? {} : { service }),
    verdict,
    direct: route === undefined,
  };
}

/** What arrived. The source's workload is a guess by address, and only taken if it has the identity that was proven (DP-12). */
export function inboundFacts(
  state: MeshState,
  pods: LocalPods,
  pod: LocalPod,
  arrival: Arrival,
  verdict: Verdict,
): VerdictFacts {
  const claimed = pods.byAddress(arrival.sourceIp)?.workload ?? state.workloads.byAddress(arrival.sourceIp);
  const source = believable(claimed, arrival) ? claimed : undefined;
  const service = serviceOf(state, pod, arrival.destination.port);
  return {
    kind: "verdict",
    ...(source === undefined ? {} : { source }),
    sourceIdentity: arrival.identity,
    destination: pod.workload,
    destinationIdentity: pod.identity,
    port: arrival.destination.port,
    tunnel: arrival.tunnel,
    ...(service === undefined ? {} : { service }),
    verdict,
    direct: false,
  };
}

const believable = (claimed: Workload | undefined, arrival: Arrival): boolean =>
  claimed !== undefined &&
  !claimed.hostNetwork &&
  (arrival.identity === null || identityOf(claimed) === arrival.identity);

function serviceOf(state: MeshState, pod: LocalPod, port: number): ServiceFacts | undefined {
  const service = serviceBefore(state, subjectOf(state, pod), port);
  return service === undefined ? undefined : describe(service);
}

const describe = ({ namespace, name, hostname }: Service): ServiceFacts => ({ namespace, name, hostname });
