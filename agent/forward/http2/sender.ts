// The sending half of a connection: windows (RFC 9113 §5.2), heads through HPACK, content in turn among the streams that wait.
import type { HeaderList } from "../../http.ts";
import {
  defaultFrameSize,
  defaultWindow,
  flag,
  frameHeaderBytes,
  frameType,
  maxWindow,
  referenceBytes,
} from "./codes.ts";
import { FrameWriter } from "./frame-writer.ts";
import { fieldBound, type HpackEncoder } from "./hpack-encoder.ts";
import type { Allowance } from "./limits.ts";
import type { Http2Stream } from "./stream.ts";

/** Gathered bytes at which content waits for the transport. */
const turnBytes = 256 * 1024;
const worthwhile = 64;
const noFields: HeaderList = [];

export interface SenderOwner {
  /** Something was gathered. */
  wake(): void;
  /** Our message on this stream is complete. */
  sentAll(stream: Http2Stream): void;
  drained(stream: Http2Stream): void;
}

export class Sender {
  readonly out = new FrameWriter();
  readonly encoder: HpackEncoder;
  private readonly owner: SenderOwner;
  private readonly highWater: number;
  private readonly control: Allowance;
  /** Of the peer: what a stream begins with, and frames. */
  initialWindow = defaultWindow;
  maxFrame = defaultFrameSize;
  window = defaultWindow;
  /** False while the transport has more than it can take. */
  private writable = true;
  private first: Http2Stream | null = null;
  private last: Http2Stream | null = null;

  constructor(owner: SenderOwner, encoder: HpackEncoder, highWater: number, control: Allowance) {
    this.control = control;
    this.owner = owner;
    this.encoder = encoder;
    this.highWater = highWater;
  }

  /** One field section as HEADERS and, where it is long, CONTINUATION. `pseudo` and `fields` are names and values in turn. */
  head(id: number, pseudo: HeaderList, fields: HeaderList, sensitive: readonly string[] | null, end: boolean): void {
    let bound = 16;
    for (let i = 0; i < pseudo.length; i += 2) bound += fieldBound(pseudo[i] as string, pseudo[i + 1] as string);
    for (let i = 0; i < fields.length; i += 2) bound += fieldBound(fields[i] as string, fields[i + 1] as string);
    const out = this.out;
    const endFlag = end ? flag.endStream : 0;
    if (bound <= defaultFrameSize - frameHeaderBytes) {
      out.reserve(frameHeaderBytes + bound);
      const start = out.at + frameHeaderBytes;
      const place = this.block(pseudo, fields, sensitive, out.bytes, start);
      out.headerAt(out.at, place - start, frameType.headers, flag.endHeaders | endFlag, id);
      out.at = place;
    } else {
      const block = Buffer.allocUnsafe(bound);
      const length = this.block(pseudo, fields, sensitive, block, 0);
      for (let at = 0; at < length || at === 0; at += defaultFrameSize) {
        const size = Math.min(defaultFrameSize, length - at);
        const flags = (at + size === length ? flag.endHeaders : 0) | (at === 0 ? endFlag : 0);
        out.reserve(frameHeaderBytes + size);
        out.header(size, at === 0 ? frameType.headers : frameType.continuation, flags, id);
        block.copy(out.bytes, out.at, at, at + size);
        out.at += size;
      }
    }
    this.owner.wake();
  }

  private block(
    pseudo: HeaderList,
    fields: HeaderList,
    sensitive: readonly string[] | null,
    to: Buffer,
    at: number,
  ): number {
    const encoder = this.encoder;
    let place = encoder.begin(to, at);
    for (let i = 0; i < pseudo.length; i += 2) {
      place = encoder.field(pseudo[i] as string, pseudo[i + 1] as string, false, to, place);
    }
    for (let i = 0; i < fields.length; i += 2) {
      const name = fields[i] as string;
      place = encoder.field(name, fields[i + 1] as string, sensitive?.includes(name) === true, to, place);
    }
    return place;
  }

  private get canSend(): boolean {
    return this.writable && this.window > 0 && this.out.pending < turnBytes;
  }

  /** As Http2Stream.sendData. */
  data(stream: Http2Stream, chunk: Buffer, end: boolean): boolean {
    const length = chunk.length;
    const own = length >= referenceBytes;
    let at = 0;
    if (stream.queuedBytes === 0) {
      if (length === 0) {
        if (end) this.endEmpty(stream);
        return true;
      }
      while (at < length && stream.sendWindow > 0 && this.canSend) {
        const size = Math.min(length - at, stream.sendWindow, this.window, this.maxFrame);
        const done = end && at + size === length;
        this.frame(stream, chunk, at, at + size, done, own);
        at += size;
        if (done) {
          this.owner.sentAll(stream);
          return true;
        }
      }
    }
    if (at < length) {
      stream.queue.push(own ? chunk.subarray(at) : Buffer.from(chunk.subarray(at)));
      stream.queuedBytes += length - at;
      if (stream.sendWindow > 0) this.enlist(stream);
    }
    if (end) stream.endQueued = true;
    if (stream.queuedBytes < this.highWater) return true;
    stream.waiting = true;
    return false;
  }

  private endEmpty(stream: Http2Stream): void {
    this.out.reserve(frameHeaderBytes);
    this.out.header(0, frameType.data, flag.endStream, stream.id);
    this.owner.wake();
    stream.localEnded = true;
    this.owner.sentAll(stream);
  }

  private frame(stream: Http2Stream, chunk: Buffer, at: number, end: number, last: boolean, own: boolean): void {
    this.out.data(stream.id, chunk, at, end, last ? flag.endStream : 0, own);
    stream.sendWindow -= end - at;
    this.window -= end - at;
    if (last) stream.localEnded = true;
    // Pays for the WINDOW_UPDATE that answers it; a crumb that a tiny window let through does not.
    if (last || end - at >= worthwhile) this.control.give();
    this.owner.wake();
  }

  trailers(stream: Http2Stream, fields: HeaderList, sensitive: readonly string[] | null): void {
    if (stream.queuedBytes > 0) {
      stream.queuedTrailers = fields;
      stream.queuedSensitive = sensitive;
      stream.endQueued = true;
      return;
    }
    stream.localEnded = true;
    this.head(stream.id, noFields, fields, sensitive, true);
    this.owner.sentAll(stream);
  }

  enlist(stream: Http2Stream): void {
    if (stream.ready || stream.queuedBytes === 0) return;
    stream.ready = true;
    stream.next = null;
    if (this.last === null) this.first = stream;
    else this.last.next = stream;
    this.last = stream;
  }

  /** Sends what waits, a frame of each stream in turn. */
  pump(): void {
    while (this.first !== null && this.canSend) {
      const stream = this.first;
      this.first = stream.next;
      if (this.first === null) this.last = null;
      stream.next = null;
      stream.ready = false;
      this.oneFrame(stream);
    }
  }

  private oneFrame(stream: Http2Stream): void {
    const chunk = stream.queue[0];
    if (!stream.live || chunk === undefined || stream.sendWindow <= 0) return;
    const left = chunk.length - stream.queueAt;
    const size = Math.min(left, stream.sendWindow, this.window, this.maxFrame);
    stream.queuedBytes -= size;
    const emptied = stream.queuedBytes === 0;
    const last = emptied && stream.endQueued && stream.queuedTrailers === null;
    // What waits here is the stream's own, whatever its size.
    this.frame(stream, chunk, stream.queueAt, stream.queueAt + size, last, true);
    if (size === left) {
      stream.queue.shift();
      stream.queueAt = 0;
    } else stream.queueAt += size;
    if (!emptied) {
      if (stream.sendWindow > 0) this.enlist(stream);
    } else if (last) {
      this.owner.sentAll(stream);
      return;
    } else if (stream.queuedTrailers !== null) {
      const fields = stream.queuedTrailers;
      stream.queuedTrailers = null;
      this.trailers(stream, fields, stream.queuedSensitive);
      return;
    }
    if (stream.waiting && stream.queuedBytes * 2 < this.highWater) {
      stream.waiting = false;
      this.owner.drained(stream);
    }
  }

  /** WINDOW_UPDATE of the connection. False: beyond what a window may be. */
  widen(by: number): boolean {
    if (this.window + by > maxWindow) return false;
    this.window += by;
    this.pump();
    return true;
  }

  widenStream(stream: Http2Stream, by: number): boolean {
    if (stream.sendWindow + by > maxWindow) return false;
    stream.sendWindow += by;
    if (stream.sendWindow > 0) {
      this.enlist(stream);
      this.pump();
    }
    return true;
  }

  /** SETTINGS_INITIAL_WINDOW_SIZE: windows of open streams move along (§6.9.2). False: one would go beyond its bounds. */
  setInitialWindow(window: number, streams: Iterable<Http2Stream>): boolean {
    const by = window - this.initialWindow;
    this.initialWindow = window;
    for (const stream of streams) {
      stream.sendWindow += by;
      if (stream.sendWindow > maxWindow) return false;
      if (stream.sendWindow > 0) this.enlist(stream);
    }
    this.pump();
    return true;
  }

  setWritable(writable: boolean): void {
    this.writable = writable;
    if (writable) this.pump();
  }
}
