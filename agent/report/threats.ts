// Threat records: what is kept of requests that were denied, went over a limit or were no request, whether or not a log wants them. Each
// data thread tells so many a second; what is more is counted by kind alone, so that a flood of refusals costs next to nothing.
import type { Clock } from "../base/clock.ts";
import type { CounterMetric, Metrics } from "../base/metrics.ts";
import type { LineSink } from "./line-sink.ts";
import { metricNames } from "./metric-names.ts";

/** "denied": by a policy, or blocked; "limited": over a limit of its rate; "malformed": bytes that are no request. */
export type ThreatKind = "denied" | "limited" | "malformed";
/** What a thread tells of them. */
export interface ThreatBatch {
  /** One JSON object each, without a line end. */
  readonly lines: readonly string[];
  readonly counts: readonly (readonly [kind: ThreatKind, count: number])[];
  /** Of those counted, how many have no line. */
  readonly dropped: number;
}

/** Records of one thread a second. */
export const threatsPerSecond = 50;
/** Kept for `/v1/threats`. */
export const threatsKept = 1_000;

/** Why it was answered here, as a threat; undefined: it is none, but has no way or no room. `flags`: Envoy's response flags. */
export function threatOf(flags: string, reason: string): "denied" | "limited" | undefined {
  if (reason === "mesh_limit" || reason === "rate_limit") return "limited";
  return flags === "UAEX" ? "denied" : undefined;
}

/** What one thread has to tell. */
export class ThreatNotes {
  readonly #clock: Pick<Clock, "monotonicMs">;
  #lines: string[] = [];
  readonly #counts = new Map<ThreatKind, number>();
  #dropped = 0;
  #room = threatsPerSecond;
  #filledMs: number;

  constructor(clock: Pick<Clock, "monotonicMs">) {
    this.#clock = clock;
    this.#filledMs = clock.monotonicMs();
  }

  get hasSome(): boolean {
    return this.#counts.size > 0;
  }

  /** Counts it. True: its record is wanted, by `add`. */
  begin(kind: ThreatKind): boolean {
    this.#counts.set(kind, (this.#counts.get(kind) ?? 0) + 1);
    const now = this.#clock.monotonicMs();
    const filled = this.#room + ((now - this.#filledMs) * threatsPerSecond) / 1000;
    this.#room = Math.min(threatsPerSecond, filled);
    this.#filledMs = now;
    const isWanted = this.#room >= 1;
    if (isWanted) this.#room--;
    else this.#dropped++;
    return isWanted;
  }

  add(line: string): void {
    // Nobody may have read for a while.
    if (this.#lines.length < threatsKept) this.#lines.push(line);
    else this.#dropped++;
  }

  /** What came since the last call; undefined: nothing. */
  take(): ThreatBatch | undefined {
    if (!this.hasSome && this.#lines.length === 0) return undefined;
    const taken = { lines: this.#lines, counts: [...this.#counts], dropped: this.#dropped };
    this.#lines = [];
    this.#counts.clear();
    this.#dropped = 0;
    return taken;
  }
}

/** All threads' records together: counted, the last ones kept, and written where `FAIRLEAD_THREAT_LOG` says. */
export class ThreatReport {
  readonly #sink: LineSink | undefined;
  readonly #counted: CounterMetric<"kind">;
  readonly #dropped: CounterMetric<never>;
  readonly #ring: string[] = [];
  #total = 0;

  /** `dropped` counts what has no record. */
  constructor(metrics: Metrics, sink: LineSink | undefined, dropped: CounterMetric<never>) {
    this.#sink = sink;
    this.#counted = metrics.counter(metricNames.threats);
    this.#dropped = dropped;
  }

  take({ lines, counts, dropped }: ThreatBatch): void {
    for (const [kind, count] of counts) this.#counted.add({ kind }, count);
    if (dropped > 0) this.#dropped.add({}, dropped);
    for (const line of lines) this.#ring[this.#total++ % threatsKept] = line;
    if (lines.length > 0) this.#sink?.write(`${lines.join("\n")}\n`, lines.length);
  }

  /** At most `limit` records, newest first. */
  last(limit: number): readonly unknown[] {
    const count = Math.min(limit, this.#ring.length);
    return Array.from({ length: count }, (_, i) =>
      JSON.parse(this.#ring[(this.#total - 1 - i) % threatsKept] as string),
    );
  }

  async close(): Promise<void> {
    await this.#sink?.close();
  }
}
