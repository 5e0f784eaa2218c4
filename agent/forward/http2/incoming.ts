// What the peer's frames mean: order, state and windows of RFC 9113 §5 and §6 checked, heads decoded, budgets charged. Session frames
// are in incoming-session.ts.
import { defaultWindow, errorCode, flag, frameType, referenceBytes } from "./codes.ts";
import type { FrameSink } from "./frame-reader.ts";
import { type HeadBuilder, Http2Request, Http2Response, section } from "./head.ts";
import type { HpackDecoder } from "./hpack-decoder.ts";
import { type IncomingHost, sessionFrame } from "./incoming-session.ts";
import type { Http2Stream } from "./stream.ts";

export class Incoming<H extends Http2Request | Http2Response> implements FrameSink {
  private readonly host: IncomingHost<H>;
  private readonly decoder: HpackDecoder;
  private readonly builder: HeadBuilder;
  greeted = false;
  private acknowledged = false;
  /** What the peer may send beyond our stream window until it has acknowledged our settings. */
  private slack: number;
  /** Stream whose field section is unfinished, 0: none; its HEADERS flags, and what came of it. */
  private blockId = 0;
  private blockFlags = 0;
  private selfDependent = false;
  private block: Buffer = nothing;
  private blockBytes = 0;
  private blockFrames = 0;
  /** Stream of the DATA frame under way; null: its content goes nowhere. */
  private dataStream: Http2Stream | null = null;
  private dataId = 0;
  private dataLeft = 0;
  private dataEnds = false;

  constructor(host: IncomingHost<H>, decoder: HpackDecoder, builder: HeadBuilder) {
    this.host = host;
    this.decoder = decoder;
    this.builder = builder;
    this.slack = Math.max(0, defaultWindow - host.limits.streamWindow);
  }

  /** The peer owes its settings, the acknowledgement of ours, or the rest of a head. */
  get due(): boolean {
    return !this.acknowledged || this.blockId !== 0;
  }

  broken(code: number, reason: string): void {
    this.host.fail(code, reason);
  }

  frame(type: number, flags: number, id: number, bytes: Buffer, start: number, end: number): boolean {
    if (this.blockId !== 0 && (type !== frameType.continuation || id !== this.blockId)) {
      this.host.fail(errorCode.protocolError, "continuation_expected");
    } else if (!this.greeted && (type !== frameType.settings || (flags & flag.ack) !== 0)) {
      this.host.fail(errorCode.protocolError, "settings_expected");
    } else if (type === frameType.headers) this.headers(flags, id, bytes, start, end);
    else if (type === frameType.continuation) this.continuation(flags, id, bytes, start, end);
    else {
      if (sessionFrame(this.host, type, flags, id, bytes, start, end)) {
        // Our settings hold from their acknowledgement on.
        this.slack = 0;
        this.acknowledged = true;
        this.decoder.setAllowed(this.host.limits.headerTableSize);
      }
      this.greeted = true;
    }
    return !this.host.done;
  }

  private headers(flags: number, id: number, bytes: Buffer, start: number, end: number): void {
    const host = this.host;
    let from = start;
    let to = end;
    if (id === 0) {
      host.fail(errorCode.protocolError, "headers_stream_0");
      return;
    }
    if ((flags & flag.padded) !== 0) {
      if (from >= to) {
        host.fail(errorCode.frameSizeError, "headers_padding");
        return;
      }
      to -= bytes[from++] as number;
      if (to < from) {
        host.fail(errorCode.protocolError, "headers_padding");
        return;
      }
    }
    this.selfDependent = false;
    if ((flags & flag.priority) !== 0) {
      if (to - from < 5) {
        host.fail(errorCode.frameSizeError, "headers_priority");
        return;
      }
      this.selfDependent = (bytes.readUInt32BE(from) & 0x7fff_ffff) === id;
      from += 5;
    }
    this.blockFlags = flags;
    if ((flags & flag.endHeaders) !== 0 && to - from <= host.limits.maxHeaderBlock) {
      this.section(id, bytes, from, to);
      return;
    }
    this.blockId = id;
    this.blockBytes = 0;
    this.blockFrames = 0;
    this.append(flags, bytes, from, to);
  }

  private continuation(flags: number, id: number, bytes: Buffer, start: number, end: number): void {
    if (this.blockId === 0) this.host.fail(errorCode.protocolError, "continuation_unexpected");
    else if (id === this.blockId) this.append(flags, bytes, start, end);
  }

  private append(flags: number, bytes: Buffer, start: number, end: number): void {
    const { maxHeaderBlock, maxHeaderFrames } = this.host.limits;
    const total = this.blockBytes + end - start;
    if (++this.blockFrames > maxHeaderFrames) {
      this.host.fail(errorCode.enhanceYourCalm, "continuation_flood");
      return;
    }
    if (total > maxHeaderBlock) {
      this.host.fail(errorCode.enhanceYourCalm, "header_block_size");
      return;
    }
    if (total > this.block.length) {
      const grown = Buffer.allocUnsafe(Math.min(maxHeaderBlock, Math.max(total * 2, 1_024)));
      this.block.copy(grown, 0, 0, this.blockBytes);
      this.block = grown;
    }
    bytes.copy(this.block, this.blockBytes, start, end);
    this.blockBytes = total;
    if ((flags & flag.endHeaders) === 0) return;
    const id = this.blockId;
    const block = this.block;
    this.blockId = 0;
    this.block = nothing;
    this.section(id, block, 0, total);
  }

  /** A whole field section. It is decoded whatever becomes of it, for the table's sake. */
  private section(id: number, block: Buffer, start: number, end: number): void {
    const host = this.host;
    const stream = host.streams.get(id);
    const known = stream !== undefined;
    const idle = !known && host.isIdle(id);
    if (!known && (idle ? !host.server || (id & 1) === 0 : !host.isPassedOver(id))) {
      host.fail(idle ? errorCode.protocolError : errorCode.streamClosed, "headers_wrong_stream");
      return;
    }
    const builder = this.builder;
    builder.begin(known && stream.headReceived ? section.trailers : host.server ? section.request : section.response);
    const error = this.decoder.decode(block, start, end, builder);
    if (error !== null) {
      host.fail(errorCode.compressionError, error);
      return;
    }
    const good = builder.finish(host.extendedConnect);
    if (!known && !idle) {
      host.idleWork();
      return;
    }
    host.control.give();
    const ends = (this.blockFlags & flag.endStream) !== 0;
    if (known) {
      if (stream.remoteEnded) this.refuse(id, stream, errorCode.streamClosed, "headers_after_end");
      else if (this.selfDependent) this.refuse(id, stream, errorCode.protocolError, "priority_self");
      else if (!good) this.refuse(id, stream, errorCode.protocolError, builder.error ?? "malformed");
      else if (stream.headReceived) this.trailers(stream, ends);
      else this.response(stream, ends);
      return;
    }
    host.lastPeerId = id;
    if (id > host.goawayLast) return;
    if (this.selfDependent) {
      this.refuse(id, undefined, errorCode.protocolError, "priority_self");
      return;
    }
    if (builder.error === "head_too_large") {
      host.refuseLarge(id, ends);
      return;
    }
    if (!good) {
      this.refuse(id, undefined, errorCode.protocolError, builder.error ?? "malformed");
      return;
    }
    const tunnel = builder.method === "CONNECT";
    if (ends && builder.contentLength > 0 && !tunnel) {
      this.refuse(id, undefined, errorCode.protocolError, "content_length");
      return;
    }
    if (host.streams.size >= host.limits.maxConcurrentStreams) {
      this.refuse(id, undefined, errorCode.refusedStream, "concurrent_streams");
      return;
    }
    const opened = host.open(id);
    opened.headReceived = true;
    opened.connectRequest = tunnel;
    opened.expected = tunnel ? -1 : builder.contentLength;
    host.handler.onHead(opened, new Http2Request(builder) as H, ends);
    if (ends) this.ended(opened, id);
  }

  private response(stream: Http2Stream, ends: boolean): void {
    const host = this.host;
    const builder = this.builder;
    const status = builder.status;
    const id = stream.id;
    if (status < 200) {
      if (ends) {
        this.refuse(id, stream, errorCode.protocolError, "interim_end");
        return;
      }
      if (++stream.interim > host.limits.maxInterim) {
        this.refuse(id, stream, errorCode.enhanceYourCalm, "interim_flood");
        return;
      }
    } else {
      stream.headReceived = true;
      stream.tunnel = stream.connectRequest && status < 300;
      // Length of what another method would have got; there is no content here (RFC 9110 §8.6).
      const none = stream.headRequest || status === 204 || status === 304;
      stream.expected = stream.tunnel ? -1 : none ? 0 : builder.contentLength;
      if (ends && stream.expected > 0) {
        this.refuse(id, stream, errorCode.protocolError, "content_length");
        return;
      }
    }
    host.handler.onHead(stream, new Http2Response(builder) as H, ends);
    if (ends) this.ended(stream, id);
  }

  private trailers(stream: Http2Stream, ends: boolean): void {
    const id = stream.id;
    if (!ends) {
      this.refuse(id, stream, errorCode.protocolError, "trailers_without_end");
      return;
    }
    if (stream.tunnel) {
      this.refuse(id, stream, errorCode.protocolError, "trailers_in_tunnel");
      return;
    }
    if (stream.expected > 0) {
      this.refuse(id, stream, errorCode.protocolError, "content_length");
      return;
    }
    this.host.handler.onTrailers(stream, this.builder.fields, this.builder.sensitive);
    this.ended(stream, id);
  }

  private ended(stream: Http2Stream, id: number): void {
    // The owner may have reset it meanwhile.
    if (!stream.live || stream.id !== id) return;
    stream.remoteEnded = true;
    this.host.handler.onEnd(stream);
    this.host.closeIfOver(stream);
  }

  /** A stream error of the peer's making (§5.4.2): counted, charged, RST_STREAM sent. */
  private refuse(id: number, stream: Http2Stream | undefined, code: number, reason: string): void {
    const host = this.host;
    host.handler.onRefused(reason, code);
    host.sendReset(id, code);
    if (stream !== undefined) host.drop(stream, code, reason);
    if (host.server && !host.resets.take()) host.fail(errorCode.enhanceYourCalm, "reset_flood");
  }

  dataBegin(flags: number, id: number, length: number): boolean {
    const host = this.host;
    this.dataStream = null;
    this.dataId = id;
    this.dataLeft = length;
    this.dataEnds = (flags & flag.endStream) !== 0;
    if (this.blockId !== 0) host.fail(errorCode.protocolError, "continuation_expected");
    else if (!this.greeted) host.fail(errorCode.protocolError, "settings_expected");
    else if (id === 0) host.fail(errorCode.protocolError, "data_stream_0");
    else if (length > host.receiveWindow) host.fail(errorCode.flowControlError, "connection_window");
    if (host.done) return false;
    host.receiveWindow -= length;
    const stream = host.streams.get(id);
    if (stream === undefined) {
      if (host.isIdle(id)) host.fail(errorCode.protocolError, "data_idle_stream");
      else if (host.isPassedOver(id)) host.idleWork();
      else this.refuse(id, undefined, errorCode.streamClosed, "data_after_end");
    } else if (stream.remoteEnded) this.refuse(id, stream, errorCode.streamClosed, "data_after_end");
    else if (!stream.headReceived) this.refuse(id, stream, errorCode.protocolError, "data_before_head");
    else if (length > stream.receiveWindow + this.slack) {
      this.refuse(id, stream, errorCode.flowControlError, "stream_window");
    } else {
      stream.receiveWindow -= length;
      this.dataStream = stream;
    }
    return !host.done;
  }

  dataPiece(bytes: Buffer, start: number, end: number, last: boolean): boolean {
    const host = this.host;
    const length = end - start;
    const stream = this.dataStream;
    this.dataLeft -= length;
    if (stream === null || !stream.live || stream.id !== this.dataId) {
      host.returnBytes(length);
      return !host.done;
    }
    stream.unconsumed += length;
    const ends = last && this.dataEnds;
    if (stream.expected >= 0 && !stream.tunnel) {
      stream.expected -= length;
      if (stream.expected < 0 || (ends && stream.expected > 0)) {
        this.refuse(stream.id, stream, errorCode.protocolError, "content_length");
        return !host.done;
      }
    }
    if (length >= referenceBytes) host.gave = true;
    host.handler.onData(stream, bytes.subarray(start, end), ends);
    return !host.done;
  }

  dataEnd(empty: boolean): boolean {
    const host = this.host;
    const padding = this.dataLeft;
    const stream = this.dataStream;
    this.dataStream = null;
    if (!empty) host.control.give();
    else if (!this.dataEnds) host.idleWork();
    if (stream === null || !stream.live || stream.id !== this.dataId) {
      host.returnBytes(padding);
      return !host.done;
    }
    if (padding > 0) {
      stream.unconsumed += padding;
      host.consumed(stream, padding);
    }
    if (this.dataEnds && !host.done) {
      if (stream.expected > 0) this.refuse(stream.id, stream, errorCode.protocolError, "content_length");
      else this.ended(stream, stream.id);
    }
    return !host.done;
  }
}

const nothing: Buffer = Buffer.alloc(0);
