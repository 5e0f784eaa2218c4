// Frames that speak of the whole connection: SETTINGS, PING, GOAWAY (RFC 9113 §6.5, §6.7, §6.8).
import { defaultTableSize, defaultWindow, flag, frameHeaderBytes, frameType, preface, setting } from "./codes.ts";
import type { FrameWriter } from "./frame-writer.ts";
import { latin1Write } from "./latin1.ts";
import type { Http2Limits } from "./limits.ts";

function settings(out: FrameWriter, values: readonly (readonly [number, number])[]): void {
  out.reserve(frameHeaderBytes + values.length * 6);
  out.header(values.length * 6, frameType.settings, 0, 0);
  for (const [id, value] of values) {
    out.bytes[out.at] = id >>> 8;
    out.bytes[out.at + 1] = id;
    out.at += 2;
    out.uint32(value);
  }
}

function common(limits: Http2Limits): [number, number][] {
  const values: [number, number][] = [
    [setting.initialWindowSize, limits.streamWindow],
    [setting.maxHeaderListSize, limits.maxHeaderListSize],
  ];
  if (limits.headerTableSize !== defaultTableSize) values.push([setting.headerTableSize, limits.headerTableSize]);
  return values;
}

function widen(out: FrameWriter, limits: Http2Limits): void {
  if (limits.connectionWindow > defaultWindow) {
    out.number(frameType.windowUpdate, 0, limits.connectionWindow - defaultWindow);
  }
}

export function serverSettings(out: FrameWriter, limits: Http2Limits, extendedConnect: boolean): void {
  const values = common(limits);
  values.push([setting.maxConcurrentStreams, limits.maxConcurrentStreams]);
  if (extendedConnect) values.push([setting.enableConnectProtocol, 1]);
  settings(out, values);
  widen(out, limits);
}

/** Preface and settings of a client: it takes no pushed streams. */
export function clientStart(out: FrameWriter, limits: Http2Limits): void {
  out.reserve(preface.length);
  out.at += preface.copy(out.bytes, out.at);
  settings(out, [...common(limits), [setting.enablePush, 0]]);
  widen(out, limits);
}

export function settingsAck(out: FrameWriter): void {
  out.reserve(frameHeaderBytes);
  out.header(0, frameType.settings, flag.ack, 0);
}

/** A PING of ours, or the answer to the peer's 8 bytes. */
export function pingFrame(out: FrameWriter, answerTo: Buffer | null): void {
  out.reserve(frameHeaderBytes + 8);
  out.header(8, frameType.ping, answerTo === null ? 0 : flag.ack, 0);
  if (answerTo === null) out.bytes.fill(0, out.at, out.at + 8);
  else answerTo.copy(out.bytes, out.at, 0, 8);
  out.at += 8;
}

/** Between agents: see frameType.clientEnded. */
export function clientEndedFrame(out: FrameWriter, id: number): void {
  out.reserve(frameHeaderBytes);
  out.header(0, frameType.clientEnded, 0, id);
}

/** `reason` goes along as debug data. */
export function goawayFrame(out: FrameWriter, last: number, code: number, reason: string): void {
  out.reserve(frameHeaderBytes + 8 + reason.length);
  out.header(8 + reason.length, frameType.goaway, 0, 0);
  out.uint32(last);
  out.uint32(code);
  out.at = latin1Write(out.bytes, reason, out.at);
}
