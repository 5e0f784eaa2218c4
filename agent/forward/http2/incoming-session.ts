// Frames of the peer that are neither heads nor content (RFC 9113 §6.3 to §6.9), and what their reader asks of the connection.
import { defaultFrameSize, errorCode, flag, frameType, maxWindow, setting } from "./codes.ts";
import type { Http2Handler } from "./events.ts";
import type { Http2Request, Http2Response } from "./head.ts";
import type { Allowance, Http2Limits } from "./limits.ts";
import type { Sender } from "./sender.ts";
import { pingFrame, settingsAck } from "./session-frames.ts";
import type { Http2Stream } from "./stream.ts";
import type { StreamTable } from "./stream-table.ts";

export interface IncomingHost<H extends Http2Request | Http2Response> {
  readonly server: boolean;
  readonly handler: Http2Handler<H>;
  readonly limits: Http2Limits;
  readonly extendedConnect: boolean;
  readonly streams: StreamTable;
  readonly sender: Sender;
  readonly resets: Allowance;
  readonly control: Allowance;
  readonly done: boolean;
  readonly goawayLast: number;
  lastPeerId: number;
  /** A chunk was given on by reference. */
  gave: boolean;
  receiveWindow: number;
  peerMaxStreams: number;
  peerExtendedConnect: boolean;
  open(id: number): Http2Stream;
  closeIfOver(stream: Http2Stream): void;
  drop(stream: Http2Stream, code: number, reason: string): void;
  sendReset(id: number, code: number): void;
  /** A request head that is too large to be taken: 431. */
  refuseLarge(id: number, ended: boolean): void;
  fail(code: number, reason: string): void;
  returnBytes(count: number): void;
  consumed(stream: Http2Stream, bytes: number): void;
  /** Never opened. */
  isIdle(id: number): boolean;
  /** Reset by us, or above the last one that our GOAWAY named: its frames were under way and mean nothing. */
  isPassedOver(id: number): boolean;
  /** Charges a frame that moves nothing; too many end the connection. */
  idleWork(): void;
  goaway(last: number, code: number): void;
  ponged(): void;
  wake(): void;
}

type Host = IncomingHost<Http2Request> | IncomingHost<Http2Response> | IncomingHost<Http2Request | Http2Response>;

/** True: the peer acknowledges our settings. */
export function sessionFrame<H extends Http2Request | Http2Response>(
  host: IncomingHost<H>,
  type: number,
  flags: number,
  id: number,
  bytes: Buffer,
  start: number,
  end: number,
): boolean {
  const length = end - start;
  // Unknown types are ignored (§5.5), at a price.
  host.idleWork();
  if (host.done) return false;
  switch (type) {
    case frameType.settings:
      if (id !== 0) host.fail(errorCode.protocolError, "settings_stream");
      else if ((flags & flag.ack) !== 0) {
        if (length === 0) return true;
        host.fail(errorCode.frameSizeError, "settings_ack_size");
      } else settings(host as Host, bytes, start, end);
      break;
    case frameType.windowUpdate:
      if (length !== 4) host.fail(errorCode.frameSizeError, "window_update_size");
      else windowUpdate(host as Host, id, bytes.readUInt32BE(start) & maxWindow);
      break;
    case frameType.rstStream:
      if (length !== 4) host.fail(errorCode.frameSizeError, "rst_stream_size");
      else reset(host as Host, id, bytes.readUInt32BE(start));
      break;
    case frameType.ping:
      if (length !== 8) host.fail(errorCode.frameSizeError, "ping_size");
      else if (id !== 0) host.fail(errorCode.protocolError, "ping_stream");
      else if ((flags & flag.ack) !== 0) host.ponged();
      else {
        pingFrame(host.sender.out, bytes.subarray(start, end));
        host.wake();
      }
      break;
    case frameType.goaway:
      if (length < 8) host.fail(errorCode.frameSizeError, "goaway_size");
      else if (id !== 0) host.fail(errorCode.protocolError, "goaway_stream");
      else host.goaway(bytes.readUInt32BE(start) & maxWindow, bytes.readUInt32BE(start + 4));
      break;
    case frameType.priority:
      priority(host as Host, id, bytes, start, end);
      break;
    case frameType.pushPromise:
      // We never allow it, and a client must not.
      host.fail(errorCode.protocolError, "push_promise");
      break;
    case frameType.clientEnded: {
      const stream = host.server ? host.streams.get(id) : undefined;
      if (stream !== undefined) host.handler.onClientEnded?.(stream);
      break;
    }
    default:
  }
  return false;
}

function settings(host: Host, bytes: Buffer, start: number, end: number): void {
  const sender = host.sender;
  if ((end - start) % 6 !== 0) {
    host.fail(errorCode.frameSizeError, "settings_size");
    return;
  }
  let window = sender.initialWindow;
  for (let at = start; at < end; at += 6) {
    const value = bytes.readUInt32BE(at + 2);
    switch (bytes.readUInt16BE(at)) {
      case setting.headerTableSize:
        sender.encoder.setMaxSize(value);
        break;
      case setting.enablePush:
        if (value > 1 || (value === 1 && !host.server)) {
          host.fail(errorCode.protocolError, "settings_push");
          return;
        }
        break;
      case setting.maxConcurrentStreams:
        host.peerMaxStreams = value;
        break;
      case setting.initialWindowSize:
        if (value > maxWindow) {
          host.fail(errorCode.flowControlError, "settings_window");
          return;
        }
        window = value;
        break;
      case setting.maxFrameSize:
        if (value < defaultFrameSize || value > 0xff_ffff) {
          host.fail(errorCode.protocolError, "settings_frame_size");
          return;
        }
        // Larger frames would keep other streams waiting.
        sender.maxFrame = Math.min(value, 4 * defaultFrameSize);
        break;
      case setting.enableConnectProtocol:
        if (value > 1 || (value === 0 && host.peerExtendedConnect)) {
          host.fail(errorCode.protocolError, "settings_connect");
          return;
        }
        host.peerExtendedConnect = value === 1;
        break;
      default:
    }
  }
  settingsAck(sender.out);
  host.wake();
  // Once for the whole frame, however often it says it: all streams are gone through.
  if (window !== sender.initialWindow && !sender.setInitialWindow(window, host.streams.values())) {
    host.fail(errorCode.flowControlError, "settings_window");
    return;
  }
  host.handler.onSettings();
}

function windowUpdate(host: Host, id: number, by: number): void {
  if (id === 0) {
    if (by === 0) host.fail(errorCode.protocolError, "window_update_0");
    else if (!host.sender.widen(by)) host.fail(errorCode.flowControlError, "window_overflow");
    return;
  }
  const stream = host.streams.get(id);
  if (stream === undefined) {
    if (host.isIdle(id)) host.fail(errorCode.protocolError, "window_update_idle");
  } else if (by === 0) streamError(host, stream, errorCode.protocolError, "window_update_0");
  else if (!host.sender.widenStream(stream, by)) {
    streamError(host, stream, errorCode.flowControlError, "window_overflow");
  }
}

function streamError(host: Host, stream: Http2Stream, code: number, reason: string): void {
  host.handler.onRefused(reason, code);
  host.sendReset(stream.id, code);
  host.drop(stream, code, reason);
  if (host.server && !host.resets.take()) host.fail(errorCode.enhanceYourCalm, "reset_flood");
}

function reset(host: Host, id: number, code: number): void {
  const stream = host.streams.get(id);
  if (stream === undefined) {
    if (id === 0 || host.isIdle(id)) host.fail(errorCode.protocolError, "rst_stream_idle");
    return;
  }
  host.drop(stream, code, "peer_reset");
  // Opening and resetting is work for us and none for the peer (rapid reset).
  if (host.server && !host.resets.take()) host.fail(errorCode.enhanceYourCalm, "reset_flood");
}

/** Priorities are deprecated (§5.3.2): checked, and ignored. */
function priority(host: Host, id: number, bytes: Buffer, start: number, end: number): void {
  if (id === 0) {
    host.fail(errorCode.protocolError, "priority_stream_0");
    return;
  }
  const code = end - start !== 5 ? errorCode.frameSizeError : errorCode.protocolError;
  if (code === errorCode.protocolError && (bytes.readUInt32BE(start) & maxWindow) !== id) return;
  const stream = host.streams.get(id);
  if (stream === undefined) host.fail(code, "priority");
  else streamError(host, stream, code, "priority");
}
