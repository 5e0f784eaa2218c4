// Request metrics of one data thread: a handle per label set, found once per pair of parties and outcome; a request then only adds to
// numbers. What was added since the last look goes to the control thread as plain arrays (rule DP-25); the number of label sets is bounded.
import { type RequestLabel, requestLabels } from "./metric-names.ts";
import { labelsOf, type SeriesKey } from "./tcp-series.ts";

/** Upper bounds of the buckets; above the last one is a bucket more. Istio's own, so that its dashboards read alike. */
export const durationBoundsMs = [
  0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000,
] as const;
export const sizeBounds = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000] as const;

/** A label set as one text, by which it is known again. */
export const labelSet = (labels: Readonly<Record<RequestLabel, string>>): string =>
  requestLabels.map((label) => labels[label]).join("\u0000");

/** Sums since the last `flush`. */
export interface RequestSeries {
  /** Number of the label set in this thread. */
  readonly id: number;
  count: number;
  durationMs: number;
  requestBytes: number;
  responseBytes: number;
  readonly durations: Uint32Array;
  readonly requestSizes: Uint32Array;
  readonly responseSizes: Uint32Array;
}

/** What one thread tells of its series: labels the first time, then what was added. Arrays are copies. */
export interface RequestDelta {
  readonly id: number;
  readonly labels?: Readonly<Record<RequestLabel, string>>;
  readonly count: number;
  readonly durationMs: number;
  readonly requestBytes: number;
  readonly responseBytes: number;
  readonly durations: Uint32Array;
  readonly requestSizes: Uint32Array;
  readonly responseSizes: Uint32Array;
}
export interface RequestDeltas {
  readonly deltas: readonly RequestDelta[];
  /** Requests beyond the limit of label sets, in all. */
  readonly overflow: number;
}

/** Who talks to whom through which service, as one reporter sees it: the fixed part of a label set. */
export class RequestParties {
  readonly key: SeriesKey;
  readonly outcomes = new Map<string, RequestSeries>();
  // The outcome seen last: most requests end as the one before, and then no key is made.
  lastStatus = -1;
  lastGrpcStatus: string | undefined = "";
  lastFlags = "";
  last: RequestSeries | undefined;

  constructor(key: SeriesKey) {
    this.key = key;
  }
}

export class RequestSeriesTable {
  readonly #limit: number;
  readonly #byLabels = new Map<string, RequestSeries>();
  readonly #labels: Record<RequestLabel, string>[] = [];
  /** Those with a count above 0. */
  readonly #touched: RequestSeries[] = [];
  #told = 0;
  #overflow = 0;

  constructor(limit: number) {
    this.#limit = limit;
  }

  /** A request of these parties has ended. `grpcStatus`: undefined of what is no gRPC, "" without one; `flags`: Envoy's response flags, "-" for none. */
  ended(
    parties: RequestParties,
    status: number,
    grpcStatus: string | undefined,
    flags: string,
    durationMs: number,
    requestBytes: number,
    responseBytes: number,
  ): void {
    const isAsBefore =
      parties.lastStatus === status && parties.lastGrpcStatus === grpcStatus && parties.lastFlags === flags;
    const series = (isAsBefore ? parties.last : undefined) ?? this.#seriesOf(parties, status, grpcStatus, flags);
    if (series.count++ === 0) this.#touched.push(series);
    series.durationMs += durationMs;
    series.requestBytes += requestBytes;
    series.responseBytes += responseBytes;
    add(series.durations, durationBoundsMs, durationMs);
    add(series.requestSizes, sizeBounds, requestBytes);
    add(series.responseSizes, sizeBounds, responseBytes);
  }

  #seriesOf(parties: RequestParties, status: number, grpcStatus: string | undefined, flags: string): RequestSeries {
    const outcome = `${status} ${grpcStatus} ${flags}`;
    const known = parties.outcomes.get(outcome);
    const series = known ?? this.#find(parties, outcome, status, grpcStatus, flags);
    // What is counted as "other" is looked for each time, so that the overflow is counted too.
    if (known === undefined && !parties.outcomes.has(outcome)) return series;
    parties.lastStatus = status;
    parties.lastGrpcStatus = grpcStatus;
    parties.lastFlags = flags;
    parties.last = series;
    return series;
  }

  /** What was added since the last call; undefined: nothing. */
  flush(): RequestDeltas | undefined {
    if (this.#touched.length === 0) return undefined;
    const deltas: RequestDelta[] = [];
    for (const series of this.#touched) {
      const labels = this.#labels[series.id];
      deltas.push({
        ...series,
        ...(series.id >= this.#told && labels !== undefined ? { labels } : {}),
        durations: series.durations.slice(),
        requestSizes: series.requestSizes.slice(),
        responseSizes: series.responseSizes.slice(),
      });
      series.count = series.durationMs = series.requestBytes = series.responseBytes = 0;
      series.durations.fill(0);
      series.requestSizes.fill(0);
      series.responseSizes.fill(0);
    }
    // Every series is touched when it is made, so all labels are out now.
    this.#told = this.#labels.length;
    this.#touched.length = 0;
    return { deltas, overflow: this.#overflow };
  }

  #find(
    parties: RequestParties,
    outcome: string,
    status: number,
    grpcStatus: string | undefined,
    flags: string,
  ): RequestSeries {
    const labels: Record<RequestLabel, string> = {
      ...labelsOf({ ...parties.key, responseFlags: flags }),
      request_protocol: grpcStatus === undefined ? "http" : "grpc",
      response_code: String(status),
      grpc_response_status: grpcStatus ?? "",
    };
    const text = labelSet(labels);
    let series = this.#byLabels.get(text);
    if (series === undefined && this.#labels.length >= this.#limit) {
      this.#overflow++;
      return this.#other(parties.key.reporter);
    }
    series ??= this.#make(text, labels);
    parties.outcomes.set(outcome, series);
    return series;
  }

  #other(reporter: string): RequestSeries {
    const known = this.#byLabels.get(reporter);
    if (known !== undefined) return known;
    const labels = Object.fromEntries(requestLabels.map((label) => [label, "other"])) as Record<RequestLabel, string>;
    return this.#make(reporter, { ...labels, reporter });
  }

  #make(text: string, labels: Record<RequestLabel, string>): RequestSeries {
    const series: RequestSeries = {
      id: this.#labels.length,
      count: 0,
      durationMs: 0,
      requestBytes: 0,
      responseBytes: 0,
      durations: new Uint32Array(durationBoundsMs.length + 1),
      requestSizes: new Uint32Array(sizeBounds.length + 1),
      responseSizes: new Uint32Array(sizeBounds.length + 1),
    };
    this.#labels.push(labels);
    this.#byLabels.set(text, series);
    return series;
  }
}

function add(counts: Uint32Array, bounds: readonly number[], value: number): void {
  let i = 0;
  while (i < bounds.length && value > (bounds[i] as number)) i++;
  counts[i] = (counts[i] as number) + 1;
}
