// Connection metrics without label hashing per connection: one handle per label set, found once per plan or verdict and kept
// beside its facts; a record then only adds to numbers. The number of label sets is bounded (OBS-1).
import { identityOf, type Workload } from "../api/workload.ts";
import type { Metrics } from "../base/metrics.ts";
import type { ServiceFacts, VerdictFacts } from "../flow.ts";
import { metricNames, type TcpLabel, tcpLabels } from "./metric-names.ts";

/** Totals of one label set. */
export interface TcpSeries {
  readonly labels: Readonly<Record<TcpLabel, string>>;
  opened: number;
  closed: number;
  /** Bytes to the client. */
  sent: number;
  /** Bytes from the client. */
  received: number;
}

export interface Party {
  readonly workload: Workload | undefined;
  /** "" when nothing proved one. */
  readonly principal: string;
}
export interface SeriesKey {
  readonly reporter: "source" | "destination";
  readonly source: Party;
  readonly destination: Party;
  readonly service: ServiceFacts | undefined;
  /** Host that stands for a destination outside the mesh. */
  readonly fallbackService: string;
  readonly responseFlags: string;
  readonly secured: boolean;
}

export class TcpSeriesTable {
  readonly #bySeries = new Map<string, TcpSeries>();
  readonly #limit: number;
  #overflow = 0;

  constructor(limit: number, metrics: Metrics) {
    this.#limit = limit;
    const each = (name: "opened" | "closed" | "sent" | "received", of: (series: TcpSeries) => number): void =>
      metrics.counterOf(metricNames[name], (set) => {
        for (const series of this.#bySeries.values()) set(series.labels, of(series));
      });
    each("opened", (s) => s.opened);
    each("closed", (s) => s.closed);
    each("sent", (s) => s.sent);
    each("received", (s) => s.received);
    metrics.counterOf(metricNames.seriesDropped, (set) => set({}, this.#overflow));
  }

  get size(): number {
    return this.#bySeries.size;
  }

  /** The handle of a label set; beyond the limit one for all the rest. */
  series(key: SeriesKey): TcpSeries {
    const labels = labelsOf(key);
    const text = tcpLabels.map((label) => labels[label]).join("\u0000");
    const known = this.#bySeries.get(text);
    if (known !== undefined) return known;
    if (this.#bySeries.size >= this.#limit) {
      this.#overflow++;
      return this.#other(key.reporter);
    }
    const series: TcpSeries = { labels, opened: 0, closed: 0, sent: 0, received: 0 };
    this.#bySeries.set(text, series);
    return series;
  }

  #other(reporter: string): TcpSeries {
    let series = this.#bySeries.get(reporter);
    if (series === undefined) {
      const labels = Object.fromEntries(tcpLabels.map((label) => [label, "other"])) as Record<TcpLabel, string>;
      series = { labels: { ...labels, reporter }, opened: 0, closed: 0, sent: 0, received: 0 };
      this.#bySeries.set(reporter, series);
    }
    return series;
  }
}

const unknown = "unknown";
const label = (workload: Workload | undefined, ...keys: readonly string[]): string => {
  for (const key of keys) {
    const value = workload?.labels[key];
    if (value !== undefined && value !== "") return value;
  }
  return unknown;
};
const orUnknown = (text: string | undefined): string => (text === undefined || text === "" ? unknown : text);

export function labelsOf(key: SeriesKey): Record<TcpLabel, string> {
  const { source, destination, service } = key;
  return {
    reporter: key.reporter,
    source_workload: orUnknown(workloadName(source.workload)),
    source_workload_namespace: orUnknown(source.workload?.namespace),
    source_principal: orUnknown(source.principal),
    source_app: label(source.workload, "app.kubernetes.io/name", "app"),
    source_version: label(source.workload, "app.kubernetes.io/version", "version"),
    source_canonical_service: canonical(source.workload),
    source_cluster: "Kubernetes",
    destination_workload: orUnknown(workloadName(destination.workload)),
    destination_workload_namespace: orUnknown(destination.workload?.namespace),
    destination_principal: orUnknown(destination.principal),
    destination_app: label(destination.workload, "app.kubernetes.io/name", "app"),
    destination_version: label(destination.workload, "app.kubernetes.io/version", "version"),
    destination_canonical_service: canonical(destination.workload),
    destination_service: service?.hostname ?? key.fallbackService,
    destination_service_name: service?.name ?? key.fallbackService,
    destination_service_namespace: service?.namespace ?? orUnknown(destination.workload?.namespace),
    destination_cluster: "Kubernetes",
    request_protocol: "tcp",
    response_flags: key.responseFlags,
    connection_security_policy: key.secured ? "mutual_tls" : "unknown",
  };
}

/**
 * Istio's label is the owner (Deployment), not the pod: pods come and go, and a label set each would never be bounded. Owners are not
 * in discovery, so the generated suffixes are cut off the pod's name where its hash label shows them.
 */
function workloadName(workload: Workload | undefined): string | undefined {
  if (workload === undefined) return undefined;
  const hash = workload.labels["pod-template-hash"];
  const at = hash === undefined ? -1 : workload.name.lastIndexOf(`-${hash}-`);
  if (at > 0) return workload.name.slice(0, at);
  return workload.name;
}

const canonical = (workload: Workload | undefined): string =>
  label(workload, "service.istio.io/canonical-name", "app.kubernetes.io/name", "app");

/** The two parties as a verdict knows them. */
export const verdictParties = (facts: VerdictFacts): { readonly source: Party; readonly destination: Party } => ({
  source: { workload: facts.source, principal: principal(facts.sourceIdentity) },
  destination: { workload: facts.destination, principal: principal(facts.destinationIdentity) },
});

export const partyOf = (workload: Workload | undefined, secured: boolean): Party => ({
  workload: workload?.name === "" ? undefined : workload,
  principal: secured && workload !== undefined ? principal(identityOf(workload)) : "",
});

const principal = (identity: string | null): string => identity ?? "";
