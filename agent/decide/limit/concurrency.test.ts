// The gradient limit against simulated servers: it finds what they can do, follows when that changes, and loses no place.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { mesh, rateLimit, workload } from "../../../test/kit/mesh.ts";
import { defaultConcurrency } from "../../api/rate-limit.ts";
import { seededRandom } from "../../base/random.ts";
import type { RequestHead } from "../../http.ts";
import { concurrencyWords, currentLimit, enter, forgetThread, leave, requestsUnderWay } from "./concurrency.ts";
import { limiterFor, type Places } from "./limiter.ts";
import { createLimitMemory, SharedLimits } from "./shared.ts";

const config = { ...defaultConcurrency, intervalMs: 100 };

/** A server with so many workers, each busy for `workMs` a request; more requests wait. Clients keep `offered` under way if they may. */
function simulate(words: Int32Array, fromMs: number, forMs: number, workers: number, workMs: number, offered: number) {
  const random = seededRandom(3);
  let now = fromMs;
  let inside = 0;
  const ends: { at: number; began: number }[] = [];
  let answered = 0;
  let slowest = 0;
  while (now < fromMs + forMs) {
    while (inside < offered && enter(words, 0, 0, config)) {
      // Whoever is beyond the workers waits for its turn.
      const queued = Math.max(0, inside + 1 - workers);
      const took = workMs * (0.9 + 0.2 * random.next()) * (1 + queued / workers);
      ends.push({ at: now + took, began: now });
      inside++;
    }
    const first = ends.reduce((least, end, i) => (end.at < (ends[least]?.at ?? 0) ? i : least), 0);
    const [next] = ends.splice(first, 1);
    now = next?.at ?? now + 1;
    if (next === undefined) continue;
    leave(words, 0, 0, now, next.at - next.began, config);
    inside--;
    answered++;
    slowest = Math.max(slowest, next.at - next.began);
  }
  for (const { at, began } of ends) leave(words, 0, 0, now, at - began, config);
  return { now, answered, slowest };
}

test("[LIM-3] the limit settles near what the server can do at once, and far below what is offered", () => {
  const words = new Int32Array(concurrencyWords);
  const { now } = simulate(words, 1, 5_000, 20, 10, 15);
  const { slowest } = simulate(words, now, 30_000, 20, 10, 200);
  const settled = currentLimit(words, 0, config);
  assert.ok(settled >= 15 && settled <= 70, `settled at ${settled}`);
  assert.ok(slowest < 80, `a request took ${slowest} ms where one alone takes 10`);
});

test("[LIM-3] a server that becomes ten times slower is given less at once, and more again when it has recovered", () => {
  const words = new Int32Array(concurrencyWords);
  let { now } = simulate(words, 1, 10_000, 20, 10, 200);
  const before = currentLimit(words, 0, config);
  ({ now } = simulate(words, now, 4_000, 4, 50, 200));
  const slow = currentLimit(words, 0, config);
  assert.ok(slow < before / 2, `${before} -> ${slow}`);
  simulate(words, now, 20_000, 20, 10, 200);
  assert.ok(currentLimit(words, 0, config) > slow * 1.5);
});

test("[LIM-3] never more under way than the limit, never a limit outside its bounds, and every place comes back", () => {
  const step = fc.record({ thread: fc.nat(3), isEnd: fc.boolean(), ms: fc.integer({ min: 0, max: 400 }) });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 300 }), (steps) => {
      const words = new Int32Array(concurrencyWords);
      const open = [0, 0, 0, 0];
      let now = 1;
      for (const { thread, isEnd, ms } of steps) {
        now += ms;
        if (isEnd && (open[thread] as number) > 0) {
          leave(words, 0, thread, now, ms % 7 === 0 ? undefined : ms, config);
          open[thread] = (open[thread] as number) - 1;
        } else if (enter(words, 0, thread, config)) open[thread] = (open[thread] as number) + 1;
        const all = open.reduce((a, b) => a + b, 0);
        assert.equal(requestsUnderWay(words, 0), all);
        const limit = currentLimit(words, 0, config);
        assert.ok(limit >= config.min && limit <= config.max);
      }
      forgetThread(words, 0, 2);
      assert.equal(requestsUnderWay(words, 0), (open[0] as number) + (open[1] as number) + (open[3] as number));
    }),
  );
});

test("[LIM-3] [DP-25] over the limit a request gets 503; a thread that died gives its places back when its number lives again", () => {
  const web = workload("shop", "web", "10.244.2.1");
  const concurrency = { ...config, initial: 4, min: 4, max: 4 };
  const state = mesh({ rateLimits: [rateLimit("p", [], { concurrency })], workloads: [web] });
  const memory = createLimitMemory(64, [1, 2]);
  const connection = { destination: web, port: 80, identity: null, sourceIp: "10.0.0.1" };
  const head: RequestHead = {
    method: "GET",
    scheme: "http",
    authority: "",
    path: "/",
    header: () => undefined,
    headers: () => [],
  };
  const on = (thread: number) => {
    const limiter = limiterFor(state, new SharedLimits(memory, thread), connection);
    assert.ok(limiter !== undefined);
    const open: Places[] = [];
    const ask = () => {
      const places: Places = [];
      const refused = limiter.ask(head, 1, places, () => {});
      if (refused === undefined) open.push(places);
      return refused?.status;
    };
    return { limiter, open, ask };
  };
  const [first, second] = [on(0), on(1)];
  assert.deepEqual(
    [first.ask(), second.ask(), first.ask(), second.ask()],
    [undefined, undefined, undefined, undefined],
  );
  assert.deepEqual([first.ask(), second.ask()], [503, 503]);
  first.limiter.release(first.open[0] as Places, 5, 4);
  assert.deepEqual([second.ask(), first.ask()], [undefined, 503]);
  // Thread 1 dies with three requests under way, and is replaced.
  const again = on(1);
  assert.deepEqual([again.ask(), again.ask(), again.ask(), again.ask()], [undefined, undefined, undefined, 503]);
});
