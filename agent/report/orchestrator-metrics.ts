// The metrics named orchestrator_*, which dashboards of routers before Fairlead ask for, out of what all data threads decided; that of breakers is in endpoint-changes.ts.
import type { CounterMetric, Metrics } from "../base/metrics.ts";
import { type Decided, probeBoundsS } from "./decisions.ts";
import { metricNames } from "./metric-names.ts";

/** Pools with a label of their own; all others are "other". */
const mostPools = 200;

export class OrchestratorMetrics {
  readonly #routes: CounterMetric<never>;
  readonly #denied: CounterMetric<never>;
  readonly #errors: CounterMetric<never>;
  readonly #healthOk: CounterMetric<never>;
  readonly #healthBad: CounterMetric<never>;
  readonly #picks: CounterMetric<"pool" | "algo" | "healthy">;
  readonly #pools = new Set<string>();
  readonly #probes = Array.from({ length: probeBoundsS.length + 1 }, () => 0);
  #probeSeconds = 0;

  constructor(metrics: Metrics) {
    this.#routes = metrics.counter(metricNames.routes);
    this.#denied = metrics.counter(metricNames.routesDenied);
    this.#errors = metrics.counter(metricNames.routeErrors);
    this.#healthOk = metrics.counter(metricNames.healthOk);
    this.#healthBad = metrics.counter(metricNames.healthBad);
    this.#picks = metrics.counter(metricNames.picks);
    metrics.histogramOf(metricNames.probeSeconds, probeBoundsS, (set) =>
      set({}, { counts: this.#probes, sum: this.#probeSeconds }),
    );
  }

  take(decided: Decided): void {
    const { requests, denied, errors, picks, goodProbes, badProbes, probes, probeSeconds } = decided;
    this.#routes.add({}, requests);
    this.#denied.add({}, denied);
    this.#errors.add({}, errors);
    this.#healthOk.add({}, goodProbes);
    this.#healthBad.add({}, badProbes);
    probes.forEach((count, i) => {
      this.#probes[i] = (this.#probes[i] as number) + count;
    });
    this.#probeSeconds += probeSeconds;
    for (const { pool: name, algorithm: algo, healthy, ill } of picks) {
      if (this.#pools.size < mostPools) this.#pools.add(name);
      const pool = this.#pools.has(name) ? name : "other";
      if (healthy > 0) this.#picks.add({ pool, algo, healthy: "true" }, healthy);
      if (ill > 0) this.#picks.add({ pool, algo, healthy: "false" }, ill);
    }
  }
}
