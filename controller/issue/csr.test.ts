import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { makeCsr } from "../../test/kit/node-agent.ts";
import { checkCsr } from "./csr.ts";

const id = "spiffe://cluster.local/ns/shop/sa/web";
const armour = (bytes: Uint8Array): string =>
  `-----BEGIN CERTIFICATE REQUEST-----\n${Buffer.from(bytes).toString("base64")}\n-----END CERTIFICATE REQUEST-----\n`;
const bytesOf = (pem: string): Buffer => Buffer.from(pem.replace(/-----[^-]+-----/g, ""), "base64");

test("[IDN-3] a request with any byte changed is refused, never thrown at", async () => {
  const bytes = bytesOf((await makeCsr(id)).csrPem);
  const good = await checkCsr(armour(bytes), id);
  assert.ok(good.ok);
  await fc.assert(
    fc.asyncProperty(fc.nat(bytes.length - 1), fc.integer({ min: 1, max: 255 }), async (at, flip) => {
      const changed = Buffer.from(bytes);
      changed[at] = (changed[at] ?? 0) ^ flip;
      const result = await checkCsr(armour(changed), id);
      // What the signature does not cover (its own encoding) may still read as the same request; nothing else may pass.
      if (result.ok) assert.deepEqual(result.value.publicKey, good.value.publicKey);
    }),
    { numRuns: 400 },
  );
});

test("[IDN-3] rubbish, cut and joined requests are refused in bounded time", async () => {
  const { csrPem } = await makeCsr(id);
  const bytes = bytesOf(csrPem);
  const began = performance.now();
  await fc.assert(
    fc.asyncProperty(
      fc.oneof(
        fc.string(),
        fc.uint8Array({ maxLength: 400 }).map(armour),
        fc.nat(bytes.length - 1).map((n) => armour(bytes.subarray(0, n))),
      ),
      async (text) => {
        assert.equal((await checkCsr(text, id)).ok, false);
      },
    ),
    { numRuns: 1000 },
  );
  for (const text of [csrPem + csrPem, "x".repeat(20_000), csrPem.replace("CERTIFICATE REQUEST", "CERTIFICATE")]) {
    assert.equal((await checkCsr(text, id)).ok, false);
  }
  assert.ok(performance.now() - began < 120_000);
});
