// Pools whose endpoint leaves: idle connections end, requests under way do not, and what was known does not pass on to the next there.
import assert from "node:assert/strict";
import { createServer, type Server } from "node:http";
import { type AddressInfo, createServer as createTcp, type OnReadOpts, type Socket } from "node:net";
import { type TestContext, test } from "node:test";
import { dialPlain } from "../../test/kit/http1-proxy.ts";
import { waitFor } from "../../test/kit/wait.ts";
import { systemClock } from "../base/clock.ts";
import { Downstream } from "./http1/downstream.ts";
import type { Forward } from "./http1/exchange.ts";
import { defaultExchangeLimits } from "./http1/exchange.ts";
import type { Answered } from "./http1/links.ts";
import { UpstreamPool } from "./http1/pool.ts";
import { Sweep } from "./http1/sweep.ts";
import { Pools, type Standing } from "./pools.ts";

async function setUp(t: TestContext, server: Server) {
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  const sweep = new Sweep(systemClock, 20);
  let standing: Standing = "serves";
  const limits = defaultExchangeLimits;
  const pools = new Pools({
    dial: (target, onread) => dialPlain(target.endpoint, onread),
    sweep,
    limits,
    forgetMs: 60_000,
    standing: () => standing,
  });
  const pool = () =>
    pools.pool("key", {
      pod: "shop/a",
      source: { ip: "127.0.0.1", port: 1 },
      endpoint: { ip: "127.0.0.1", port, mode: "plain" },
    }) as UpstreamPool;
  const decision = (): Forward => ({ kind: "forward", upstream: pool() });
  const front = createTcp({ pauseOnConnect: true, allowHalfOpen: true }, (accepted) => {
    const adopt = (onread: OnReadOpts): Socket => {
      accepted.on("data", (chunk: Buffer) => {
        const buffer = typeof onread.buffer === "function" ? onread.buffer() : onread.buffer;
        onread.callback(chunk.copy(buffer), buffer);
      });
      return accepted;
    };
    new Downstream({ handler: { decide: decision }, limits, sweep }, adopt);
    accepted.resume();
  });
  await new Promise<void>((resolve) => front.listen(0, "127.0.0.1", resolve));
  t.after(() => {
    pools.drain();
    sweep.stop();
    front.close();
    server.closeAllConnections();
    server.close();
  });
  const get = async (): Promise<string> =>
    (await fetch(`http://127.0.0.1:${(front.address() as AddressInfo).port}/`)).text();
  return {
    pools,
    pool,
    get,
    set: (next: Standing) => {
      standing = next;
      pools.review();
    },
  };
}

test("[DIS-6] an endpoint that leaves: idle connections are closed at once, a request under way ends well, none is kept after it", async (t) => {
  let answer: (() => void) | undefined;
  let held = 0;
  const server = createServer((_, response) => {
    if (held++ === 0) response.end("first");
    else
      answer = () => {
        response.end("second");
      };
  });
  const { pools, pool, get, set } = await setUp(t, server);
  assert.equal(await get(), "first");
  await waitFor("idle", () => pool().idleCount === 1);
  const second = get();
  await waitFor("asked", () => answer !== undefined);
  set("leaves");
  answer?.();
  assert.equal(await second, "second");
  await waitFor("closed", () => pool().open === 0);
  assert.equal(pool().keeps, false);

  set("serves");
  held = 0;
  assert.equal(await get(), "first");
  await waitFor("kept again", () => pool().idleCount === 1);
  set("leaves");
  await waitFor("closed at once", () => pool().open === 0);
  assert.equal(pools.size, 1);
});

test("[DIS-6] an endpoint that is gone is forgotten: its successor at that address gets a pool of its own", async (t) => {
  const { pools, pool, get, set } = await setUp(
    t,
    createServer((_, response) => response.end("ok")),
  );
  await get();
  const before = pool();
  await waitFor("idle", () => before.idleCount === 1);
  set("unknown");
  await waitFor("closed", () => before.open === 0);
  assert.equal(pools.size, 0);
  assert.notEqual(pool(), before);
});

test("[DIS-6] what is in no mesh is left alone", async (t) => {
  const { pool, pools, get, set } = await setUp(
    t,
    createServer((_, response) => response.end("ok")),
  );
  set("unknown");
  await get();
  await waitFor("idle", () => pool().idleCount === 1);
  pools.review();
  assert.equal(pool().idleCount, 1);
});

test("[DIS-6] [DP-29] a connection to an endpoint that leaves is not waited for as long as others: it may be gone without a word", (t) => {
  const sweep = new Sweep(systemClock, 60_000);
  t.after(() => sweep.stop());
  const pool = new UpstreamPool({
    endpoint: { ip: "192.0.2.1", port: 1 },
    dial: () => new Promise(() => {}),
    sweep,
    exchangeLimits: defaultExchangeLimits,
  });
  const told: string[] = [];
  const waits = { turn: 1, notConnected: (why: string) => told.push(why) } as unknown as Answered;
  pool.take(waits, true, false);
  pool.sweep(sweep.now + 1_000);
  assert.deepEqual(told, []);
  pool.retire();
  pool.sweep(sweep.now + 400);
  assert.deepEqual(told, []);
  pool.sweep(sweep.now + 1_000);
  assert.deepEqual([told, pool.open], [["connect_timeout"], 0]);
});
