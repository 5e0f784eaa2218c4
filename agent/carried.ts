// Handed connections that are carried byte for byte: those whose first bytes, late as they came, are no HTTP. Only where they are allowed
// as connections, policies about requests counted against them (DP-24), and for as long as that holds.
import type { PodName, SpiffeId } from "./api/names.ts";
import type { Clock } from "./base/clock.ts";
import { connectionLimits } from "./decide/connection-limits.ts";
import { decideInbound, subjectOf } from "./decide/inbound.ts";
import { decideOutbound } from "./decide/outbound.ts";
import { routeOf } from "./decide/route.ts";
import { servicePortsOf } from "./decide/service-ports.ts";
import { type CloseReason, closeReasonOf } from "./flow.ts";
import { ClientBytes, carry } from "./forward/carry.ts";
import type { LaneSocket, LaneSockets } from "./forward/dial.ts";
import { type TakeClient, upstreamProtocol } from "./forward/sniff.ts";
import type { DialParams } from "./native-calls.ts";
import type { Replica } from "./replica.ts";
import type { HandedEnd, HandedSocket } from "./threads.ts";

export interface CarriedParts {
  readonly replica: Replica;
  readonly sockets: LaneSockets;
  readonly clock: Pick<Clock, "now" | "monotonicMs">;
  readonly ended: (end: HandedEnd) => void;
}

export class Carried {
  readonly #parts: CarriedParts;
  readonly #open = new Map<LaneSocket, { readonly handed: HandedSocket; upstream: LaneSocket | undefined }>();
  #generation = 0;

  constructor(parts: CarriedParts) {
    this.#parts = parts;
  }

  isAllowed({ direction, pod: name, original, source, identity, tunnel, upstream }: HandedSocket): boolean {
    const { replica } = this.#parts;
    const { state, knowledge } = replica;
    const pod = replica.byName(name as PodName);
    if (pod === undefined) return false;
    if (direction === "inbound") {
      const proven = (identity ?? null) as SpiffeId | null;
      const arrival = { destination: original, sourceIp: source.ip, identity: proven, tunnel };
      return decideInbound(state, pod, arrival, knowledge).allow;
    }
    const decision = decideOutbound(state, replica, pod, source.ip, original, { knowledge, detectMs: 0 });
    if (decision.kind === "refuse") return false;
    // On this node the server's policies are asked here, and the plan that chose it may be older than they.
    return upstream === undefined || decision.upstreams.some((u) => u.ip === upstream.ip && u.port === upstream.port);
  }

  /** Takes a connection that is allowed, and carries it to where it would have gone without this thread. `over`: it has ended. */
  taker(handed: HandedSocket, over: () => void): TakeClient {
    return (open) => {
      const said = new ClientBytes();
      void this.#take(open(said.onread) as LaneSocket, said, handed).finally(over);
      // Nothing can be said on it before its end, so it lives until the thread does.
      return { drain: () => {} };
    };
  }

  async #take(client: LaneSocket, said: ClientBytes, handed: HandedSocket): Promise<void> {
    const { clock } = this.#parts;
    const startedMs = clock.now();
    const beganMs = clock.monotonicMs();
    const sinceUs = (): number => Math.round((clock.monotonicMs() - beganMs) * 1000);
    let readyUs = 0;
    const ended = (reason: CloseReason, sent: number, received: number, policy = ""): void => {
      const by = policy === "" ? {} : { policy };
      this.#parts.ended({ handed, reason, ...by, startedMs, durationUs: sinceUs(), readyUs, sent, received });
    };
    client.on("error", () => {});
    const entry = { handed, upstream: undefined as LaneSocket | undefined };
    this.#open.set(client, entry);
    client.once("close", () => this.#open.delete(client));
    const upstream = await this.#parts.sockets.dial({ ...onward(handed), ...this.#limitsOf(handed) });
    if (!upstream.ok) {
      client.reset();
      return ended(closeReasonOf(upstream.error.code), 0, 0, upstream.error.policy);
    }
    readyUs = sinceUs();
    if (client.destroyed) {
      upstream.value.on("error", () => {}).reset();
      return ended("client_reset", 0, 0);
    }
    entry.upstream = upstream.value;
    const { sent, received, reason } = await carry(client, said, upstream.value);
    ended(reason, sent, received);
  }

  /** Those of the service that it goes to, as native keeps them of what it carries itself. */
  #limitsOf({ direction, pod: name, original }: HandedSocket): Pick<DialParams, "limits"> {
    const { replica } = this.#parts;
    const pod = direction === "outbound" ? replica.byName(name as PodName) : undefined;
    if (pod === undefined) return {};
    const { state } = replica;
    const limits = connectionLimits(state, pod.workload.namespace, routeOf(state, replica, original));
    return limits === undefined ? {} : { limits };
  }

  /** The state may have changed: what is no longer allowed is reset. */
  review(): void {
    const { generation } = this.#parts.replica.state;
    if (generation === this.#generation) return;
    this.#generation = generation;
    for (const [client, { handed, upstream }] of this.#open) {
      if (this.isAllowed(handed)) continue;
      client.reset();
      upstream?.reset();
    }
  }
}

function onward({ pod, original, source, upstream, direction, planId, service }: HandedSocket): DialParams {
  const at = { pod, source, planId };
  if (direction === "inbound") return { ...at, endpoint: { ...original, mode: "local", pod } };
  return {
    ...at,
    endpoint: upstream ?? { ...original, mode: "plain" },
    destination: original,
    ...(service === undefined || service === null ? {} : { service }),
    ...(upstream?.index === undefined ? {} : { index: upstream.index }),
  };
}

/** Whether all services of the port that a connection is for declare it to be HTTP/2: what is no HTTP there is HTTP/2's to refuse. */
export function isHttp2Port(replica: Replica, { direction, pod: name, original }: HandedSocket): boolean {
  const { state } = replica;
  if (direction === "outbound") {
    const route = routeOf(state, replica, original);
    return route.kind === "service" && upstreamProtocol(route.port.protocol, "http1") === "http2";
  }
  const pod = replica.byName(name as PodName);
  if (pod === undefined) return false;
  const declared = servicePortsOf(state, subjectOf(state, pod), original.port);
  return declared.length > 0 && declared.every((port) => upstreamProtocol(port?.protocol ?? "", "http1") === "http2");
}
