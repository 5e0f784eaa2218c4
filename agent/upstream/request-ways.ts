// Where the requests of one handed connection may go: endpoints with their pools, metric handles and, on this node, policies. Made from the
// replica when its state has changed since, and kept until then.
import type { PodName, ServiceName } from "./api/names.ts";
import { type Service, serviceNameOf } from "./api/service.ts";
import { identityOf, type Workload } from "./api/workload.ts";
import { type RouteTable, ServiceRoutes } from "./decide/http/route-table.ts";
import { type DecideSettings, decideOutbound } from "./decide/outbound.ts";
import type { RequestJudge } from "./decide/request-authorize.ts";
import { serviceUpstreams, type Upstream } from "./decide/upstreams.ts";
import type { LocalPod, PlanEndpoint, Verdict } from "./flow.ts";
import type { UpstreamPool } from "./forward/http1/pool.ts";
import type { Pools } from "./forward/pools.ts";
import type { Replica } from "./replica.ts";
import { RequestParties } from "./report/request-series.ts";
import { partyOf, type SeriesKey } from "./report/tcp-series.ts";
import type { HandedSocket } from "./threads.ts";

export interface WaysParts {
  readonly replica: Replica;
  readonly pools: Pools;
  readonly settings: Omit<DecideSettings, "knowledge">;
}

/** One endpoint, with everything that does not change from one request to the next. */
export interface Way {
  readonly weight: number;
  readonly pool: UpstreamPool;
  /** The server, where it is on this node: its policies are asked here. */
  readonly subject: LocalPod | undefined;
  judge: RequestJudge | undefined;
  readonly ip: string;
  readonly port: number;
  readonly labels: Readonly<Record<string, string>>;
  readonly parties: readonly RequestParties[];
}
export interface Ways {
  readonly ways: readonly Way[];
  readonly totalWeight: number;
  /** Why there is none. */
  readonly refused: Pick<Verdict, "reason" | "policy"> | undefined;
  /** Whom requests are counted for that reach no endpoint. */
  readonly parties: readonly RequestParties[];
}
interface Current extends Ways {
  readonly generation: number;
  /** Routes of the service that was asked for; undefined: all requests go to its endpoints. */
  readonly table: RouteTable | undefined;
  readonly backends: Map<string, Ways>;
}

/** Compiled once per set of routes, whichever connection asks first. */
const compiled = new WeakMap<object, ServiceRoutes>();

export class RequestWays {
  readonly #parts: WaysParts;
  readonly #handed: HandedSocket;
  #current: Current | undefined;

  constructor(parts: WaysParts, handed: HandedSocket) {
    this.#parts = parts;
    this.#handed = handed;
  }

  /** As the state is now. */
  current(): Current {
    const { generation } = this.#parts.replica.state;
    if (this.#current?.generation === generation) return this.#current;
    const { ways, table } = this.#handed.direction === "outbound" ? this.#outbound() : this.#inbound();
    this.#current = { ...ways, generation, table, backends: new Map() };
    return this.#current;
  }

  /** The endpoints of a backend that a route names. */
  backend(name: ServiceName, port: number): Ways {
    const { backends } = this.current();
    const key = `${name}:${port}`;
    let ways = backends.get(key);
    if (ways === undefined) {
      ways = this.#service(name, port);
      backends.set(key, ways);
    }
    return ways;
  }

  #service(name: ServiceName, number: number): Ways {
    const { replica } = this.#parts;
    const service = replica.state.services.byName(name);
    const port = service?.ports.find((p) => p.port === number);
    const pod = this.#pod();
    if (service === undefined || port === undefined || pod === undefined) return none({ reason: "no_endpoints" }, []);
    const family = this.#handed.original.ip.includes(":") ? 6 : 4;
    const upstreams = serviceUpstreams(replica.state, replica, service, port, family);
    return this.#to(pod, upstreams, service, "unknown");
  }

  #outbound(): { ways: Ways; table: RouteTable | undefined } {
    const { replica, settings } = this.#parts;
    const { original, source } = this.#handed;
    const pod = this.#pod();
    if (pod === undefined) return { ways: none({ reason: "not_intercepted" }, []), table: undefined };
    const asked = { ...settings, knowledge: replica.knowledge, perRequest: true };
    const decision = decideOutbound(replica.state, replica, pod, source.ip, original, asked);
    const { route } = decision;
    const service = route.kind === "service" ? route.service : undefined;
    const fallback = route.kind === "passthrough" ? "PassthroughCluster" : "unknown";
    const table = route.kind === "service" ? this.#table(route.service, route.port.port, pod) : undefined;
    if (decision.kind === "forward") return { ways: this.#to(pod, decision.upstreams, service, fallback), table };
    const parties = [new RequestParties(sourceKey(pod, undefined, service, fallback, "source", false), false)];
    // Routes may lead to other services than the one that has no endpoints.
    return { ways: none(decision, parties), table: decision.reason === "no_endpoints" ? table : undefined };
  }

  #table(service: Service, port: number, client: LocalPod): RouteTable | undefined {
    const routing = this.#parts.replica.state.routings.get(serviceNameOf(service));
    if (routing === undefined || routing.routes.length === 0) return undefined;
    let routes = compiled.get(routing);
    if (routes === undefined) {
      routes = new ServiceRoutes(routing.routes);
      compiled.set(routing, routes);
    }
    return routes.tableFor(port, client.workload.namespace);
  }

  #to(pod: LocalPod, upstreams: readonly Upstream[], service: Service | undefined, fallback: string): Ways {
    const { original, source, planId } = this.#handed;
    const name = service === undefined ? {} : { service: serviceNameOf(service) };
    const ways = upstreams.map((upstream): Way => {
      const { ip, port, mode, local, workload } = upstream;
      const target = {
        pod: pod.name,
        source,
        endpoint: planEndpoint(upstream),
        destination: original,
        planId,
        ...name,
      };
      const reporters: SeriesKey["reporter"][] = local === undefined ? ["source"] : ["source", "destination"];
      return {
        weight: upstream.weight,
        pool: this.#parts.pools.pool(`${pod.name}>${ip}|${port}|${mode}|h1`, target),
        judge: undefined,
        subject: local,
        ip,
        port,
        labels: workload.labels,
        parties: reporters.map(
          (r) => new RequestParties(sourceKey(pod, workload, service, fallback, r, mode !== "plain"), false),
        ),
      };
    });
    return { ways, totalWeight: totalOf(ways), refused: undefined, parties: [] };
  }

  #inbound(): { ways: Ways; table: undefined } {
    const { replica, pools } = this.#parts;
    const { original, source, planId } = this.#handed;
    const identity = this.#handed.identity ?? undefined;
    const pod = this.#pod();
    if (pod === undefined) return { ways: none({ reason: "not_intercepted" }, []), table: undefined };
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
    const way: Way = {
      weight: 1,
      // The server sees the client's address, so clients do not share connections (DP-27).
      pool: pools.pool(`${pod.name}<${source.ip}|${original.port}|h1`, target),
      judge: undefined,
      subject: pod,
      ip: original.ip,
      port: original.port,
      labels: pod.workload.labels,
      parties: [parties],
    };
    return { ways: { ways: [way], totalWeight: 1, refused: undefined, parties: [parties] }, table: undefined };
  }

  #pod(): LocalPod | undefined {
    return this.#parts.replica.byName(this.#handed.pod as PodName);
  }
}

const sourceKey = (
  pod: LocalPod,
  to: Workload | undefined,
  service: Service | undefined,
  fallbackService: string,
  reporter: SeriesKey["reporter"],
  secured: boolean,
): SeriesKey => ({
  reporter,
  source: { workload: pod.workload, principal: secured ? pod.identity : "" },
  destination: partyOf(to, secured),
  service,
  fallbackService,
  responseFlags: "-",
  secured,
});
const none = ({ reason, policy }: Pick<Verdict, "reason" | "policy">, parties: readonly RequestParties[]): Ways => ({
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
