// Requests of the discovery stream against the generated codec, and against bytes that are none.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { DeltaDiscoveryRequest } from "../../agent/api/discovery.gen.ts";
import { decodeRequest, type InitialVersions } from "./request.ts";

const text = fc.oneof(fc.string({ unit: "grapheme" }), fc.constantFrom("", "constructor", "ü".repeat(200)));
const message = fc.record({
  typeUrl: text,
  resourceNamesSubscribe: fc.array(text, { maxLength: 4 }),
  resourceNamesUnsubscribe: fc.array(text, { maxLength: 4 }),
  initialResourceVersions: fc.dictionary(text, text, { maxKeys: 20, noNullPrototype: true }),
  responseNonce: text,
  errorDetail: fc.option(fc.record({ code: fc.nat(), message: text }), { nil: undefined }),
  node: fc.option(fc.record({ id: text }), { nil: undefined }),
});
const pairsOf = (initial: InitialVersions): [string, string][] => {
  const pairs: [string, string][] = [];
  initial.forEach((...pair) => void pairs.push(pair));
  return pairs;
};
const encode = (one: object): Buffer =>
  Buffer.from(DeltaDiscoveryRequest.encode(DeltaDiscoveryRequest.create(one)).finish());

test("[DIS-2] every request is read as the generated codec reads it, versions in their order", () => {
  fc.assert(
    fc.property(message, (one) => {
      const { initial, ...others } = decodeRequest(encode(one));
      const { node: _, initialResourceVersions, ...expected } = DeltaDiscoveryRequest.decode(encode(one));
      assert.deepEqual(others, expected);
      assert.deepEqual(pairsOf(initial), Object.entries(initialResourceVersions));
      assert.equal(initial.isEmpty, pairsOf(initial).length === 0);
    }),
    { numRuns: 1_000 },
  );
});

test("[DIS-2] fields between the versions, and fields of a later version, take nothing away", () => {
  const [a, b] = [{ a: "1" }, { b: "2" }].map((initialResourceVersions) => encode({ initialResourceVersions }));
  // Field 99, three bytes.
  const later = Buffer.from([0x9a, 0x06, 3, 1, 2, 3]);
  const bytes = Buffer.concat([
    a as Buffer,
    encode({ typeUrl: "t" }),
    b as Buffer,
    later,
    encode({ responseNonce: "7" }),
  ]);
  const read = decodeRequest(bytes);
  assert.deepEqual(pairsOf(read.initial), [
    ["a", "1"],
    ["b", "2"],
  ]);
  assert.deepEqual([read.typeUrl, read.responseNonce], ["t", "7"]);
});

test("[DIS-2] bytes that are no request are refused or read, and never loop or read beyond their end", () => {
  const cut = fc.tuple(message, fc.nat(), fc.nat(255)).map(([one, at, byte]) => {
    const bytes = encode(one);
    if (bytes.length > 0) bytes[at % bytes.length] = byte;
    return bytes.subarray(0, Math.max(0, bytes.length - (at % 3)));
  });
  fc.assert(
    fc.property(fc.oneof(cut, fc.uint8Array({ maxLength: 64 }).map(Buffer.from)), (bytes) => {
      try {
        for (const [name, version] of pairsOf(decodeRequest(bytes).initial))
          assert.ok(name.length + version.length <= bytes.length);
      } catch (error) {
        assert.ok(error instanceof Error && !(error instanceof assert.AssertionError), String(error));
      }
    }),
    { numRuns: 5_000 },
  );
});
