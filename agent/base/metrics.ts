// Counters, gauges and histograms on prom-client, with label names checked by the compiler. Nothing else imports prom-client.
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from "prom-client";

export type Labels<L extends string> = Readonly<Record<L, string>>;
export interface CounterMetric<L extends string> {
  add(labels: Labels<L>, by?: number): void;
}
export interface GaugeMetric<L extends string> {
  set(labels: Labels<L>, value: number): void;
  add(labels: Labels<L>, by: number): void;
  remove(labels: Labels<L>): void;
  /** Forgets every label set, before a whole new state is written. */
  clear(): void;
}
export interface HistogramMetric<L extends string> {
  observe(labels: Labels<L>, value: number): void;
}
/** `counts[i]`: observations in (bounds[i - 1], bounds[i]], the last one above every bound; not cumulative. */
export interface HistogramBuckets {
  readonly counts: ArrayLike<number>;
  readonly sum: number;
}
/** Name (with unit: `_seconds`, `_bytes`, `_total`), help and label names. */
export interface MetricSpec<L extends string> {
  readonly name: string;
  readonly help: string;
  readonly labels: readonly L[];
}
export interface Metrics {
  counter<L extends string>(spec: MetricSpec<L>): CounterMetric<L>;
  /** A counter whose values are kept elsewhere (a hot path without label hashing); `collect` writes all of them at each scrape. */
  counterOf<L extends string>(
    spec: MetricSpec<L>,
    collect: (set: (labels: Labels<L>, total: number) => void) => void,
  ): void;
  gauge<L extends string>(spec: MetricSpec<L>): GaugeMetric<L>;
  /** `collect` runs before each scrape. */
  gaugeOf<L extends string>(spec: MetricSpec<L>, collect: (gauge: GaugeMetric<L>) => void): void;
  histogram<L extends string>(spec: MetricSpec<L>, buckets: readonly number[]): HistogramMetric<L>;
  /** A histogram whose buckets are kept elsewhere; `collect` writes all label sets at each scrape. */
  histogramOf<L extends string>(
    spec: MetricSpec<L>,
    bounds: readonly number[],
    collect: (set: (labels: Labels<L>, buckets: HistogramBuckets) => void) => void,
  ): void;
  /** Prometheus text exposition. */
  text(): Promise<string>;
  readonly contentType: string;
}

/** A registry of its own; `withProcess` adds process and event loop metrics. */
export function createMetrics(withProcess = false): Metrics {
  const registry = new Registry();
  if (withProcess) collectDefaultMetrics({ register: registry });
  const config = <L extends string>(spec: MetricSpec<L>) => ({
    name: spec.name,
    help: spec.help,
    labelNames: [...spec.labels],
    registers: [registry],
  });
  const wrapGauge = <L extends string>(gauge: Gauge<L>): GaugeMetric<L> => ({
    set: (labels, value) => gauge.set(labels, value),
    add: (labels, by) => gauge.inc(labels, by),
    remove: (labels) => gauge.remove(labels),
    clear: () => gauge.reset(),
  });
  return {
    counter<L extends string>(spec: MetricSpec<L>): CounterMetric<L> {
      const counter = new Counter<L>(config(spec));
      if (spec.labels.length === 0) counter.inc(0);
      return { add: (labels, by = 1) => counter.inc(labels, by) };
    },
    counterOf<L extends string>(
      spec: MetricSpec<L>,
      collect: (set: (labels: Labels<L>, total: number) => void) => void,
    ) {
      const counter = new Counter({
        ...config(spec),
        collect() {
          counter.reset();
          collect((labels, total) => counter.inc(labels as Record<L, string>, total));
        },
      });
    },
    gauge: (spec) => wrapGauge(new Gauge(config(spec))),
    gaugeOf<L extends string>(spec: MetricSpec<L>, collect: (gauge: GaugeMetric<L>) => void): void {
      const gauge: Gauge<L> = new Gauge<L>({ ...config(spec), collect: () => collect(wrapGauge(gauge)) });
    },
    histogram<L extends string>(spec: MetricSpec<L>, buckets: readonly number[]): HistogramMetric<L> {
      const histogram = new Histogram<L>({ ...config(spec), buckets: [...buckets] });
      return { observe: (labels, value) => histogram.observe(labels, value) };
    },
    histogramOf<L extends string>(
      spec: MetricSpec<L>,
      bounds: readonly number[],
      collect: (set: (labels: Labels<L>, buckets: HistogramBuckets) => void) => void,
    ) {
      registry.registerMetric(new KeptHistogram(spec, bounds, collect as never) as unknown as Histogram<string>);
    },
    text: () => registry.metrics(),
    contentType: registry.contentType,
  };
}

/** What the registry asks of a metric, filled from buckets kept elsewhere. */
class KeptHistogram {
  readonly name: string;
  readonly help: string;
  readonly type = "histogram";
  readonly aggregator = "sum";
  readonly #bounds: readonly number[];
  readonly #collect: (set: (labels: Labels<string>, buckets: HistogramBuckets) => void) => void;

  constructor(
    spec: MetricSpec<string>,
    bounds: readonly number[],
    collect: (set: (labels: Labels<string>, buckets: HistogramBuckets) => void) => void,
  ) {
    this.name = spec.name;
    this.help = spec.help;
    this.#bounds = bounds;
    this.#collect = collect;
  }

  async get() {
    const values: { metricName: string; labels: Record<string, string | number>; value: number }[] = [];
    this.#collect((labels, { counts, sum }) => {
      let total = 0;
      for (let i = 0; i <= this.#bounds.length; i++) {
        total += counts[i] ?? 0;
        const le = this.#bounds[i] ?? "+Inf";
        values.push({ metricName: `${this.name}_bucket`, labels: { ...labels, le }, value: total });
      }
      values.push({ metricName: `${this.name}_sum`, labels, value: sum });
      values.push({ metricName: `${this.name}_count`, labels, value: total });
    });
    return { name: this.name, help: this.help, type: this.type, aggregator: this.aggregator, values };
  }
  reset(): void {}
}
