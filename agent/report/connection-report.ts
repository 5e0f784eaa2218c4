// Record of an ended connection -> metrics, the ring of recent ones, the access log. The only place that counts connections.
import type { Metrics } from "../base/metrics.ts";
import type { PlanFacts, VerdictFacts, VerdictNote } from "../flow.ts";
import type { AccessLog } from "./access-log.ts";
import type { Book } from "./facts-book.ts";
import { metricNames } from "./metric-names.ts";
import type { NoteCount } from "./note-counts.ts";
import { RecentRecords } from "./recent.ts";
import { partyOf, type TcpSeries, TcpSeriesTable, verdictParties } from "./tcp-series.ts";
import {
  endpointIndex,
  isInbound,
  type Lane,
  laneCode,
  lanes,
  openedVersion,
  planId,
  readyUs,
  reasonCode,
  reasonText,
  receivedBytes,
  recordBytes,
  recordVersion,
  sentBytes,
  verdictId,
  wasOpened,
} from "./wire-record.ts";

export interface ReportParts {
  readonly book: Book;
  readonly metrics: Metrics;
  readonly seriesLimit: number;
  readonly recordsKept: number;
  readonly accessLog: AccessLog;
}

/** What one more record of a kind adds to. */
interface Counted {
  readonly series: readonly TcpSeries[];
  readonly notes: readonly VerdictNote[];
  readonly passthrough: string | undefined;
}

const secureLanes: ReadonlySet<number> = new Set([0, 1, 2, 4]);
const reportSource = 1;
const reportDestination = 2;

export class ConnectionReport {
  readonly #parts: ReportParts;
  readonly #table: TcpSeriesTable;
  readonly recent: RecentRecords;
  /** direction, lane and reason -> count: few combinations, counted without a label lookup. */
  readonly #ended = new Map<number, number>();
  /** Per plan or verdict: its series by lane, reason and endpoint. */
  readonly #series = new Map<string, Counted>();
  readonly #ready;
  readonly #notes;
  readonly #passthrough;
  readonly #unknown;

  constructor(parts: ReportParts) {
    this.#parts = parts;
    const { metrics } = parts;
    this.#table = new TcpSeriesTable(parts.seriesLimit, metrics);
    this.recent = new RecentRecords(parts.recordsKept);
    this.#ready = metrics.histogram(
      metricNames.readySeconds,
      [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5],
    );
    this.#notes = metrics.counter(metricNames.notes);
    this.#passthrough = metrics.counter(metricNames.passthrough);
    this.#unknown = metrics.counter(metricNames.unknownFacts);
    metrics.counterOf(metricNames.connections, (set) => {
      for (const [code, total] of this.#ended) set(endedLabels(code), total);
    });
  }

  get seriesCount(): number {
    return this.#table.size;
  }

  /** `frame` holds whole records; it is only read during the call. */
  records(frame: Buffer): void {
    for (let at = 0; at + recordBytes <= frame.length; at += recordBytes)
      if (frame[at] === recordVersion) this.#one(frame, at);
      else if (frame[at] === openedVersion) this.#opened(frame, at);
  }

  /** What policies noted of requests, counted on data threads. */
  notes(notes: readonly NoteCount[]): void {
    for (const { kind, policy, count } of notes) this.#notes.add({ kind, policy }, count);
  }

  #opened(b: Buffer, at: number): void {
    for (const series of this.#countedFor(b, at, laneCode(b, at), 0).series) series.opened += sentBytes(b, at);
  }

  /**
   * A connection that a data thread carried byte for byte. Its record of being handed over told of what policies noted, and of nothing
   * that dashboards of TCP show. `policy`: who refused it.
   */
  carried(record: Buffer, policy = ""): void {
    if (policy !== "") record.writeUInt32LE(this.#parts.book.policyNumber(policy), 120);
    this.#one(record, 0, true);
  }

  #one(b: Buffer, at: number, isCarried = false): void {
    const lane = laneCode(b, at);
    const reason = reasonCode(b, at);
    const code = (reason << 4) | (lane << 1) | (isInbound(b, at) ? 1 : 0);
    this.#ended.set(code, (this.#ended.get(code) ?? 0) + 1);
    const ready = readyUs(b, at);
    if (ready > 0) this.#ready.observe(readyLabels[lane] ?? noLane, ready / 1e6);
    const sent = sentBytes(b, at);
    const received = receivedBytes(b, at);
    const counted = this.#countedFor(b, at, lane, reason);
    const opened = wasOpened(b, at);
    for (const series of counted.series) {
      series.closed++;
      if (!opened) series.opened++;
      series.sent += received;
      series.received += sent;
    }
    if (!isCarried) {
      for (const { kind, policy } of counted.notes) this.#notes.add({ kind, policy });
      if (counted.passthrough !== undefined) this.#passthrough.add({ why: counted.passthrough });
    }
    this.recent.add(b, at);
    this.#parts.accessLog.record(b, at, this.#parts.book);
  }

  #countedFor(b: Buffer, at: number, lane: number, reason: number): Counted {
    const plan = planId(b, at);
    const verdict = verdictId(b, at);
    const inbound = isInbound(b, at);
    const endpoint = endpointIndex(b, at);
    // Reasons fall into few response flags; the exact reason is in fairlead_connections_total.
    const key = `${plan}.${verdict}.${endpoint}.${lane}.${reason}.${inbound ? 1 : 0}`;
    const known = this.#series.get(key);
    if (known !== undefined) return known;
    const facts = { plan: this.#parts.book.planFacts(plan), verdict: this.#parts.book.verdictFacts(verdict) };
    if (facts.plan === undefined && facts.verdict === undefined) {
      this.#unknown.add({});
      return nothing;
    }
    const found: Counted = {
      series: this.#find(facts.plan, facts.verdict, inbound, endpoint, lane, reason),
      notes: facts.verdict?.verdict.notes ?? facts.plan?.refused?.notes ?? [],
      passthrough: facts.plan?.passthrough,
    };
    if (this.#series.size > 100_000) this.#series.clear();
    this.#series.set(key, found);
    return found;
  }

  #find(
    plan: PlanFacts | undefined,
    verdict: VerdictFacts | undefined,
    inbound: boolean,
    endpoint: number,
    lane: number,
    reason: number,
  ): readonly TcpSeries[] {
    // Its requests are counted one by one, or it comes again when it was carried.
    if (reason === handedOver) return [];
    const secured = secureLanes.has(lane);
    const responseFlags = flagsOf(reason);
    // Both ends on this node, through the agent or past it: one record speaks for both reporters.
    const both =
      lane === 0 || lane === 4 ? reportSource | reportDestination : inbound ? reportDestination : reportSource;
    const found: TcpSeries[] = [];
    const service = plan?.service ?? verdict?.service;
    if (verdict !== undefined) {
      const parties = verdictParties(verdict);
      const fallbackService = unknownService;
      const key = { ...parties, service, fallbackService, responseFlags, secured };
      if (both & reportSource) found.push(this.#table.series({ reporter: "source", ...key }));
      if (both & reportDestination) found.push(this.#table.series({ reporter: "destination", ...key }));
      return found;
    }
    if (plan === undefined) return found;
    const target = plan.targets[endpoint]?.workload ?? plan.targets[0]?.workload;
    const source = { workload: plan.source, principal: secured ? plan.sourceIdentity : "" };
    const destination = partyOf(target, secured);
    const fallbackService = plan.passthrough === undefined ? unknownService : "PassthroughCluster";
    const key = { reporter: "source" as const, source, destination, service, fallbackService, responseFlags, secured };
    return [this.#table.series(key)];
  }
}

const handedOver = 70;
const nothing: Counted = { series: [], notes: [], passthrough: undefined };
const unknownService = "unknown";
const noLane = { lane: "none" };
const readyLabels = lanes.map((lane) => ({ lane }));

const endedLabels = (code: number) => ({
  direction: (code & 1) === 1 ? "inbound" : "outbound",
  lane: (lanes[(code >> 1) & 7] ?? "none") satisfies Lane,
  reason: reasonText(code >> 4),
});

/** Envoy's response flags, which Istio's dashboards show: "-" for an ordinary end. */
function flagsOf(reason: number): string {
  if (reason <= 2) return "-";
  if (reason === 10 || reason === 16 || reason === 24) return "UAEX";
  if (reason === 13) return "UH";
  if (reason === 26) return "UO";
  if (reason === 15) return "NR";
  if (reason >= 20 && reason <= 23) return "UF";
  if (reason >= 30 && reason <= 42) return "UF";
  if (reason >= 50 && reason <= 53) return "UC";
  return "LR";
}
