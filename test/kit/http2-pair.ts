// Two HTTP/2 connections of the codec joined in memory, and raw frames, for tests that need no socket.
import { frameHeaderBytes, frameType, preface } from "../../agent/forward/http2/codes.ts";
import { Http2Connection } from "../../agent/forward/http2/connection.ts";
import type { Http2Handler } from "../../agent/forward/http2/events.ts";
import type { Http2Request, Http2Response } from "../../agent/forward/http2/head.ts";
import { fieldBound, HpackEncoder } from "../../agent/forward/http2/hpack-encoder.ts";
import { defaultLimits, type Http2Limits } from "../../agent/forward/http2/limits.ts";
import type { Http2Stream } from "../../agent/forward/http2/stream.ts";
import type { HeaderList } from "../../agent/http.ts";

export function frame(type: number, flags: number, id: number, payload: Uint8Array | readonly number[] = []): Buffer {
  const bytes = Buffer.alloc(frameHeaderBytes + payload.length);
  bytes.writeUIntBE(payload.length, 0, 3);
  bytes[3] = type;
  bytes[4] = flags;
  bytes.writeUInt32BE(id, 5);
  bytes.set(payload, frameHeaderBytes);
  return bytes;
}

export const uint32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
};

/** A field block that uses no dynamic table. */
export function block(fields: HeaderList): Buffer {
  const encoder = new HpackEncoder({ huffman: false, maxTable: 4_096 });
  const parts: Buffer[] = [];
  for (let i = 0; i < fields.length; i += 2) {
    const [name = "", value = ""] = fields.slice(i, i + 2);
    const to = Buffer.alloc(fieldBound(name, value));
    parts.push(to.subarray(0, encoder.field(name, value, true, to, 0)));
  }
  return Buffer.concat(parts);
}

export const get: HeaderList = [":method", "GET", ":scheme", "http", ":path", "/", ":authority", "a"];
export const hello: Buffer = Buffer.concat([preface, frame(frameType.settings, 0, 0)]);
/** HEADERS with END_HEADERS, and END_STREAM if `end`. */
export const headers = (id: number, fields: HeaderList, end: boolean): Buffer =>
  frame(frameType.headers, 4 | (end ? 1 : 0), id, block(fields));

/** Writes down what happens, a line each; content is gathered by stream. */
export class Recorder<H extends Http2Request | Http2Response> implements Http2Handler<H> {
  readonly lines: string[] = [];
  readonly bodies = new Map<number, Buffer[]>();
  readonly heads = new Map<number, H>();
  readonly streams = new Map<number, Http2Stream>();
  /** Content is consumed as it comes. */
  consumes = true;
  act: (event: string, stream: Http2Stream) => void = () => {};

  onHead(stream: Http2Stream, head: H, end: boolean): void {
    this.streams.set(stream.id, stream);
    this.heads.set(stream.id, head);
    const what = "status" in head ? head.status : `${head.method} ${head.authority}${head.path}`;
    this.note("head", stream, `${what} ${head.headers().join("=")}${end ? " end" : ""}`);
  }
  onData(stream: Http2Stream, chunk: Buffer, end: boolean): void {
    const body = this.bodies.get(stream.id) ?? [];
    body.push(Buffer.from(chunk));
    this.bodies.set(stream.id, body);
    if (end) this.note("last", stream, "");
    if (this.consumes) stream.consume(chunk.length);
  }
  onTrailers(stream: Http2Stream, fields: HeaderList): void {
    this.note("trailers", stream, fields.join("="));
  }
  onEnd(stream: Http2Stream): void {
    this.note("end", stream, "");
  }
  onReset(stream: Http2Stream, code: number, reason: string): void {
    this.note("reset", stream, `${reason} ${code}`);
  }
  onDrain(stream: Http2Stream): void {
    this.act("drain", stream);
  }
  onClose(stream: Http2Stream): void {
    this.note("close", stream, "");
  }
  onRefused(reason: string, code: number): void {
    this.lines.push(`refused ${reason} ${code}`);
  }
  onGoaway(last: number, code: number): void {
    this.lines.push(`goaway ${last} ${code}`);
  }
  onPong(): void {
    this.lines.push("pong");
  }
  onSettings(): void {}
  onDone(code: number, reason: string): void {
    this.lines.push(`done ${reason} ${code}`);
  }

  /** All content of a stream. */
  body(id: number): Buffer {
    return Buffer.concat(this.bodies.get(id) ?? []);
  }
  private note(event: string, stream: Http2Stream, rest: string): void {
    this.lines.push(`${event} ${stream.id}${rest === "" ? "" : ` ${rest}`}`);
    this.act(event, stream);
  }
}

export interface Side<H extends Http2Request | Http2Response> {
  readonly connection: Http2Connection<H>;
  readonly events: Recorder<H>;
  /** Feeds bytes of a peer. */
  feed(...bytes: Buffer[]): Side<H>;
  /** All that came out since. */
  out(): Buffer;
}

export function side<H extends Http2Request | Http2Response>(
  role: "server" | "client",
  limits: Partial<Http2Limits> = {},
  more: { nowMs?: () => number; extendedConnect?: boolean; huffman?: boolean } = {},
): Side<H> {
  const events = new Recorder<H>();
  const connection = new Http2Connection<H>({
    role,
    handler: events,
    nowMs: () => 0,
    wake: () => {},
    limits: { ...defaultLimits, ...limits },
    ...more,
  });
  const made: Side<H> = {
    connection,
    events,
    feed(...bytes) {
      for (const each of bytes) connection.receive(each);
      return made;
    },
    out() {
      const parts: Buffer[] = [];
      // Content that waited for this turn's bytes to leave comes with the next one.
      for (;;) {
        const more = connection.take();
        parts.push(...more.map((b) => Buffer.from(b)));
        connection.flushed(true, true);
        if (more.length === 0) break;
      }
      return Buffer.concat(parts);
    },
  };
  return made;
}

export const server = (limits: Partial<Http2Limits> = {}, more = {}): Side<Http2Request> =>
  side("server", limits, more);
export const client = (limits: Partial<Http2Limits> = {}, more = {}): Side<Http2Response> =>
  side("client", limits, more);

/** Carries bytes between the two, `cut` at a time, until neither has any. */
export function settle(a: Side<Http2Request>, b: Side<Http2Response>, cut: () => number): void {
  const carry = (bytes: Buffer, to: { feed(...bytes: Buffer[]): unknown }): boolean => {
    for (let at = 0; at < bytes.length; ) {
      const size = Math.max(1, cut());
      // A copy: memory given on by reference is kept by the other side.
      to.feed(Buffer.from(bytes.subarray(at, at + size)));
      at += size;
    }
    return bytes.length > 0;
  };
  for (let more = true; more; ) more = [carry(a.out(), b), carry(b.out(), a)].includes(true);
}

export interface Cut {
  readonly type: number;
  readonly flags: number;
  readonly id: number;
  readonly payload: Buffer;
}

export function frames(bytes: Buffer): Cut[] {
  const found: Cut[] = [];
  for (let at = 0; at < bytes.length; ) {
    const length = bytes.readUIntBE(at, 3);
    const end = at + frameHeaderBytes + length;
    found.push({
      type: bytes[at + 3] ?? 0,
      flags: bytes[at + 4] ?? 0,
      id: bytes.readUInt32BE(at + 5),
      payload: bytes.subarray(at + frameHeaderBytes, end),
    });
    at = end;
  }
  return found;
}
