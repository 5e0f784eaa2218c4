// The HTTP/2 codec against itself: whatever is cut where, whatever the windows, messages arrive whole, in order, and nothing stays behind.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { client, frames, server, settle } from "../kit/http2-pair.ts";

const pattern = Buffer.from(Array.from({ length: 1_009 }, (_, i) => (i * 7) & 255));
const whole = (): number => 1 << 20;
const filled = (bytes: number, seed: number): Buffer => Buffer.alloc(bytes, pattern.subarray(seed));

const plan = fc.record({
  method: fc.constantFrom("GET", "POST", "PUT"),
  path: fc.constantFrom("/", "/shop/cart?id=1", "/a.b.C/Call"),
  fields: fc.constantFrom([], ["x-a", "1", "cookie", "a=b", "cookie", "c=d"], ["x-long", "y".repeat(20_000)]),
  upload: fc.array(fc.constantFrom(0, 1, 500, 5_000, 40_000), { maxLength: 4 }),
  download: fc.array(fc.constantFrom(0, 1, 500, 5_000, 40_000, 90_000), { maxLength: 4 }),
  trailers: fc.boolean(),
});

test("[TRF-7] [SEC-8] HTTP/2: any exchange through any cut and any window arrives whole, and leaves no stream and no window behind", () => {
  const cases = fc.record({
    plans: fc.array(plan, { minLength: 1, maxLength: 8 }),
    cuts: fc.array(fc.constantFrom(1, 2, 8, 9, 10, 100, 4_096, 16_000, 65_536), { minLength: 1, maxLength: 6 }),
    windows: fc.constantFrom(1, 1_000, 65_535, 262_144),
    huffman: fc.boolean(),
    highWater: fc.constantFrom(1, 65_536),
  });
  fc.assert(
    fc.property(cases, ({ plans, cuts, windows, huffman, highWater }) => {
      // With a window of a byte every byte is a frame, so keep it short.
      const most = windows === 1 ? 50 : windows === 1_000 ? 5_000 : 100_000;
      const limits = { streamWindow: windows, highWater, control: { burst: 1e9, perSecond: 0 } };
      const b = client(limits, { huffman });
      const a = server(limits, { huffman });
      let turn = 0;
      const cut = (): number => (most === 50 ? 4_096 : (cuts[turn++ % cuts.length] ?? 1) * (cuts.length > 3 ? 1 : 100));
      const send = (
        side: { sendData(chunk: Buffer, end: boolean): boolean; end(): void },
        sizes: readonly number[],
        seed: number,
      ): Buffer =>
        Buffer.concat(
          sizes.map((size, i) => {
            const chunk = filled(Math.min(size, most), seed + i);
            // The stream keeps long chunks: give it one of its own.
            side.sendData(Buffer.from(chunk), false);
            return chunk;
          }),
        );
      const answers = new Map<number, Buffer>();
      a.events.act = (event, stream) => {
        if (event !== "end") return;
        const each = plans[(stream.id - 1) / 2];
        assert.ok(each !== undefined);
        stream.respond(100, [], false);
        stream.respond(200, each.fields, false);
        answers.set(stream.id, send(stream, each.download, stream.id));
        if (each.trailers) stream.sendTrailers(["grpc-status", "0", "grpc-message", "a%20b"]);
        else stream.end();
      };
      settle(a, b, cut);
      const uploads = plans.map((each) => {
        const head = { method: each.method, scheme: "http", authority: "web:80", path: each.path };
        const ends = each.upload.length === 0;
        const stream = b.connection.request(head, each.fields, ends, null);
        assert.ok(stream !== null);
        const id = stream.id;
        const body = send(stream, each.upload, 3);
        stream.end();
        return { id, body };
      });
      settle(a, b, cut);
      for (const [i, { id, body }] of uploads.entries()) {
        const each = plans[i];
        assert.ok(each !== undefined);
        assert.equal(a.events.heads.get(id)?.path, each.path);
        assert.deepEqual(a.events.heads.get(id)?.headers(), each.fields);
        assert.ok(a.events.body(id).equals(body), "upload");
        assert.ok(b.events.body(id).equals(answers.get(id) ?? Buffer.alloc(1)), "download");
        const seen = b.events.lines.filter((l) => l.split(" ")[1] === String(id) && !l.startsWith("last"));
        const fields = each.fields.length > 0 ? ` ${each.fields.join("=")}` : " ";
        assert.deepEqual(seen, [
          `head ${id} 100 `,
          `head ${id} 200${fields}`,
          ...(each.trailers ? [`trailers ${id} grpc-status=0=grpc-message=a%20b`] : []),
          `end ${id}`,
          `close ${id}`,
        ]);
        assert.equal(a.events.lines.filter((l) => l === `close ${id}`).length, 1);
      }
      for (const { connection } of [a, b]) {
        assert.equal(connection.streams.size, 0);
        assert.equal(connection.done, false);
        // What was not told yet is less than half of the window.
        assert.ok(connection.receiveWindow * 2 > connection.limits.connectionWindow);
      }
    }),
    { numRuns: 60 },
  );
});

test("[TRF-7] HTTP/2: who does not consume holds the sender back, per stream and in all, and nothing is lost when it goes on", () => {
  const limits = { streamWindow: 100_000, connectionWindow: 250_000, highWater: 64_000 };
  const a = server(limits);
  const b = client(limits);
  a.events.consumes = false;
  settle(a, b, whole);
  const ids = [0, 1, 2, 3].map(() => {
    const stream = b.connection.request({ method: "POST", scheme: "http", authority: "w", path: "/" }, [], false, null);
    assert.ok(stream !== null);
    assert.equal(stream.sendData(filled(400_000, stream.id), true), false);
    return stream.id;
  });
  settle(a, b, whole);
  const got = ids.map((id) => a.events.body(id).length);
  assert.deepEqual(got, [100_000, 100_000, 50_000, 0]);
  let drained = 0;
  b.events.act = (event) => {
    if (event === "drain") drained += 1;
  };
  for (let i = 0; i < 40; i++) {
    for (const id of ids) a.events.streams.get(id)?.consume(50_000);
    settle(a, b, whole);
  }
  for (const id of ids) assert.ok(a.events.body(id).equals(filled(400_000, id)));
  assert.equal(drained, 4);
});

test("[TRF-7] HTTP/2: a slow transport holds content back, and one turn's frames are few pieces", () => {
  const a = server();
  const b = client();
  settle(a, b, whole);
  b.connection.writable(false);
  const streams = [0, 1, 2].map(() =>
    b.connection.request({ method: "POST", scheme: "http", authority: "w", path: "/" }, [], false, null),
  );
  for (const stream of streams) stream?.sendData(Buffer.alloc(3_000, 1), false);
  const waiting = b.connection.take();
  assert.deepEqual(new Set(frames(Buffer.concat(waiting)).map((f) => f.type)), new Set([1]));
  assert.equal(waiting.length, 1);
  a.feed(...waiting.map((w) => Buffer.from(w)));
  b.connection.flushed(true, true);
  const parts = b.connection.take();
  assert.equal(parts.length, 1);
  assert.equal(frames(Buffer.concat(parts)).length, 3);
});

test("[TRF-7] HTTP/2: stream objects are used again, and an old reference to one does nothing", () => {
  const a = server();
  const b = client();
  a.events.act = (event, stream) => {
    if (event === "end") stream.respond(204, [], true);
  };
  settle(a, b, whole);
  const line = { method: "GET", scheme: "http", authority: "w", path: "/" };
  const first = b.connection.request(line, [], true, "mine");
  assert.equal(first?.owner, "mine");
  settle(a, b, whole);
  assert.equal(first?.id, 0);
  first?.reset(8);
  first?.sendData(Buffer.alloc(1), true);
  assert.equal(b.out().length, 0);
  const second = b.connection.request(line, [], true, null);
  assert.equal(second, first);
  assert.equal(second?.id, 3);
});

test("[TRF-7] [DP-28] HTTP/2: CONNECT and extended CONNECT carry bytes both ways after a 2xx, whatever a length said", () => {
  const b = client();
  const line = { method: "CONNECT", scheme: "http", authority: "db:5432", path: "/chat" };
  assert.equal(
    b.connection.request(line, [], false, null, null, "websocket"),
    null,
    "not before the peer has said that it can",
  );
  const a = server({}, { extendedConnect: true });
  settle(a, b, whole);
  const plain = b.connection.request(line, [], false, null);
  const socket = b.connection.request(line, ["sec-websocket-version", "13"], false, null, null, "websocket");
  assert.ok(plain !== null && socket !== null);
  settle(a, b, whole);
  const [one, three] = [a.events.heads.get(1), a.events.heads.get(3)];
  assert.deepEqual([one?.method, one?.authority, one?.path, one?.protocol], ["CONNECT", "db:5432", "", ""]);
  assert.deepEqual([three?.authority, three?.path, three?.protocol], ["db:5432", "/chat", "websocket"]);
  for (const id of [1, 3]) a.events.streams.get(id)?.respond(200, id === 1 ? ["content-length", "3"] : [], false);
  settle(a, b, whole);
  for (const stream of [plain, socket]) stream.sendData(Buffer.from("ping"), false);
  for (const id of [1, 3]) a.events.streams.get(id)?.sendData(Buffer.from("pong"), true);
  settle(a, b, whole);
  assert.equal(
    `${a.events.body(1)} ${a.events.body(3)} ${b.events.body(1)} ${b.events.body(3)}`,
    "ping ping pong pong",
  );
  plain.end();
  socket.end();
  settle(a, b, whole);
  assert.equal(a.connection.streams.size + b.connection.streams.size, 0);
});

test("[SEC-8] HTTP/2: values that the sender wants in no table are in none, hop after hop", () => {
  const a = server();
  const b = client();
  settle(a, b, whole);
  const line = { method: "GET", scheme: "http", authority: "w", path: "/" };
  for (let i = 0; i < 4; i++) {
    b.connection.request(line, ["x-key", "k".repeat(40), "x-open", "o"], true, null, ["x-key"]);
    settle(a, b, whole);
    const head = a.events.heads.get(1 + 2 * i);
    assert.ok(head !== undefined);
    assert.deepEqual(head.sensitive, ["x-key"]);
    assert.equal(head.header("x-key"), "k".repeat(40));
  }
});
