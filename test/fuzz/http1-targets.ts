// HTTP/1.1 as bytes of anyone: heads and bodies read whole and in pieces must give the same; what is accepted and written on must read back
// by the letter of the RFC as the same message, and nothing may be left over for a second reader.
import assert from "node:assert/strict";
import { BodyReader } from "../../agent/forward/http1/body.ts";
import { DONE, type FieldParser, MORE, REFUSED } from "../../agent/forward/http1/fields.ts";
import { defaultCodecLimits } from "../../agent/forward/http1/limits.ts";
import { OutBuffer, ROOM } from "../../agent/forward/http1/out-buffer.ts";
import { CHUNKED, RequestParser } from "../../agent/forward/http1/request.ts";
import { ResponseParser } from "../../agent/forward/http1/response.ts";
import { writeRequest, writeTrailers } from "../../agent/forward/http1/write.ts";
import { preface } from "../../agent/forward/http2/codes.ts";
import { protocolOf } from "../../agent/forward/sniff.ts";
import { readStrictly } from "../kit/strict-http1.ts";
import type { FuzzTarget } from "./target.ts";

const limits = {
  ...defaultCodecLimits,
  maxHeadBytes: 2_000,
  maxFields: 20,
  maxTargetBytes: 500,
  maxTrailerBytes: 300,
  maxChunkExtensionBytes: 100,
};

/** `step` bytes more each time; every call sees all bytes so far. */
function readHead(parser: FieldParser, bytes: Buffer, step: number): number {
  let outcome: number = MORE;
  for (let have = 0; outcome === MORE && have < bytes.length; ) {
    have = Math.min(bytes.length, have + step);
    outcome = parser.run(bytes, 0, have);
  }
  return outcome;
}

interface Body {
  readonly outcome: number;
  readonly payload: Buffer;
  readonly next: number;
  readonly reader: BodyReader;
}

function readBody(bytes: Buffer, kind: number, length: number, step: number): Body {
  const reader = new BodyReader(limits);
  reader.start(kind, length);
  const parts: Buffer[] = [];
  let at = 0;
  let outcome: number = reader.done ? DONE : MORE;
  while (outcome === MORE && at < bytes.length) {
    const size = Math.min(step, bytes.length - at);
    const area = Buffer.concat([Buffer.alloc(ROOM), bytes.subarray(at, at + size), Buffer.alloc(ROOM)]);
    outcome = reader.decode(area, ROOM, ROOM + size);
    if (outcome === REFUSED) break;
    parts.push(Buffer.from(area.subarray(reader.from, reader.to)));
    at += reader.next - ROOM;
  }
  return { outcome, payload: Buffer.concat(parts), next: at, reader };
}

function requests(input: Buffer): string {
  const step = (input[0] ?? 0) % 7 === 0 ? 1 : ((input[0] ?? 0) % 40) + 1;
  const bytes = input.subarray(1);
  const parser = new RequestParser(limits);
  const pieces = new RequestParser(limits);
  const outcome = readHead(parser, bytes, bytes.length);
  assert.equal(readHead(pieces, bytes, step), outcome);
  assert.deepEqual(pieces.refused, parser.refused);
  if (outcome !== DONE) return parser.refused?.refused ?? `more ${parser.state}`;
  assert.equal(pieces.at, parser.at);
  assert.deepEqual(pieces.headers(), parser.headers());
  const { method, path, authority } = parser;
  const rest = bytes.subarray(parser.at);
  const whole = readBody(rest, parser.body, parser.contentLength, Math.max(1, rest.length));
  const cut = readBody(rest, parser.body, parser.contentLength, step);
  assert.deepEqual([cut.outcome, cut.reader.refused], [whole.outcome, whole.reader.refused]);
  const words = `${parser.body} ${parser.keepsAlive} ${parser.upgrades} ${parser.minor}`;
  if (whole.outcome !== DONE) return `${words} ${whole.reader.refused?.refused ?? "more"}`;
  assert.deepEqual([cut.next, cut.payload], [whole.next, whole.payload]);
  const out = new OutBuffer(16);
  writeRequest(parser, out, {});
  if (parser.body === CHUNKED) {
    if (whole.payload.length > 0) out.chunk(whole.payload, 0, whole.payload.length);
    writeTrailers(whole.reader.trailers, out);
  } else out.bytes(whole.payload, 0, whole.payload.length);
  const strict = readStrictly(out.view());
  assert.ok(strict !== undefined && strict.length === out.len, "not one whole message");
  assert.deepEqual([strict.method, strict.host, strict.body], [method, authority, whole.payload.toString("latin1")]);
  assert.equal(strict.target, method === "CONNECT" ? authority : path);
  return `${words} ${method.length} ${parser.count} ${whole.reader.trailers?.count}`;
}

function responses(input: Buffer): string {
  const step = ((input[0] ?? 0) % 40) + 1;
  const bytes = input.subarray(1);
  const make = (): ResponseParser => {
    const parser = new ResponseParser(limits);
    parser.method = (input[0] ?? 0) & 64 ? "HEAD" : "GET";
    return parser;
  };
  const parser = make();
  const pieces = make();
  const outcome = readHead(parser, bytes, bytes.length);
  assert.equal(readHead(pieces, bytes, step), outcome);
  assert.deepEqual(pieces.refused, parser.refused);
  if (outcome !== DONE) return parser.refused?.refused ?? `more ${parser.state}`;
  assert.deepEqual([pieces.at, pieces.status, pieces.body], [parser.at, parser.status, parser.body]);
  const rest = bytes.subarray(parser.at);
  const whole = readBody(rest, parser.body, parser.contentLength, Math.max(1, rest.length));
  const cut = readBody(rest, parser.body, parser.contentLength, step);
  assert.deepEqual([cut.outcome, cut.reader.refused], [whole.outcome, whole.reader.refused]);
  if (whole.outcome !== REFUSED) assert.deepEqual(cut.payload, whole.payload);
  return `${Math.floor(parser.status / 100)} ${parser.body} ${parser.keepsAlive} ${whole.outcome} ${whole.reader.refused?.refused}`;
}

/** What first bytes say must not depend on how they were cut; only a preface is HTTP/2, or on a port declared so text that is no HTTP/1.x. */
function firstBytes(input: Buffer): string {
  const isPreface = input.subarray(0, preface.length).equals(preface);
  const [anywhere, declared] = [false, true].map((isHttp2Port) => {
    let said: string | undefined;
    for (let end = 0; end <= input.length; end++) {
      const now = protocolOf(input.subarray(0, end), isHttp2Port);
      assert.ok(said === undefined || now === said, `${said} became ${now} at ${end}`);
      said = now;
    }
    return said;
  });
  assert.equal(anywhere === "http2", isPreface);
  if (declared !== anywhere) {
    assert.equal(anywhere, "http1");
    const line = input.toString("latin1").replace(/^[\r\n]+/, "");
    assert.equal(declared, /^[^\n]*\n/.test(line) ? "http2" : undefined);
    assert.doesNotMatch(line, /^[^\n]* HTTP\/1\.[01]\r?\n/);
  }
  return `${anywhere} ${declared} ${anywhere === undefined ? Math.min(input.length, 30) : ""}`;
}

export const http1Targets: readonly FuzzTarget[] = [
  { name: "http1-request", maxBytes: 4_096, run: requests },
  { name: "http1-response", maxBytes: 4_096, run: responses },
  { name: "first-bytes", maxBytes: 256, run: firstBytes },
];
