// THE FLOW of one request on a data thread. Its connection was handed over by native (whose it is and where it goes is known); its head
// is read -> which backend (routes) -> which endpoint (pick) -> may it, where the server is on this node (authorize) -> forwarded -> counted.
// Everything is decided anew when the state's generation has grown, so a connection that stays open follows every change.
import type { PodName, SpiffeId } from "./api/names.ts";
import type { Random } from "./base/random.ts";
import { decideRequest } from "./decide/http/decide-request.ts";
import type { LocalAnswer, Forward as Routed } from "./decide/http/decision.ts";
import { subjectOf } from "./decide/inbound.ts";
import { judgeFor, type RequestJudge } from "./decide/request-authorize.ts";
import type { Verdict } from "./flow.ts";
import type { Exchange, Forward, Handler, Respond } from "./forward/http1/exchange.ts";
import type { HeaderEdits, Malformed, RequestHead, ResponseHead } from "./http.ts";
import type { RequestSeriesTable } from "./report/request-series.ts";
import { RequestWays, type Way, type Ways, type WaysParts } from "./request-ways.ts";
import type { HandedSocket } from "./threads.ts";

export interface RequestFlowParts extends WaysParts {
  readonly series: RequestSeriesTable;
  readonly random: Random;
  /** Monotonic, ms. */
  readonly nowMs: () => number;
  /** Unix, ms. */
  readonly wallMs: () => number;
  /** Bytes of a client were no request. */
  readonly malformed: (refused: string) => void;
}

/** The requests of one handed connection, one after the other. */
export class RequestFlow implements Handler {
  readonly #parts: RequestFlowParts;
  readonly #handed: HandedSocket;
  readonly #book: RequestWays;
  // Of the request under way.
  #ways: Ways | undefined;
  #way: Way | undefined;
  #responseEdits: HeaderEdits | undefined;
  #flags = "-";

  constructor(parts: RequestFlowParts, handed: HandedSocket) {
    this.#parts = parts;
    this.#handed = handed;
    this.#book = new RequestWays(parts, handed);
  }

  decide(head: RequestHead): Forward | Respond {
    this.#way = undefined;
    this.#responseEdits = undefined;
    this.#flags = "-";
    const current = this.#book.current();
    this.#ways = current;
    if (current.table === undefined) return this.#forward(head, current, undefined);
    const { random, wallMs } = this.#parts;
    const routed = decideRequest(current.table, head, { random, nowMs: wallMs(), faults: true });
    if (routed.kind === "answer") return this.#answer(routed);
    this.#responseEdits = routed.responseEdits;
    return this.#forward(head, this.#book.backend(routed.backend.service, routed.backend.port), routed);
  }

  answered(_head: ResponseHead): HeaderEdits | undefined {
    return this.#responseEdits;
  }

  failed(why: string): undefined {
    this.#flags = flagsOf(why);
  }

  refused({ refused }: Malformed): void {
    this.#parts.malformed(refused);
  }

  ended(exchange: Exchange): void {
    if (exchange.outcome !== "finished" && this.#flags === "-") this.#flags = flagsOf(exchange.outcome);
    const { status, requestBytes, responseBytes, startedMs } = exchange;
    const durationMs = this.#parts.nowMs() - startedMs;
    for (const parties of (this.#way ?? this.#ways)?.parties ?? [])
      this.#parts.series.ended(parties, status, "", this.#flags, durationMs, requestBytes, responseBytes);
  }

  #forward(head: RequestHead, ways: Ways, routed: Routed | undefined): Forward | Respond {
    if (ways.refused !== undefined) return this.#refuse(ways.refused);
    const way = this.#pick(ways, routed?.backend.subset);
    if (way === undefined) return this.#refuse({ reason: "no_endpoints" });
    this.#way = way;
    const verdict = this.#judge(way)?.judge(head);
    if (verdict?.allow === false) return this.#refuse(verdict);
    if (routed === undefined) return { kind: "forward", upstream: way.pool };
    return {
      kind: "forward",
      upstream: way.pool,
      edits: routed.requestEdits,
      path: routed.path,
      authority: routed.authority,
      delayMs: routed.delayMs,
      timeoutMs: routed.hit.rule.rule.timeouts.requestMs ?? 0,
    };
  }

  #pick(
    { ways, totalWeight }: Pick<Ways, "ways" | "totalWeight">,
    subset: Readonly<Record<string, string>> = {},
  ): Way | undefined {
    for (const _ in subset) {
      const own = ways.filter(({ labels }) => Object.entries(subset).every(([k, v]) => labels[k] === v));
      return this.#pick({ ways: own, totalWeight: own.reduce((sum, w) => sum + w.weight, 0) });
    }
    if (ways.length < 2) return ways[0];
    let at = this.#parts.random.next() * totalWeight;
    for (const way of ways) {
      at -= way.weight;
      if (at < 0) return way;
    }
    return ways.at(-1);
  }

  /** Policies of a server on this node; those of a server elsewhere are its own agent's to ask. */
  #judge(way: Way): RequestJudge | undefined {
    const { subject } = way;
    if (subject === undefined) return undefined;
    const { state } = this.#parts.replica;
    const { direction, identity, source } = this.#handed;
    way.judge = judgeFor(
      state,
      {
        destination: subjectOf(state, subject),
        identity: direction === "outbound" ? this.#ownIdentity() : ((identity as SpiffeId | undefined) ?? null),
        sourceIp: source.ip,
        destinationIp: way.ip,
        port: way.port,
        sni: undefined,
      },
      way.judge,
    );
    return way.judge;
  }

  #ownIdentity(): SpiffeId | null {
    return this.#parts.replica.byName(this.#handed.pod as PodName)?.identity ?? null;
  }

  #answer({ status, headers, body, reason }: LocalAnswer): Respond {
    if (reason === "no_route") this.#flags = "NR";
    else if (reason === "fault_abort" || reason === "tarpit") this.#flags = "FI";
    else if (reason === "no_backend" || reason === "invalid_backend") this.#flags = "UH";
    return { kind: "respond", status, headers, body: Buffer.from(body) };
  }

  #refuse(verdict: Pick<Verdict, "reason" | "policy">): Respond {
    this.#flags = refusedFlags(verdict.reason);
    const denied = this.#flags === "UAEX";
    return {
      kind: "respond",
      status: denied ? 403 : 503,
      headers: ["content-type", "text/plain"],
      body: denied ? deniedBody : Buffer.from(`no way to the service: ${verdict.reason}\n`),
    };
  }
}

const deniedBody = Buffer.from("RBAC: access denied\n");

/** Envoy's response flags, which Istio's dashboards show. */
function refusedFlags(reason: Verdict["reason"]): string {
  if (reason === "policy_denied" || reason === "plaintext_refused" || reason === "policies_stale") return "UAEX";
  if (reason === "no_endpoints") return "UH";
  return reason === "unknown_destination" ? "NR" : "LR";
}
function flagsOf(why: string): string {
  if (why.startsWith("connect_")) return "UF";
  if (why === "pool_overflow") return "UO";
  if (why === "request_timeout" || why === "response_stalled") return "UT";
  if (why === "client_gone") return "DC";
  if (why.startsWith("refused:")) return "UPE";
  return "UC";
}
