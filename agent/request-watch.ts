// What is seen of the requests of one connection, one after the other: their place in a trace, and what the access log, taps and the
// collector are told of them. While nobody wants a request, nothing of it is noted.

import type { RequestFeatures } from "./api/enricher.ts";
import type { Clock } from "./base/clock.ts";
import type { Random } from "./base/random.ts";
import type { RouteHit } from "./decide/http/decision.ts";
import { composeEdits } from "./decide/http/filter-plan.ts";
import { RequestTrace, TracePlan } from "./decide/trace/request-trace.ts";
import type { Endpoint, Verdict } from "./flow.ts";
import type { HeaderEdits, Malformed, RequestHead } from "./http.ts";
import { DecisionCounts } from "./report/decisions.ts";
import { NoteCounts } from "./report/note-counts.ts";
import type { ObservedBatch, RequestRecord } from "./report/observed.ts";
import { LOG_MAYBE, RequestObserver, SPAN } from "./report/request-observer.ts";
import type { RequestParties } from "./report/request-series.ts";
import { type ThreatKind, threatOf } from "./report/threats.ts";
import type { HandedSocket, ThreadStart } from "./threads.ts";

export interface WatchParts {
  readonly observer: RequestObserver;
  readonly plan: TracePlan;
  readonly notes: NoteCounts;
  readonly decisions: DecisionCounts;
  readonly random: Random;
  /** Unix, ms. */
  readonly wallMs: () => number;
}

/** The watch of one data thread. */
export function startWatching(
  { observe, trace }: Pick<ThreadStart, "observe" | "trace">,
  { random, clock, tell }: { random: Random; clock: Clock; tell: (batch: ObservedBatch) => void },
): WatchParts {
  const observer = new RequestObserver({ settings: observe, random, clock, tell });
  return {
    observer,
    plan: new TracePlan(trace),
    notes: new NoteCounts(),
    decisions: new DecisionCounts(),
    random,
    wallMs: () => clock.now(),
  };
}

/** Facts of an ended exchange, whatever its codec. */
export interface Ended {
  readonly clientProtocol: "http1" | "http2";
  readonly status: number;
  readonly requestBytes: number;
  readonly responseBytes: number;
  readonly resent: number;
  readonly outcome: string;
  readonly isGrpc: boolean;
  /** "" of what is no gRPC. */
  readonly grpcStatus: string;
}
/** A decision that changes a head. */
export interface Editing {
  readonly edits?: HeaderEdits | undefined;
}

export class RequestWatch<D extends Editing> {
  readonly #parts: WatchParts;
  readonly #handed: HandedSocket;
  readonly trace = new RequestTrace();
  /** Beyond what the client said. */
  #edits: HeaderEdits | undefined;
  /** What was decided last, and the same with what its server is told: most requests of a connection are decided alike. */
  #decided: D | undefined;
  #traced: (D & { edits: HeaderEdits }) | undefined;
  #wanted = 0;
  #threat: ThreatKind | undefined;
  /** Of the request that is being decided about: good until then. */
  #head: RequestHead | undefined;
  #method = "";
  #authority = "";
  #path = "";
  #verdict: Verdict | undefined;
  #reason = "";
  #policy = "";
  #hit: RouteHit | undefined;
  #features: RequestFeatures | undefined;

  constructor(parts: WatchParts, handed: HandedSocket) {
    this.#parts = parts;
    this.#handed = handed;
  }

  /** A request begins. The head is read until `decided`. */
  begin(head: RequestHead): void {
    const { observer, plan, random } = this.#parts;
    this.#edits = this.trace.begin(head, plan, random);
    this.#verdict = undefined;
    this.#reason = "";
    this.#policy = "";
    this.#hit = undefined;
    this.#features = undefined;
    this.#threat = undefined;
    this.#head = head;
    this.#wanted = observer.wants() | (this.trace.recorded ? SPAN : 0);
    if (this.#wanted !== 0) this.#note(head);
  }

  /** The decision with what its server is told of the trace. The object is good until the next one. */
  traced(decision: D): D {
    if (this.#edits === undefined) return decision;
    const edits = withTrace(this.#edits, decision.edits);
    if (this.#traced === undefined || this.#decided !== decision) {
      this.#decided = decision;
      this.#traced = { ...decision, edits };
    } else this.#traced.edits = edits;
    return this.#traced;
  }

  #note({ method, authority, path }: RequestHead): void {
    this.#method = method;
    this.#authority = authority;
    this.#path = path;
  }

  /** Where it goes is decided, for this time. */
  decided(): void {
    this.#head = undefined;
  }

  /** The route that it came under. */
  routed(hit: RouteHit | undefined): void {
    this.#hit = hit;
  }

  /** A policy sends it to another service than was asked for. */
  diverted(): void {
    this.#reason = "diverted";
  }

  /** Who calls, and how unusual that is. */
  enriched(features: RequestFeatures | undefined): void {
    this.#features = features;
  }

  /** What the server's policies said; notes are counted whoever watches. */
  judged(verdict: Verdict | undefined): void {
    this.#verdict = verdict;
    if (verdict !== undefined && verdict.notes.length > 0) this.#parts.notes.add(verdict.notes);
  }

  /** It is answered here, for a close reason or the word of a filter; `policy` names what denied it, where that is no policy of `judged`. */
  answered(flags: string, reason: string, policy = ""): void {
    this.#reason = reason;
    this.#policy = policy;
    const threat = threatOf(flags, reason);
    if (threat === undefined || !this.#parts.observer.beginThreat(threat)) return;
    this.#threat = threat;
    if (this.#wanted === 0 && this.#head !== undefined) this.#note(this.#head);
  }

  /** Bytes of the client were no request. */
  malformed({ refused, status, h2Code }: Malformed): void {
    const { observer } = this.#parts;
    if (!observer.beginThreat("malformed")) return;
    const watch = new RequestWatch(this.#parts, this.#handed);
    watch.#reason = refused;
    const protocol = h2Code === undefined ? "http1" : "http2";
    observer.threat(
      watch.#record({ ...noExchange, clientProtocol: protocol, status }, "DPE", 0, undefined, undefined),
      "malformed",
    );
  }

  /** It is over. `parties`: as it is counted in metrics; `to`: the endpoint that it went to. */
  ended(
    exchange: Ended,
    flags: string,
    durationMs: number,
    parties: RequestParties | undefined,
    to: Endpoint | undefined,
  ): void {
    this.#parts.decisions.request(flags);
    const wanted = this.#wanted;
    if (this.#threat !== undefined)
      this.#parts.observer.threat(this.#record(exchange, flags, durationMs, parties, to), this.#threat);
    this.#threat = undefined;
    if (wanted === 0) return;
    this.#wanted = 0;
    // Nothing but a condition may want it, and it went as most do: most end here under such a log.
    if (wanted === LOG_MAYBE && this.#parts.observer.isPlain(exchange.status, flags, durationMs)) return;
    this.#parts.observer.ended(this.#record(exchange, flags, durationMs, parties, to), wanted);
  }

  #record(
    { status, requestBytes, responseBytes, resent, outcome, clientProtocol, isGrpc, grpcStatus }: Ended,
    flags: string,
    durationMs: number,
    parties: RequestParties | undefined,
    to: Endpoint | undefined,
  ): RequestRecord {
    const { direction, source, original, id, pod } = this.#handed;
    const { trace } = this;
    const key = parties?.key;
    const verdict = this.#verdict;
    const features = this.#features;
    return {
      startedMs: this.#parts.wallMs() - durationMs,
      durationMs,
      direction,
      protocol: isGrpc ? "grpc" : clientProtocol === "http2" ? "http2" : "http",
      method: this.#method,
      authority: this.#authority,
      path: this.#path,
      status,
      grpcStatus,
      flags,
      outcome,
      reason: this.#reason,
      requestBytes,
      responseBytes,
      retries: resent,
      source: at(source.ip, source.port),
      destination: at(original.ip, original.port),
      upstream: to === undefined ? "" : at(to.ip, to.port),
      sourceWorkload: nameOf(key?.source.workload),
      destinationWorkload: nameOf(key?.destination.workload),
      service: nameOf(key?.service),
      sourceIdentity: key?.source.principal ?? "",
      destinationIdentity: key?.destination.principal ?? "",
      route: this.#hit?.rule.route ?? "",
      routeRule: this.#hit?.rule.index ?? -1,
      policy: this.#policy === "" ? (verdict?.policy ?? "") : this.#policy,
      policyRule: this.#policy === "" || this.#policy === verdict?.policy ? (verdict?.rule ?? -1) : -1,
      input: verdict?.input ?? "",
      denied: flags === "UAEX",
      notes: verdict?.notes ?? noNotes,
      ...(features === undefined ? {} : { features }),
      traceId: trace.traceId,
      spanId: trace.spanId,
      parentSpanId: trace.parentId,
      traceState: trace.traceState,
      requestId: trace.requestId,
      correlationId: trace.correlationId,
      connection: id,
      pod,
    };
  }
}

const noNotes: Verdict["notes"] = [];
const noExchange = {
  requestBytes: 0,
  responseBytes: 0,
  resent: 0,
  outcome: "malformed",
  isGrpc: false,
  grpcStatus: "",
};
const at = (ip: string, port: number): string => (ip.includes(":") ? `[${ip}]:${port}` : `${ip}:${port}`);
const nameOf = (of: { readonly namespace: string; readonly name: string } | undefined): string =>
  of === undefined ? "" : `${of.namespace}/${of.name}`;

/** What a route changes of the head, over what the trace does: a route's author has the last word. */
export function withTrace(traced: HeaderEdits, routed: HeaderEdits | undefined): HeaderEdits {
  if (routed === undefined) return traced;
  const { made, remove, set, add } = traced;
  const isMadeAlone = made !== undefined && remove.length + set.length + add.length === 0;
  if (!isMadeAlone || touchesMade(routed)) return composeEdits(traced, routed);
  return { remove: routed.remove, set: routed.set, add: routed.add, made };
}
const madeNames: ReadonlySet<string> = new Set(["traceparent", "x-request-id", "x-correlation-id"]);
function touchesMade({ remove, set }: HeaderEdits): boolean {
  for (let i = 0; i < remove.length; i++) if (madeNames.has(remove[i] as string)) return true;
  for (let i = 0; i < set.length; i += 2) if (madeNames.has(set[i] as string)) return true;
  return false;
}
