// Request metrics of all data threads together, as the control thread shows them. A thread that died keeps what it had told.
import type { Metrics } from "../base/metrics.ts";
import { metricNames, type RequestLabel } from "./metric-names.ts";
import { durationBoundsMs, labelSet, type RequestDelta, type RequestDeltas, sizeBounds } from "./request-series.ts";

interface Total {
  readonly labels: Readonly<Record<RequestLabel, string>>;
  count: number;
  durationMs: number;
  requestBytes: number;
  responseBytes: number;
  readonly durations: Float64Array;
  readonly requestSizes: Float64Array;
  readonly responseSizes: Float64Array;
}

/** Requests of one source to one service, as one side saw them, in all. */
export interface PairRequests {
  readonly reporter: string;
  /** "namespace/name". */
  readonly source: string;
  readonly service: string;
  readonly count: number;
  /** No answer, or 500 and above. */
  readonly errors: number;
  readonly durationMs: number;
  /** Of bodies. */
  readonly requestBytes: number;
  readonly responseBytes: number;
  /** By bucket of `bounds`, the last one above them all; not cumulative. */
  readonly durations: readonly number[];
  readonly boundsMs: readonly number[];
}

export class RequestTotals {
  readonly #totals = new Map<string, Total>();
  /** Per thread: its numbers of label sets, since each life of a thread counts them anew. */
  readonly #threads = new Map<number, Map<number, Total>>();
  readonly #overflow = new Map<number, number>();
  #lostOverflow = 0;

  constructor(metrics: Metrics) {
    metrics.counterOf(metricNames.requests, (set) => {
      for (const total of this.#totals.values()) set(total.labels, total.count);
    });
    metrics.histogramOf(metricNames.requestMs, durationBoundsMs, (set) => {
      for (const { labels, durations, durationMs } of this.#totals.values())
        set(labels, { counts: durations, sum: durationMs });
    });
    metrics.histogramOf(metricNames.requestBytes, sizeBounds, (set) => {
      for (const { labels, requestSizes, requestBytes } of this.#totals.values())
        set(labels, { counts: requestSizes, sum: requestBytes });
    });
    metrics.histogramOf(metricNames.responseBytes, sizeBounds, (set) => {
      for (const { labels, responseSizes, responseBytes } of this.#totals.values())
        set(labels, { counts: responseSizes, sum: responseBytes });
    });
    metrics.counterOf(metricNames.requestsDropped, (set) => {
      let all = this.#lostOverflow;
      for (const count of this.#overflow.values()) all += count;
      set({}, all);
    });
  }

  take(thread: number, { deltas, overflow }: RequestDeltas): void {
    let known = this.#threads.get(thread);
    if (known === undefined) {
      known = new Map();
      this.#threads.set(thread, known);
    }
    this.#overflow.set(thread, overflow);
    for (const delta of deltas) {
      const total = known.get(delta.id) ?? (delta.labels && this.#total(delta.labels));
      if (total === undefined) continue;
      known.set(delta.id, total);
      add(total, delta);
    }
  }

  /** What of the label sets people look at first. */
  pairs(): readonly PairRequests[] {
    const pairs = new Map<string, { -readonly [K in keyof PairRequests]: PairRequests[K] } & { durations: number[] }>();
    for (const { labels, count, durationMs, requestBytes, responseBytes, durations } of this.#totals.values()) {
      const source = `${labels.source_workload_namespace}/${labels.source_workload}`;
      const name = labels.destination_service_name;
      const service = name === "unknown" ? labels.destination_workload : name;
      const to = `${labels.destination_service_namespace}/${service}`;
      const key = `${labels.reporter} ${source} ${to}`;
      let pair = pairs.get(key);
      if (pair === undefined) {
        const sums = { count: 0, errors: 0, durationMs: 0, requestBytes: 0, responseBytes: 0 };
        const none = { ...sums, durations: Array.from(durations, () => 0) };
        pair = { reporter: labels.reporter, source, service: to, boundsMs: durationBoundsMs, ...none };
        pairs.set(key, pair);
      }
      pair.count += count;
      const code = Number(labels.response_code);
      if (code === 0 || code >= 500) pair.errors += count;
      pair.durationMs += durationMs;
      pair.requestBytes += requestBytes;
      pair.responseBytes += responseBytes;
      for (let i = 0; i < durations.length; i++)
        pair.durations[i] = (pair.durations[i] ?? 0) + (durations[i] as number);
    }
    return [...pairs.values()];
  }

  /** The thread ended: its successor begins to number anew. */
  gone(thread: number): void {
    this.#threads.delete(thread);
    this.#lostOverflow += this.#overflow.get(thread) ?? 0;
    this.#overflow.delete(thread);
  }

  #total(labels: Readonly<Record<RequestLabel, string>>): Total {
    const text = labelSet(labels);
    let total = this.#totals.get(text);
    if (total === undefined) {
      total = {
        labels,
        count: 0,
        durationMs: 0,
        requestBytes: 0,
        responseBytes: 0,
        durations: new Float64Array(durationBoundsMs.length + 1),
        requestSizes: new Float64Array(sizeBounds.length + 1),
        responseSizes: new Float64Array(sizeBounds.length + 1),
      };
      this.#totals.set(text, total);
    }
    return total;
  }
}

function add(total: Total, delta: RequestDelta): void {
  total.count += delta.count;
  total.durationMs += delta.durationMs;
  total.requestBytes += delta.requestBytes;
  total.responseBytes += delta.responseBytes;
  for (const name of ["durations", "requestSizes", "responseSizes"] as const) {
    const [to, from] = [total[name], delta[name]];
    for (let i = 0; i < to.length; i++) to[i] = (to[i] as number) + (from[i] as number);
  }
}
