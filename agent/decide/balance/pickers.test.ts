import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { requestHead } from "../../../test/kit/http-heads.ts";
import { endpointsOf, even, everyAlgorithm, pickerFor } from "../../../test/kit/pickers.ts";
import type { SessionAffinity } from "../../api/http-policy.ts";
import { seededRandom } from "../../base/random.ts";
import { EndpointStats } from "./endpoint-stats.ts";
import { hashText } from "./hash.ts";
import { Sessions } from "./keys.ts";

const random = seededRandom(43);

const states = fc.array(
  fc.record({ weight: fc.nat({ max: 3 }), gate: fc.constantFrom(0, 0, 1, 2, 4), tier: fc.nat({ max: 2 }) }),
  { maxLength: 12 },
);
test("[LB-3] [RES-7] no algorithm picks an endpoint that is closed or weighs nothing, or the avoided one if there is another", () => {
  fc.assert(
    fc.property(
      fc.constantFrom(...everyAlgorithm),
      states,
      fc.nat(),
      fc.integer({ min: -1, max: 11 }),
      (algorithm, given, key, wanted) => {
        const avoid = wanted < given.length ? wanted : -1;
        const endpoints = endpointsOf(
          given.map((g) => g.weight),
          (i) => ({ tier: given[i]?.tier ?? 0 }),
        );
        const stats = new EndpointStats(given.length);
        // Closed before or after the picker is made: it must not matter.
        const early = pickerFor(algorithm, endpoints, { stats, balancer: { virtualNodes: 3 } });
        for (const [slot, { gate }] of given.entries()) if (gate !== 0) stats.close(slot, gate as 1 | 2 | 4);
        const late = pickerFor(algorithm, endpoints, { stats, balancer: { virtualNodes: 3 } });
        const usable = given.flatMap(({ weight, gate }, i) => (weight > 0 && gate === 0 ? [i] : []));
        for (const picker of [early, late]) {
          for (let i = 0; i < 5; i++) {
            const index = picker.pick(random, hashText(`${key} ${i}`), avoid);
            if (usable.length === 0) assert.equal(index, -1);
            else assert.ok(usable.includes(index), `${index} of ${usable}`);
            if (usable.some((u) => u !== avoid)) assert.notEqual(index, avoid);
          }
        }
      },
    ),
    { numRuns: 600 },
  );
});

test("[DP-25] threads share what is in flight; what a dead one had is dropped", () => {
  const memory = new SharedArrayBuffer(EndpointStats.bytesFor(3, 4));
  const threads = [0, 1, 2, 3].map((thread) => new EndpointStats(3, { threads: 4, thread, memory }));
  for (const stats of threads) for (let i = 0; i < 5; i++) stats.begin(1);
  assert.equal(threads[0]?.load(1), 20);
  threads[3]?.end(1);
  threads[0]?.forgetThread(2);
  assert.equal(threads[1]?.load(1), 14);
  const cursor = new Int32Array(new SharedArrayBuffer(4));
  const pickers = threads.map((stats) => pickerFor("round_robin", endpointsOf(even(3)), { stats, cursor }));
  const order = Array.from({ length: 12 }, (_, i) => pickers[i % 4]?.pick(random, 0, -1));
  for (let round = 0; round < 12; round += 3) assert.equal(new Set(order.slice(round, round + 3)).size, 3);
});

const nowS = 1_800_000_000;
const affinityOf = (more: Partial<SessionAffinity> = {}): SessionAffinity => ({
  kind: "cookie",
  name: "sticky",
  lifetimeS: 0,
  absoluteS: 0,
  idleS: 0,
  ...more,
});
const withCookie = (field: readonly [string, string] | undefined) =>
  requestHead({ headers: { cookie: `a=1; ${field?.[1].split(";")[0]}` } });

test("[LB-4] sessions stick by cookie to their endpoint, until it is gone", () => {
  const ids = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"];
  const sessions = new Sessions(ids);
  const affinity = affinityOf({ lifetimeS: 60 });
  assert.equal(sessions.find(affinity, requestHead({}), nowS), undefined);
  const field = sessions.fieldFor(affinity, 1, undefined, nowS, true);
  assert.match(field?.[1] ?? "", /^sticky=[0-9a-z]+; Path=\/; Max-Age=60; HttpOnly; SameSite=Lax; Secure$/);
  assert.ok(!field?.[1].includes("10.0.0"), "no address leaves the mesh");
  const found = sessions.find(affinity, withCookie(field), nowS);
  assert.equal(found?.index, 1);
  assert.equal(sessions.fieldFor(affinity, 1, found, nowS, true), undefined);
  assert.equal(new Sessions([ids[2] ?? "", ids[1] ?? ""]).find(affinity, withCookie(field), nowS)?.index, 1);
  assert.equal(new Sessions([ids[0] ?? ""]).find(affinity, withCookie(field), nowS), undefined);
});

test("[LB-4] sessions end at their time, idle or not, and times that were made up count for nothing", () => {
  const sessions = new Sessions(["a", "b"]);
  const affinity = affinityOf({ absoluteS: 100, idleS: 10 });
  const first = sessions.fieldFor(affinity, 0, undefined, nowS, false);
  assert.equal(sessions.find(affinity, withCookie(first), nowS + 9)?.index, 0);
  assert.equal(sessions.find(affinity, withCookie(first), nowS + 10), undefined);
  const session = sessions.find(affinity, withCookie(first), nowS + 9);
  const later = sessions.fieldFor(affinity, 0, session, nowS + 95, false);
  assert.equal(sessions.find(affinity, withCookie(later), nowS + 99)?.startedS, nowS);
  assert.equal(sessions.find(affinity, withCookie(later), nowS + 100), undefined);
  assert.equal(sessions.find(affinity, withCookie(first), nowS - 1), undefined);
  const bare = (first?.[1] ?? "").replace(/[.;].*/, "");
  assert.equal(sessions.find(affinity, requestHead({ headers: { cookie: bare } }), nowS), undefined);
});

test("[LB-4] sessions by header carry the token in the header, by source need none", () => {
  const sessions = new Sessions(["a", "b"]);
  const affinity = affinityOf({ kind: "header", name: "x-session" });
  const field = sessions.fieldFor(affinity, 1, undefined, nowS, false);
  assert.equal(field?.[0], "x-session");
  assert.equal(sessions.find(affinity, requestHead({ headers: { "x-session": field?.[1] ?? "" } }), nowS)?.index, 1);
  const source = affinityOf({ kind: "source", name: "" });
  assert.equal(sessions.fieldFor(source, 0, undefined, nowS, false), undefined);
});
