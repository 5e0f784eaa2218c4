import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { ok, type Result } from "../../agent/base/result.ts";
import type { ApiClient, ApiRequest } from "../../agent/kubernetes/client.ts";
import type { ApiFault } from "../../agent/kubernetes/fault.ts";
import { createFakeClock } from "../../test/kit/fake-clock.ts";
import { readClaims } from "./token-claims.ts";
import { readReview, TokenReviews } from "./token-reviews.ts";

const audiences = ["fairlead-ca"];
const tokenOf = (claims: unknown, mark = "sig"): string =>
  `h.${Buffer.from(JSON.stringify(claims)).toString("base64url")}.${mark}`;
const extra = (name: string) => `authentication.kubernetes.io/${name}`;
const status = (change: Readonly<Record<string, unknown>> = {}) => ({
  authenticated: true,
  audiences,
  user: {
    username: "system:serviceaccount:fairlead-system:fairlead-agent",
    extra: { [extra("pod-name")]: ["agent-1"], [extra("pod-uid")]: ["u1"], [extra("node-name")]: ["n1"] },
  },
  ...change,
});

function reviewer(answer: () => Promise<Result<unknown, ApiFault>> | Result<unknown, ApiFault>) {
  const clock = createFakeClock();
  const asked: ApiRequest[] = [];
  const outcomes: string[] = [];
  const api: ApiClient = {
    async send(request) {
      asked.push(request);
      return answer();
    },
    watch: () => Promise.reject(new Error("nothing is watched")),
    close: () => {},
  };
  const reviews = new TokenReviews({
    api,
    clock,
    audiences,
    cacheMs: 10_000,
    reviewed: (outcome) => outcomes.push(outcome),
  });
  const token = (lifeMs: number, mark?: string): string =>
    tokenOf({ aud: audiences, exp: (clock.now() + lifeMs) / 1000 }, mark);
  return { clock, asked, outcomes, reviews, token };
}

test("[IDN-3] the API server's word holds for the stated time, and never beyond the token's end", async () => {
  const { clock, asked, outcomes, reviews, token } = reviewer(() => ok({ status: status() }));
  const long = token(3_600_000);
  const first = await reviews.check(long);
  assert.deepEqual(first, {
    ok: true,
    value: {
      namespace: "fairlead-system",
      serviceAccount: "fairlead-agent",
      pod: { name: "agent-1", uid: "u1" },
      node: "n1",
      audiences,
    },
  });
  await clock.advanceAsync(9_999);
  assert.equal(await reviews.check(long), first);
  await clock.advanceAsync(1);
  await reviews.check(long);
  assert.equal(asked.length, 2);
  assert.deepEqual(outcomes, ["authenticated", "cached", "authenticated"]);
  const short = token(4_000, "short");
  await reviews.check(short);
  await clock.advanceAsync(4_000);
  assert.deepEqual(await reviews.check(short), {
    ok: false,
    error: { reason: "expired", message: "the token has expired" },
  });
  assert.equal(asked.length, 3);
});

test("[IDN-3] one token is asked about once at a time, many tokens a few at a time, and a silent server keeps nobody's place", async () => {
  const waiting: ((value: Result<unknown, ApiFault>) => void)[] = [];
  const { asked, reviews, token } = reviewer(() => new Promise((resolve) => waiting.push(resolve)));
  const settle = () => new Promise((resolve) => setImmediate(resolve));
  const same = [reviews.check(token(60_000)), reviews.check(token(60_000))];
  const others = Array.from({ length: 40 }, (_, i) => reviews.check(token(60_000, `m${i}`)));
  await settle();
  assert.equal(asked.length, 16);
  const fault: ApiFault = { kind: "timeout", message: "no answer for 5000 ms" };
  while (waiting.length > 0) {
    for (const done of waiting.splice(0)) done({ ok: false, error: fault });
    await settle();
  }
  assert.equal(asked.length, 41);
  for (const answer of await Promise.all([...same, ...others]))
    assert.equal(!answer.ok && answer.error.reason, "unavailable");
  // Not remembered: the next call asks again.
  const again = reviews.check(token(60_000));
  await settle();
  assert.equal(asked.length, 42);
  waiting.splice(0)[0]?.(ok({ status: status() }));
  assert.equal((await again).ok, true);
});

test("[IDN-3] a refusal is remembered for a second, so that a wrong token cannot keep the API server busy", async () => {
  const { clock, asked, reviews, token } = reviewer(() =>
    ok({ status: { authenticated: false, error: "no such pod" } }),
  );
  const wrong = token(60_000);
  for (let i = 0; i < 3; i++) {
    const answer = await reviews.check(wrong);
    assert.match(JSON.stringify(answer), /not_authenticated.*no such pod/);
  }
  assert.equal(asked.length, 1);
  await clock.advanceAsync(1_000);
  await reviews.check(wrong);
  assert.equal(asked.length, 2);
});

test("[IDN-3] only an answer that says plainly whose the token is counts", () => {
  const reasonOf = (value: unknown): string => {
    const answer = readReview(value, audiences);
    return answer.ok ? "ok" : answer.error.reason;
  };
  assert.equal(reasonOf({ status: status() }), "ok");
  const wrong: readonly [unknown, string][] = [
    [undefined, "not_authenticated"],
    [{}, "not_authenticated"],
    [{ status: status({ authenticated: "true" }) }, "not_authenticated"],
    [{ status: status({ audiences: undefined }) }, "audience"],
    [{ status: status({ audiences: ["https://kubernetes.default.svc"] }) }, "audience"],
    [{ status: status({ user: { username: "system:node:n1" } }) }, "not_authenticated"],
    [{ status: status({ user: { username: "system:serviceaccount:a:b:c" } }) }, "not_authenticated"],
    [{ status: status({ user: undefined }) }, "not_authenticated"],
  ];
  for (const [value, reason] of wrong) assert.equal(reasonOf(value), reason, JSON.stringify(value));
  const unbound = readReview({ status: status({ user: { username: "system:serviceaccount:a:b" } }) }, audiences);
  assert.ok(unbound.ok && unbound.value.pod === undefined && unbound.value.node === undefined);
  fc.assert(fc.property(fc.anything(), (value) => reasonOf(value) !== "ok"));
});

test("[IDN-3] what a token says of itself is read whatever it is", () => {
  assert.deepEqual(
    readClaims(tokenOf({ aud: "one", exp: 12.5, nbf: 1 })),
    ok({ audiences: ["one"], expiresMs: 12_500, notBeforeMs: 1000 }),
  );
  assert.deepEqual(
    readClaims(tokenOf({ aud: [1, "two"], exp: "x" })),
    ok({ audiences: ["two"], expiresMs: 0, notBeforeMs: 0 }),
  );
  for (const text of ["", "a.b", "a.b.c.d", "a.!.c", `a.${"b".repeat(20_000)}.c`, tokenOf(null), tokenOf("text")])
    assert.equal(readClaims(text).ok, false, text.slice(0, 20));
  fc.assert(fc.property(fc.anything(), (claims) => typeof readClaims(tokenOf(claims ?? null)).ok === "boolean"));
  fc.assert(fc.property(fc.string({ unit: "binary" }), (text) => typeof readClaims(text).ok === "boolean"));
});
