// THE FLOW of one connection. Native has intercepted it and asks (question) -> whose is it (identify) -> where to and may it
// (decide) -> how it is carried (answer: native forwards, or a data thread takes the socket) -> how it ended (record -> report).
// Answers are cached in native per pair, so this runs once per pair and generation, never per byte. One catch, at the bottom.
import { serviceNameOf } from "./api/service.ts";
import { inboundFacts, localFacts, planFacts } from "./connection-facts.ts";
import { decideInbound, decidePeer, type PeerWaits } from "./decide/inbound.ts";
import { type DecideSettings, decideOutbound, type OutboundDecision } from "./decide/outbound.ts";
import type { Upstream } from "./decide/upstreams.ts";
import type {
  CloseReason,
  FactsBook,
  InboundAnswer,
  LocalPod,
  LocalPods,
  OutboundAnswer,
  PeerAnswer,
  PlanEndpoint,
  Question,
  VerdictFacts,
} from "./flow.ts";
import type { MeshState } from "./state/mesh-state.ts";

export interface ConnectionParts {
  readonly state: MeshState;
  readonly pods: LocalPods;
  readonly facts: FactsBook;
  readonly settings: () => DecideSettings;
  readonly waits: PeerWaits;
  /** The data thread for a connection that the HTTP lane takes, or undefined: native carries it as TCP. */
  readonly handover: (decision: OutboundDecision) => number | undefined;
  /** The same for what arrives at a port of a pod. */
  readonly handoverInbound: (pod: LocalPod, port: number) => number | undefined;
  readonly failed: (question: Question, error: unknown) => void;
}
type Outbound = Extract<Question, { ask: "outbound" }>;
type Inbound = Extract<Question, { ask: "inbound" }>;
type Peer = Extract<Question, { ask: "peer" }>;

/** Answers one question of native; never throws. `null`: no answer can be given, native refuses and counts it. */
export function answerQuestion(
  parts: ConnectionParts,
  question: Question,
): OutboundAnswer | InboundAnswer | PeerAnswer | null {
  try {
    const pod = parts.pods.byName(question.pod);
    if (pod === undefined) throw new Error(`${question.pod} is not enrolled here`);
    if (question.ask === "outbound") return outbound(parts, pod, question);
    if (question.ask === "inbound") return inbound(parts, pod, question);
    return peer(parts, pod, question);
  } catch (error) {
    parts.failed(question, error);
    return null;
  }
}

function outbound(parts: ConnectionParts, pod: LocalPod, question: Outbound): OutboundAnswer {
  const { destination, source } = question;
  const decision = decideOutbound(parts.state, parts.pods, pod, source.ip, destination, parts.settings());
  const generation = parts.state.generation;
  const key = `${question.pod}>${destination.ip}|${destination.port}`;
  const facts = planFacts(pod, destination, decision);
  if (decision.kind === "refuse") {
    const planId = parts.facts.plan(`${key}|${decision.reason}|${decision.policy ?? ""}`, facts);
    const policy = decision.policy === undefined ? {} : { policy: decision.policy };
    return { planId, generation, action: "refuse", reason: decision.reason, ...policy };
  }
  const endpoints = decision.upstreams.map((upstream, i) => {
    const verdict = decision.verdicts[i];
    const local = upstream.local;
    if (local === undefined || verdict === undefined) return planEndpoint(upstream);
    const judged = localFacts(parts.state, pod, local, upstream.port, verdict, decision.route);
    return { ...planEndpoint(upstream), pod: local.name, verdictId: parts.facts.verdict(verdictKey(judged), judged) };
  });
  const planId = parts.facts.plan(`${key}|${JSON.stringify(endpoints)}`, facts);
  const thread = parts.handover(decision);
  const service = decision.route.kind === "service" ? { service: serviceNameOf(decision.route.service) } : {};
  const how = thread === undefined ? { action: "forward" as const } : { action: "handover" as const, thread };
  return { planId, generation, ...how, identity: pod.identity, ...service, detectMs: decision.detectMs, endpoints };
}

function planEndpoint(upstream: Upstream): PlanEndpoint {
  const { ip, port, mode, identities, tunnelAddress, weight } = upstream;
  return {
    ip,
    port,
    mode,
    weight,
    ...(identities.length === 0 ? {} : { identities }),
    ...(tunnelAddress === undefined ? {} : { tunnelAddress }),
  };
}

function inbound(parts: ConnectionParts, pod: LocalPod, question: Inbound): InboundAnswer {
  const { destination, source, identity, tunnel } = question;
  const arrival = { destination, sourceIp: source.ip, identity, tunnel };
  const verdict = decideInbound(parts.state, pod, arrival, parts.settings().knowledge);
  const facts = inboundFacts(parts.state, parts.pods, pod, arrival, verdict);
  const generation = parts.state.generation;
  const verdictId = parts.facts.verdict(verdictKey(facts), facts);
  if (verdict.allow) {
    const thread = parts.handoverInbound(pod, destination.port);
    return thread === undefined
      ? { verdictId, generation, action: "forward" }
      : { verdictId, generation, action: "handover", thread };
  }
  const policy = verdict.policy === undefined ? {} : { policy: verdict.policy };
  return { verdictId, generation, action: "refuse", reason: verdict.reason as CloseReason, ...policy };
}

function peer(parts: ConnectionParts, pod: LocalPod, question: Peer): PeerAnswer {
  return decidePeer(parts.state, parts.pods, pod, question.source.ip, question.port, parts.waits);
}

/** Equal facts share a number, so that a change of generation that changes nothing grows nothing. */
export function verdictKey(facts: VerdictFacts): string {
  const { verdict } = facts;
  return [
    facts.destination.uid,
    facts.port,
    facts.source?.uid ?? "",
    facts.sourceIdentity ?? "",
    facts.tunnel,
    facts.direct ? "d" : "",
    facts.service?.hostname ?? "",
    verdict.reason,
    verdict.policy ?? "",
    verdict.rule ?? "",
    verdict.notes.length === 0 ? "" : JSON.stringify(verdict.notes),
  ].join("|");
}
