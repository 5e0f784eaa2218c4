// Rate limits in the flow of requests, over real sockets: asked on the server's node after its policies, hot, told to clients and to the log.
import assert from "node:assert/strict";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { type TestContext, test } from "node:test";
import { authorization, rateLimit } from "../test/kit/mesh.ts";
import { endpoint, type Given, lane, web, web1 } from "../test/kit/request-lane.ts";
import { defaultConcurrency, type RateLimit } from "./api/rate-limit.ts";

const identity = "spiffe://cluster.local/ns/shop/sa/client";

/** Requests that arrive at the node of the server. */
async function atServer(t: TestContext, rateLimits: readonly RateLimit[], more: Partial<Given["parts"]> = {}) {
  const at = { "10.244.2.1": await web1(t, "a") };
  const workloads = [endpoint("a", "10.244.2.1")];
  return lane(t, { direction: "inbound", parts: { services: [web], workloads, rateLimits, ...more }, at, identity });
}

test("[LIM-1] over the limit it is 429 with RateLimit fields and Retry-After, flag RL; a change of the policy holds for the next", async (t) => {
  const { get, replica, series, limited } = await atServer(t, [
    rateLimit("two", [{ requests: 2, windowMs: 3_600_000 }]),
  ]);
  assert.equal((await get("/")).status, 200);
  assert.equal((await get("/")).status, 200);
  const over = await get("/");
  assert.equal(over.status, 429);
  assert.match(over.body, /^too many requests: try again in (1800|1799) s\n$/);
  assert.equal(over.headers["ratelimit-limit"], "2");
  assert.equal(over.headers["ratelimit-policy"], "2;w=3600");
  assert.equal(over.headers["ratelimit-remaining"], "0");
  assert.ok(Number(over.headers["ratelimit-reset"]) > 3_500);
  assert.ok(Number(over.headers["retry-after"]) > 1_700);
  assert.deepEqual(
    limited.map(({ policy, limit, key, dryRun }) => [policy, limit, key, dryRun]),
    [["shop/two", "address", "10.244.1.5", false]],
  );
  replica.take({ say: "mesh", changed: [], removed: [{ kind: "RateLimit", name: "shop/two" }] });
  assert.equal((await get("/")).status, 200);
  const one = rateLimit("one", [{ requests: 1, windowMs: 3_600_000 }]);
  replica.take({ say: "mesh", changed: [{ kind: "RateLimit", value: one }], removed: [] });
  assert.deepEqual([(await get("/")).status, (await get("/")).status], [200, 429]);
  const counted = series.flush()?.deltas.find(({ labels }) => labels?.response_code === "429");
  assert.equal(counted?.labels?.response_flags, "RL");
  assert.equal(counted?.count, 2);
});

test("[LIM-1] what policies refuse takes no token; a dry run refuses nobody", async (t) => {
  const authorizations = [authorization("no-admin", [{ to: [{ paths: ["/admin*"] }] }], { action: "deny" })];
  const limits = [
    rateLimit("real", [{ requests: 2, windowMs: 3_600_000 }]),
    rateLimit("trial", [{ requests: 1, windowMs: 3_600_000 }], { dryRun: true }),
  ];
  const { get, limited } = await atServer(t, limits, { authorizations });
  for (let i = 0; i < 5; i++) assert.equal((await get("/admin")).status, 403);
  assert.equal((await get("/")).status, 200);
  assert.equal((await get("/")).status, 200);
  assert.equal((await get("/")).status, 429);
  assert.deepEqual(
    limited.map(({ policy, dryRun }) => [policy, dryRun]),
    [
      ["shop/trial", true],
      ["shop/real", false],
    ],
  );
});

test("[LIM-1] where wanted every answer tells what is left", async (t) => {
  const { get } = await atServer(t, [rateLimit("p", [{ requests: 10 }], { responseHeaders: "always" })]);
  const first = await get("/");
  const second = await get("/");
  assert.deepEqual([first.status, second.status], [200, 200]);
  assert.equal(first.headers["ratelimit-remaining"], "9");
  assert.equal(second.headers["ratelimit-remaining"], "8");
  assert.equal(second.body, "a GET /");
});

test("[LIM-1] a client on the node of the server is limited there; one whose server is elsewhere is not limited twice", async (t) => {
  const at = { "10.244.2.1": await web1(t, "a") };
  const parts = {
    services: [web],
    workloads: [endpoint("a", "10.244.2.1")],
    rateLimits: [rateLimit("p", [{ requests: 1 }])],
  };
  const elsewhere = await lane(t, { parts, at });
  for (let i = 0; i < 3; i++) assert.equal((await elsewhere.get("/")).status, 200);
  const beside = await lane(t, { parts, at, localServers: true });
  assert.deepEqual([(await beside.get("/")).status, (await beside.get("/")).status], [200, 429]);
});

test("[LIM-3] a pod has no more requests at once than its limit; the rest get 503, and places come back, also of clients that leave", async (t) => {
  const waiting: (() => void)[] = [];
  const server = createServer((_, s) => void waiting.push(() => s.end("done")));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => {
    server.close();
    server.closeAllConnections();
  });
  const concurrency = { ...defaultConcurrency, initial: 2, min: 2, max: 2 };
  const parts = {
    services: [web],
    workloads: [endpoint("a", "10.244.2.1")],
    rateLimits: [rateLimit("slow", [], { concurrency })],
  };
  const at = { "10.244.2.1": (server.address() as AddressInfo).port };
  const { fresh, limited } = await lane(t, { direction: "inbound", parts, at, identity });
  const [first, second] = [fresh("/"), fresh("/")];
  const until = async (count: number): Promise<void> => {
    while (waiting.length < count) await new Promise((resolve) => setTimeout(resolve, 5));
  };
  await until(2);
  const over = await fresh("/").answer;
  assert.deepEqual([over.status, over.headers["retry-after"]], [503, "1"]);
  assert.equal(limited[0]?.limit, "concurrency");
  waiting[0]?.();
  const done = await Promise.race([first.answer, second.answer]);
  assert.equal(done.status, 200);
  // A place is free once the answer is through, or the client has left.
  const comes = async (count: number) => {
    for (;;) {
      const asked = fresh("/");
      if (await Promise.race([until(count).then(() => true), asked.answer.then(() => false)])) return asked;
    }
  };
  const third = await comes(3);
  third.leave();
  await comes(4);
  for (const answer of waiting) answer();
});
