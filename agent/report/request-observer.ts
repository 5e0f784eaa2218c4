// One data thread's view of who wants single requests: the access log, taps, the collector of spans. Nothing is noted while nobody does.
// What is told goes in batches of which few may be under way; what does not fit is dropped and counted, and no request ever waits.
import type { Clock } from "../base/clock.ts";
import type { Random } from "../base/random.ts";
import type { ObservedBatch, ObserveSettings, RequestRecord, Tap } from "./observed.ts";
import { isByChance, isLogged, isNamed, isSampled, isTapped } from "./request-filter.ts";
import { requestLine } from "./request-line.ts";
import { type ThreatKind, ThreatNotes } from "./threats.ts";

/** A batch goes after this time, or with so many characters; that many characters may wait, and so many batches be unread. */
const batchMs = 100;
const batchChars = 32 * 1024;
const mostChars = 256 * 1024;
const mostSpans = 1_024;
const mostUnread = 4;

export interface ObserverParts {
  readonly settings: ObserveSettings;
  readonly random: Random;
  readonly clock: Pick<Clock, "after" | "monotonicMs">;
  readonly tell: (batch: ObservedBatch) => void;
}

/** Who wants a request, decided when it begins: bits. */
export const LOG = 1;
/** Written if it turns out to be what a condition names. */
export const LOG_MAYBE = 2;
export const TAP = 4;
export const SPAN = 8;

interface OpenTap {
  readonly tap: Tap;
  lines: string;
  count: number;
  dropped: number;
  /** Lines that may be told now. */
  room: number;
  filledMs: number;
}

export class RequestObserver {
  readonly #parts: ObserverParts;
  readonly #logs: 0 | 1 | 2;
  readonly #threats: ThreatNotes;
  #taps: OpenTap[] = [];
  #lines = "";
  #lineCount = 0;
  #spans: RequestRecord[] = [];
  #droppedLines = 0;
  #droppedSpans = 0;
  #unread = 0;
  #cancel: (() => void) | undefined;

  constructor(parts: ObserverParts) {
    this.#parts = parts;
    this.#threats = new ThreatNotes(parts.clock);
    const { log } = parts.settings;
    this.#logs = !log.on ? 0 : isByChance(log) ? 1 : 2;
  }

  /** Bits of who may want the request that begins now; 0: nobody, and nothing of it needs to be noted. */
  wants(): number {
    const tapped = this.#taps.length === 0 ? 0 : TAP;
    if (this.#logs === 0) return tapped;
    if (isSampled(this.#parts.settings.log.sample, this.#parts.random)) return tapped | LOG;
    return this.#logs === 1 ? tapped : tapped | LOG_MAYBE;
  }

  /** No condition of the log can name a request that ended so. */
  isPlain(status: number, flags: string, durationMs: number): boolean {
    return !isNamed(status, flags, durationMs, this.#parts.settings.log);
  }

  /** A request is a threat, whoever watches. True: `threat` wants its record. */
  beginThreat(kind: ThreatKind): boolean {
    const isWanted = this.#threats.begin(kind);
    this.#soon();
    return isWanted;
  }

  threat(record: RequestRecord, kind: ThreatKind): void {
    this.#threats.add(requestLine(record, this.#parts.settings.masks, kind));
    this.#soon();
  }

  /** A request that somebody wanted has ended. */
  ended(record: RequestRecord, wanted: number): void {
    const { settings } = this.#parts;
    let line = "";
    const logged = (wanted & LOG) !== 0;
    if ((logged || (wanted & LOG_MAYBE) !== 0) && isLogged(record, settings.log, logged)) {
      line = `${requestLine(record, settings.masks)}\n`;
      if (this.#lines.length + line.length > mostChars) this.#droppedLines++;
      else {
        this.#lines += line;
        this.#lineCount++;
      }
    }
    if ((wanted & TAP) !== 0) for (const open of this.#taps) line = this.#tap(open, record, line);
    if ((wanted & SPAN) !== 0) {
      if (this.#spans.length >= mostSpans) this.#droppedSpans++;
      else this.#spans.push(record);
    }
    if (this.#lines.length >= batchChars || this.#spans.length >= mostSpans / 2) this.#tell();
    else this.#soon();
  }

  /** Those that are open now; what waits for others is forgotten. */
  setTaps(taps: readonly Tap[]): void {
    const now = this.#parts.clock.monotonicMs();
    this.#taps = taps.map(
      (tap) =>
        this.#taps.find((open) => open.tap.id === tap.id) ?? {
          tap,
          lines: "",
          count: 0,
          dropped: 0,
          room: tap.perSecond,
          filledMs: now,
        },
    );
  }

  /** The control thread has read a batch. */
  read(): void {
    this.#unread--;
    if (this.#hasSome()) this.#soon();
  }

  /** Tells what waits, whoever reads it. */
  close(): void {
    this.#unread = 0;
    if (this.#hasSome()) this.#tell();
    this.#cancel?.();
    this.#cancel = undefined;
  }

  #tap(open: OpenTap, record: RequestRecord, made: string): string {
    if (!isTapped(record, open.tap)) return made;
    const now = this.#parts.clock.monotonicMs();
    const { perSecond } = open.tap;
    open.room = Math.min(perSecond, open.room + ((now - open.filledMs) * perSecond) / 1000);
    open.filledMs = now;
    if (open.room < 1 || open.lines.length > mostChars) {
      open.dropped++;
      return made;
    }
    open.room--;
    const line = made === "" ? `${requestLine(record, this.#parts.settings.masks)}\n` : made;
    open.lines += line;
    open.count++;
    return line;
  }

  #hasSome(): boolean {
    if (this.#threats.hasSome) return true;
    if (this.#lineCount > 0 || this.#spans.length > 0 || this.#droppedLines > 0 || this.#droppedSpans > 0) return true;
    return this.#taps.some(({ count, dropped }) => count > 0 || dropped > 0);
  }

  #soon(): void {
    if (this.#cancel !== undefined || this.#unread >= mostUnread) return;
    this.#cancel = this.#parts.clock.after(batchMs, () => {
      this.#cancel = undefined;
      if (this.#hasSome()) this.#tell();
    });
  }

  #tell(): void {
    if (this.#unread >= mostUnread) return;
    this.#cancel?.();
    this.#cancel = undefined;
    this.#unread++;
    const taps: ObservedBatch["taps"][number][] = [];
    for (const open of this.#taps) {
      const { lines, count, dropped } = open;
      if (count === 0 && dropped === 0) continue;
      taps.push({ id: open.tap.id, lines, count, dropped });
      open.lines = "";
      open.count = 0;
      open.dropped = 0;
    }
    const threats = this.#threats.take();
    const batch: ObservedBatch = {
      lines: this.#lines,
      lineCount: this.#lineCount,
      taps,
      spans: this.#spans,
      droppedLines: this.#droppedLines,
      droppedSpans: this.#droppedSpans,
      ...(threats === undefined ? {} : { threats }),
    };
    this.#lines = "";
    this.#lineCount = 0;
    this.#spans = [];
    this.#droppedLines = 0;
    this.#droppedSpans = 0;
    this.#parts.tell(batch);
  }
}
