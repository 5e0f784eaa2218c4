// Frames survive any split of the stream; broken lengths are refused.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { encodeFrame, FrameReader, MAX_FRAME_BYTES } from "./frames.ts";

test("any split of the stream yields the same frames", () => {
  const frames = fc.array(fc.tuple(fc.integer({ min: 0, max: 255 }), fc.uint8Array({ maxLength: 300 })), {
    maxLength: 20,
  });
  fc.assert(
    fc.property(frames, fc.array(fc.integer({ min: 1, max: 64 }), { minLength: 1 }), (sent, cuts) => {
      const bytes = Buffer.concat(sent.map(([kind, payload]) => encodeFrame(kind, payload)));
      const got: [number, Uint8Array][] = [];
      const reader = new FrameReader({ frame: (kind, payload) => got.push([kind, Uint8Array.from(payload)]) });
      for (let at = 0, i = 0; at < bytes.length; i++) {
        const step = cuts[i % cuts.length] ?? 1;
        reader.push(bytes.subarray(at, at + step));
        at += step;
      }
      assert.deepEqual(got, sent);
    }),
  );
});

test("a length of 0 or over the limit is refused", () => {
  for (const size of [0, MAX_FRAME_BYTES + 1]) {
    const bytes = Buffer.alloc(4);
    bytes.writeUInt32LE(size);
    assert.throws(() => new FrameReader({ frame: () => {} }).push(bytes), RangeError);
  }
});
