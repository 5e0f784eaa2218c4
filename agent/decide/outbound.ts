// The whole decision about a connection of a pod outwards: route, ways to go on, verdict of what is on this node. Pure.
import type { PolicyName } from "../api/names.ts";
import { type Service, serviceNameOf } from "../api/service.ts";
import type { CloseReason, Endpoint, Knowledge, LocalPod, LocalPods, Verdict } from "../flow.ts";
import type { MeshState } from "../state/mesh-state.ts";
import { byAddress, type ClientSessions, type Kept } from "./client-sessions.ts";
import { decideInbound, subjectOf } from "./inbound.ts";
import { type Route, routeOf } from "./route.ts";
import { type Asked, isOuterAddress } from "./service-endpoints.ts";
import { idOf, openUpstreams, serviceUpstreams, type Upstream, upstreamTo } from "./upstreams.ts";

export interface DecideSettings {
  readonly knowledge: Knowledge;
  /** How long first bytes may be waited for where no protocol is declared, ms (INT-7). */
  readonly detectMs: number;
  /** A data thread asks the policies of pods on this node about each request. */
  readonly perRequest?: boolean;
  /** Which endpoints clients are with, as of a monotonic time in seconds; absent: nothing is known of it. */
  readonly sessions?: { readonly known: ClientSessions; readonly nowS: number };
}

export interface KeptUpstream extends Kept {
  /** Of the upstreams. */
  readonly index: number;
}

export type OutboundDecision =
  | {
      readonly kind: "refuse";
      readonly reason: CloseReason;
      readonly policy?: PolicyName;
      readonly route: Route;
      readonly verdict?: Verdict;
    }
  | {
      readonly kind: "forward";
      readonly route: Route;
      readonly upstreams: readonly Upstream[];
      /** Verdicts of the upstreams that are on this node, by index. */
      readonly verdicts: readonly (Verdict | undefined)[];
      /** Declared protocol, "" if none. */
      readonly protocol: string;
      readonly detectMs: number;
      /** All others are for when that one cannot be reached. */
      readonly kept?: KeptUpstream;
    };

export function decideOutbound(
  state: MeshState,
  locals: LocalPods,
  source: LocalPod,
  sourceIp: string,
  destination: Endpoint,
  settings: DecideSettings,
): OutboundDecision {
  const route = routeOf(state, locals, destination);
  // Without any registry a meshed peer could not be told from a stranger, and would be spoken to in plain text.
  if (settings.knowledge === "none") return { kind: "refuse", reason: "policies_stale", route };
  if (route.kind === "refuse") return { kind: "refuse", reason: route.why, route };
  if (route.kind === "passthrough") {
    const upstream: Upstream = {
      ...destination,
      mode: "plain",
      workload: outsider(destination),
      identities: [],
      weight: 1,
    };
    const detectMs = isServerFirst(state, destination.port) ? 0 : settings.detectMs;
    return { kind: "forward", route, upstreams: [upstream], verdicts: [undefined], protocol: "", detectMs };
  }
  const { upstreams: candidates, missing } =
    route.kind === "service"
      ? serviceUpstreams(state, locals, route.service, route.port, askedOf(state, source, route.service, destination))
      : { upstreams: [upstreamTo(state, locals, route.workload, route.to)], missing: "no_endpoints" as const };
  if (candidates.length === 0) return { kind: "refuse", reason: missing, route };

  const {
    upstreams: open,
    verdicts,
    refused,
  } = openUpstreams(candidates, (upstream, local) => localVerdict(state, source, sourceIp, upstream, local, settings));
  if (refused !== undefined) {
    const policy = refused.policy === undefined ? {} : { policy: refused.policy };
    return { kind: "refuse", reason: refused.reason as CloseReason, ...policy, route, verdict: refused };
  }
  const kept = route.kind === "service" ? keptOf(route, open, sourceIp, settings) : undefined;
  const upstreams =
    kept === undefined ? open : open.map((upstream, i) => ({ ...upstream, weight: i === kept.index ? 1 : 0 }));
  const port = route.kind === "service" ? route.port : undefined;
  const protocol = port?.protocol ?? "";
  const serverFirst = port?.serverFirst === true || isServerFirst(state, destination.port);
  return {
    kind: "forward",
    route,
    upstreams,
    verdicts,
    protocol,
    detectMs: protocol !== "" || serverFirst ? 0 : settings.detectMs,
    ...(kept === undefined ? {} : { kept }),
  };
}

/** What a pod of this node asks of a service at an address that leads to it. */
export const askedOf = (state: MeshState, pod: LocalPod, service: Service, { ip }: Endpoint): Asked => ({
  from: subjectOf(state, pod),
  family: ip.includes(":") ? 6 : 4,
  isOuter: isOuterAddress(service, ip),
});

/** With which endpoint a client stays, where its service has it so and there is a choice. */
function keptOf(
  { service, port }: Extract<Route, { kind: "service" }>,
  upstreams: readonly Upstream[],
  ip: string,
  { sessions }: DecideSettings,
): KeptUpstream | undefined {
  const timeoutS = service.clientAffinityS;
  if (timeoutS === 0 || upstreams.length < 2) return undefined;
  const client = { service: serviceNameOf(service), port: port.port, ip };
  const ids = upstreams.map(idOf);
  const known = sessions === undefined ? -1 : sessions.known.find(client, ids, timeoutS, sessions.nowS);
  const bidders = upstreams.map(({ weight }, i) => ({ id: ids[i] as string, weight }));
  const index = known >= 0 ? known : byAddress(bidders, ip);
  const id = ids[index];
  return id === undefined ? undefined : { client, index, id, timeoutS };
}

/** Both ends are on this node: what the destination would decide is decided here, with the identity that enrolment knows. */
function localVerdict(
  state: MeshState,
  source: LocalPod,
  sourceIp: string,
  upstream: Upstream,
  pod: LocalPod,
  settings: DecideSettings,
): Verdict {
  const destination = { ip: upstream.ip, port: upstream.port };
  return decideInbound(
    state,
    pod,
    { destination, sourceIp, identity: source.identity, tunnel: "local" },
    settings.knowledge,
    settings.perRequest,
  );
}

export const isServerFirst = (state: MeshState, port: number): boolean =>
  state.settings.serverFirstPorts.includes(port);

/** What stands in a record for a destination that discovery does not know. */
function outsider(destination: Endpoint): Upstream["workload"] {
  return {
    uid: "" as Upstream["workload"]["uid"],
    name: "",
    namespace: "",
    serviceAccount: "",
    trustDomain: "" as Upstream["workload"]["trustDomain"],
    node: "",
    addresses: [destination.ip],
    labels: {},
    tunnel: "none",
    ready: true,
    draining: false,
    weight: 1,
    region: "",
    zone: "",
    hostNetwork: false,
    services: [],
    hbonePort: 15008,
    untunnelledPorts: [],
    hostPorts: [],
  };
}
