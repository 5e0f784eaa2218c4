// What one data thread tells of enriched requests: counters with bounded labels, and the pairs with the most anomalous calls.
import type { MeshAnomaly } from "../api/enricher.ts";

export interface AnomalousPair {
  readonly source: string;
  readonly destination: string;
  readonly requests: number;
  /** The highest. */
  readonly score: number;
  readonly anomalies: readonly MeshAnomaly[];
}
/** Sums since the last one; rows are label and count. */
export interface EnrichTold {
  readonly namespaces: readonly (readonly [string, number])[];
  readonly services: readonly (readonly [string, number])[];
  readonly anomalies: readonly (readonly [string, number])[];
  readonly limited: readonly (readonly [string, number])[];
  /** Calls of pairs that found no room to be counted. */
  readonly crowded: number;
  readonly pairs: readonly AnomalousPair[];
  /** Anomalous calls of further pairs. */
  readonly otherPairs: number;
}

const mostLabels = 200;
const mostPairs = 1_000;
const mostTold = 100;
type Kept = { source: string; destination: string; requests: number; score: number; anomalies: Set<MeshAnomaly> };

/** Counts by label; beyond some labels under "other". */
class Counts {
  readonly #known = new Set<string>();
  #counts = new Map<string, number>();

  add(label: string): void {
    if (this.#known.size < mostLabels) this.#known.add(label);
    const counted = this.#known.has(label) ? label : "other";
    this.#counts.set(counted, (this.#counts.get(counted) ?? 0) + 1);
  }
  flush(): readonly (readonly [string, number])[] {
    const rows = [...this.#counts];
    this.#counts = new Map();
    return rows;
  }
}

export class Tally {
  readonly #namespaces = new Counts();
  readonly #services = new Counts();
  readonly #anomalies = new Counts();
  readonly #limited = new Counts();
  #pairs = new Map<string, Kept>();
  #otherPairs = 0;
  #crowded = 0;
  #isEmpty = true;

  request(namespace: string, service: string, anomalies: readonly MeshAnomaly[]): void {
    this.#isEmpty = false;
    this.#namespaces.add(namespace);
    this.#services.add(service);
    for (let i = 0; i < anomalies.length; i++) this.#anomalies.add(anomalies[i] as MeshAnomaly);
  }
  limited(by: "pair" | "namespace"): void {
    this.#limited.add(by);
  }
  crowded(): void {
    this.#crowded++;
  }

  pair(source: string, destination: string, score: number, anomalies: readonly MeshAnomaly[]): void {
    const key = `${source} ${destination}`;
    const kept = this.#pairs.get(key);
    if (kept !== undefined) {
      kept.requests++;
      kept.score = Math.max(kept.score, score);
      for (const anomaly of anomalies) kept.anomalies.add(anomaly);
    } else if (this.#pairs.size < mostPairs) {
      this.#pairs.set(key, { source, destination, requests: 1, score, anomalies: new Set(anomalies) });
    } else this.#otherPairs++;
  }

  /** What came since the last call; undefined: nothing. */
  flush(): EnrichTold | undefined {
    if (this.#isEmpty) return undefined;
    const pairs = [...this.#pairs.values()].sort(byRequests);
    const told: EnrichTold = {
      namespaces: this.#namespaces.flush(),
      services: this.#services.flush(),
      anomalies: this.#anomalies.flush(),
      limited: this.#limited.flush(),
      crowded: this.#crowded,
      pairs: pairs.slice(0, mostTold).map((pair) => ({ ...pair, anomalies: [...pair.anomalies] })),
      otherPairs: this.#otherPairs + pairs.slice(mostTold).reduce((sum, pair) => sum + pair.requests, 0),
    };
    this.#pairs = new Map();
    this.#otherPairs = this.#crowded = 0;
    this.#isEmpty = true;
    return told;
  }
}

export const byRequests = (a: { readonly requests: number }, b: { readonly requests: number }): number =>
  b.requests - a.requests;
