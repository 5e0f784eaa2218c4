// THE FLOW of one request on a data thread. Its connection was handed over by native (whose it is and where it goes is known); its head
// is read -> which backend (routes) -> which endpoint (pick) -> may it, where the server is on this node (authorize) -> forwarded, and
// tried again where that is allowed -> counted. Everything is decided anew when the state's generation has grown.
import type { HttpPolicy, RetryPolicy, SessionAffinity } from "./api/http-policy.ts";
import type { Random } from "./base/random.ts";
import type { Session } from "./decide/balance/keys.ts";
import { decideRequest } from "./decide/http/decide-request.ts";
import type { Forward as Routed } from "./decide/http/decision.ts";
import { composeEdits } from "./decide/http/filter-plan.ts";
import type { Limited, Places, RequestLimiter } from "./decide/limit/limiter.ts";
import { causeOf, type FailedTry, judgeRetry, retryDelayMs } from "./decide/resilience/retry.ts";
import type { Enriched } from "./enrich/enricher.ts";
import type { Exchange, Forward, Handler, Outcome, RequestCopies, Respond } from "./forward/http1/exchange.ts";
import type { Sweep } from "./forward/http1/sweep.ts";
import { copiesOf, type MirrorEnd } from "./forward/mirror.ts";
import type { Tenant } from "./forward/tenants.ts";
import {
  explainField,
  type HeaderEdits,
  type HeaderList,
  type Malformed,
  type RequestHead,
  type ResponseHead,
  unansweredField,
} from "./http.ts";
import type { RequestSeriesTable } from "./report/request-series.ts";
import { flagsOf } from "./report/response-flags.ts";
import { RequestWatch, type WatchParts } from "./request-watch.ts";
import type { Cluster, TryOutcome } from "./upstream/cluster.ts";
import type { Guard } from "./upstream/guard.ts";
import {
  full,
  heldBack,
  type OwnAnswer,
  overLimit,
  overloaded,
  overMeshLimit,
  refusal,
  routeAnswer,
  unanswered,
} from "./upstream/local-answers.ts";
import { hasUnmet, type Member, preferUnmet } from "./upstream/member.ts";
import { mirrorPools } from "./upstream/mirrors.ts";
import type { RequestWays, Ways, WaysParts } from "./upstream/request-ways.ts";
import type { Way } from "./upstream/way.ts";

export interface RequestFlowParts extends WaysParts {
  readonly series: RequestSeriesTable;
  readonly guard: Guard;
  readonly watch: WatchParts;
  readonly random: Random;
  /** Monotonic, ms. */
  readonly nowMs: () => number;
  /** Unix, ms. */
  readonly wallMs: () => number;
  readonly sweep: Sweep;
  /** A copy of a request has ended. */
  readonly mirrored: (how: MirrorEnd) => void;
  /** Bytes of a client were no request. */
  readonly malformed: (refused: string) => void;
  /** A request met a bug of ours. It is over; all others go on. */
  readonly threw: (error: unknown) => void;
}

/** Picks of one try, where breakers let nobody through. */
const mostPicks = 4;

/** One request at a time of the connection that `ways` belongs to: those of HTTP/1 one after the other, one of these for each stream of HTTP/2. */
export class RequestFlow implements Handler {
  readonly #parts: RequestFlowParts;
  readonly #book: RequestWays;
  readonly #tenant: Tenant | undefined;
  readonly #watch: RequestWatch<Forward>;
  // Of the request under way.
  #ways: Ways | undefined;
  #way: Way | undefined;
  /** Of the last try, and whether that try is under way. */
  #member: Member | undefined;
  #isTrying = false;
  /** Slots of the endpoints that it met before this one. */
  readonly #met: number[] = [];
  #routed: Routed | undefined;
  #policy: HttpPolicy | undefined;
  #key = 0;
  #session: Session | undefined;
  #tries = 0;
  #retries = 0;
  #triedMs = 0;
  #flags = "-";
  #isCounted = false;
  /** Rate limits that let it through: what its answer is to say of them, and places that it holds until its end. */
  #limiter: RequestLimiter | undefined;
  #limitFields: HeaderList | undefined;
  #features: Enriched | undefined;
  readonly #places: Places = [];
  readonly #overLimit = (limited: Limited): void =>
    this.#parts.guard.limited(limited, this.#way?.parts.subject?.name ?? "");

  /** `tenant`: whose requests under way these are. */
  constructor(parts: RequestFlowParts, ways: RequestWays, tenant?: Tenant) {
    this.#parts = parts;
    this.#book = ways;
    this.#tenant = tenant;
    this.#watch = new RequestWatch(parts.watch, ways.handed);
  }

  decide(head: RequestHead, exchange: Exchange): Forward | Respond {
    this.#watch.begin(head);
    const decision = this.#decide(head, exchange);
    this.#watch.decided();
    return decision.kind === "forward" ? this.#watch.traced(decision) : decision;
  }

  #decide(head: RequestHead, { startedMs }: Exchange): Forward | Respond {
    this.#ways = this.#way = this.#member = this.#routed = this.#session = undefined;
    this.#limiter = this.#limitFields = this.#features = undefined;
    this.#tries = this.#retries = this.#met.length = 0;
    this.#triedMs = startedMs;
    this.#flags = "-";
    const { ways, table, policy } = this.#book.current();
    this.#ways = ways;
    this.#policy = policy;
    if (this.#tenant !== undefined) {
      if (!this.#tenant.begin()) return this.#own(overloaded(this.#tenant));
      this.#isCounted = true;
    }
    if (table === undefined) return this.#begin(head, ways);
    const { random, wallMs } = this.#parts;
    const routed = decideRequest(table, head, { random, nowMs: wallMs(), faults: true });
    this.#watch.routed(routed.hit);
    if (routed.kind === "answer") return this.#own(routeAnswer(routed));
    if (routed.isDiverted) this.#watch.diverted();
    this.#routed = routed;
    this.#ways = this.#book.backend(routed.backend);
    return this.#begin(head, this.#ways);
  }

  answered(head: ResponseHead, exchange: Exchange): HeaderEdits | Forward | undefined {
    const { status } = head;
    // A call that failed at once says so in its head.
    const grpcStatus = exchange.isGrpc ? Number(head.header("grpc-status") ?? -1) : -1;
    const isSuspect = status === 503 || status === 502 || grpcStatus === unavailable || this.#isFromTunnel;
    const unanswered = isSuspect ? head.header(unansweredField) : undefined;
    if (unanswered !== undefined) return this.#unanswered(unanswered, exchange);
    const hasFailed = status >= 500 || isGrpcFailure(grpcStatus);
    this.#report(hasFailed ? "error" : "good", exchange.answeredMs - this.#triedMs);
    if (hasFailed || this.#retry?.codes.includes(status) === true) {
      const again = this.#again("status", status, exchange);
      if (again !== undefined) return again;
    }
    if (grpcStatus > 0) {
      const again = this.#again("grpc_status", status, exchange, grpcStatus);
      if (again !== undefined) return again;
    }
    return this.#responseEdits();
  }

  failed(why: Outcome, exchange: Exchange): Forward | Respond | undefined {
    this.#flags = flagsOf(why);
    const cause = causeOf(why);
    this.#report(why.startsWith("pool_") ? "unknown" : "no_answer", this.#parts.nowMs() - this.#triedMs);
    // Only the client's own agent can send it to another server.
    if (this.#isFromTunnel && (cause === "connect_failure" || cause === "reset")) return unanswered(cause, why);
    return cause && this.#again(cause, 0, exchange);
  }

  threw(error: unknown): void {
    this.#parts.threw(error);
  }

  refused(malformed: Malformed): void {
    this.#parts.malformed(malformed.refused);
    this.#watch.malformed(malformed);
  }

  ended(exchange: Exchange): void {
    if (this.#isCounted) this.#tenant?.end();
    this.#isCounted = false;
    const { outcome, status, requestBytes, responseBytes, startedMs } = exchange;
    if (outcome !== "finished" && this.#flags === "-") this.#flags = flagsOf(outcome);
    const durationMs = this.#parts.nowMs() - startedMs;
    // Broken off, or not there in time.
    if (outcome.startsWith("upstream_") || outcome === "request_timeout") this.#report("no_answer", durationMs);
    this.#endTry();
    if (this.#places.length > 0) {
      // Errors are often quick, and say nothing about how fast the server works.
      const isWork = this.#tries > 0 && exchange.answeredMs > 0 && status < 500;
      const latencyMs = isWork ? exchange.answeredMs - this.#triedMs : undefined;
      this.#limiter?.release(this.#places, this.#parts.nowMs(), latencyMs);
    }
    const cluster = this.#ways?.cluster;
    if (this.#tries > 0) cluster?.endRequest(this.#retries);
    const grpcStatus = exchange.isGrpc ? exchange.grpcStatus : undefined;
    const counted = this.#way?.parts.parties ?? this.#ways?.parties ?? noParties;
    for (const parties of counted)
      this.#parts.series.ended(parties, status, grpcStatus, this.#flags, durationMs, requestBytes, responseBytes);
    this.#watch.ended(exchange, this.#flags, durationMs, counted[0], this.#way?.parts.at);
  }

  get #retry(): RetryPolicy | undefined {
    return this.#routed?.hit.rule.rule.retry ?? this.#policy?.retry;
  }
  get #affinity(): SessionAffinity | undefined {
    return this.#routed?.hit.rule.rule.affinity ?? this.#ways?.cluster?.policy.affinity;
  }

  #begin(head: RequestHead, ways: Ways): Forward | Respond {
    if (ways.refused !== undefined) return this.#own(refusal(ways.refused, this.#isAsked(head)));
    const { cluster } = ways;
    if (cluster === undefined) this.#way = ways.way(0);
    else {
      if (cluster.isFull) return this.#own(full(cluster));
      const index = this.#first(cluster, head);
      if (index < 0) return this.#own(heldBack(cluster));
      this.#way = ways.way(index);
      this.#member = cluster.members[index];
    }
    const { state } = this.#parts.replica;
    this.#features = this.#way.enrich(state, this.#parts.guard.enricher, head, this.#parts.nowMs());
    this.#watch.enriched(this.#features);
    const verdict = this.#way.judge(state)?.judge(head, this.#features);
    this.#watch.judged(verdict);
    if (verdict?.allow === false) return this.#own(refusal(verdict, this.#isAsked(head)));
    if (this.#features?.limited !== undefined) return this.#own(overMeshLimit(this.#features.limited));
    const limited = this.#limit(head, this.#way);
    if (limited !== undefined) return limited;
    if (cluster !== undefined) {
      cluster.countRequest();
      if (!this.#admit(cluster)) {
        cluster.endRequest(0);
        return this.#own(heldBack(cluster));
      }
    }
    this.#tries = 1;
    const forward = this.#way.forward(this.#routed, this.#policy as HttpPolicy);
    const mirrors = this.#routed?.mirrors ?? [];
    return mirrors.length === 0 ? forward : { ...forward, copies: this.#copies(head, mirrors, forward) };
  }

  /** Names of policies are for clients of the mesh alone. */
  #isAsked(head: RequestHead): boolean {
    const { direction, identity } = this.#book.handed;
    return (direction === "outbound" || typeof identity === "string") && head.header(explainField) !== undefined;
  }

  #copies(head: RequestHead, mirrors: Routed["mirrors"], rewrite: Forward): RequestCopies {
    const { replica, sweep, mirrored } = this.#parts;
    const pools = mirrorPools(replica.state, this.#book, mirrors, head);
    for (let missing = mirrors.length - pools.length; missing > 0; missing--) mirrored("failed");
    return copiesOf(pools, head, rewrite, sweep, mirrored);
  }

  #limit(head: RequestHead, way: Way): Respond | undefined {
    const { replica, guard, nowMs } = this.#parts;
    this.#limiter = way.limiter(replica.state, guard.limits);
    if (this.#limiter === undefined) return undefined;
    const limited = this.#limiter.ask(head, nowMs(), this.#places, this.#overLimit);
    if (limited !== undefined) return this.#own(overLimit(limited));
    this.#limitFields = this.#limiter.answerHeaders();
    return undefined;
  }

  #first(cluster: Cluster, head: RequestHead): number {
    cluster.usedMs = this.#triedMs;
    const { ip } = this.#book.handed.source;
    this.#session = cluster.stays.session(this.#affinity, head, this.#seconds());
    if (this.#session !== undefined && cluster.isOpen(this.#session.index)) return this.#session.index;
    this.#session = undefined;
    this.#key = cluster.keyOf(head, ip);
    return this.#affinity === undefined ? cluster.pickFor(ip, this.#key) : cluster.pick(this.#key, -1);
  }

  /** Begins a try with #member, or with another whose breaker lets this request through. */
  #admit(cluster: Cluster): boolean {
    for (let picks = 0; picks < mostPicks; picks++) {
      this.#isTrying = cluster.begin(this.#member as Member);
      if (this.#isTrying) return true;
      if (!this.#pickOther(cluster)) return false;
    }
    return false;
  }

  /** The head is gone by now: only servers elsewhere, or whose policies ask about no request, can take it over. */
  #pickOther(cluster: Cluster): boolean {
    const ways = this.#ways as Ways;
    const { members } = cluster;
    const last = this.#member as Member;
    const before = members.indexOf(last);
    this.#met.push(last.slot);
    for (let picks = 0; picks < mostPicks; picks++) {
      const picked = cluster.pick(this.#key, before);
      if (picked < 0) return false;
      if (picked === before) return true;
      const index = preferUnmet(cluster, this.#met, picked);
      const way = ways.way(index);
      const judge = way.judge(this.#parts.replica.state);
      if (judge !== undefined && !judge.asksNothing) continue;
      this.#member = members[index];
      this.#way = way;
      this.#session = undefined;
      return true;
    }
    return false;
  }

  #again(cause: FailedTry["cause"], status: number, exchange: Exchange, grpcStatus = -1): Forward | undefined {
    const cluster = this.#ways?.cluster;
    if (cluster === undefined || this.#way === undefined) return undefined;
    const retry = this.#retry;
    const failed: FailedTry = {
      cause,
      status,
      grpcStatus,
      tries: this.#tries,
      elapsedMs: this.#parts.nowMs() - exchange.startedMs,
      hasOther: hasUnmet(cluster, [...this.#met, this.#member?.slot ?? -1]),
      method: exchange.method,
      answerStarted: exchange.status !== 0,
      bodyKept: exchange.canResend,
    };
    const verdict = judgeRetry(retry, failed);
    const isSpent = verdict === "exhausted" || (verdict === "retry" && !cluster.takeRetry(retry));
    if (isSpent) this.#flags = this.#flags === "-" ? "URX" : `${this.#flags},URX`;
    if (isSpent || verdict !== "retry") return undefined;
    this.#endTry();
    this.#retries++;
    this.#tries++;
    cluster.refresh();
    if (!this.#pickOther(cluster) || !this.#admit(cluster)) return undefined;
    this.#triedMs = this.#parts.nowMs();
    this.#flags = "-";
    const forward = this.#watch.traced(this.#way.forward(this.#routed, this.#policy as HttpPolicy));
    const delayMs = retryDelayMs(retry, failed, this.#parts.random);
    // An injected delay is not suffered twice.
    return delayMs === (forward.delayMs ?? 0) ? forward : { ...forward, delayMs };
  }

  /** Its connection came from another node's agent. */
  get #isFromTunnel(): boolean {
    return this.#book.handed.tunnel === "fairlead/1";
  }

  /** The agent on the server's node says that no server answered; or a server says what only agents may. */
  #unanswered(why: string, exchange: Exchange): HeaderEdits | Forward | undefined {
    const cause = causeOf(why);
    if (!this.#isFromTunnel && this.#member?.upstream.mode === "fairlead/1" && cause !== undefined) {
      this.#flags = flagsOf(why);
      this.#report("no_answer", this.#parts.nowMs() - this.#triedMs);
      const again = this.#again(cause, 0, exchange);
      if (again !== undefined) return again;
    } else this.#report("good", exchange.answeredMs - this.#triedMs);
    const edits = this.#responseEdits();
    return edits === undefined ? withoutUnanswered : composeEdits(edits, withoutUnanswered);
  }

  #report(outcome: TryOutcome, latencyMs: number): void {
    if (this.#isTrying) this.#ways?.cluster?.report(this.#member as Member, outcome, latencyMs);
  }
  #endTry(): void {
    if (!this.#isTrying) return;
    this.#isTrying = false;
    this.#ways?.cluster?.end(this.#member as Member);
  }

  #responseEdits(): HeaderEdits | undefined {
    const edits = withFields(this.#routed?.responseEdits, this.#limitFields);
    const cluster = this.#ways?.cluster;
    const affinity = this.#affinity;
    if (cluster === undefined || affinity === undefined) return edits;
    const index = cluster.members.indexOf(this.#member as Member);
    const field = cluster.stays.sessionField(affinity, index, this.#session, this.#seconds());
    if (field === undefined) return edits;
    const kept: HeaderEdits = { remove: [], set: [], add: field };
    return edits === undefined ? kept : composeEdits(edits, kept);
  }

  #own({ flags, answer, reason, policy }: OwnAnswer): Respond {
    this.#flags = flags;
    this.#watch.answered(flags, reason, policy);
    return answer;
  }

  #seconds(): number {
    return Math.floor(this.#parts.wallMs() / 1000);
  }
}

function withFields(edits: HeaderEdits | undefined, set: HeaderList | undefined): HeaderEdits | undefined {
  if (set === undefined) return edits;
  const own: HeaderEdits = { remove: [], set, add: [] };
  return edits === undefined ? own : composeEdits(edits, own);
}

/** Codes by which a server says that it, and not the call, is at fault: UNKNOWN is what an exception in it becomes. */
const isGrpcFailure = (code: number): boolean => code === 2 || code === 13 || code === unavailable || code === 15;
const unavailable = 14;

const noParties: Ways["parties"] = [];
const withoutUnanswered: HeaderEdits = { remove: [unansweredField], set: [], add: [] };
