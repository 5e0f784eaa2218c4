// THE FLOW of one connection. Native has intercepted it and asks (question) -> whose is it (identify) -> where to and may it
// (decide) -> how it is carried (answer: native forwards, or a data thread takes the socket) -> how it ended (record -> report).
// Answers are cached in native per pair, so this runs once per pair and generation, never per byte. One catch, at the bottom.
import { serviceNameOf } from "./api/service.ts";
import { inboundFacts, localFacts, planFacts } from "./connection-facts.ts";
import { connectionLimits } from "./decide/connection-limits.ts";
import { decideInbound, decidePeer, type PeerWaits } from "./decide/inbound.ts";
import { type DecideSettings, decideOutbound, type OutboundDecision } from "./decide/outbound.ts";
import { planEndpoint } from "./decide/upstreams.ts";
import type {
  AskedPods,
  CloseReason,
  FactsBook,
  InboundAnswer,
  LocalPod,
  OutboundAnswer,
  PeerAnswer,
  Question,
  VerdictFacts,
} from "./flow.ts";
import type { MeshState } from "./state/mesh-state.ts";

export interface ConnectionParts {
  readonly state: MeshState;
  readonly pods: AskedPods;
  readonly facts: FactsBook;
  readonly settings: () => DecideSettings;
  readonly waits: PeerWaits;
  readonly lane: HttpLane;
  readonly failed: (question: Question, error: unknown) => void;
}
/** The data thread for connections that the HTTP lane takes, or undefined: native carries them as TCP. */
export interface HttpLane {
  /** Whether there are data threads. */
  readonly isOn: boolean;
  outbound(asRequests: OutboundDecision): number | undefined;
  inbound(pod: LocalPod, port: number): number | undefined;
}
type Outbound = Extract<Question, { ask: "outbound" }>;
type Inbound = Extract<Question, { ask: "inbound" }>;
type Peer = Extract<Question, { ask: "peer" }>;

/** Answers one question of native; never throws. `null`: no answer can be given, native refuses at once and counts it. */
export function answerQuestion(
  parts: ConnectionParts,
  question: Question,
): OutboundAnswer | InboundAnswer | PeerAnswer | null {
  try {
    const pod = parts.pods.asked(question.pod);
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
  const settings = parts.settings();
  const decide = (perRequest: boolean): OutboundDecision =>
    decideOutbound(parts.state, parts.pods, pod, source.ip, destination, { ...settings, perRequest });
  const asConnection = decide(false);
  const generation = parts.state.generation;
  const key = `${question.pod}>${destination.ip}|${destination.port}`;
  // What is refused as a connection may be let through request by request.
  const asRequests = asConnection.kind === "refuse" && parts.lane.isOn ? decide(true) : asConnection;
  const taken = parts.lane.outbound(asRequests);
  const decision = taken === undefined ? asConnection : asRequests;
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
    return { ...planEndpoint(upstream), verdictId: parts.facts.verdict(verdictKey(judged), judged) };
  });
  const planId = parts.facts.plan(`${key}|${JSON.stringify(endpoints)}`, facts);
  const service = decision.route.kind === "service" ? { service: serviceNameOf(decision.route.service) } : {};
  const limits = connectionLimits(parts.state, pod.workload.namespace, decision.route);
  const limited = limits === undefined ? {} : { limits };
  // Each connection makes the session longer, so each is asked about.
  const asked = decision.kept === undefined ? {} : { cache: false };
  if (decision.kept !== undefined) settings.sessions?.known.keep(decision.kept, settings.sessions.nowS);
  const common = { planId, generation, ...asked, identity: pod.identity, ...service, ...limited, endpoints };
  if (taken === undefined) return { ...common, action: "forward", detectMs: decision.detectMs };
  return { ...common, ...handedTo(taken, asConnection.kind === "forward") };
}

/** Who asks for HTTP speaks first. Connections that are opened ahead of their first request are then the thread's to wait for. */
const silentMs = 2_000;

/** Bytes that are no HTTP go on as a connection where that is allowed, else nowhere (DP-24). */
const handedTo = (thread: number, allowedAsConnection: boolean) => ({
  action: "handover" as const,
  thread,
  opaque: allowedAsConnection ? ("forward" as const) : ("refuse" as const),
  detectMs: silentMs,
});

function inbound(parts: ConnectionParts, pod: LocalPod, question: Inbound): InboundAnswer {
  const { destination, source, identity, tunnel } = question;
  const arrival = { destination, sourceIp: source.ip, identity, tunnel };
  const { knowledge } = parts.settings();
  const asConnection = decideInbound(parts.state, pod, arrival, knowledge);
  const thread = parts.lane.inbound(pod, destination.port);
  const verdict = thread === undefined ? asConnection : decideInbound(parts.state, pod, arrival, knowledge, true);
  const facts = inboundFacts(parts.state, parts.pods, pod, arrival, verdict);
  const generation = parts.state.generation;
  const verdictId = parts.facts.verdict(verdictKey(facts), facts);
  if (!verdict.allow) {
    const policy = verdict.policy === undefined ? {} : { policy: verdict.policy };
    return { verdictId, generation, action: "refuse", reason: verdict.reason as CloseReason, ...policy };
  }
  if (thread === undefined) return { verdictId, generation, action: "forward" };
  return { verdictId, generation, ...handedTo(thread, asConnection.allow) };
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
