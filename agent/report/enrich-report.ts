// What all data threads tell of enriched requests, as metrics, and at times a log line with the pairs that had the most anomalous calls.
import type { EnricherSettings } from "../api/enricher.ts";
import type { Logger } from "../base/log.ts";
import type { CounterMetric, Metrics } from "../base/metrics.ts";
import { type AnomalousPair, byRequests, type EnrichTold } from "../enrich/tally.ts";
import { metricNames } from "./metric-names.ts";

const mostLabels = 200;
const mostPairs = 2_000;
type Row = readonly [string, number];

export class EnrichReport {
  readonly #log: Logger;
  readonly #settings: () => EnricherSettings;
  readonly #nowMs: () => number;
  readonly #namespaces: (rows: readonly Row[]) => void;
  readonly #services: (rows: readonly Row[]) => void;
  readonly #anomalies: (rows: readonly Row[]) => void;
  readonly #limited: (rows: readonly Row[]) => void;
  readonly #crowded: CounterMetric<never>;
  #pairs = new Map<string, AnomalousPair>();
  #otherPairs = 0;
  #toldMs = Number.NEGATIVE_INFINITY;

  constructor(metrics: Metrics, log: Logger, settings: () => EnricherSettings, nowMs: () => number) {
    this.#log = log;
    this.#settings = settings;
    this.#nowMs = nowMs;
    this.#namespaces = bounded(metrics.counter(metricNames.meshRequests), "namespace");
    this.#services = bounded(metrics.counter(metricNames.meshServices), "service");
    this.#anomalies = bounded(metrics.counter(metricNames.meshAnomalies), "anomaly");
    this.#limited = bounded(metrics.counter(metricNames.meshLimited), "by");
    this.#crowded = metrics.counter(metricNames.meshCrowded);
  }

  take(told: EnrichTold): void {
    this.#namespaces(told.namespaces);
    this.#services(told.services);
    this.#anomalies(told.anomalies);
    this.#limited(told.limited);
    if (told.crowded > 0) this.#crowded.add({}, told.crowded);
    for (const pair of told.pairs) this.#keep(pair);
    this.#otherPairs += told.otherPairs;
    const { mesh_log_interval_seconds: intervalS } = this.#settings();
    if (this.#pairs.size > 0 && this.#nowMs() - this.#toldMs >= intervalS * 1000) this.#tell();
  }

  #keep(pair: AnomalousPair): void {
    const key = `${pair.source} ${pair.destination}`;
    const kept = this.#pairs.get(key);
    if (kept === undefined && this.#pairs.size >= mostPairs) {
      this.#otherPairs += pair.requests;
      return;
    }
    this.#pairs.set(key, {
      ...pair,
      requests: pair.requests + (kept?.requests ?? 0),
      score: Math.max(pair.score, kept?.score ?? 0),
      anomalies: [...new Set([...(kept?.anomalies ?? []), ...pair.anomalies])],
    });
  }

  #tell(): void {
    const most = this.#settings().mesh_top_pairs;
    const sorted = [...this.#pairs.values()].sort(byRequests);
    const rest = sorted.slice(most).reduce((sum, pair) => sum + pair.requests, this.#otherPairs);
    this.#log.warn("mesh_anomalous_pairs", { pairs: sorted.slice(0, most), otherRequests: rest });
    this.#pairs = new Map();
    this.#otherPairs = 0;
    this.#toldMs = this.#nowMs();
  }
}

/** Adds rows under their label, or under "other" once there are many. */
function bounded<L extends string>(counter: CounterMetric<L>, name: L): (rows: readonly Row[]) => void {
  const known = new Set<string>();
  return (rows) => {
    for (const [label, count] of rows) {
      if (known.size < mostLabels) known.add(label);
      counter.add({ [name]: known.has(label) ? label : "other" } as Record<L, string>, count);
    }
  };
}
