// The clusters of one data thread, made when a request first needs them and forgotten when none did for a while.
import { EndpointStats } from "../decide/balance/endpoint-stats.ts";
import type { Place } from "../decide/balance/locality.ts";
import { Slots } from "../decide/balance/slots.ts";
import { Breakers } from "../decide/resilience/breaker.ts";
import { Cluster, type ClusterName, type ClusterParts } from "./cluster.ts";

export type ClustersParts = Pick<ClusterParts, "replica" | "random" | "nowMs" | "probe" | "told">;
/** Endpoints of which something is known, over all services and namespaces. */
const mostEndpoints = 65_536;

export class Clusters {
  readonly #parts: ClusterParts;
  readonly #forgetMs: number;
  readonly #clusters = new Map<string, Cluster>();

  /** `forgetMs`: how long one is kept without a request. */
  constructor(parts: ClustersParts, forgetMs: number) {
    const stats = new EndpointStats(mostEndpoints);
    this.#parts = { ...parts, stats, slots: new Slots(stats), breakers: new Breakers(stats) };
    this.#forgetMs = forgetMs;
  }

  get(name: ClusterName, place: Place): Cluster {
    const key = clusterKey(name);
    let cluster = this.#clusters.get(key);
    if (cluster === undefined) {
      cluster = new Cluster(name, place, this.#parts);
      this.#clusters.set(key, cluster);
    }
    cluster.refresh();
    return cluster;
  }

  sweep(now: number): void {
    for (const [key, cluster] of this.#clusters) {
      cluster.sweep(now);
      if (cluster.requests > 0 || now - cluster.usedMs < this.#forgetMs) continue;
      cluster.forget();
      this.#clusters.delete(key);
    }
  }
}

export const clusterKey = ({ namespace, service, port, family, subset }: ClusterName): string =>
  `${namespace}>${service}:${port}/${family}${Object.entries(subset)
    .map(([key, value]) => `|${key}=${value}`)
    .sort()
    .join("")}`;
