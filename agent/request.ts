// THE FLOW of one request on a data thread. Its connection was handed over by native (whose it is and where it goes is known); its head
// is read -> which endpoint (decide) -> may it, where the server is on this node (authorize) -> forwarded (pools) -> counted (report).
// Decisions are made anew when the state's generation has grown, so a connection that stays open follows every change.
import type { PodName, SpiffeId } from "./api/names.ts";
import { serviceNameOf } from "./api/service.ts";
import { identityOf, type Workload } from "./api/workload.ts";
import type { Random } from "./base/random.ts";
import { subjectOf } from "./decide/inbound.ts";
import { type DecideSettings, decideOutbound } from "./decide/outbound.ts";
import { judgeFor, type RequestJudge } from "./decide/request-authorize.ts";
import type { Upstream } from "./decide/upstreams.ts";
import type { LocalPod, PlanEndpoint, Verdict } from "./flow.ts";
import type { Exchange, Forward, Handler, Respond } from "./forward/http1/exchange.ts";
import type { Pools } from "./forward/pools.ts";
import type { Malformed, RequestHead } from "./http.ts";
import type { Replica } from "./replica.ts";
import { RequestParties, type RequestSeriesTable } from "./report/request-series.ts";
import { partyOf, type SeriesKey } from "./report/tcp-series.ts";
import type { HandedSocket } from "./threads.ts";

export interface RequestFlowParts {
  readonly replica: Replica;
  readonly pools: Pools;
  readonly series: RequestSeriesTable;
  readonly random: Random;
  readonly settings: Omit<DecideSettings, "knowledge">;
  /** Monotonic, ms. */
  readonly nowMs: () => number;
  /** Bytes of a client were no request. */
  readonly malformed: (refused: string) => void;
}

/** One way for a connection's requests, with everything that does not change from one to the next. */
interface Way {
  readonly weight: number;
  readonly forward: Forward;
  /** The server is on this node: its policies are asked here. */
  judge: RequestJudge | undefined;
  readonly subject: LocalPod | undefined;
  readonly ip: string;
  readonly port: number;
  readonly parties: readonly RequestParties[];
}
interface Ways {
  readonly generation: number;
  readonly ways: readonly Way[];
  readonly totalWeight: number;
  /** Why there is none. */
  readonly refused: Pick<Verdict, "reason" | "policy"> | undefined;
  /** Whom refusals are counted for. */
  readonly parties: readonly RequestParties[];
}

/** The requests of one handed connection, one after the other. */
export class RequestFlow implements Handler {
  readonly #parts: RequestFlowParts;
  readonly #handed: HandedSocket;
  #ways: Ways | undefined;
  #way: Way | undefined;
  #flags = "-";

  constructor(parts: RequestFlowParts, handed: HandedSocket) {
    this.#parts = parts;
    this.#handed = handed;
  }

  decide(head: RequestHead): Forward | Respond {
    const ways = this.#current();
    this.#way = undefined;
    this.#flags = "-";
    if (ways.refused !== undefined) return this.#refuse(ways.refused);
    const way = this.#pick(ways);
    if (way === undefined) return this.#refuse({ reason: "no_endpoints" });
    this.#way = way;
    const verdict = this.#judge(way)?.judge(head);
    return verdict?.allow === false ? this.#refuse(verdict) : way.forward;
  }

  failed(why: string): undefined {
    this.#flags = flagsOf(why);
  }

  refused({ refused }: Malformed): void {
    this.#parts.malformed(refused);
  }

  ended(exchange: Exchange): void {
    if (exchange.outcome !== "finished" && this.#flags === "-") this.#flags = flagsOf(exchange.outcome);
    const durationMs = this.#parts.nowMs() - exchange.startedMs;
    for (const parties of (this.#way ?? this.#ways)?.parties ?? [])
      this.#parts.series.ended(
        parties,
        exchange.status,
        "",
        this.#flags,
        durationMs,
        exchange.requestBytes,
        exchange.responseBytes,
      );
  }

  /** The ways as the state is now. */
  #current(): Ways {
    const { generation } = this.#parts.replica.state;
    if (this.#ways?.generation === generation) return this.#ways;
    const ways = this.#handed.direction === "outbound" ? this.#outbound(generation) : this.#inbound(generation);
    this.#ways = ways;
    return ways;
  }

  #outbound(generation: number): Ways {
    const { replica, settings } = this.#parts;
    const { original, source, planId } = this.#handed;
    const pod = replica.byName(this.#handed.pod as PodName);
    if (pod === undefined) return none(generation, { reason: "not_intercepted" }, []);
    const decided = { ...settings, knowledge: replica.knowledge, perRequest: true };
    const decision = decideOutbound(replica.state, replica, pod, source.ip, original, decided);
    const service = decision.route.kind === "service" ? decision.route.service : undefined;
    const key = (to: Workload | undefined, reporter: SeriesKey["reporter"], secured: boolean): SeriesKey => ({
      reporter,
      source: { workload: pod.workload, principal: secured ? pod.identity : "" },
      destination: partyOf(to, secured),
      service,
      fallbackService: decision.route.kind === "passthrough" ? "PassthroughCluster" : "unknown",
      responseFlags: "-",
      secured,
    });
    if (decision.kind === "refuse")
      return none(generation, decision, [new RequestParties(key(undefined, "source", false), false)]);
    const name = service === undefined ? {} : { service: serviceNameOf(service) };
    const ways = decision.upstreams.map((upstream): Way => {
      const endpoint = planEndpoint(upstream);
      const target = { pod: pod.name, source, endpoint, destination: original, planId, ...name };
      const pool = this.#parts.pools.pool(`${pod.name}>${upstream.ip}|${upstream.port}|${upstream.mode}|h1`, target);
      const secured = upstream.mode !== "plain";
      const reporters: SeriesKey["reporter"][] = upstream.local === undefined ? ["source"] : ["source", "destination"];
      return {
        weight: upstream.weight,
        forward: { kind: "forward", upstream: pool },
        judge: undefined,
        subject: upstream.local,
        ip: upstream.ip,
        port: upstream.port,
        parties: reporters.map((r) => new RequestParties(key(upstream.workload, r, secured), false)),
      };
    });
    return { generation, ways, totalWeight: totalOf(ways), refused: undefined, parties: [] };
  }

  #inbound(generation: number): Ways {
    const { replica, pools } = this.#parts;
    const { original, source, planId } = this.#handed;
    const identity = this.#handed.identity ?? undefined;
    const pod = replica.byName(this.#handed.pod as PodName);
    if (pod === undefined) return none(generation, { reason: "not_intercepted" }, []);
    const claimed = replica.byAddress(source.ip)?.workload ?? replica.state.workloads.byAddress(source.ip);
    const believed = claimed !== undefined && identity !== undefined && identityOf(claimed) === identity;
    const parties = new RequestParties(
      {
        reporter: "destination",
        source: { workload: believed ? claimed : undefined, principal: identity ?? "" },
        destination: { workload: pod.workload, principal: pod.identity },
        service: undefined,
        fallbackService: "unknown",
        responseFlags: "-",
        secured: identity !== undefined,
      },
      false,
    );
    const endpoint: PlanEndpoint = { ...original, mode: "local", pod: pod.name };
    const target = { pod: pod.name, source, endpoint, planId };
    const pool = pools.pool(`${pod.name}<${source.ip}|${original.port}|h1`, target);
    const forward: Forward = { kind: "forward", upstream: pool };
    const way: Way = {
      weight: 1,
      forward,
      judge: undefined,
      subject: pod,
      ip: original.ip,
      port: original.port,
      parties: [parties],
    };
    return { generation, ways: [way], totalWeight: 1, refused: undefined, parties: [parties] };
  }

  #pick({ ways, totalWeight }: Ways): Way | undefined {
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
const none = (
  generation: number,
  { reason, policy }: Pick<Verdict, "reason" | "policy">,
  parties: readonly RequestParties[],
): Ways => ({
  generation,
  ways: [],
  totalWeight: 0,
  refused: { reason, ...(policy === undefined ? {} : { policy }) },
  parties,
});
const totalOf = (ways: readonly Way[]): number => ways.reduce((sum, way) => sum + way.weight, 0);

function planEndpoint({ ip, port, mode, identities, tunnelAddress, weight, local }: Upstream): PlanEndpoint {
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
