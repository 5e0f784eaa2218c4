// Where the requests of one handed connection may go: the clusters of services, or the one server that the connection leads to. Looked up
// in what this thread knows whenever the state's generation has grown.
import { defaultPolicy, type HttpPolicy } from "../api/http-policy.ts";
import type { PodName, ServiceName, SpiffeId } from "../api/names.ts";
import { type Service, serviceNameOf } from "../api/service.ts";
import { identityOf, type Workload } from "../api/workload.ts";
import { type RouteTable, ServiceRoutes } from "../decide/http/route-table.ts";
import { decideInbound, subjectOf } from "../decide/inbound.ts";
import { decideOutbound } from "../decide/outbound.ts";
import { type Route, routeOf } from "../decide/route.ts";
import { isOuterAddress } from "../decide/service-endpoints.ts";
import { serviceBefore } from "../decide/service-ports.ts";
import { planEndpoint, type Upstream } from "../decide/upstreams.ts";
import type { LocalPod, PlanEndpoint, Verdict } from "../flow.ts";
import type { Pools } from "../forward/pools.ts";
import { type HttpProtocol, upstreamProtocol } from "../forward/sniff.ts";
import type { Replica } from "../replica.ts";
import { RequestParties } from "../report/request-series.ts";
import { partyOf, type SeriesKey } from "../report/tcp-series.ts";
import type { HandedSocket } from "../threads.ts";
import type { Cluster, ClusterName } from "./cluster.ts";
import { type Clusters, clusterKey } from "./clusters.ts";
import { Way } from "./way.ts";

export interface WaysParts {
  readonly replica: Replica;
  readonly pools: Pools;
  readonly clusters: Clusters;
}

export type Refused = Pick<Verdict, "reason" | "policy">;
/** Where requests may go. */
export interface Ways {
  /** Absent where there is one way, or none. */
  readonly cluster: Cluster | undefined;
  /** Why there is none. */
  readonly refused: Refused | undefined;
  /** Whom requests are counted for that reach no endpoint. */
  readonly parties: readonly RequestParties[];
  /** `index`: of the cluster's endpoint; 0 where there is no cluster. */
  way(index: number): Way;
}
/** What holds for the requests of a connection until the state changes. */
export interface Current {
  readonly ways: Ways;
  /** Routes of the service that was asked for; undefined: all requests go to its endpoints. */
  readonly table: RouteTable | undefined;
  /** Of the service that was asked for: its timeouts and retries hold where a route says nothing. */
  readonly policy: HttpPolicy;
}

/** Compiled once per set of routes, whichever connection asks first. */
const compiled = new WeakMap<object, ServiceRoutes>();
/** Ways of a pod are shared by all its connections; they go when the node's record of the pod does. */
const byPod = new WeakMap<LocalPod, Map<string, ClusterWays>>();

export class RequestWays {
  readonly handed: HandedSocket;
  readonly #parts: WaysParts;
  #generation = 0;
  #current: Current | undefined;
  readonly #backends = new Map<object, Ways>();
  readonly #protocol: HttpProtocol;

  /** `protocol`: what the client speaks. */
  constructor(parts: WaysParts, handed: HandedSocket, protocol: HttpProtocol = "http1") {
    this.#parts = parts;
    this.handed = handed;
    this.#protocol = protocol;
  }

  /** As the state is now. */
  current(): Current {
    const { generation } = this.#parts.replica.state;
    if (this.#current === undefined || this.#generation !== generation || isForgotten(this.#current.ways)) {
      this.#backends.clear();
      this.#current = this.handed.direction === "outbound" ? this.#outbound() : this.#inbound();
      this.#generation = generation;
    }
    return this.#current;
  }

  /** The endpoints of a backend that a route names. */
  backend(backend: {
    readonly service: ServiceName;
    readonly port: number;
    readonly subset: Readonly<Record<string, string>>;
  }): Ways {
    let ways = this.#backends.get(backend);
    if (ways === undefined || isForgotten(ways)) {
      const pod = this.#pod();
      ways = pod === undefined ? none(notIntercepted, []) : this.#service(pod, backend);
      this.#backends.set(backend, ways);
    }
    return ways;
  }

  #service(pod: LocalPod, to: Pick<ClusterName, "service" | "port" | "subset">): Ways {
    const { clusters } = this.#parts;
    const { namespace } = pod.workload;
    const family = this.handed.original.ip.includes(":") ? 6 : 4;
    const cluster = clusters.get({ ...to, namespace, family }, subjectOf(this.#parts.replica.state, pod));
    let known = byPod.get(pod);
    if (known === undefined) {
      known = new Map();
      byPod.set(pod, known);
    }
    const protocol = upstreamProtocol(cluster.port?.protocol ?? "", this.#protocol);
    const key = `${clusterKey(cluster.name)} ${protocol}`;
    let ways = known.get(key);
    // A cluster that was forgotten meanwhile is another one now.
    if (ways?.cluster !== cluster) {
      ways = new ClusterWays(cluster, pod, protocol, this.#parts.pools, this.handed);
      known.set(key, ways);
    }
    return ways;
  }

  #outbound(): Current {
    const { replica } = this.#parts;
    const { state, knowledge } = replica;
    const { original, source } = this.handed;
    const pod = this.#pod();
    if (pod === undefined) return { ways: none(notIntercepted, []), table: undefined, policy: defaultPolicy };
    const route = routeOf(state, replica, original);
    const fallback = route.kind === "passthrough" ? "PassthroughCluster" : "unknown";
    const parties = (): RequestParties[] => [partiesOf(pod, undefined, serviceOf(route), fallback, "source", false)];
    if (knowledge === "none")
      return { ways: none({ reason: "policies_stale" }, parties()), table: undefined, policy: defaultPolicy };
    if (route.kind === "service") {
      const service = serviceNameOf(route.service);
      const outer = isOuterAddress(route.service, original.ip) ? { isOuter: true } : {};
      const ways = this.#service(pod, { service, port: route.port.port, subset: {}, ...outer });
      const policy = state.routings.get(service)?.policy ?? defaultPolicy;
      return { ways, table: this.#table(service, route.port.port, pod), policy };
    }
    const decision = decideOutbound(state, replica, pod, source.ip, original, {
      knowledge,
      detectMs: 0,
      perRequest: true,
    });
    const [upstream] = decision.kind === "forward" ? decision.upstreams : [];
    const ways =
      upstream === undefined
        ? none(decision.kind === "refuse" ? decision : { reason: "no_endpoints" }, parties())
        : one(wayTo(upstream, pod, this.#protocol, undefined, fallback, this.#parts.pools, this.handed));
    return { ways, table: undefined, policy: defaultPolicy };
  }

  #table(service: ServiceName, port: number, client: LocalPod): RouteTable | undefined {
    const routing = this.#parts.replica.state.routings.get(service);
    if (routing === undefined || routing.routes.length === 0) return undefined;
    let routes = compiled.get(routing);
    if (routes === undefined) {
      routes = new ServiceRoutes(routing.routes);
      compiled.set(routing, routes);
    }
    return routes.tableFor(port, client.workload.namespace);
  }

  #inbound(): Current {
    const { replica, pools } = this.#parts;
    const { state, knowledge } = replica;
    const { original, source, planId, tunnel } = this.handed;
    const identity = (this.handed.identity ?? null) as SpiffeId | null;
    const base = { table: undefined, policy: defaultPolicy };
    const protocol = this.#protocol;
    const pod = this.#pod();
    if (pod === undefined) return { ...base, ways: none(notIntercepted, []) };
    const claimed = replica.byAddress(source.ip)?.workload ?? state.workloads.byAddress(source.ip);
    const believed = claimed !== undefined && identity !== null && identityOf(claimed) === identity;
    const parties = new RequestParties({
      reporter: "destination",
      source: { workload: believed ? claimed : undefined, principal: identity ?? "" },
      destination: { workload: pod.workload, principal: pod.identity },
      service: serviceBefore(state, subjectOf(state, pod), original.port),
      fallbackService: "unknown",
      responseFlags: "-",
      secured: identity !== null,
    });
    // What let the connection in may have changed since.
    const arrival = { destination: original, sourceIp: source.ip, identity, tunnel };
    const verdict = decideInbound(state, pod, arrival, knowledge, true);
    if (!verdict.allow) return { ...base, ways: none(verdict, [parties]) };
    const endpoint: PlanEndpoint = { ...original, mode: "local", pod: pod.name };
    const way = new Way({
      at: original,
      // The server sees the client's address, so clients do not share connections (DP-27). It is spoken to as its client speaks: the
      // client's own node has seen to what it takes.
      pool: () =>
        pools.pool(
          `${pod.name}<${source.ip}|${original.port}|${protocol}`,
          { pod: pod.name, source, endpoint, planId },
          undefined,
          undefined,
          protocol,
        ),
      subject: pod,
      identity,
      sourceIp: source.ip,
      parties: [parties],
    });
    return { ...base, ways: one(way) };
  }

  #pod(): LocalPod | undefined {
    return this.#parts.replica.byName(this.handed.pod as PodName);
  }
}

/** The endpoints of a cluster as one pod reaches them. */
class ClusterWays implements Ways {
  readonly cluster: Cluster;
  readonly parties: readonly RequestParties[];
  readonly #pod: LocalPod;
  readonly #protocol: HttpProtocol;
  readonly #pools: Pools;
  readonly #handed: HandedSocket;
  #version = -1;
  #ways: (Way | undefined)[] = [];

  /** `handed`: the connection that needed it first; what is dialled names its destination. */
  constructor(cluster: Cluster, pod: LocalPod, protocol: HttpProtocol, pools: Pools, handed: HandedSocket) {
    this.cluster = cluster;
    this.#pod = pod;
    this.#protocol = protocol;
    this.#pools = pools;
    this.#handed = handed;
    this.parties = [partiesOf(pod, undefined, cluster.service, "unknown", "source", false)];
  }

  get refused(): Refused | undefined {
    return this.cluster.refused;
  }

  way(index: number): Way {
    const { cluster } = this;
    if (this.#version !== cluster.version) {
      this.#version = cluster.version;
      this.#ways = [];
    }
    let way = this.#ways[index];
    if (way === undefined) {
      const { upstream } = cluster.members[index] as Cluster["members"][number];
      way = wayTo(upstream, this.#pod, this.#protocol, cluster, "unknown", this.#pools, this.#handed);
      this.#ways[index] = way;
    }
    return way;
  }
}

function wayTo(
  upstream: Upstream,
  pod: LocalPod,
  protocol: HttpProtocol,
  cluster: Cluster | undefined,
  fallback: string,
  pools: Pools,
  { original, source, planId }: HandedSocket,
): Way {
  const { ip, port, mode, local, workload } = upstream;
  const service = cluster?.service;
  const name = service === undefined ? {} : { service: serviceNameOf(service) };
  const target = {
    pod: pod.name,
    source,
    endpoint: planEndpoint(upstream),
    destination: original,
    planId,
    ...name,
  };
  // Pools whose connections are counted together are a service's own.
  const of = service === undefined ? pod.name : `${pod.name}>${serviceNameOf(service)}:${cluster?.name.port}`;
  const reporters: SeriesKey["reporter"][] = local === undefined ? ["source"] : ["source", "destination"];
  return new Way({
    at: { ip, port },
    pool: () =>
      pools.pool(`${of}>${ip}|${port}|${mode}|${protocol}`, target, cluster?.poolLimits, cluster?.poolCounts, protocol),
    subject: local,
    identity: pod.identity,
    sourceIp: source.ip,
    parties: reporters.map((r) => partiesOf(pod, workload, service, fallback, r, mode !== "plain")),
  });
}

/** Nobody used it for long; the one that takes its place knows more. */
const isForgotten = ({ cluster }: Ways): boolean => cluster?.isForgotten === true;
const notIntercepted: Refused = { reason: "not_intercepted" };
const serviceOf = (route: Route): Service | undefined => (route.kind === "service" ? route.service : undefined);
const one = (way: Way): Ways => ({
  cluster: undefined,
  refused: undefined,
  parties: way.parts.parties,
  way: () => way,
});
const none = ({ reason, policy }: Refused, parties: readonly RequestParties[]): Ways => ({
  cluster: undefined,
  refused: { reason, ...(policy === undefined ? {} : { policy }) },
  parties,
  way() {
    throw new Error("there is no way");
  },
});

const partiesOf = (
  pod: LocalPod,
  to: Workload | undefined,
  service: Service | undefined,
  fallbackService: string,
  reporter: SeriesKey["reporter"],
  secured: boolean,
): RequestParties =>
  new RequestParties({
    reporter,
    source: { workload: pod.workload, principal: secured ? pod.identity : "" },
    destination: partyOf(to, secured),
    service,
    fallbackService,
    responseFlags: "-",
    secured,
  });
