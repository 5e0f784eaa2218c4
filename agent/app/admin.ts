// The agent's admin paths (docs/lab.md) on the unix socket: what it knows, does and would do. Reads; the only changes are a drain and the end of the mesh on this node.
import { json, problem, type Route } from "../base/admin-server.ts";
import { type Health, healthRoutes } from "../base/health.ts";
import type { Metrics } from "../base/metrics.ts";
import type { Result } from "../base/result.ts";
import type { Config } from "../config.ts";
import type { SvidStatus } from "../identify/svid-store.ts";
import type { PodStatus } from "../intercept/enrol.ts";
import type { Native } from "../native.ts";
import type { CallFault } from "../native-calls.ts";
import { describeRecord } from "../report/access-log.ts";
import type { Book } from "../report/facts-book.ts";
import type { RecentRecords } from "../report/recent.ts";
import type { PairRequests } from "../report/request-totals.ts";
import { type ExplainParts, explain } from "./explain.ts";
import { explainInbound } from "./explain-inbound.ts";
import { askedRequest, explainRequest } from "./explain-request.ts";
import { readTap } from "./tap-query.ts";
import { mostTaps, type Telemetry } from "./telemetry.ts";

/** What of the HTTP lane is looked at. */
export interface WatchedLane {
  readonly telemetry: Pick<Telemetry, "tap" | "threats">;
  /** Requests by source and service since the start. */
  requests(): readonly PairRequests[];
}
export interface AdminParts {
  readonly config: Config;
  readonly native: Native;
  readonly health: Health;
  readonly metrics: Metrics;
  readonly book: Book;
  readonly recent: RecentRecords;
  readonly explain: ExplainParts;
  readonly lane: WatchedLane;
  readonly status: () => Readonly<Record<string, unknown>>;
  readonly pods: () => readonly PodStatus[];
  readonly sync: () => Promise<readonly PodStatus[]>;
  readonly certs: () => { readonly svids: readonly SvidStatus[] } & Readonly<Record<string, unknown>>;
  readonly drain: () => void;
  readonly uninstall: () => object;
}

export function adminRoutes(parts: AdminParts): readonly Route[] {
  const get = (path: string, handle: Route["handle"]): Route => ({ method: "GET", path, handle });
  const passOn = <T extends object>(result: Result<T, CallFault>) =>
    result.ok ? json(result.value) : problem(503, result.error.code, result.error.message);
  return [
    get("/v1/status", () => json(parts.status())),
    get("/v1/pods", () => json({ pods: parts.pods() })),
    { method: "POST", path: "/v1/pods/sync", handle: async () => json({ pods: await parts.sync() }) },
    get("/v1/connections", async () => {
      const listed = await parts.native.call("connections.list", {});
      if (!listed.ok) return passOn(listed);
      return json({ connections: listed.value.connections.map((c) => ({ ...c, ...names(parts.book, c) })) });
    }),
    get("/v1/tunnels", async () => passOn(await parts.native.call("tunnels.list", {}))),
    get("/v1/counters", async () => passOn(await parts.native.call("counters", {}))),
    get("/v1/certs", () => json(parts.certs())),
    get("/v1/records", ({ query }) =>
      limited(query, (limit) => ({
        records: parts.recent.last(limit).map((b) => describeRecord(b, 0, parts.book)),
      })),
    ),
    get("/v1/threats", ({ query }) => limited(query, (limit) => ({ threats: parts.lane.telemetry.threats(limit) }))),
    get("/v1/explain", ({ query }) => {
      const source = query.get("source");
      const destination = query.get("destination");
      if (source === null || destination === null)
        return problem(400, "bad_query", "needs source=NAMESPACE/POD and destination=NAMESPACE/SERVICE:PORT");
      const request = askedRequest(query);
      if (!request.ok) return problem(400, "bad_query", request.error);
      const told =
        request.value === undefined
          ? explain(parts.explain, source, destination)
          : explainRequest(parts.explain, source, destination, request.value);
      return told.ok ? json(told.value) : problem(404, "not_explained", told.error);
    }),
    get("/v1/explain-inbound", ({ query }) => {
      const [source, destination] = [query.get("source"), query.get("destination")];
      if (source === null || destination === null)
        return problem(
          400,
          "bad_query",
          "needs source=IP, destination=IP:PORT, and tunnel and identity if there are any",
        );
      const request = askedRequest(query);
      if (!request.ok) return problem(400, "bad_query", request.error);
      const told = explainInbound(parts.explain, {
        source,
        destination,
        identity: query.get("identity"),
        tunnel: query.get("tunnel") ?? "plain",
        request: request.value,
      });
      return told.ok ? json(told.value) : problem(404, "not_explained", told.error);
    }),
    get("/v1/tap", ({ query }) => {
      const filter = readTap(query);
      if (!filter.ok) return problem(400, "bad_query", filter.error);
      const lines = parts.lane.telemetry.tap(filter.value);
      if (lines === undefined) return problem(429, "too_many_taps", `${mostTaps} taps are open: end one of them`);
      return { status: 200, body: undefined, lines };
    }),
    get("/v1/requests", () => json({ requests: parts.lane.requests() })),
    get("/v1/config", () => json(parts.config)),
    {
      method: "POST",
      path: "/v1/drain",
      handle() {
        parts.drain();
        return json({ draining: true }, 202);
      },
    },
    // Told again and again until it says "removed".
    { method: "POST", path: "/v1/uninstall", handle: () => json(parts.uninstall(), 202) },
    ...healthRoutes(parts.health, parts.metrics),
  ];
}

/** What `give` has, at most `limit` of it. */
function limited(query: URLSearchParams, give: (limit: number) => object) {
  const limit = Number(query.get("limit") ?? 100);
  const isGood = Number.isInteger(limit) && limit >= 1;
  return isGood ? json(give(limit)) : problem(400, "bad_limit", "limit: is not a whole number above 0");
}

/** The names behind a connection's numbers. */
function names(
  book: Book,
  connection: { readonly planId: number; readonly verdictId: number; readonly endpoint: number },
) {
  const plan = book.planFacts(connection.planId);
  const verdict = book.verdictFacts(connection.verdictId);
  const target = plan?.targets[connection.endpoint]?.workload;
  const source = verdict?.source ?? plan?.source;
  const destination = verdict?.destination ?? (target?.name === "" ? undefined : target);
  const service = plan?.service ?? verdict?.service;
  const pair = (w: { namespace: string; name: string } | undefined) =>
    w === undefined ? null : `${w.namespace}/${w.name}`;
  return {
    sourceWorkload: pair(source),
    destinationWorkload: pair(destination),
    service: pair(service),
    sourceIdentity: verdict === undefined ? (plan?.sourceIdentity ?? null) : verdict.sourceIdentity,
    destinationIdentity: verdict?.destinationIdentity ?? null,
  };
}
