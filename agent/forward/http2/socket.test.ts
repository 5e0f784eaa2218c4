// Memory of reads that wait: the bytes stay what they were, and the memory is used again.
import assert from "node:assert/strict";
import { once } from "node:events";
import type { Socket } from "node:net";
import { Duplex } from "node:stream";
import { test } from "node:test";
import fc from "fast-check";
import { createFakeClock } from "../../../test/kit/fake-clock.ts";
import { frame, headers, hello, Recorder } from "../../../test/kit/http2-pair.ts";
import { flag, frameType } from "./codes.ts";
import type { Http2Request } from "./head.ts";
import { Http2Socket, type ReadGate, Turn } from "./socket.ts";

/** A connection whose reads the test makes; it says how many frames there is time for. */
function setUp() {
  const events = new Recorder<Http2Request>();
  const bound = new Http2Socket<Http2Request>({ role: "server", handler: events }, new Turn(), createFakeClock());
  let time = 0;
  let isHeld = false;
  const gate: ReadGate = {
    beforeRead: () => true,
    goesOn: () => --time > 0,
    afterRead(isWhole) {
      isHeld = !isWhole;
      return isWhole;
    },
    beforeWrite: () => 0,
    afterWrite: () => {},
  };
  bound.gate = gate;
  const { buffer, callback } = bound.onread();
  const socket = Object.assign(new Duplex({ read() {}, write: (_chunk, _encoding, done) => done() }), {
    setNoDelay: () => {},
  });
  bound.attach(socket as unknown as Socket, false);
  let area = buffer() as Buffer;
  const areas = new Set([area.buffer]);
  return {
    events,
    areas,
    /** One read of these bytes, or more if it needs more room, of which so many frames find time; then so many of what waits, until none does. */
    read(bytes: Buffer, frames: number, later = 1000): void {
      for (let at = 0; at < bytes.length; ) {
        const size = Math.min(area.length, bytes.length - at);
        bytes.copy(area, 0, at, at + size);
        at += size;
        time = frames;
        callback(size);
        area = buffer() as Buffer;
        areas.add(area.buffer);
        // Where the next read would go.
        area.fill(255);
        while (isHeld) {
          time = later;
          bound.resume();
        }
      }
    },
    async close(): Promise<void> {
      socket.destroy();
      await once(socket, "close");
    },
  };
}

const acked = Buffer.concat([hello, frame(frameType.settings, flag.ack, 0)]);
const post = [":method", "POST", ":scheme", "http", ":authority", "a", ":path", "/"];
const piece = (bytes: Buffer): Buffer => frame(frameType.data, 0, 1, bytes);

test("[SEC-8] HTTP/2: reads that wait again and again take turns in two pieces of memory, which the next connection has after this one", async () => {
  const one = setUp();
  one.read(Buffer.concat([acked, headers(1, post, false)]), 1000);
  const many = Buffer.concat(Array.from({ length: 30 }, (_, i) => piece(Buffer.alloc(1_000, i))));
  for (let i = 0; i < 20; i++) one.read(many, 1);
  assert.equal(one.events.body(1).length, 20 * 30 * 1_000);
  assert.equal(one.areas.size, 2);
  await one.close();
  const two = setUp();
  assert.ok([...two.areas].every((area) => one.areas.has(area)));
  await two.close();
});

test("[SEC-8] [TRF-7] HTTP/2: what waited is what came, wherever it was cut, also for who keeps parts of it", async () => {
  const step = fc.record({
    sizes: fc.array(fc.nat({ max: 12_000 }), { minLength: 1, maxLength: 10 }),
    frames: fc.integer({ min: 1, max: 14 }),
    later: fc.integer({ min: 1, max: 5 }),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 12 }), async (steps) => {
      const { events, read, close } = setUp();
      const kept: Buffer[] = [];
      const note = events.onData.bind(events);
      events.onData = (stream, chunk, end) => {
        // As whoever sends it on: long pieces stay where they are.
        kept.push(chunk.length >= 4_096 ? chunk : Buffer.from(chunk));
        note(stream, chunk, end);
      };
      read(Buffer.concat([acked, headers(1, post, false)]), 1000);
      const sent: Buffer[] = [];
      let fill = 0;
      for (const { sizes, frames, later } of steps) {
        const contents = sizes.map((size) => Buffer.alloc(size, ++fill % 251));
        sent.push(...contents);
        read(Buffer.concat(contents.map(piece)), frames, later);
      }
      assert.deepEqual(events.lines.slice(1), []);
      assert.ok(events.body(1).equals(Buffer.concat(sent)), "as it came");
      assert.ok(Buffer.concat(kept).equals(Buffer.concat(sent)), "and as it was kept");
      await close();
    }),
    { numRuns: 200 },
  );
});
