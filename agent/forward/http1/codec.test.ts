// Heads and bodies: any cut of the bytes gives the same, and what is written reads back as what was read.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { BodyReader } from "./body.ts";
import { DONE, type FieldParser, MORE, REFUSED } from "./fields.ts";
import { defaultCodecLimits } from "./limits.ts";
import { frameInPlace, OutBuffer, ROOM } from "./out-buffer.ts";
import { CHUNKED, LENGTH, RequestParser, UNTIL_CLOSE } from "./request.ts";
import { ResponseParser } from "./response.ts";
import { writeRequest, writeResponse } from "./write.ts";

/** Feeds `bytes` in pieces as an owner would: each call sees all bytes so far, at another place each time. */
function feed(parser: FieldParser, bytes: Buffer, cuts: readonly number[]): { outcome: number; read: number } {
  let outcome: number = MORE;
  let have = 0;
  for (let i = 0; outcome === MORE && have < bytes.length; i++) {
    have = Math.min(bytes.length, have + (cuts[i % cuts.length] ?? 1));
    const shift = i % 3;
    outcome = parser.run(Buffer.concat([Buffer.alloc(shift, 0x0d), bytes.subarray(0, have)]), shift, shift + have);
  }
  return { outcome, read: parser.at };
}

const request = (parser: RequestParser): unknown => [
  parser.method,
  parser.scheme,
  parser.authority,
  parser.path,
  parser.minor,
  parser.body,
  parser.contentLength,
  parser.keepsAlive,
  parser.upgrades,
  parser.expects,
  parser.headers(),
];

const cuts = fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1, maxLength: 12 });
const token = fc.stringMatching(/^[a-z][a-z0-9-]{0,14}$/);
const value = fc.stringMatching(/^([!-~]([ -~]{0,20}[!-~])?)?$/);
const reserved =
  /^(host|content-length|transfer-encoding|connection|upgrade|te|expect|keep-alive|proxy-connection|http2-settings)$/;
const fields = fc
  .array(fc.tuple(token, value), { maxLength: 12 })
  .map((list) => list.filter(([n]) => !reserved.test(n)));
const path = fc.stringMatching(/^\/[!$-~]{0,30}$/);
const framing = fc.constantFrom(
  "",
  "Content-Length: 5\r\n",
  "Transfer-Encoding: chunked\r\n",
  "content-length:\t007 \r\n",
);
const head = fc
  .tuple(
    fc.constantFrom("GET", "POST", "PUT", "OPTIONS", "PURGE"),
    path,
    fields,
    framing,
    fc.integer({ min: 0, max: 1 }),
  )
  .map(
    ([method, target, list, length, minor]) =>
      `${method} ${target} HTTP/1.${length.startsWith("T") ? 1 : minor}\r\nHost: a.test:80\r\n${list.map(([n, v]) => `${n}: ${v}\r\n`).join("")}${length}\r\n`,
  );
/** A good head, with a few bytes changed. */
const spoiled = fc
  .tuple(head, fc.array(fc.tuple(fc.nat(), fc.constantFrom(0, 9, 10, 13, 32, 35, 44, 58, 127, 200)), { maxLength: 3 }))
  .map(([text, changes]) => {
    const bytes = Buffer.from(text, "latin1");
    for (const [at, byte] of changes) bytes[at % bytes.length] = byte;
    return bytes;
  });

test("[TRF-7] any cut of a request's head gives the same head or the same refusal", () => {
  fc.assert(
    fc.property(spoiled, cuts, (bytes, pieces) => {
      const whole = new RequestParser(defaultCodecLimits);
      const cut = new RequestParser(defaultCodecLimits);
      const a = feed(whole, bytes, [bytes.length]);
      const b = feed(cut, bytes, pieces);
      assert.equal(b.outcome, a.outcome);
      assert.deepEqual(cut.refused, whole.refused);
      if (a.outcome === DONE) {
        assert.equal(b.read, a.read);
        assert.deepEqual(request(cut), request(whole));
      }
    }),
    { numRuns: 2_000 },
  );
});

test("[TRF-7] limits hold at the same byte whatever the cut", () => {
  const limits = { ...defaultCodecLimits, maxHeadBytes: 120, maxFields: 4, maxTargetBytes: 30 };
  const parts = fc.tuple(fc.integer({ min: 1, max: 60 }), fc.array(fc.integer({ min: 0, max: 60 }), { maxLength: 7 }));
  fc.assert(
    fc.property(parts, cuts, ([target, lengths], pieces) => {
      const text = `GET /${"a".repeat(target)} HTTP/1.1\r\nHost: a\r\n${lengths.map((n) => `x: ${"b".repeat(n)}\r\n`).join("")}\r\n`;
      const whole = new RequestParser(limits);
      const cut = new RequestParser(limits);
      const bytes = Buffer.from(text);
      const a = feed(whole, bytes, [bytes.length]);
      const b = feed(cut, bytes, pieces);
      assert.deepEqual([b.outcome, cut.refused], [a.outcome, whole.refused]);
      if (target + 1 > 30) assert.equal(whole.refused?.refused, "target_too_long");
      else if (a.outcome === DONE) assert.ok(bytes.length <= 120 && lengths.length <= 3);
      else assert.match(whole.refused?.refused ?? "", /^(head_too_large|too_many_fields)$/);
    }),
  );
});

test("[TRF-7] a request written on reads back as it was", () => {
  const out = new OutBuffer(16);
  fc.assert(
    fc.property(head, (text) => {
      const parser = new RequestParser(defaultCodecLimits);
      assert.equal(feed(parser, Buffer.from(text, "latin1"), [text.length]).outcome, DONE);
      out.clear();
      writeRequest(parser, out, {});
      const again = new RequestParser(defaultCodecLimits);
      const bytes = Buffer.from(out.view());
      assert.equal(feed(again, bytes, [bytes.length]).outcome, DONE, bytes.toString("latin1"));
      assert.equal(again.at, bytes.length);
      const plain = (p: RequestParser): unknown => {
        const list = p.headers();
        const pairs: string[] = [];
        for (let i = 0; i < list.length; i += 2)
          pairs.push(`${list[i]}: ${list[i]?.startsWith("content-l") ? p.contentLength : list[i + 1]}`);
        return [p.method, p.authority, p.path, p.body, p.contentLength, pairs.sort()];
      };
      assert.deepEqual(plain(again), plain(parser));
    }),
    { numRuns: 1_000 },
  );
});

test("[TRF-5] edits remove, set and add, and cannot touch framing or break out of a line", () => {
  const parser = new RequestParser(defaultCodecLimits);
  const bytes = Buffer.from("GET / HTTP/1.1\r\nHost: a\r\nA: 1\r\nB: 2\r\na: 3\r\nC: 4\r\nContent-Length: 3\r\n\r\n");
  assert.equal(parser.run(bytes, 0, bytes.length), DONE);
  const out = new OutBuffer(16);
  const edits = {
    remove: ["b", "content-length", "host"],
    set: ["a", "x", "transfer-encoding", "chunked", "d", "1\r\nevil: 1"],
    add: ["c", "5", "content-length", "9", "connection", "close", "bad name", "x"],
  };
  writeRequest(parser, out, { edits, path: "/new?q", authority: "b:1" });
  assert.equal(
    out.view().toString(),
    "GET /new?q HTTP/1.1\r\nhost: b:1\r\nC: 4\r\nContent-Length: 3\r\na: x\r\nc: 5\r\n\r\n",
  );
});

test("[TRF-7] fields of one connection go no further: Connection and what it names, Keep-Alive, TE, Upgrade", () => {
  const parser = new RequestParser(defaultCodecLimits);
  const bytes = Buffer.from(
    "GET / HTTP/1.1\r\nHost: a\r\nConnection: close, X-Mine\r\nKeep-Alive: 5\r\nx-mine: 1\r\nTE: gzip, trailers\r\nUpgrade: h2c\r\nProxy-Connection: a\r\nHTTP2-Settings: a\r\nY: 1\r\n\r\n",
  );
  assert.equal(parser.run(bytes, 0, bytes.length), DONE);
  assert.equal(parser.keepsAlive, false);
  const out = new OutBuffer(16);
  writeRequest(parser, out, {});
  assert.equal(out.view().toString(), "GET / HTTP/1.1\r\nHost: a\r\nY: 1\r\nconnection: te\r\nte: trailers\r\n\r\n");
});

test("[TRF-7] a response written on reads back as it was, in the framing of the client's version", () => {
  const lengths = fc.constantFrom("Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n", "");
  const made = fc.tuple(fc.constantFrom(200, 204, 304, 404, 599), fc.constantFrom(" Fine", " ", ""), fields, lengths);
  const out = new OutBuffer(16);
  fc.assert(
    fc.property(made, cuts, fc.constantFrom("GET", "HEAD"), ([status, reason, list, length], pieces, method) => {
      const text = `HTTP/1.1 ${status}${reason}\r\n${list.map(([n, v]) => `${n}: ${v}\r\n`).join("")}${length}\r\n`;
      const bytes = Buffer.from(text, "latin1");
      const parser = new ResponseParser(defaultCodecLimits);
      parser.method = method;
      assert.equal(feed(parser, bytes, pieces).outcome, DONE, parser.refused?.refused ?? "");
      out.clear();
      const body = parser.body === UNTIL_CLOSE ? CHUNKED : parser.body;
      writeResponse(parser, out, undefined, { minor: 1, body, close: false });
      const again = new ResponseParser(defaultCodecLimits);
      again.method = method;
      assert.equal(again.run(Buffer.from(out.view()), 0, out.len), DONE, again.refused?.refused ?? "");
      assert.deepEqual([again.status, again.body], [status, body]);
      if (parser.body === LENGTH) assert.equal(again.contentLength, 5);
      for (const [name] of list) assert.equal(again.header(name), parser.header(name));
    }),
  );
});

/** Payload and trailers of `bytes`, read in pieces. */
function readBody(bytes: Buffer, kind: number, length: number, pieces: readonly number[]): unknown {
  const reader = new BodyReader({ ...defaultCodecLimits, maxTrailerBytes: 200, maxChunkExtensionBytes: 60 });
  reader.start(kind, length);
  const payload: Buffer[] = [];
  let outcome: number = MORE;
  let at = 0;
  for (let i = 0; at < bytes.length && outcome === MORE; i++) {
    const size = Math.min(bytes.length - at, pieces[i % pieces.length] ?? 1);
    const area = Buffer.concat([Buffer.alloc(ROOM), bytes.subarray(at, at + size), Buffer.alloc(ROOM)]);
    outcome = reader.decode(area, ROOM, ROOM + size);
    if (outcome === REFUSED) return reader.refused;
    payload.push(Buffer.from(area.subarray(reader.from, reader.to)));
    at += reader.next - ROOM;
    if (outcome === MORE) assert.equal(reader.next, ROOM + size);
  }
  return [outcome, at, Buffer.concat(payload).toString("latin1"), reader.trailers?.headers()];
}

test("[TRF-7] any cut of a chunked body gives the same payload, trailers or refusal", () => {
  const chunk = fc.tuple(
    fc.stringMatching(/^[ -~]{1,30}$/),
    fc.constantFrom("", ";a=b", " ;x", ';q="v;w"'),
    fc.boolean(),
  );
  const trailers = fc.constantFrom("", "x-sum: 1\r\n", "a: b\r\nc:d\r\n", "content-length: 4\r\n", "a : b\r\n");
  const change = fc.option(fc.tuple(fc.nat(), fc.constantFrom(10, 13, 32, 48, 59, 70, 120)), { nil: undefined });
  fc.assert(
    fc.property(fc.array(chunk, { maxLength: 6 }), trailers, change, cuts, (list, fieldsAfter, changed, pieces) => {
      const body = list
        .map(([data, ext, pad]) => `${pad ? "0" : ""}${data.length.toString(16)}${ext}\r\n${data}\r\n`)
        .join("");
      const bytes = Buffer.from(`${body}0\r\n${fieldsAfter}\r\nGET /`);
      if (changed !== undefined) bytes[changed[0] % bytes.length] = changed[1];
      const whole = readBody(bytes, CHUNKED, -1, [bytes.length]);
      assert.deepEqual(readBody(bytes, CHUNKED, -1, pieces), whole);
      if (changed === undefined && !/^(content|a :)/.test(fieldsAfter))
        assert.deepEqual((whole as unknown[]).slice(0, 3), [DONE, bytes.length - 5, list.map(([d]) => d).join("")]);
    }),
    { numRuns: 1_000 },
  );
});

test("[TRF-7] a body by length ends at its last byte; one until close takes all", () => {
  assert.deepEqual(readBody(Buffer.from("abcdefGET"), LENGTH, 6, [4]), [DONE, 6, "abcdef", undefined]);
  assert.deepEqual(readBody(Buffer.from("abcdef"), UNTIL_CLOSE, -1, [4]), [MORE, 6, "abcdef", undefined]);
});

test("[TRF-7] a chunk framed in place reads back", () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 70_000 }), (size) => {
      const area = Buffer.alloc(ROOM + size + ROOM, 120);
      const start = frameInPlace(area, ROOM, ROOM + size);
      const bytes = Buffer.concat([area.subarray(start, ROOM + size + 2), Buffer.from("0\r\n\r\n")]);
      const [outcome, , payload] = readBody(bytes, CHUNKED, -1, [bytes.length]) as [number, number, string];
      assert.deepEqual([outcome, payload.length], [DONE, size]);
    }),
    { numRuns: 50 },
  );
});
