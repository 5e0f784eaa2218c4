// One HTTP/2 connection (RFC 9113), of either role, without a socket and without a clock: `receive` takes bytes, `take` gives bytes,
// the handler is told what they mean. Peers that break a rule lose the stream or the connection, as §5.4 says; nothing is repaired.
import type { HeaderList } from "../../http.ts";
import { defaultTableSize, defaultWindow, errorCode, frameType, maxWindow } from "./codes.ts";
import type { Http2Handler, Http2Options } from "./events.ts";
import { FrameReader } from "./frame-reader.ts";
import {
  HeadBuilder,
  type Http2Request,
  type Http2Response,
  pseudoTemplate,
  type RequestLine,
  requestPseudo,
  statusPseudo,
} from "./head.ts";
import { HpackDecoder } from "./hpack-decoder.ts";
import { HpackEncoder } from "./hpack-encoder.ts";
import { Incoming } from "./incoming.ts";
import type { IncomingHost } from "./incoming-session.ts";
import { Allowance, defaultLimits, type Http2Limits, RecentIds } from "./limits.ts";
import { Sender, type SenderOwner } from "./sender.ts";
import { clientStart, goawayFrame, pingFrame, serverSettings } from "./session-frames.ts";
import { Http2Stream, type StreamHost } from "./stream.ts";
import { StreamTable } from "./stream-table.ts";

const maxPool = 256;
/** Until the peer has said how many it takes (§6.5.2 advises no less). */
const assumedStreams = 100;
const tooLarge: HeaderList = [":status", "431"];
const noFields: HeaderList = [];

export class Http2Connection<H extends Http2Request | Http2Response = Http2Request | Http2Response>
  implements StreamHost, SenderOwner, IncomingHost<H>
{
  readonly server: boolean;
  readonly handler: Http2Handler<H>;
  readonly limits: Http2Limits;
  readonly extendedConnect: boolean;
  readonly sender: Sender;
  readonly streams = new StreamTable();
  readonly resets: Allowance;
  readonly control: Allowance;
  /** Highest stream that the peer opened, and highest of ours. */
  lastPeerId = 0;
  gave = false;
  private nextId = 1;
  /** What the peer may still send in all. */
  receiveWindow: number;
  private unreturned = 0;
  /** The peer's limits, and what it supports. */
  peerMaxStreams = assumedStreams;
  peerExtendedConnect = false;
  /** No stream is opened any more: GOAWAY came; went (with `goawayLast`). */
  peerGoaway = false;
  goawayLast = maxWindow;
  private draining = false;
  /** Nothing is read any more. */
  done = false;
  private readonly reader: FrameReader;
  private readonly incoming: Incoming<H>;
  private readonly wakeOwner: () => void;
  private awake = false;
  /** Streams that we reset: frames that were under way to them are passed over. */
  private readonly resetIds = new RecentIds();
  private readonly pool: Http2Stream[] = [];
  /** Over, but their owners have not heard; and heard of by their owners, but perhaps still in use up the stack. */
  private readonly closing: Http2Stream[] = [];
  private readonly freed: Http2Stream[] = [];
  private busy = false;
  private readonly pseudo = pseudoTemplate();

  constructor(options: Http2Options<H>) {
    const limits = options.limits ?? defaultLimits;
    this.limits = limits;
    this.server = options.role === "server";
    this.handler = options.handler;
    this.wakeOwner = options.wake;
    this.extendedConnect = this.server && options.extendedConnect === true;
    this.resets = new Allowance(limits.resets, options.nowMs);
    this.control = new Allowance(limits.control, options.nowMs);
    this.receiveWindow = Math.max(limits.connectionWindow, defaultWindow);
    const encoder = new HpackEncoder({ huffman: options.huffman === true, maxTable: limits.headerTableSize });
    this.sender = new Sender(this, encoder, limits.highWater, this.control);
    const decoder = new HpackDecoder(Math.max(defaultTableSize, limits.headerTableSize));
    this.incoming = new Incoming(this, decoder, new HeadBuilder(limits.maxHeaderListSize));
    this.reader = new FrameReader(this.incoming, this.server);
    if (this.server) serverSettings(this.sender.out, limits, this.extendedConnect);
    else clientStart(this.sender.out, limits);
    this.awake = true;
    options.wake();
  }

  /**
   * Bytes from the peer, cut anywhere, worked off to their end or until `goesOn` says no behind a frame; gives how many. If `gave` is true
   * after it, they were given on by reference and are no longer the caller's.
   */
  receive(bytes: Buffer, goesOn?: () => boolean): number {
    this.gave = false;
    this.busy = true;
    const used = this.done ? bytes.length : this.reader.read(bytes, goesOn);
    this.busy = false;
    this.settle();
    return used;
  }

  /** What is to be written now; then `flushed` is called. */
  take(): readonly Buffer[] {
    this.awake = false;
    return this.sender.out.take();
  }

  /**
   * After `take`: `written` says that the bytes have left and their memory is free; `writable` that the transport takes more. If not,
   * it is called again when it does.
   */
  flushed(written: boolean, writable: boolean): void {
    this.sender.out.release(written);
    this.writable(writable);
  }

  writable(writable: boolean): void {
    this.sender.setWritable(writable);
    this.settle();
  }

  /** The transport is gone. */
  lost(reason: string): void {
    if (!this.done) this.finish(errorCode.cancel, reason);
    this.settle();
  }

  /** The peer owes the rest of something it began, or its settings: it has a time limit (slow-loris). */
  get due(): boolean {
    return !this.done && (this.incoming.due || this.reader.midFrame);
  }

  /** The peer let its time pass. */
  expire(): void {
    if (this.due) this.fail(this.incoming.greeted ? errorCode.enhanceYourCalm : errorCode.settingsTimeout, "peer_due");
    this.settle();
  }

  /** Client: false when another connection is needed for a new stream. */
  get canOpen(): boolean {
    return (
      !this.done &&
      !this.peerGoaway &&
      !this.draining &&
      this.nextId <= maxWindow &&
      this.streams.size < this.peerMaxStreams
    );
  }

  /** Client: sends a request head. Null: see `canOpen`. `protocol`: of an extended CONNECT, which the peer must support. */
  request(
    head: RequestLine,
    fields: HeaderList,
    end: boolean,
    owner: unknown,
    sensitive: readonly string[] | null = null,
    protocol = "",
  ): Http2Stream | null {
    if (!this.canOpen || this.server || (protocol !== "" && !this.peerExtendedConnect)) return null;
    const connect = head.method === "CONNECT";
    const stream = this.open(this.nextId);
    this.nextId += 2;
    stream.owner = owner;
    stream.headSent = true;
    stream.connectRequest = connect;
    stream.headRequest = head.method === "HEAD";
    stream.localEnded = end;
    this.sender.head(stream.id, requestPseudo(this.pseudo, head, protocol), fields, sensitive, end);
    return stream;
  }

  /** Asks the peer for a sign of life: onPong. */
  ping(): void {
    if (this.done) return;
    pingFrame(this.sender.out, null);
    this.wake();
  }

  /**
   * Ends gently (§6.8). A server announces it, and once the client has answered names the last stream it serves; when all are served the
   * connection is done. A client opens no more.
   */
  drain(): void {
    if (this.done || this.draining) return;
    this.draining = true;
    if (this.server) {
      goawayFrame(this.sender.out, maxWindow, errorCode.noError, "draining");
      pingFrame(this.sender.out, null);
    }
    this.wake();
  }

  // What a stream asks for.

  respond(
    stream: Http2Stream,
    status: number,
    fields: HeaderList,
    end: boolean,
    sensitive: readonly string[] | null,
  ): void {
    if (!this.server || !stream.live || stream.headSent) return;
    if (status >= 200) {
      stream.headSent = true;
      if (stream.connectRequest && status < 300) stream.tunnel = true;
    }
    const last = end && status >= 200;
    if (last) stream.localEnded = true;
    this.sender.head(stream.id, statusPseudo(status), fields, sensitive, last);
    if (last) this.sentAll(stream);
  }

  data(stream: Http2Stream, chunk: Buffer, end: boolean): boolean {
    if (!stream.live || !stream.headSent || stream.localEnded || stream.endQueued) return true;
    return this.sender.data(stream, chunk, end);
  }

  trailers(stream: Http2Stream, fields: HeaderList, sensitive: readonly string[] | null): void {
    if (!stream.live || !stream.headSent || stream.localEnded || stream.endQueued) return;
    if (fields.length === 0) this.sender.data(stream, nothing, true);
    else this.sender.trailers(stream, fields, sensitive);
  }

  resetByOwner(stream: Http2Stream, code: number): void {
    if (!stream.live || this.done) return;
    this.sendReset(stream.id, code);
    this.remove(stream);
    this.freed.push(stream);
  }

  consumed(stream: Http2Stream, bytes: number): void {
    const count = Math.min(bytes, stream.unconsumed);
    if (count <= 0) return;
    stream.unconsumed -= count;
    this.returnBytes(count);
    if (stream.remoteEnded) return;
    stream.unreturned += count;
    if (stream.unreturned * 2 < this.limits.streamWindow) return;
    this.sender.out.number(frameType.windowUpdate, stream.id, stream.unreturned);
    stream.receiveWindow += stream.unreturned;
    stream.unreturned = 0;
    this.wake();
  }

  // What the halves of the connection ask for.

  wake(): void {
    if (this.awake) return;
    this.awake = true;
    this.wakeOwner();
  }

  drained(stream: Http2Stream): void {
    this.handler.onDrain(stream);
  }

  /** Our message is out; with the peer's the stream is over. */
  sentAll(stream: Http2Stream): void {
    this.closeIfOver(stream);
  }

  closeIfOver(stream: Http2Stream): void {
    if (!stream.remoteEnded || !stream.localEnded || !stream.live) return;
    this.remove(stream);
    this.closing.push(stream);
    this.resets.give();
    this.wake();
  }

  open(id: number): Http2Stream {
    const stream = this.pool.pop() ?? new Http2Stream(this);
    stream.start(id, this.sender.initialWindow, this.limits.streamWindow);
    this.streams.add(stream);
    return stream;
  }

  /** Bytes of the connection's window that nobody will consume any more, or that were consumed. */
  returnBytes(count: number): void {
    this.unreturned += count;
    if (this.unreturned * 2 < this.limits.connectionWindow || this.done) return;
    this.sender.out.number(frameType.windowUpdate, 0, this.unreturned);
    this.receiveWindow += this.unreturned;
    this.unreturned = 0;
    this.wake();
  }

  sendReset(id: number, code: number): void {
    this.sender.out.number(frameType.rstStream, id, code);
    this.resetIds.add(id);
    this.wake();
  }

  isIdle(id: number): boolean {
    return (id & 1) === 0 || (this.server ? id > this.lastPeerId : id >= this.nextId);
  }

  isPassedOver(id: number): boolean {
    return id > this.goawayLast || this.resetIds.has(id);
  }

  idleWork(): void {
    if (!this.control.take()) this.fail(errorCode.enhanceYourCalm, "control_flood");
  }

  refuseLarge(id: number, ended: boolean): void {
    this.handler.onRefused("head_too_large", errorCode.noError);
    this.sender.head(id, tooLarge, noFields, null, true);
    if (!ended) this.sendReset(id, errorCode.noError);
    if (!this.resets.take()) this.fail(errorCode.enhanceYourCalm, "reset_flood");
  }

  /** GOAWAY of the peer: streams of ours above `last` were not begun. */
  goaway(last: number, code: number): void {
    this.peerGoaway = true;
    if (!this.server) {
      for (const stream of this.streams.values()) {
        if (stream.id > last) this.drop(stream, errorCode.refusedStream, "goaway");
      }
    }
    this.handler.onGoaway(last, code);
  }

  /** A stream error (§5.4.2) made by the peer, or its RST_STREAM: the owner is told, if it knew of the stream. */
  drop(stream: Http2Stream, code: number, reason: string): void {
    this.remove(stream);
    this.handler.onReset(stream, code, reason);
    this.freed.push(stream);
  }

  /** Ends the connection with GOAWAY (§5.4.1). */
  fail(code: number, reason: string): void {
    if (this.done) return;
    this.handler.onRefused(reason, code);
    goawayFrame(this.sender.out, Math.min(this.lastPeerId, this.goawayLast), code, reason);
    this.finish(code, reason);
  }

  /** The second GOAWAY of a gentle end, once the first was seen. */
  ponged(): void {
    if (this.server && this.draining && this.goawayLast === maxWindow) {
      this.goawayLast = this.lastPeerId;
      goawayFrame(this.sender.out, this.lastPeerId, errorCode.noError, "draining");
      this.wake();
    } else this.handler.onPong();
  }

  private endIfIdle(): void {
    if (this.done || this.streams.size > 0) return;
    const ended = this.server ? this.peerGoaway || this.goawayLast !== maxWindow : this.peerGoaway || this.draining;
    if (!ended) return;
    if (!this.server) goawayFrame(this.sender.out, 0, errorCode.noError, "");
    this.finish(errorCode.noError, "drained");
  }

  private finish(code: number, reason: string): void {
    this.done = true;
    this.reader.end();
    for (const stream of this.streams.values()) {
      stream.live = false;
      this.handler.onReset(stream, code, reason);
      this.freed.push(stream);
    }
    this.streams.clear();
    this.handler.onDone(code, reason);
    this.wake();
  }

  private remove(stream: Http2Stream): void {
    this.streams.delete(stream);
    stream.live = false;
    if (stream.unconsumed > 0) this.returnBytes(stream.unconsumed);
    stream.unconsumed = 0;
  }

  /** At the end of a turn: owners hear of streams that are over, and the objects are free. */
  private settle(): void {
    if (this.busy) return;
    this.busy = true;
    for (let i = 0; i < this.closing.length; i++) {
      const stream = this.closing[i] as Http2Stream;
      this.handler.onClose(stream);
      this.freed.push(stream);
    }
    this.closing.length = 0;
    if (this.peerGoaway || this.draining) this.endIfIdle();
    for (const stream of this.freed) {
      stream.clear();
      if (this.pool.length < maxPool) this.pool.push(stream);
    }
    this.freed.length = 0;
    this.busy = false;
  }
}

const nothing: Buffer = Buffer.alloc(0);
