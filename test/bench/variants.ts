// What is compared: no mesh, the peers, ours. One record each, so that every load treats them alike.
import { untilServing } from "./loads.ts";
import { makeCertificates, type Peer, startEnvoy, startHaproxy } from "./peers.ts";
import { endCgroup, newCgroup, type Place } from "./place.ts";
import { type Servers, startServers } from "./server.ts";
import { buildTopology, type Topology } from "./topology.ts";

export type VariantName = "none" | "envoy" | "haproxy" | "nginx" | "ours" | "bypass";

export interface Variant {
  readonly name: VariantName;
  /** Client pod on the other node than the server, and one on the server's node. */
  readonly far: Place;
  readonly near: Place;
  readonly http: string;
  readonly stream: string;
  /** The same servers as a client on the server's node addresses them. */
  readonly nearHttp: string;
  readonly nearStream: string;
  /** A target whose pool of connections between the proxies is empty; another one at each call where that takes another port. */
  coldHttp(): string;
  /** cgroups of the proxies or agents on the client's and the server's node; empty for no mesh. */
  readonly cgroups: readonly string[];
  readonly servers: Servers;
  /** Namespace in which all traffic between the nodes passes. */
  readonly router: string;
  /** Proxies or agents started anew, ready when it resolves. */
  restart(): Promise<void>;
  /** Makes the agents know so many workloads more; resolves when they do, with the way to make them forget. */
  knowWorkloads?(count: number): Promise<() => Promise<void>>;
}

export interface Bare {
  readonly topology: Topology;
  readonly variants: readonly Variant[];
  readonly versions: Readonly<Record<string, string>>;
  down(): Promise<void>;
}

/** No mesh and the peers: one topology, one pair of servers; the proxies wait idle while another is measured. */
export async function startBare(say: (line: string) => void): Promise<Bare> {
  const topology = await buildTopology(undefined, say);
  try {
    const servers = await startServers(topology.pod("server"), topology.dir);
    const certs = await makeCertificates(topology.dir);
    const [far, near, server] = [topology.pod("client"), topology.pod("near"), topology.pod("server")];
    const direct = {
      far,
      near,
      servers,
      router: topology.router,
      nearHttp: `${server.ip}:8080`,
      nearStream: `${server.ip}:5201`,
    };
    const none: Variant = {
      ...direct,
      name: "none",
      http: direct.nearHttp,
      stream: direct.nearStream,
      coldHttp: () => direct.nearHttp,
      cgroups: [],
      restart: async () => undefined,
    };
    const variants: Variant[] = [none];
    const versions: Record<string, string> = {};
    for (const start of [startEnvoy, startHaproxy]) {
      const peer: Peer = await start(topology, certs);
      await untilServing(far, peer.http);
      versions[peer.name] = peer.version;
      variants.push({
        ...direct,
        name: peer.name,
        http: peer.http,
        stream: peer.stream,
        coldHttp: () => peer.http,
        cgroups: peer.cgroups,
        async restart() {
          for (const group of peer.cgroups) {
            await endCgroup(group);
            newCgroup(group);
          }
          await start(topology, certs);
          await untilServing(far, peer.http);
        },
      });
    }
    return { topology, variants, versions, down: topology.down };
  } catch (error) {
    await topology.down();
    throw error;
  }
}
