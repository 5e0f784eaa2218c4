// Single requests as the control thread sees them: what data threads noted goes to the access log, to taps and to the collector of spans.
import { hostname } from "node:os";
import type { LineOut } from "../base/admin-server.ts";
import { type Clock, every } from "../base/clock.ts";
import type { Logger } from "../base/log.ts";
import type { CounterMetric, Metrics } from "../base/metrics.ts";
import { err, ok, type Result } from "../base/result.ts";
import type { Config } from "../config.ts";
import { type AccessLog, openAccessLog, openSink } from "../report/access-log.ts";
import type { ConnectionReport } from "../report/connection-report.ts";
import { metricNames } from "../report/metric-names.ts";
import type { NoteCount } from "../report/note-counts.ts";
import type { Masks, ObservedBatch, Tap } from "../report/observed.ts";
import type { SpanExport } from "../report/span-export.ts";
import { ThreatReport } from "../report/threats.ts";
import type { HandedEnd, ToThread } from "../threads.ts";
import { carriedRecord } from "./carried-record.ts";
import type { ThreadTelemetry } from "./data-threads.ts";

export interface TelemetryParts {
  readonly config: Config;
  readonly clock: Clock;
  readonly log: Logger;
  readonly metrics: Metrics;
  readonly version: string;
  /** Where connections are counted; there once this is open. */
  readonly report: () => Pick<ConnectionReport, "notes" | "carried">;
}

/** Taps at a time, and how often each hears of itself. */
export const mostTaps = 8;
const tapTellMs = 1_000;
/** What waits for the collector is given this long at the end. */
const closeMs = 3_000;

interface OpenTap {
  readonly tap: Tap;
  readonly out: LineOut;
  shown: number;
  dropped: number;
}

/** Opens what the settings ask for. The error names the variable. */
export async function openTelemetry(parts: TelemetryParts): Promise<Result<Telemetry, string>> {
  const { config, clock, metrics } = parts;
  const masks: Masks = { addresses: config.mask.includes("addresses"), queries: config.mask.includes("queries") };
  const logDropped = metrics.counter(metricNames.accessLogDropped);
  const sink = { clock, hostname: hostname(), pid: process.pid, dropped: (count: number) => logDropped.add({}, count) };
  const accessLog = openAccessLog(config.accessLog, masks, sink);
  if (!accessLog.ok) return err(`FAIRLEAD_ACCESS_LOG: ${accessLog.error}`);
  const threatsDropped = metrics.counter(metricNames.threatsDropped);
  const threatSink = openSink(config.threatLog, { ...sink, dropped: (count: number) => threatsDropped.add({}, count) });
  if (!threatSink.ok) {
    await accessLog.value.close();
    return err(`FAIRLEAD_THREAT_LOG: ${threatSink.error}`);
  }
  const threats = new ThreatReport(metrics, threatSink.value, threatsDropped);
  const spansDropped = metrics.counter(metricNames.spansDropped);
  const spans = await openSpans(parts, masks, spansDropped);
  return ok(new Telemetry(parts, { accessLog: accessLog.value, masks, logDropped, spans, spansDropped, threats }));
}

/** The exporter is only loaded where it is used. */
async function openSpans(
  { config, clock, log, metrics, version }: TelemetryParts,
  masks: Masks,
  dropped: CounterMetric<never>,
): Promise<SpanExport | undefined> {
  const sent = metrics.counter(metricNames.spansSent);
  if (config.traceEndpoint === "") return undefined;
  const [{ SpanExport }, { SpanMaker }] = await Promise.all([
    import("../report/span-export.ts"),
    import("../report/span.ts"),
  ]);
  return new SpanExport({
    url: config.traceEndpoint,
    timeoutMs: config.traceTimeoutMs,
    clock,
    maker: new SpanMaker({ node: config.node, version, masks }),
    sent: (count) => sent.add({}, count),
    dropped: (count) => dropped.add({}, count),
    state(why) {
      if (why === undefined) log.info("trace_collector_back", { endpoint: config.traceEndpoint });
      else log.warn("trace_collector_away", { endpoint: config.traceEndpoint, reason: why });
    },
  });
}

interface Opened {
  readonly accessLog: AccessLog;
  readonly masks: Masks;
  readonly logDropped: CounterMetric<never>;
  readonly spans: SpanExport | undefined;
  readonly spansDropped: CounterMetric<never>;
  readonly threats: ThreatReport;
}

export class Telemetry implements ThreadTelemetry {
  readonly accessLog: AccessLog;
  readonly settings: ThreadTelemetry["settings"];
  readonly #parts: TelemetryParts;
  readonly #opened: Opened;
  readonly #tapDropped: CounterMetric<never>;
  readonly #posts = new Set<(message: ToThread) => void>();
  readonly #taps = new Map<number, OpenTap>();
  #lastTap = 0;

  constructor(parts: TelemetryParts, opened: Opened) {
    this.#parts = parts;
    this.#opened = opened;
    this.accessLog = opened.accessLog;
    this.#tapDropped = parts.metrics.counter(metricNames.tapDropped);
    const { config } = parts;
    const [codes, flags, slowerMs] = [config.accessLogCodes, config.accessLogFlags, config.accessLogSlowerMs];
    const hasConditions = codes.length > 0 || flags.length > 0 || slowerMs > 0;
    const sample = config.accessLogSample ?? (hasConditions ? 0 : 1);
    const namespaces = config.accessLogNamespaces;
    const log = { on: opened.accessLog.isOn, sample, codes, flags, slowerMs, namespaces };
    this.settings = {
      observe: { log, masks: opened.masks },
      trace: { make: config.traceMake, ratio: config.traceSample, exports: config.traceEndpoint !== "" },
    };
  }

  attach(post: (message: ToThread) => void): () => void {
    this.#posts.add(post);
    if (this.#taps.size > 0) post(this.#tapsMessage());
    return () => this.#posts.delete(post);
  }

  observed(batch: ObservedBatch): void {
    const { accessLog, logDropped, spans, spansDropped, threats } = this.#opened;
    if (batch.threats !== undefined) threats.take(batch.threats);
    if (batch.lineCount > 0) accessLog.requests(batch.lines, batch.lineCount);
    if (batch.droppedLines > 0) logDropped.add({}, batch.droppedLines);
    if (batch.droppedSpans > 0) spansDropped.add({}, batch.droppedSpans);
    if (batch.spans.length > 0) spans?.add(batch.spans);
    for (const { id, lines, count, dropped } of batch.taps) {
      const open = this.#taps.get(id);
      if (open === undefined) continue;
      const isTaken = count === 0 || open.out.write(lines);
      open.shown += isTaken ? count : 0;
      this.#missed(open, dropped + (isTaken ? 0 : count));
    }
  }

  /** The last threat records, newest first. */
  threats(limit: number): readonly unknown[] {
    return this.#opened.threats.last(limit);
  }

  notes(notes: readonly NoteCount[]): void {
    this.#parts.report().notes(notes);
  }

  /** A connection has ended that a data thread carried byte for byte. */
  carried(end: HandedEnd): void {
    const record = carriedRecord(end);
    if (record !== undefined) this.#parts.report().carried(record, end.policy);
  }

  /**
   * Shows live requests to whoever is given to the result, one JSON line each, until that ends. Every second comes a line
   * `{"type":"tap","shown":n,"dropped":n}` with sums since the beginning. undefined: there are as many taps as may be.
   */
  tap(filter: Omit<Tap, "id">): ((out: LineOut) => () => void) | undefined {
    if (this.#taps.size >= mostTaps) return undefined;
    return (out) => {
      const id = ++this.#lastTap;
      const open: OpenTap = { tap: { ...filter, id }, out, shown: 0, dropped: 0 };
      this.#taps.set(id, open);
      this.#post();
      const tell = (): void => {
        const { shown, dropped } = open;
        out.write(`${JSON.stringify({ type: "tap", shown, dropped })}\n`);
      };
      tell();
      const stop = every(this.#parts.clock, tapTellMs, tell);
      return () => {
        stop();
        this.#taps.delete(id);
        this.#post();
      };
    };
  }

  async close(): Promise<void> {
    const { spans } = this.#opened;
    const over = new AbortController();
    const ended = spans?.close().finally(() => over.abort());
    await Promise.race([ended, this.#parts.clock.sleep(spans === undefined ? 0 : closeMs, over.signal)]);
    await Promise.all([this.accessLog.close(), this.#opened.threats.close()]);
  }

  #missed(open: OpenTap, count: number): void {
    if (count === 0) return;
    open.dropped += count;
    this.#tapDropped.add({}, count);
  }

  #tapsMessage(): ToThread {
    return { say: "taps", taps: [...this.#taps.values()].map(({ tap }) => tap) };
  }
  #post(): void {
    for (const post of this.#posts) post(this.#tapsMessage());
  }
}
