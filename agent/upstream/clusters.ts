// The clusters of one data thread, made when a request first needs them and forgotten when none did for a while.
import type { Place } from "../decide/balance/locality.ts";
import { Cluster, type ClusterName, type ClusterParts } from "./cluster.ts";

export class Clusters {
  readonly #parts: ClusterParts;
  readonly #forgetMs: number;
  readonly #clusters = new Map<string, Cluster>();

  /** `forgetMs`: how long one is kept without a request. */
  constructor(parts: ClusterParts, forgetMs: number) {
    this.#parts = parts;
    this.#forgetMs = forgetMs;
  }

  get(name: ClusterName, place: Place): Cluster {
    const key = clusterKey(name);
    let cluster = this.#clusters.get(key);
    if (cluster === undefined) {
      cluster = new Cluster(name, place, this.#parts, this.#parts.shared.takeCell(key));
      this.#clusters.set(key, cluster);
    }
    cluster.refresh(place);
    return cluster;
  }

  sweep(now: number): void {
    for (const [key, cluster] of this.#clusters) {
      cluster.sweep(now);
      if (cluster.underWay > 0 || now - cluster.usedMs < this.#forgetMs) continue;
      cluster.forget();
      this.#parts.shared.giveCell(key);
      this.#clusters.delete(key);
    }
  }
}

export const clusterKey = ({ namespace, service, port, family, subset, isOuter }: ClusterName): string =>
  `${namespace}>${service}:${port}/${family}${isOuter === true ? "/outer" : ""}${Object.entries(subset)
    .map(([key, value]) => `|${key}=${value}`)
    .sort()
    .join("")}`;
