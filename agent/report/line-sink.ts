// Lines of the access log on their way to a stream. Never blocks: what the writer cannot take is dropped and counted, and what broke (a
// full disk) is opened again after a while.
import type { Writable } from "node:stream";
import type { Clock } from "../base/clock.ts";

export interface LineSink {
  /** `lines`: whole lines with their ends, `count` of them. */
  write(lines: string, count: number): void;
  /** Writes out what waits. */
  close(): Promise<void>;
}
export interface SinkParts {
  readonly clock: Clock;
  readonly dropped: (count: number) => void;
  readonly hostname: string;
  readonly pid: number;
}

/** Bytes that may wait for the writer, and how long until a broken one is tried again. */
export const mostQueued = 4 * 1024 * 1024;
const reopenMs = 10_000;
/** What is still waiting at the end is given this long. */
const closeMs = 2_000;

/** A stream that lines are appended to. */
export class StreamSink implements LineSink {
  readonly #open: () => Writable;
  readonly #parts: SinkParts;
  readonly #isOurs: boolean;
  #stream: Writable | undefined;
  #cancel: () => void = () => {};
  #closed = false;

  /** `isOurs`: it is closed with the sink, and opened again when it broke. */
  constructor(open: () => Writable, parts: SinkParts, isOurs: boolean) {
    this.#open = open;
    this.#parts = parts;
    this.#isOurs = isOurs;
    this.#begin();
  }

  #begin(): void {
    const stream = this.#open();
    this.#stream = stream;
    // Lines that were given to a writer that broke: each counts as dropped.
    stream.on("error", () => {
      if (this.#stream !== stream) return;
      this.#stream = undefined;
      if (this.#isOurs && !this.#closed) this.#cancel = this.#parts.clock.after(reopenMs, () => this.#begin());
    });
  }

  write(lines: string, count: number): void {
    const stream = this.#stream;
    if (stream === undefined || stream.writableLength > mostQueued) this.#parts.dropped(count);
    else
      stream.write(lines, (error) => {
        if (error) this.#parts.dropped(count);
      });
  }

  close(): Promise<void> {
    this.#closed = true;
    this.#cancel();
    const stream = this.#stream;
    if (stream === undefined || !this.#isOurs) return Promise.resolve();
    return new Promise((resolve) => {
      const cancel = this.#parts.clock.after(closeMs, resolve);
      stream.once("error", () => resolve());
      stream.end(() => {
        cancel();
        resolve();
      });
    });
  }
}
