// Fuzz targets of the HTTP/2 codec: frames, HPACK, and a whole connection of either role with an owner that acts. Whatever comes and
// however it is cut, the same is made of it, what goes out is well-formed, and nothing is counted twice or left behind.
import assert from "node:assert/strict";
import { flag, frameType, referenceBytes } from "../../agent/forward/http2/codes.ts";
import { kindOf } from "../../agent/forward/http2/fields.ts";
import { FrameReader, type FrameSink } from "../../agent/forward/http2/frame-reader.ts";
import type { Http2Request, Http2Response } from "../../agent/forward/http2/head.ts";
import { HpackDecoder } from "../../agent/forward/http2/hpack-decoder.ts";
import { fieldBound, HpackEncoder } from "../../agent/forward/http2/hpack-encoder.ts";
import type { Http2Stream } from "../../agent/forward/http2/stream.ts";
import { frame, frames, hello, type Side, side } from "../kit/http2-pair.ts";
import type { FuzzTarget } from "./target.ts";

function pieces(bytes: Buffer, size: number, give: (piece: Buffer) => void): void {
  for (let at = 0; at < bytes.length; at += size) give(Buffer.from(bytes.subarray(at, at + size)));
}

/** What the reader says, DATA put together again. */
class Log implements FrameSink {
  readonly lines: string[] = [];
  private content: Buffer[] = [];

  frame(type: number, flags: number, id: number, bytes: Buffer, start: number, end: number): boolean {
    this.lines.push(`${type} ${flags} ${id} ${bytes.toString("hex", start, end)}`);
    return true;
  }
  dataBegin(flags: number, id: number, length: number): boolean {
    this.lines.push(`data ${flags} ${id} ${length}`);
    return true;
  }
  dataPiece(bytes: Buffer, start: number, end: number, last: boolean): boolean {
    assert.ok(end > start, "no empty piece");
    this.content.push(Buffer.from(bytes.subarray(start, end)));
    if (last) this.flush();
    return true;
  }
  dataEnd(empty: boolean): boolean {
    this.lines.push(`end ${empty}`);
    return true;
  }
  broken(code: number, reason: string): void {
    this.lines.push(`broken ${code} ${reason}`);
  }
  flush(): void {
    if (this.content.length > 0) this.lines.push(Buffer.concat(this.content).toString("hex"));
    this.content = [];
  }
}

function read(bytes: Buffer, size: number, withPreface: boolean): string[] {
  const log = new Log();
  const reader = new FrameReader(log, withPreface);
  pieces(bytes, size, (piece) => reader.read(piece));
  log.flush();
  return log.lines;
}

function http2Frames(input: Buffer): string {
  const size = ((input[0] ?? 0) & 63) + 1;
  const withPreface = (input[0] ?? 0) > 127;
  const bytes = input.subarray(1);
  const whole = read(bytes, Math.max(1, bytes.length), withPreface);
  assert.deepEqual(read(bytes, size, withPreface), whole, `in pieces of ${size}`);
  const last = whole.slice(-3).map((l) => /^(broken .*|data|end|\d )/.exec(l)?.[0] ?? "other");
  return `${last} ${Math.min(whole.length, 8)}`;
}

/** Blocks follow each other, each with its length before it; length 255 changes the table's size instead. */
function hpack(input: Buffer): string {
  const decoder = new HpackDecoder(4_096);
  const encoder = new HpackEncoder({ huffman: (input[0] ?? 0) % 2 === 1, maxTable: 4_096 });
  const mirror = new HpackDecoder(4_096);
  const outcome: string[] = [];
  for (let at = 1; at < input.length; ) {
    const length = input[at++] ?? 0;
    if (length === 255) {
      const size = (input[at++] ?? 0) * 16;
      decoder.setAllowed(size);
      encoder.setMaxSize(size);
      mirror.setAllowed(size);
      continue;
    }
    const block = input.subarray(at, at + length);
    at += length;
    const got: [string, string, boolean][] = [];
    const error = decoder.decode(block, 0, block.length, {
      field(name, value, of, never) {
        if (name.startsWith(":")) assert.equal(of === kindOf(name) || of === 12, true, name);
        got.push([name, value, never]);
      },
    });
    assert.ok(decoder.bytes <= 4_096 && decoder.entries * 32 <= decoder.bytes, "the table keeps its bounds");
    const to = Buffer.alloc(16 + got.reduce((n, [name, value]) => n + fieldBound(name, value), 0));
    let end = encoder.begin(to, 0);
    for (const [name, value, never] of got) {
      const next = encoder.field(name, value, never, to, end);
      assert.ok(next - end <= fieldBound(name, value));
      end = next;
    }
    const back: [string, string, boolean][] = [];
    const broken = mirror.decode(to, 0, end, {
      field: (name, value, _of, never) => void back.push([name, value, never]),
    });
    assert.equal(broken, null);
    assert.deepEqual(
      back.map(([name, value]) => [name, value]),
      got.map(([name, value]) => [name, value]),
    );
    assert.ok(
      back.every(([, , never], i) => never || got[i]?.[2] !== true),
      "never-indexed stays so",
    );
    assert.equal(mirror.bytes, encoder.bytes);
    outcome.push(`${error ?? Math.min(got.length, 4)}`);
    if (error !== null) break;
  }
  return `${outcome.slice(0, 6)} ${Math.min(decoder.entries, 8)}`;
}

type Any = Http2Request | Http2Response;

/** An owner that answers by the request's path: at once, with content, with trailers, with a reset, or never. */
function act(made: Side<Any>): void {
  const { events } = made;
  const over = new Set<Http2Stream>();
  const given = new Map<number, number>();
  events.act = (event, stream) => {
    if (event === "close" || event === "reset") {
      assert.equal(stream.live, false);
      over.add(stream);
      return;
    }
    over.delete(stream);
    const head = events.heads.get(stream.id);
    if (event !== "head" || head === undefined || "status" in head) return;
    const way = head.path.length % 6;
    if (way === 0) stream.respond(204, [], true);
    else if (way === 1) {
      stream.respond(200, ["x-seen", head.path], false);
      stream.sendData(Buffer.alloc(70_000, 1), true);
    } else if (way === 2) {
      stream.respond(200, head.headers(), false, head.sensitive);
      stream.sendData(Buffer.alloc(10, 1), false);
      stream.sendTrailers(["grpc-status", "0"]);
    } else if (way === 3) stream.reset(8);
    else if (way === 4) stream.respond(100, [], false);
  };
  const onData = events.onData.bind(events);
  events.onData = (stream, chunk, end) => {
    assert.ok(stream.live && !stream.remoteEnded, "content of a stream that is over");
    const sum = (given.get(stream.id) ?? 0) + chunk.length;
    given.set(stream.id, sum);
    const length = events.heads.get(stream.id)?.contentLength ?? -1;
    if (length >= 0 && !stream.connectRequest && !stream.headRequest) assert.ok(sum <= length, "no more than was said");
    onData(stream, chunk, end);
  };
}

interface Seen {
  readonly lines: readonly string[];
  readonly out: Buffer;
}

function converse(bytes: Buffer, size: number, server: boolean, consumes: boolean): Seen {
  const made = side<Any>(
    server ? "server" : "client",
    { streamWindow: 20_000, maxHeaderListSize: 2_000, maxConcurrentStreams: 5 },
    {
      extendedConnect: true,
    },
  );
  made.events.consumes = consumes;
  act(made);
  const { connection } = made;
  if (!server) {
    for (const [i, method] of ["GET", "POST", "HEAD", "CONNECT"].entries()) {
      const stream = connection.request({ method, scheme: "http", authority: "a", path: "/" }, [], i % 2 === 0, null);
      if (method === "POST") stream?.sendData(Buffer.alloc(70_000, 2), true);
    }
  }
  pieces(bytes, size, (piece) => made.feed(piece));
  const isClose = (l: string): boolean => l.startsWith("close");
  // Owners hear of streams that are over at the end of a read, wherever that is.
  const lines = made.events.lines.filter((l) => !l.startsWith("last") && !isClose(l));
  lines.push(...made.events.lines.filter(isClose));
  const bodies = [...made.events.bodies].filter(([id]) => !lines.some((l) => l.startsWith(`reset ${id} `)));
  for (const [id, parts] of bodies) lines.push(`body ${id} ${Buffer.concat(parts).toString("hex")}`);
  const ends = lines.filter((l) => l.startsWith("done"));
  assert.equal(ends.length, connection.done ? 1 : 0);
  if (connection.done) assert.equal(connection.streams.size, 0);
  for (const stream of connection.streams.values()) {
    assert.ok(stream.live && connection.streams.get(stream.id) === stream && stream.unconsumed >= 0);
    assert.ok(!(stream.remoteEnded && stream.localEnded), "over, but still there");
  }
  const out = made.out();
  check(out, server);
  return { lines, out };
}

/** What we send keeps the rules that a peer would check. */
function check(out: Buffer, server: boolean): void {
  const start = server ? 0 : hello.length - 9;
  const over = new Set<number>();
  let block = 0;
  for (const each of frames(out.subarray(start))) {
    assert.ok(each.payload.length <= 65_536);
    if (block !== 0) assert.ok(each.type === frameType.continuation && each.id === block);
    if (each.type === frameType.data || each.type === frameType.headers) {
      assert.ok(!over.has(each.id), `frame ${each.type} after the end of ${each.id}`);
      if ((each.flags & flag.endStream) !== 0) over.add(each.id);
    }
    if (each.type === frameType.headers || each.type === frameType.continuation) {
      block = (each.flags & flag.endHeaders) === 0 ? each.id : 0;
    }
    if (each.type === frameType.rstStream) over.add(each.id);
    if (each.type === frameType.windowUpdate) assert.ok(each.payload.readUInt32BE() > 0);
  }
  assert.equal(block, 0);
}

function http2(input: Buffer): string {
  const how = input[0] ?? 0;
  const server = (how & 1) === 0;
  const size = (how >> 2) + 1;
  const begin = server ? hello : frame(frameType.settings, 0, 0);
  const bytes = Buffer.concat([begin, input.subarray(1)]);
  const whole = converse(bytes, bytes.length, server, (how & 2) === 0);
  const cut = converse(bytes, size, server, (how & 2) === 0);
  // A connection that has said goodbye ends with the read that ended its last stream, so what more is read depends on the cuts.
  if (cut.lines.includes("done drained 0") || whole.lines.includes("done drained 0")) return "drained";
  assert.deepEqual(cut.lines, whole.lines, `in pieces of ${size}`);
  // WINDOW_UPDATE goes out as content is consumed, so its place depends on the cuts.
  const others = (b: Buffer): string[] =>
    frames(b.subarray(server ? 0 : hello.length - 9))
      .filter((f) => f.type !== frameType.windowUpdate)
      .map(
        (f) =>
          `${f.type} ${f.flags} ${f.id} ${f.payload.length > referenceBytes ? f.payload.length : f.payload.toString("hex")}`,
      );
  assert.deepEqual(others(cut.out), others(whole.out));
  const shape = whole.lines.map((l) => l.replace(/ \d+/g, "").replace(/^(head|trailers|body|end|close)\b.*/, "$1"));
  const kinds = [...new Set(others(whole.out).map((l) => l.slice(0, 1)))].sort();
  return `${server} ${[...new Set(shape)].slice(-2)} ${Math.min(shape.length, 6)} ${kinds}`;
}

export const http2Targets: readonly FuzzTarget[] = [
  { name: "http2-frames", maxBytes: 4_096, run: http2Frames },
  { name: "hpack", maxBytes: 4_096, run: hpack },
  { name: "http2", maxBytes: 8_192, run: http2 },
];
