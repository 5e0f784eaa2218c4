// Which idle connection a request may have, when the thread or the whole machine stood still for a while.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createFakeClock } from "../../../test/kit/fake-clock.ts";
import { err } from "../../base/result.ts";
import { defaultExchangeLimits } from "./exchange.ts";
import type { Answered, ServerLink } from "./links.ts";
import { UpstreamPool } from "./pool.ts";
import { Sweep } from "./sweep.ts";

function setUp() {
  const clock = createFakeClock();
  // None comes while the thread gets no time.
  const sweep = new Sweep(clock, 60_000);
  const pool = new UpstreamPool({
    endpoint: { ip: "10.0.0.1", port: 80 },
    dial: () => Promise.resolve(err("connect_refused")),
    sweep,
    exchangeLimits: defaultExchangeLimits,
  });
  const idle = { isUsable: true, used: 1, idleSinceMs: 0, serverIdleMs: 4_000, destroy() {} } as unknown as ServerLink;
  pool.put(idle);
  const exchange = { turn: 1, connected() {}, notConnected() {} } as unknown as Answered;
  return { clock, pool, idle, exchange };
}

test("[DP-27] after a standstill a request that may not be sent twice takes no connection that was idle meanwhile", () => {
  const { clock, pool, idle, exchange } = setUp();
  clock.advance(2_500);
  assert.equal(pool.take(exchange, false, false), undefined, "its server may be closing it");
  assert.equal(pool.take(exchange, true, false), idle);
});

test("[DP-27] one that was idle for a moment serves any request", () => {
  const { clock, pool, idle, exchange } = setUp();
  clock.advance(1_500);
  assert.equal(pool.take(exchange, false, false), idle);
});
