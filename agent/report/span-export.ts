// Spans on their way to a collector by OTLP over HTTP (the official exporter, protobuf). One batch is under way at a time, few wait: while
// the collector is away, what does not fit is dropped and counted. Off the threads that carry requests.
import { type ExportResult, ExportResultCode } from "@opentelemetry/core";
import { OTLPTraceExporter } from "@opentelemetry/exporter-trace-otlp-proto";
import type { ReadableSpan } from "@opentelemetry/sdk-trace";
import type { Clock } from "../base/clock.ts";
import type { RequestRecord } from "./observed.ts";
import type { SpanMaker } from "./span.ts";

const batchSpans = 512;
const batchMs = 1_000;
const mostWaiting = 8_192;

export interface SpanExportParts {
  /** Where spans go, as http://collector:4318/v1/traces. */
  readonly url: string;
  /** For one batch, tries included. */
  readonly timeoutMs: number;
  readonly clock: Pick<Clock, "after">;
  readonly maker: SpanMaker;
  readonly sent: (count: number) => void;
  readonly dropped: (count: number) => void;
  /** The collector stopped or began to answer; `why` undefined: it answers. */
  readonly state: (why: string | undefined) => void;
}

export class SpanExport {
  readonly #parts: SpanExportParts;
  readonly #exporter: OTLPTraceExporter;
  #waiting: RequestRecord[] = [];
  #underWay: Promise<void> | undefined;
  #cancel: (() => void) | undefined;
  #failing = false;
  #closing = false;

  constructor(parts: SpanExportParts) {
    this.#parts = parts;
    // One batch at a time is seen to here; the exporter lets go of one only after it has told of it.
    this.#exporter = new OTLPTraceExporter({ url: parts.url, timeoutMillis: parts.timeoutMs, concurrencyLimit: 2 });
  }

  add(records: readonly RequestRecord[]): void {
    const room = mostWaiting - this.#waiting.length;
    if (room < records.length) this.#parts.dropped(records.length - room);
    for (let i = 0; i < records.length && i < room; i++) this.#waiting.push(records[i] as RequestRecord);
    if (this.#underWay !== undefined || this.#waiting.length === 0) return;
    if (this.#waiting.length >= batchSpans) this.#send();
    else this.#cancel ??= this.#parts.clock.after(batchMs, () => this.#send());
  }

  #send(): void {
    this.#cancel?.();
    this.#cancel = undefined;
    const records = this.#waiting.splice(0, batchSpans);
    if (records.length === 0) return;
    const spans = records.map((record) => this.#parts.maker.span(record));
    this.#underWay = this.#export(spans).then((result) => {
      this.#underWay = undefined;
      this.#ended(spans.length, result);
      if (this.#closing) return;
      if (this.#waiting.length >= batchSpans) this.#send();
      else if (this.#waiting.length > 0) this.#cancel ??= this.#parts.clock.after(batchMs, () => this.#send());
    });
  }

  #export(spans: ReadableSpan[]): Promise<ExportResult> {
    return new Promise((resolve) => {
      try {
        this.#exporter.export(spans, resolve);
      } catch (error) {
        resolve({ code: ExportResultCode.FAILED, error: error as Error });
      }
    });
  }

  #ended(count: number, { code, error }: ExportResult): void {
    const failed = code !== ExportResultCode.SUCCESS;
    if (failed) this.#parts.dropped(count);
    else this.#parts.sent(count);
    if (failed === this.#failing) return;
    this.#failing = failed;
    this.#parts.state(failed ? error?.message || "no answer" : undefined);
  }

  /** Sends what waits, for as long as one batch may take; the rest is dropped. */
  async close(): Promise<void> {
    this.#closing = true;
    await this.#underWay;
    while (!this.#failing && this.#waiting.length > 0) {
      this.#send();
      await this.#underWay;
    }
    this.#cancel?.();
    this.#cancel = undefined;
    if (this.#waiting.length > 0) this.#parts.dropped(this.#waiting.length);
    this.#waiting = [];
    await this.#exporter.shutdown();
  }
}
