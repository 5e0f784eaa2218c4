// What becomes of requests whose server fails, is slow or full: retries, timeouts, breakers, ejection, limits, sessions. Real sockets.
import assert from "node:assert/strict";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { type TestContext, test } from "node:test";
import { localPod } from "../test/kit/mesh.ts";
import { client as clientPod, endpoint, lane, web } from "../test/kit/request-lane.ts";
import { waitFor } from "../test/kit/wait.ts";
import {
  algorithms,
  defaultBalancer,
  defaultBreaker,
  defaultOutlier,
  defaultPolicy,
  type HttpPolicy,
  noRetry,
} from "./api/http-policy.ts";
import { serviceName } from "./api/names.ts";

type Answer = (request: IncomingMessage, response: ServerResponse) => void;
const says =
  (status: number, body = ""): Answer =>
  (_, response) =>
    response.writeHead(status).end(body);

/** Servers behind web.shop, each a pod "e1", "e2", …, and what each was asked. */
async function behind(t: TestContext, policy: Partial<HttpPolicy>, answers: readonly Answer[]) {
  const asked = answers.map(() => 0);
  const at: Record<string, number> = {};
  for (const [i, answer] of answers.entries()) {
    const server = createServer((request, response) => {
      asked[i] = (asked[i] as number) + 1;
      answer(request, response);
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    t.after(() => {
      server.close();
      server.closeAllConnections();
    });
    at[`10.244.2.${i + 1}`] = (server.address() as AddressInfo).port;
  }
  const workloads = answers.map((_, i) => endpoint(`e${i + 1}`, `10.244.2.${i + 1}`));
  const balancer = { ...defaultBalancer, algorithm: "round_robin" as const };
  const routing = { name: "web", namespace: "shop", routes: [], policy: { ...defaultPolicy, balancer, ...policy } };
  const made = await lane(t, { parts: { services: [web], workloads, routings: [routing] }, at });
  return { ...made, asked };
}
const clusterName = {
  namespace: "shop",
  service: serviceName("shop", "web"),
  port: 80,
  family: 4 as const,
  subset: {},
};
const flags = (series: Awaited<ReturnType<typeof lane>>["series"]): string[] =>
  (series.flush()?.deltas ?? []).map(({ labels }) => `${labels?.response_code} ${labels?.response_flags}`).sort();

test("[RES-5] an answer that the policy names is asked for elsewhere; a method that may have had an effect is not", async (t) => {
  const retry = { ...noRetry, attempts: 1, codes: [503], backoffMs: 1, maxBackoffMs: 1 };
  const { get, asked } = await behind(t, { retry }, [says(503, "down"), says(200, "up")]);
  for (let i = 0; i < 10; i++) assert.deepEqual((await get("/")).body, "up");
  assert.ok((asked[0] as number) >= 4, `${asked}`);
  const posted = new Set<number>();
  for (let i = 0; i < 4; i++) posted.add((await get("/", "POST")).status);
  assert.deepEqual([...posted].sort(), [200, 503]);
});

test("[DIS-6] [RES-5] a request meets no endpoint twice while there is another: with two of three gone none fails, whatever picks", async (t) => {
  const up = createServer((_, response) => response.end("up"));
  await new Promise<void>((resolve) => up.listen(0, "127.0.0.1", resolve));
  t.after(() => {
    up.close();
    up.closeAllConnections();
  });
  const at = { "10.244.2.1": 1, "10.244.2.2": 1, "10.244.2.3": (up.address() as AddressInfo).port };
  const workloads = [1, 2, 3].map((i) => endpoint(`e${i}`, `10.244.2.${i}`));
  for (const algorithm of algorithms) {
    const policy = { ...defaultPolicy, balancer: { ...defaultBalancer, algorithm } };
    const routing = { name: "web", namespace: "shop", routes: [], policy };
    const { get, series } = await lane(t, { parts: { services: [web], workloads, routings: [routing] }, at });
    // So few that the budget of retries covers them all.
    for (let i = 0; i < 12; i++) assert.deepEqual([(await get("/")).status, algorithm], [200, algorithm]);
    assert.deepEqual(flags(series), ["200 -"]);
  }
});

test("[RES-5] retries stay within the budget, and the answer of the last try is the client's", async (t) => {
  const retry = {
    ...noRetry,
    attempts: 3,
    codes: [500],
    backoffMs: 1,
    maxBackoffMs: 1,
    budgetPercent: 1,
    budgetMinPerS: 1,
  };
  const { get, asked, series } = await behind(t, { retry }, [says(500, "no"), says(500, "no")]);
  for (let i = 0; i < 30; i++) assert.deepEqual((await get("/")).body, "no");
  const tries = (asked[0] as number) + (asked[1] as number);
  // One per second over ten seconds, and 1 % of 30.
  assert.ok(tries >= 38 && tries <= 41, `${tries} tries`);
  assert.deepEqual(flags(series), ["500 URX", "500 URX"]);
});

test("[RES-6] a try that takes too long is given up for another; a request that does gets 504", async (t) => {
  const silent: Answer = () => {};
  const retry = { ...noRetry, attempts: 1, on: ["timeout" as const], backoffMs: 1, maxBackoffMs: 1 };
  const timeouts = { ...defaultPolicy.timeouts, tryMs: 1_500 };
  const { get } = await behind(t, { retry, timeouts }, [silent, says(200, "quick")]);
  for (let i = 0; i < 4; i++) assert.equal((await get("/")).body, "quick");

  const limited = { ...defaultPolicy.timeouts, requestMs: 200 };
  const alone = await behind(t, { timeouts: limited }, [silent]);
  assert.equal((await alone.get("/")).status, 504);
  const late = await behind(t, { timeouts: { ...defaultPolicy.timeouts, responseMs: 200 } }, [silent]);
  assert.equal((await late.get("/")).status, 504);
  assert.deepEqual(flags(alone.series), ["504 UT"]);
  assert.deepEqual(flags(late.series), ["504 UT"]);
});

test("[RES-4] a breaker opens after failures in a row, keeps requests away, and closes with one good probe", async (t) => {
  let isDown = true;
  const breaker = { ...defaultBreaker, failures: 3, openMs: 2_000, maxOpenMs: 2_000 };
  const flaky: Answer = (_, response) => response.writeHead(isDown ? 500 : 200).end("one");
  const { get, asked, changes } = await behind(t, { breaker }, [flaky, says(200, "two")]);
  const seen: number[] = [];
  while (asked[0] !== 3) seen.push((await get("/")).status);
  assert.equal(seen.filter((status) => status === 500).length, 3);
  for (let i = 0; i < 6; i++) assert.equal((await get("/")).body, "two");
  assert.equal(asked[0], 3);
  isDown = false;
  while (asked[0] === 3) await get("/");
  while (!changes.some((c) => c.kind === "breaker" && c.to === "closed")) await get("/");
  const told = changes.flatMap((c) => (c.kind === "breaker" ? [`${c.from}>${c.to}`] : []));
  assert.deepEqual(told, ["closed>open", "open>half_open", "half_open>closed"]);
  assert.ok(
    changes.every(
      (c) => c.kind !== "panic" && `${c.service} ${c.endpoint} ${c.namespace}` === "shop/web 10.244.2.1:8080 shop",
    ),
  );
});

test("[LB-6] an endpoint that has recovered is warmed up like one that is new", async (t) => {
  let isDown = true;
  const breaker = { ...defaultBreaker, failures: 1, openMs: 500, maxOpenMs: 500 };
  const balancer = { ...defaultBalancer, algorithm: "round_robin" as const, slowStartMs: 600_000 };
  const flaky: Answer = (_, response) => response.writeHead(isDown ? 500 : 200).end("one");
  const { get, asked, clusters } = await behind(t, { breaker, balancer }, [flaky, says(200, "two")]);
  while (asked[0] === 0) await get("/");
  const [first, second] = clusters.get(clusterName, localPod(clientPod).workload).members;
  isDown = false;
  // Until it was asked again, it was well, and the sweep has seen it.
  await waitFor("it has recovered", async () => {
    await get("/");
    return first !== undefined && Number.isFinite(first.readySinceMs);
  });
  assert.equal(second?.readySinceMs, Number.NEGATIVE_INFINITY);
  const before = asked[0] as number;
  for (let i = 0; i < 110; i++) await get("/");
  const share = (asked[0] as number) - before;
  assert.ok(share >= 5 && share <= 20, `${share} of 110 requests, where 10 are a tenth of its share`);
});

test("[RES-4] with every endpoint behind an open breaker the refusal is fast and says so", async (t) => {
  const breaker = { ...defaultBreaker, failures: 1, openMs: 60_000 };
  const { get, asked, series } = await behind(t, { breaker }, [says(500)]);
  assert.equal((await get("/")).status, 500);
  const refused = await get("/");
  assert.deepEqual([refused.status, refused.body], [503, "no endpoint of shop/web may be used now: 1 are held back\n"]);
  assert.deepEqual(asked, [1]);
  assert.deepEqual(flags(series), ["500 -", "503 UH"]);
});

test("[RES-7] an endpoint with errors in a row is ejected while the others carry on, and never the last", async (t) => {
  const outlier = { ...defaultOutlier, consecutiveErrors: 5, maxEjectionPercent: 100, baseEjectionMs: 60_000 };
  const { get, asked, changes } = await behind(t, { outlier }, [says(502), says(200), says(200)]);
  for (let i = 0; i < 60; i++) await get("/");
  assert.equal(asked[0], 5);
  assert.deepEqual(
    changes.map((change) => (change.kind === "ejected" ? change.reason : change.kind)),
    ["consecutive_errors"],
  );
  const bad = await behind(t, { outlier }, [says(502), says(502)]);
  for (let i = 0; i < 40; i++) await bad.get("/");
  assert.equal(bad.changes.length, 1);
});

test("[TRF-6] requests beyond the limit are refused at once, with the limit's name", async (t) => {
  let open: (() => void) | undefined;
  const held: Answer = (_, response) => {
    open = () => response.end("held");
  };
  const limits = { ...defaultPolicy.limits, maxRequests: 1 };
  const { get, another, series } = await behind(t, { limits }, [held]);
  const first = get("/");
  while (open === undefined) await new Promise((resolve) => setTimeout(resolve, 5));
  const second = await another("/");
  assert.deepEqual(
    [second.status, second.body],
    [503, "shop/web is at its limit of 1 requests (limits.maxRequests)\n"],
  );
  open();
  assert.equal((await first).body, "held");
  assert.deepEqual(flags(series), ["200 -", "503 UO"]);
});

test("[LB-4] a client with the cookie stays with its endpoint; one whose endpoint is gone gets another and a new cookie", async (t) => {
  const affinity = { kind: "cookie" as const, name: "seat", lifetimeS: 60, absoluteS: 0, idleS: 0 };
  const { get } = await behind(t, { affinity }, [says(200, "1"), says(200, "2"), says(200, "3")]);
  const first = await get("/");
  const cookie = first.headers["set-cookie"]?.[0] ?? "";
  assert.match(cookie, /^seat=[0-9a-z]+; Path=\/; Max-Age=60; HttpOnly; SameSite=Lax$/);
  const seat = cookie.split(";")[0] as string;
  for (let i = 0; i < 9; i++) {
    const again = await get("/", "GET", { cookie: seat });
    assert.deepEqual([again.body, again.headers["set-cookie"]], [first.body, undefined]);
  }
  const lost = await get("/", "GET", { cookie: "seat=nobody" });
  assert.ok(lost.headers["set-cookie"] !== undefined);
});

test("[LB-2] what is in flight is counted down on every path: answered, refused with an error, cut before and in the answer", async (t) => {
  const cut: Answer = (_, response) => response.socket?.destroy();
  const half: Answer = (_, response) => {
    response.writeHead(200, { "content-length": "10" });
    response.write("12345", () => response.socket?.destroy());
  };
  const balancer = { ...defaultBalancer, algorithm: "least_request" as const };
  const { get, clusters } = await behind(t, { balancer }, [says(200), cut, half, says(503)]);
  for (let i = 0; i < 40; i++) await get("/").catch(() => {});
  const cluster = clusters.get(clusterName, localPod(clientPod).workload);
  assert.deepEqual(
    [cluster.requests, cluster.retries, ...cluster.members.map(({ pending }) => pending)],
    [0, 0, 0, 0, 0, 0],
  );
});

test("[TRF-6] connections stay within the limit: requests beyond it wait, and those that would wait too many are refused", async (t) => {
  const waiting: ServerResponse[] = [];
  const held: Answer = (_, response) => void waiting.push(response);
  const limits = { ...defaultPolicy.limits, maxConnections: 1, maxPending: 1 };
  const { get, another, third, dialled, series, clusters } = await behind(t, { limits }, [held]);
  const first = get("/1");
  while (waiting.length === 0) await new Promise((resolve) => setTimeout(resolve, 5));
  const second = another("/2");
  const { poolCounts } = clusters.get(clusterName, localPod(clientPod).workload);
  while (poolCounts.waiting === 0) await new Promise((resolve) => setTimeout(resolve, 5));
  const refused = await third("/3");
  assert.equal(refused.status, 503);
  waiting.shift()?.end("1");
  assert.equal((await first).body, "1");
  while (waiting.length === 0) await new Promise((resolve) => setTimeout(resolve, 5));
  waiting.shift()?.end("2");
  assert.equal((await second).body, "2");
  assert.equal(dialled.length, 1);
  assert.deepEqual(flags(series), ["200 -", "503 UO"]);
});

test("[TRF-6] a connection carries no more requests than the policy says", async (t) => {
  const limits = { ...defaultPolicy.limits, maxRequestsPerConnection: 3 };
  const { get, dialled } = await behind(t, { limits }, [says(200)]);
  for (let i = 0; i < 9; i++) assert.equal((await get("/")).status, 200);
  assert.equal(dialled.length, 3);
});

const httpCheck = {
  kind: "http" as const,
  path: "/ready",
  host: "",
  grpcService: "",
  port: 0,
  intervalMs: 100,
  timeoutMs: 20_000,
  unhealthy: 2,
  healthy: 1,
};

test("[RES-9] an endpoint whose health check fails is asked no more, and asked again once it succeeds; requests wait for no probe", async (t) => {
  let isSick = false;
  const sick: Answer = (request, response) => {
    if (request.url !== "/ready") response.end("one");
    else response.writeHead(isSick ? 503 : 204).end();
  };
  const well: Answer = (request, response) => void (request.url !== "/ready" && response.end("two"));
  // The second never answers a probe within the test: it stays what it is taken for.
  const { get, changes } = await behind(t, { health: httpCheck }, [sick, well]);
  const told = (): string[] =>
    changes.flatMap((c) => (c.kind === "health" ? [`${c.endpoint} ${c.isHealthy} ${c.why}`] : []));
  const names = new Set([(await get("/")).body, (await get("/")).body]);
  assert.deepEqual([...names].sort(), ["one", "two"]);
  isSick = true;
  while (told().length === 0) await new Promise((resolve) => setTimeout(resolve, 20));
  for (let i = 0; i < 6; i++) assert.equal((await get("/")).body, "two");
  isSick = false;
  while (told().length === 1) await new Promise((resolve) => setTimeout(resolve, 20));
  const again = new Set([(await get("/")).body, (await get("/")).body]);
  assert.equal(again.size, 2);
  assert.deepEqual(told(), ["10.244.2.1:8080 false status_503", "10.244.2.1:8080 true status_204"]);
});

test("[DIS-6] where most endpoints are ill all are used, those that are left would be overrun; until enough are well again", async (t) => {
  let isSick = false;
  const probed: Answer = (request, response) => {
    if (request.url !== "/ready") response.end("ill");
    else response.writeHead(isSick ? 503 : 204).end();
  };
  const well: Answer = (request, response) =>
    request.url === "/ready" ? response.writeHead(204).end() : response.end("well");
  const health = { ...httpCheck, intervalMs: 100, unhealthy: 1, healthy: 1 };
  const { get, changes } = await behind(t, { health }, [probed, well, probed]);
  const panics = (): string[] =>
    changes.flatMap((c) => (c.kind === "panic" ? [`${c.isOn} ${c.healthy}/${c.endpoints} ${c.service}`] : []));
  await get("/");
  isSick = true;
  while (panics().length === 0) await new Promise((resolve) => setTimeout(resolve, 20));
  const bodies: string[] = [];
  for (let i = 0; i < 6; i++) bodies.push((await get("/")).body);
  assert.equal(bodies.filter((body) => body === "ill").length, 4, "each in its turn");
  isSick = false;
  while (panics().length === 1) await new Promise((resolve) => setTimeout(resolve, 20));
  assert.match(panics().join(), /^true 1\/3 shop\/web,false 2\/3 shop\/web$/);
});
