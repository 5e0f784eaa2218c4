// HTTP/2 peers that break rules or ask for too much: each loses what RFC 9113 says, the rest goes on, and nothing grows.
import assert from "node:assert/strict";
import { test } from "node:test";
import { errorCode as e, frameType as t } from "../../agent/forward/http2/codes.ts";
import type { HeaderList } from "../../agent/http.ts";
import { block, client, frame, frames, get, headers, hello, server, uint32 } from "../kit/http2-pair.ts";

const post: HeaderList = [":method", "POST", ":scheme", "http", ":path", "/", ":authority", "a"];
const opened = (limits = {}, more = {}) => {
  const a = server(limits, more);
  a.feed(hello, frame(t.settings, 1, 0));
  a.out();
  return a;
};
/** [stream, code] of every RST_STREAM, and the code of GOAWAY. */
const resets = (bytes: Buffer): [number, number][] =>
  frames(bytes)
    .filter((f) => f.type === t.rstStream)
    .map((f) => [f.id, f.payload.readUInt32BE()]);
const goaway = (bytes: Buffer): number | undefined =>
  frames(bytes)
    .find((f) => f.type === t.goaway)
    ?.payload.readUInt32BE(4);

const with_ = (...fields: string[]): HeaderList => [...get, ...fields];
const without = (name: string): HeaderList => get.filter((_, i) => get[i - (i % 2)] !== name);

test("[SEC-8] HTTP/2: malformed requests are stream errors, named by reason, and the connection goes on", () => {
  const cases: [reason: string, fields: HeaderList][] = [
    ["pseudo_missing", without(":method")],
    ["pseudo_missing", without(":scheme")],
    ["pseudo_missing", without(":path")],
    ["pseudo_duplicate", [":method", "GET", ...get]],
    ["pseudo_order", ["x", "1", ...get]],
    ["pseudo_unexpected", [":status", "200", ...get]],
    ["pseudo_unexpected", [...get, ":protocol", "websocket"]],
    ["field_name", [":bogus", "1", ...get]],
    ["field_name", with_("X-Upper", "1")],
    ["field_name", with_("a b", "1")],
    ["field_name", with_("", "1")],
    ["field_name", with_("a:b", "1")],
    ["field_name", with_("a\r\nb", "1")],
    ["field_name", with_("ä", "1")],
    ["field_value", with_("a", "1\r\nb: 2")],
    ["field_value", with_("a", "\0")],
    ["field_value", with_("a", " 1")],
    ["field_value", with_("a", "1\t")],
    ["field_value", with_("a", "\u007f")],
    ["field_connection_specific", with_("connection", "close")],
    ["field_connection_specific", with_("transfer-encoding", "chunked")],
    ["field_connection_specific", with_("keep-alive", "1")],
    ["field_connection_specific", with_("proxy-connection", "close")],
    ["field_connection_specific", with_("upgrade", "h2c")],
    ["field_te", with_("te", "gzip")],
    ["host", with_("host", "b")],
    ["host", with_("host", "a", "host", "a")],
    ["content_length", with_("content-length", "1")],
    ["content_length", with_("content-length", "0", "content-length", "0")],
    ["content_length", with_("content-length", "+0")],
    ["content_length", with_("content-length", "0, 0")],
    ["content_length", with_("content-length", "99999999999999999999")],
    ["content_length", with_("content-length", "")],
    ["path", [":method", "GET", ":scheme", "http", ":path", "", ":authority", "a"]],
    ["path", [":method", "GET", ":scheme", "http", ":path", "x", ":authority", "a"]],
    ["path", [":method", "GET", ":scheme", "http", ":path", "*", ":authority", "a"]],
    ["path", [":method", "GET", ":scheme", "http", ":path", "/a b", ":authority", "a"]],
    ["path", [":method", "GET", ":scheme", "http", ":path", "/a#b", ":authority", "a"]],
    ["scheme", [":method", "GET", ":scheme", "ftp", ":path", "/", ":authority", "a"]],
    ["method", [":method", "G T", ":scheme", "http", ":path", "/", ":authority", "a"]],
    ["method", [":method", "", ":scheme", "http", ":path", "/", ":authority", "a"]],
    ["authority", [":method", "GET", ":scheme", "http", ":path", "/", ":authority", "u@a"]],
    ["authority", [":method", "GET", ":scheme", "http", ":path", "/", ":authority", "a/b"]],
    ["authority", [":method", "GET", ":scheme", "http", ":path", "/", "host", "a, b"]],
    ["pseudo_unexpected", [":method", "CONNECT", ":scheme", "http", ":path", "/", ":authority", "a"]],
    ["pseudo_missing", [":method", "CONNECT"]],
  ];
  const a = opened();
  cases.forEach(([reason, fields], i) => {
    const id = i * 2 + 1;
    a.feed(headers(id, fields, true));
    assert.deepEqual(resets(a.out()), [[id, e.protocolError]], `${reason}: ${fields}`);
    assert.equal(a.events.lines.pop(), `refused ${reason} ${e.protocolError}`, `${fields}`);
  });
  assert.deepEqual(a.events.lines, [], "no owner saw any of them");
  const good: HeaderList[] = [
    with_("te", "trailers"),
    with_("host", "a"),
    with_("content-length", "0"),
    [":method", "OPTIONS", ":scheme", "http", ":path", "*", ":authority", "a"],
    [":method", "GET", ":scheme", "https", ":path", "/?q=\u00e4", "host", "b:1"],
    [":method", "CONNECT", ":authority", "a:443"],
  ];
  good.forEach((fields, i) => {
    const id = 1_001 + i * 2;
    a.feed(headers(id, fields, true));
    assert.ok(a.events.heads.has(id), `${fields}`);
  });
  assert.equal(a.events.heads.get(1_009)?.authority, "b:1");
});

test("[SEC-8] HTTP/2: Content-Length against what comes: too much, too little, with trailers, and exactly", () => {
  const length = (n: number): HeaderList => [...post, "content-length", String(n)];
  const data = (id: number, bytes: number, end: boolean): Buffer => frame(t.data, end ? 1 : 0, id, Buffer.alloc(bytes));
  const a = opened();
  a.feed(headers(1, length(5), false), data(1, 6, false));
  a.feed(headers(3, length(5), false), data(3, 4, true));
  a.feed(headers(5, length(5), false), data(5, 4, false), headers(5, ["x", "1"], true));
  a.feed(headers(7, length(5), false), data(7, 5, true));
  a.feed(headers(9, length(5), false), data(9, 5, false), data(9, 0, true));
  a.feed(headers(11, length(5), false), data(11, 3, false), data(11, 0, true));
  assert.deepEqual(
    resets(a.out()).map(([id]) => id),
    [1, 3, 5, 11],
  );
  assert.ok(a.events.lines.includes("end 7") && a.events.lines.includes("end 9"));
  assert.ok(!a.events.lines.some((l) => /^(end|last|trailers) (1|3|5|11)\b/.test(l)), a.events.lines.join("\n"));
});

test("[SEC-8] HTTP/2: a head that is too large is answered 431, endless ones end the connection", () => {
  const a = opened({ maxHeaderListSize: 1_000 });
  a.feed(headers(1, [...get, "x", "y".repeat(1_000)], true), headers(3, [...post, "x", "y".repeat(1_000)], false));
  const out = a.out();
  assert.deepEqual(
    frames(out)
      .filter((f) => f.type === t.headers)
      .map((f) => f.id),
    [1, 3],
  );
  assert.deepEqual(resets(out), [[3, e.noError]]);
  // One byte that stands for 4,000, a thousand times: counted, not stored.
  const bomb = opened({ maxHeaderListSize: 20_000 });
  const entry = Buffer.concat([Buffer.from([0x40, 1, 0x78, 0x7f, 0xa1, 0x1e]), Buffer.alloc(4_000, 0x61)]);
  bomb.feed(frame(t.headers, 5, 1, Buffer.concat([block(get), entry, Buffer.alloc(10_000, 0xbe)])));
  assert.ok(bomb.events.lines.includes("refused head_too_large 0"));
  const flood = opened();
  flood.feed(frame(t.headers, 1, 1, block(get)));
  for (let i = 0; i < 100; i++) flood.feed(frame(t.continuation, 0, 1));
  assert.equal(goaway(flood.out()), e.enhanceYourCalm);
  const long = opened();
  long.feed(frame(t.headers, 1, 1, block(get)));
  for (let i = 0; i < 5; i++) long.feed(frame(t.continuation, 0, 1, Buffer.alloc(16_000, 0x82)));
  assert.equal(goaway(long.out()), e.enhanceYourCalm);
});

test("[SEC-8] HTTP/2: floods end the connection with ENHANCE_YOUR_CALM, the same at an honest pace does not", () => {
  const rapid = (id: number): Buffer => Buffer.concat([headers(id, get, true), frame(t.rstStream, 0, id, uint32(8))]);
  // The peer makes us reset instead: a window beyond its bounds, content after the end.
  const made = (id: number): Buffer =>
    Buffer.concat([headers(id, get, true), frame(t.windowUpdate, 0, id, uint32(0x7fff_ffff))]);
  const after = (id: number): Buffer => Buffer.concat([headers(id, get, true), frame(t.data, 1, id)]);
  const malformed = (id: number): Buffer => headers(id, without(":path"), true);
  const empty = (id: number): Buffer => (id === 1 ? headers(1, post, false) : frame(t.data, 0, 1));
  const floods: Record<string, (id: number) => Buffer> = {
    rapid,
    made,
    after,
    malformed,
    empty,
    ping: () => frame(t.ping, 0, 0, Buffer.alloc(8)),
    settings: () => frame(t.settings, 0, 0, [0, 4, 0, 1, 0, 0]),
    priority: () => frame(t.priority, 0, 1, [0, 0, 0, 3, 1]),
    unknown: () => frame(0x42, 0, 0, Buffer.alloc(4)),
    window: () => frame(t.windowUpdate, 0, 0, uint32(1)),
  };
  for (const [name, make] of Object.entries(floods)) {
    const a = opened();
    let sent = 0;
    while (!a.connection.done && sent < 5_000) a.feed(make(1 + 2 * sent++));
    assert.equal(goaway(a.out()), e.enhanceYourCalm, name);
    assert.ok(sent <= 1_001, `${name} after ${sent}`);
    let now = 0;
    const slow = opened({}, { nowMs: () => now });
    for (let i = 0; i < 1_000; i++) {
      now += 25;
      slow.feed(make(1 + 2 * i));
      slow.out();
    }
    assert.equal(slow.connection.done, false, `${name} at 40 a second`);
  }
});

test("[SEC-8] HTTP/2: a window opened byte by byte does not pay for itself", () => {
  const a = opened({ control: { burst: 200, perSecond: 0 } });
  a.feed(frame(t.settings, 0, 0, [0, 4, 0, 0, 0, 0]), headers(1, get, true));
  const stream = a.events.streams.get(1);
  stream?.respond(200, [], false);
  stream?.sendData(Buffer.alloc(5_000), true);
  for (let i = 0; i < 400; i++) a.feed(frame(t.windowUpdate, 0, 1, uint32(1)));
  assert.equal(goaway(a.out()), e.enhanceYourCalm);
});

test("[SEC-8] HTTP/2: streams above the limit are refused, and their place is free again when one ends", () => {
  const a = opened({ maxConcurrentStreams: 2 });
  a.feed(headers(1, get, true), headers(3, get, true), headers(5, get, true));
  assert.deepEqual(resets(a.out()), [[5, e.refusedStream]]);
  a.events.streams.get(1)?.respond(204, [], true);
  a.feed(headers(7, get, true));
  assert.ok(a.events.heads.has(7));
});

test("[SEC-8] HTTP/2: more than a window allows, on a stream and on the connection", () => {
  const a = opened({ streamWindow: 10_000, connectionWindow: 65_535 });
  a.events.consumes = false;
  const data = (id: number, bytes: number): Buffer => frame(t.data, 0, id, Buffer.alloc(bytes));
  a.feed(headers(1, post, false), data(1, 10_000), data(1, 1));
  assert.deepEqual(resets(a.out()), [[1, e.flowControlError]]);
  for (let id = 3; id < 21 && !a.connection.done; id += 2) a.feed(headers(id, post, false), data(id, 10_000));
  assert.equal(goaway(a.out()), e.flowControlError);
});

test("[TRF-7] HTTP/2: a server that drains serves what was begun, takes nothing new, and is done then", () => {
  const a = opened();
  a.feed(headers(1, get, true));
  a.connection.drain();
  const first = frames(a.out());
  assert.deepEqual(
    first.map((f) => f.type),
    [t.goaway, t.ping],
  );
  assert.equal(first[0]?.payload.readUInt32BE(0), 0x7fff_ffff);
  // Sent before the client had heard: still served.
  a.feed(headers(3, get, true), frame(t.ping, 1, 0, Buffer.alloc(8)));
  assert.equal(frames(a.out())[0]?.payload.readUInt32BE(0), 3);
  a.feed(headers(5, get, true));
  assert.ok(!a.events.heads.has(5));
  a.events.streams.get(1)?.respond(200, [], true);
  a.events.streams.get(3)?.respond(200, [], true);
  a.out();
  assert.equal(a.connection.done, true);
  assert.equal(a.events.lines.at(-1), "done drained 0");
});

test("[TRF-7] [RES-5] HTTP/2: GOAWAY tells a client which requests were not begun", () => {
  const b = client();
  b.feed(frame(t.settings, 0, 0), frame(t.settings, 1, 0));
  const line = { method: "GET", scheme: "http", authority: "w", path: "/" };
  for (let i = 0; i < 3; i++) b.connection.request(line, [], true, null);
  b.feed(frame(t.goaway, 0, 0, Buffer.concat([uint32(3), uint32(0)])));
  assert.deepEqual(b.events.lines, [`reset 5 goaway ${e.refusedStream}`, "goaway 3 0"]);
  assert.equal(b.connection.request(line, [], true, null), null);
  b.feed(headers(1, [":status", "204"], true), headers(3, [":status", "204"], true));
  assert.equal(b.connection.done, true);
});

test("[SEC-8] [TRF-7] HTTP/2: answers that are malformed, and those that only look like it", () => {
  const line = (method: string) => ({ method, scheme: "http", authority: "w", path: "/" });
  const answer = (status: string, ...fields: string[]): HeaderList => [":status", status, ...fields];
  const run = (method: string, ...bytes: Buffer[]): string => {
    const b = client();
    b.feed(frame(t.settings, 0, 0), frame(t.settings, 1, 0));
    b.connection.request(line(method), [], true, null);
    b.feed(...bytes);
    return b.events.lines.at(-1) ?? "";
  };
  const one = frame(t.data, 1, 1, Buffer.alloc(1));
  assert.match(run("GET", headers(1, answer("101"), false)), /^reset 1 status/);
  assert.match(run("GET", headers(1, answer("20"), true)), /^reset 1 status/);
  assert.match(run("GET", headers(1, ["x", "1"], true)), /^reset 1 pseudo_missing/);
  assert.match(run("GET", headers(1, answer("100"), true)), /^reset 1 interim_end/);
  assert.match(run("GET", one), /^reset 1 data_before_head/);
  assert.match(run("GET", headers(1, answer("200", "content-length", "2"), false), one), /^reset 1 content_length/);
  assert.match(run("GET", headers(1, answer("204"), false), one), /^reset 1 content_length/);
  assert.match(run("HEAD", headers(1, answer("200", "content-length", "2"), false), one), /^reset 1 content_length/);
  assert.match(run("HEAD", headers(1, answer("200", "content-length", "2"), true)), /^close 1/);
  assert.match(run("GET", headers(1, answer("304", "content-length", "2"), true)), /^close 1/);
  assert.match(
    run("GET", headers(1, answer("200"), false), headers(1, ["x", "1"], false)),
    /^reset 1 trailers_without_end/,
  );
  assert.match(
    run("GET", headers(1, answer("200"), false), headers(1, [":status", "200"], true)),
    /^reset 1 pseudo_unexpected/,
  );
  assert.match(run("GET", frame(t.pushPromise, 4, 1, Buffer.concat([uint32(2), block(get)]))), /^done push_promise/);
  const interim = Array.from({ length: 20 }, () => headers(1, answer("103"), false));
  assert.match(run("GET", ...interim), new RegExp(`^reset 1 interim_flood ${e.enhanceYourCalm}`));
});
