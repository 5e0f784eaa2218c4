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
    text: () => registry.metrics(),
    contentType: registry.contentType,
  };
}
