// JWT-SVIDs as the controller signs them and as agents and the controller check them: what was signed is read back by those it is for, and
// whatever else is shown is refused with a reason, never with an exception.
import assert from "node:assert/strict";
import { createPrivateKey, sign } from "node:crypto";
import { test } from "node:test";
import fc from "fast-check";
import { firstJwtKeys, type JwtKey, JwtSigner, jwksOf, jwtKeysText, parseJwtKeys } from "../../controller/issue/jwt.ts";
import { StateError } from "../../controller/issue/state-files.ts";
import { Struct } from "../api/spiffe.gen.ts";
import { structOf, validateJwtSvid } from "./jwt-svid.ts";

const nowMs = 1_800_000_000_000;
const keys = await firstJwtKeys(nowMs);
const foreign = await firstJwtKeys(nowMs);
const signer = new JwtSigner(keys);
const subject = "spiffe://cluster.local/ns/shop/sa/web";
const bundle = (domain: string): string | undefined => (domain === "cluster.local" ? jwksOf(keys) : undefined);
const check = (token: string, audience = "a", at = nowMs) => validateJwtSvid(token, audience, bundle, at);
const made = (more: { audience?: readonly string[]; lifeMs?: number } = {}): string =>
  signer.sign({ subject, audience: ["a"], issuedMs: nowMs, lifeMs: 300_000, ...more }).token;
const part = (value: unknown): string => Buffer.from(JSON.stringify(value) ?? "").toString("base64url");
/** Signed by a key that is trusted, whatever it says. */
function signed(header: unknown, claims: unknown, { keyPem }: JwtKey = keys[0] as JwtKey): string {
  const text = `${part(header)}.${part(claims)}`;
  const signature = sign("sha256", Buffer.from(text), { key: createPrivateKey(keyPem), dsaEncoding: "ieee-p1363" });
  return `${text}.${signature.toString("base64url")}`;
}
const bytesOf = (token: string): string => {
  const [head = "", body = "", signature = ""] = token.split(".");
  return `${head}.${body}.${Buffer.from(signature, "base64url").toString("hex")}`;
};

test("[IDN-12] what was signed is read back by whom it is for, while it lives", () => {
  const audiences = fc.uniqueArray(fc.string({ minLength: 1 }), { minLength: 1, maxLength: 4 });
  fc.assert(
    fc.property(audiences, fc.integer({ min: 1, max: 3_600 }), fc.string(), (audience, seconds, other) => {
      const token = made({ audience, lifeMs: seconds * 1000 });
      for (const one of audience) {
        const read = check(token, one);
        assert.ok(read.ok && read.value.spiffeId === subject, JSON.stringify(read));
        assert.deepEqual(signer.subjectOf(token, one, nowMs), { ok: true, value: subject });
        for (const late of [
          check(token, one, nowMs + seconds * 1000),
          signer.subjectOf(token, one, nowMs + seconds * 1000),
        ])
          assert.ok(!late.ok && /expired/.test(late.error), JSON.stringify(late));
      }
      if (!audience.includes(other)) assert.ok(!check(token, other).ok && !signer.subjectOf(token, other, nowMs).ok);
    }),
    { numRuns: 50 },
  );
});

test("[IDN-12] a token that was changed in any place is refused, and so is one of another key", () => {
  const token = made();
  fc.assert(
    fc.property(fc.nat(token.length), fc.nat(3), fc.string({ maxLength: 3 }), (at, cut, put) => {
      const changed = token.slice(0, at) + put + token.slice(at + cut);
      // The last character of a signature has bits that mean nothing.
      if (bytesOf(changed) === bytesOf(token)) return;
      for (const answer of [check(changed), signer.subjectOf(changed, "a", nowMs)]) {
        assert.ok(!answer.ok, changed);
        assert.notEqual(answer.error, "");
      }
    }),
    { numRuns: 500 },
  );
  const stranger = signed({ alg: "ES256", kid: keys[0]?.id }, { sub: subject, aud: "a", exp: nowMs }, foreign[0]);
  assert.ok(!check(stranger).ok && !signer.subjectOf(stranger, "a", nowMs).ok);
  const unsigned = `${part({ alg: "none", kid: keys[0]?.id })}.${part({ sub: subject, aud: "a", exp: nowMs })}.`;
  assert.ok(!check(unsigned).ok && !signer.subjectOf(unsigned, "a", nowMs).ok);
});

test("[IDN-12] any text is a value, and any claims under a right signature are read or refused and can be told", () => {
  const refusedAll = (text: string): void => {
    for (const answer of [check(text), signer.subjectOf(text, "a", nowMs)]) assert.ok(!answer.ok, text);
  };
  const texts = fc.oneof(
    fc.string({ unit: "binary", maxLength: 300 }),
    fc.array(fc.base64String({ maxLength: 90 }), { maxLength: 5 }).map((parts) => parts.join(".")),
    fc
      .array(fc.json(), { minLength: 2, maxLength: 3 })
      .map((parts) => parts.map((one) => Buffer.from(one).toString("base64url")).join(".")),
  );
  fc.assert(fc.property(texts, refusedAll), { numRuns: 1_000 });
  refusedAll("a".repeat(20_000));

  const odd = fc.oneof(
    fc.jsonValue(),
    fc.constantFrom<unknown>(subject, "a", ["a"], nowMs, nowMs / 1000 + 9, -1, "spiffe://"),
  );
  const claims = fc.record({ sub: odd, aud: odd, exp: odd, nbf: odd, more: odd }, { requiredKeys: [] });
  fc.assert(
    fc.property(fc.oneof(claims, fc.jsonValue()), (said) => {
      const token = signed({ alg: "ES256", kid: keys[0]?.id }, said);
      signer.subjectOf(token, "a", nowMs);
      const read = check(token);
      if (!read.ok) return;
      const { sub, aud, exp } = read.value.claims;
      assert.equal(read.value.spiffeId, sub);
      assert.ok(aud === "a" || (Array.isArray(aud) && aud.includes("a")));
      assert.ok(typeof exp === "number" && exp * 1000 > nowMs);
      Struct.decode(Struct.encode(structOf(read.value.claims)).finish());
    }),
    { numRuns: 300 },
  );
});

test("[IDN-12] a key set that is anything but one trusts nobody and throws nothing", () => {
  const token = made();
  fc.assert(
    fc.property(
      fc.oneof(
        fc.string(),
        fc.json(),
        fc.jsonValue().map((keys) => JSON.stringify({ keys })),
      ),
      (jwks) => {
        assert.ok(!validateJwtSvid(token, "a", () => jwks, nowMs).ok);
      },
    ),
    { numRuns: 500 },
  );
});

test("[IDN-12] stored keys read back as they were; a file that is damaged is told as such, and nothing else happens", () => {
  const text = jwtKeysText(keys);
  assert.deepEqual(parseJwtKeys(text, "x"), keys);
  const damaged = fc.oneof(
    fc.string(),
    fc.json(),
    fc.jsonValue().map((value) => JSON.stringify({ keys: value })),
    fc
      .tuple(fc.nat(text.length), fc.string({ minLength: 1, maxLength: 4 }))
      .map(([at, put]) => text.slice(0, at) + put),
  );
  fc.assert(
    fc.property(damaged, (one) => {
      try {
        assert.ok(parseJwtKeys(one, "x").length > 0);
      } catch (error) {
        assert.ok(error instanceof StateError, String(error));
      }
    }),
    { numRuns: 500 },
  );
});
