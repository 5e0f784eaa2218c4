// Rate limits on requests: who is counted with whom, what a client is told, what is given back, and that memory is bounded.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { member, mesh, rateLimit, workload } from "../../../test/kit/mesh.ts";
import type { SpiffeId, WorkloadUid } from "../../api/names.ts";
import { defaultBaseline, type LimitRule, type RateLimit } from "../../api/rate-limit.ts";
import type { RequestHead } from "../../http.ts";
import { type Limited, limiterFor, type Places, type RequestLimiter } from "./limiter.ts";
import { createLimitMemory, SharedLimits } from "./shared.ts";

const web = workload("shop", "web", "10.244.2.1", { services: [member("shop", "web", 80, 8080)] });
const twin = workload("shop", "twin", "10.244.2.2", { services: [member("shop", "web", 80, 8080)] });
const cart = workload("shop", "cart", "10.244.2.3", { services: [member("shop", "cart", 80, 8080)] });
const client = "spiffe://cluster.local/ns/shop/sa/client" as SpiffeId;
const other = "spiffe://cluster.local/ns/edge/sa/other" as SpiffeId;

function head(headers: Readonly<Record<string, string>> = {}, path = "/", method = "GET"): RequestHead {
  return {
    method,
    scheme: "http",
    authority: "web",
    path,
    header: (name) => headers[name],
    headers: () => Object.entries(headers).flat(),
  };
}

interface From {
  readonly ip?: string;
  readonly identity?: SpiffeId | null;
  readonly to?: typeof web;
}
/** A node with these policies; each `ask` is a request of a connection of its own. */
function node(policies: readonly RateLimit[], keys = 1024, settings = {}) {
  const state = mesh({ rateLimits: policies, workloads: [web, twin, cart], settings });
  const shared = new SharedLimits(createLimitMemory(keys, [11, 12]), 0);
  const notes: Limited[] = [];
  const limiter = ({ ip = "10.0.0.1", identity = client, to = web }: From = {}): RequestLimiter => {
    const connection = { destination: to, port: 8080, identity, sourceIp: ip };
    const made = limiterFor(state, shared, connection);
    assert.ok(made !== undefined);
    return made;
  };
  const places: Places = [];
  const ask = (nowMs: number, from: From = {}, request = head()): Limited | undefined =>
    limiter(from).ask(request, nowMs, places, (limited) => notes.push(limited));
  /** How many of `count` requests are let through. */
  const passed = (count: number, nowMs: number, from: From = {}, request = head()): number => {
    let through = 0;
    for (let i = 0; i < count; i++) if (ask(nowMs, from, request) === undefined) through++;
    return through;
  };
  return { state, shared, notes, places, limiter, ask, passed };
}

test("[LIM-1] the default is 200 a minute for each address, and a full bucket again after a minute", () => {
  const { passed, notes } = node([rateLimit("plain", [{}])]);
  assert.equal(passed(250, 1000), 200);
  assert.equal(passed(250, 1000, { ip: "10.0.0.2" }), 200, "another address has its own");
  // A token each 300 ms.
  assert.equal(passed(1, 1299), 0);
  assert.equal(passed(5, 1300), 1);
  assert.equal(passed(300, 61_300), 200);
  assert.ok(notes.every((note) => note.policy === "shop/plain" && note.limit === "address" && !note.dryRun));
});

test("[LIM-1] who is over gets 429 with RateLimit fields and Retry-After; the note names policy, limit and client", () => {
  const { ask, notes } = node([rateLimit("plain", [{ requests: 2, windowMs: 60_000 }])]);
  assert.equal(ask(0), undefined);
  assert.equal(ask(0), undefined);
  const limited = ask(0);
  assert.equal(limited?.status, 429);
  assert.deepEqual(limited?.headers, [
    ...["ratelimit-limit", "2", "ratelimit-policy", "2;w=60", "ratelimit-remaining", "0", "ratelimit-reset", "60"],
    ...["retry-after", "30"],
  ]);
  assert.deepEqual(notes, [limited]);
  assert.equal(limited?.key, "10.0.0.1");
});

test("[LIM-1] every kind of key tells the right clients apart, on every pod of a service together", () => {
  const tenant = (value: string) => head({ "x-tenant": value });
  const cases: readonly [Partial<LimitRule>, readonly [From, RequestHead, boolean][]][] = [
    // First request takes the only token; `true`: the second request is counted with it.
    [
      { key: "address" },
      [
        [{}, head(), true],
        [{ ip: "10.0.0.2" }, head(), false],
        [{ identity: other }, head(), true],
      ],
    ],
    [
      { key: "address", ipv4Prefix: 24 },
      [
        [{ ip: "10.0.0.200" }, head(), true],
        [{ ip: "10.0.1.1" }, head(), false],
      ],
    ],
    [
      { key: "identity" },
      [
        [{ ip: "10.0.0.2" }, head(), true],
        [{ identity: other }, head(), false],
        [{ identity: null }, head(), false],
      ],
    ],
    [
      { key: "service" },
      [
        [{ identity: other, ip: "10.9.9.9" }, head(), true],
        [{ to: twin }, head(), true],
        [{ to: cart }, head(), false],
      ],
    ],
    [
      { key: "header", header: "x-tenant" },
      [
        [{}, tenant("a"), false],
        [{ ip: "10.0.0.9" }, head(), true],
      ],
    ],
    [
      { key: "tenant" },
      [
        [{ ip: "10.0.0.2" }, tenant("b"), true],
        [{ identity: other }, head(), false],
      ],
    ],
    [
      { key: "tenant", header: "x-tenant" },
      [
        [{ identity: other }, tenant("shop"), true],
        [{}, tenant("b"), false],
      ],
    ],
    [
      { key: "address_tenant" },
      [
        [{}, head(), true],
        [{ ip: "10.0.0.2" }, head(), false],
        [{ identity: other }, head(), false],
      ],
    ],
  ];
  for (const [rule, seconds] of cases)
    for (const [from, request, isSame] of seconds) {
      const { ask } = node([rateLimit("p", [{ requests: 1, windowMs: 60_000, ...rule }])]);
      assert.equal(ask(0), undefined);
      const got = ask(0, from, request);
      assert.equal(got !== undefined, isSame, `${JSON.stringify(rule)} ${JSON.stringify(from)}`);
    }
});

test("[LIM-1] behind trusted proxies the address is the one that they wrote", () => {
  const { passed } = node([rateLimit("p", [{ requests: 3 }])], 1024, { trustedProxies: 1 });
  const via = (forwarded: string) => head({ "x-forwarded-for": forwarded });
  assert.equal(passed(5, 0, {}, via("1.1.1.1, 10.1.1.1")), 3);
  assert.equal(passed(5, 0, {}, via("2.2.2.2, 10.1.1.2")), 3);
  assert.equal(passed(5, 0, {}, via("3.3.3.3, 10.1.1.1")), 0, "what the client itself wrote does not count");
});

test("[LIM-1] only requests of the named methods and paths count; all limits hold, and a refusal costs nothing elsewhere", () => {
  const post = (path: string) => head({}, path, "POST");
  const { passed, ask } = node([
    rateLimit("a", [{ name: "posts", requests: 2, methods: ["POST"], paths: ["/api/*"] }]),
    rateLimit("b", [{ name: "all", requests: 5 }]),
  ]);
  assert.equal(passed(4, 0, {}, post("/api/x")), 2);
  assert.equal(ask(0, {}, post("/api/x"))?.policy, "shop/a");
  assert.equal(
    passed(4, 0, {}, head({}, "/api/x")),
    3,
    "2 of 5 were taken, those refused by the other gave theirs back",
  );
  assert.equal(ask(0)?.policy, "shop/b");

  const turned = node([
    rateLimit("a", [{ name: "all", requests: 5 }]),
    rateLimit("b", [{ name: "posts", requests: 2, methods: ["POST"] }]),
  ]);
  assert.equal(turned.passed(9, 0, {}, post("/")), 2);
  assert.equal(turned.passed(9, 0), 3, "given back by those that the second refused");
});

test("[LIM-1] a policy in dry run counts and notes, and refuses nobody", () => {
  const { passed, notes } = node([rateLimit("p", [{ requests: 2 }], { dryRun: true })]);
  assert.equal(passed(5, 0), 5);
  assert.equal(notes.length, 3);
  assert.ok(notes.every((note) => note.dryRun));
});

test("[LIM-1] RateLimit fields stand on every answer where asked for, of the tightest limit, and on none where not wanted", () => {
  const limits = [
    { name: "wide", requests: 100 },
    { name: "tight", requests: 3, key: "service" as const },
  ];
  const always = node([rateLimit("p", limits, { responseHeaders: "always" })]);
  const limiter = always.limiter();
  assert.equal(
    limiter.ask(head(), 0, [], () => {}),
    undefined,
  );
  const fields = limiter.answerHeaders() ?? [];
  assert.deepEqual([fields[0], fields[1], fields[4], fields[5]], ["ratelimit-limit", "3", "ratelimit-remaining", "2"]);
  const limited = node([rateLimit("p", limits)]).limiter();
  limited.ask(head(), 0, [], () => {});
  assert.equal(limited.answerHeaders(), undefined);
  const never = node([rateLimit("p", [{ requests: 1 }], { responseHeaders: "never" })]);
  never.ask(0);
  assert.deepEqual(never.ask(0)?.headers, ["retry-after", "60"]);
});

test("[LIM-1] a header's value never stands in a note: it may be a secret", () => {
  const rule = { key: "header" as const, header: "x-api-key", requests: 1 };
  const { ask, notes } = node([rateLimit("p", [rule])]);
  for (let i = 0; i < 2; i++) ask(0, {}, head({ "x-api-key": "s3cr3t" }));
  assert.equal(notes.length, 1);
  assert.match(notes[0]?.key ?? "", /^x-api-key #[0-9a-f]{8}$/);
});

test("[LIM-1] a flood of keys takes no client's bucket away and gets no more than one bucket for those that find no room", () => {
  const rule = { key: "header" as const, header: "x-key", requests: 10, windowMs: 60_000 };
  const { passed, shared, notes } = node([rateLimit("p", [rule])], 64);
  const key = (value: string) => head({ "x-key": value });
  assert.equal(passed(20, 0, {}, key("honest")), 10);
  let through = 0;
  for (let i = 0; i < 5_000; i++) through += passed(1, 1, {}, key(`flood ${i}`));
  assert.ok(through <= 64 + 10, `${through} went through`);
  assert.equal(passed(5, 1, {}, key("honest")), 0, "still limited");
  assert.ok(notes.some((note) => note.overflow));
  assert.equal(shared.buckets.capacity, 64);
  // Once the flood's buckets are full again there is room.
  assert.equal(passed(20, 60_100, {}, key("late")), 10);
});

test("[LIM-1] whatever the limit and the times: never more than the burst and what came since, and all of that", () => {
  fc.assert(
    fc.property(
      fc.record({
        requests: fc.integer({ min: 1, max: 50 }),
        windowMs: fc.integer({ min: 10, max: 10_000 }),
        burst: fc.integer({ min: 1, max: 50 }),
      }),
      fc.array(fc.integer({ min: 0, max: 2_000 }), { minLength: 1, maxLength: 120 }),
      (rule, gaps) => {
        const { ask } = node([rateLimit("p", [rule])], 64);
        let now = 5;
        let tokens = rule.burst;
        for (const gap of gaps) {
          now += gap;
          tokens = Math.min(rule.burst, tokens + (gap * rule.requests) / rule.windowMs);
          const isThrough = ask(now) === undefined;
          // Rounding of ns alone may differ from the plain count.
          if (Math.abs(tokens - 1) > 1e-3) assert.equal(isThrough, tokens >= 1, `${tokens} tokens at ${now}`);
          if (isThrough) tokens -= 1;
        }
      },
    ),
    { numRuns: 200 },
  );
});

test("[LIM-1] a changed policy has new buckets at once; what nothing limits has no limiter", () => {
  const { state, shared, limiter } = node([rateLimit("p", [{ requests: 1 }])]);
  const first = limiter();
  const connection = { destination: web, port: 8080, identity: client, sourceIp: "10.0.0.1" };
  assert.equal(limiterFor(state, shared, connection, first), first);
  assert.equal(
    first.ask(head(), 0, [], () => {}),
    undefined,
  );
  assert.notEqual(
    first.ask(head(), 0, [], () => {}),
    undefined,
  );
  state.apply({ changed: [{ kind: "RateLimit", value: rateLimit("p", [{ requests: 2 }]) }], removed: [] });
  const second = limiterFor(state, shared, connection, first);
  assert.notEqual(second, first);
  assert.equal(
    second?.ask(head(), 0, [], () => {}),
    undefined,
  );
  state.apply({ changed: [], removed: [{ kind: "RateLimit", name: "shop/p" }] });
  assert.equal(limiterFor(state, shared, connection, second), undefined);
  const elsewhere = { ...connection, destination: { ...web, namespace: "other", uid: "x" as WorkloadUid } };
  assert.equal(limiterFor(state, shared, elsewhere), undefined);
});

test("[LIM-3] a key far above what was usual for it is held to a part of its limit, and let go when it has calmed down", () => {
  const baseline = { ...defaultBaseline, intervalMs: 1000, learnIntervals: 10, minRequests: 5, limitPercent: 10 };
  const { passed } = node([rateLimit("p", [{ requests: 1000, windowMs: 1000, baseline }])]);
  const from = { ip: "10.0.0.7" };
  const second = (at: number, count: number): number => {
    let through = 0;
    for (let i = 0; i < count; i++) through += passed(1, at * 1000 + (i * 999) / count, from);
    return through;
  };
  for (let at = 1; at <= 20; at++) assert.equal(second(at, 10), 10);
  assert.ok(second(21, 900) < 300, "ten times a usual second, and more");
  assert.ok(second(22, 900) <= 200, "held to a tenth");
  assert.equal(passed(900, 22_500, { ip: "10.0.0.8" }), 900, "nobody else is");
  for (let at = 23; at <= 26; at++) second(at, 10);
  assert.equal(second(27, 10), 10);
  assert.ok(second(28, 900) < 300, "the flood taught nothing");
});

test("[LIM-3] a key that is new is not held to what it never did", () => {
  const baseline = { ...defaultBaseline, intervalMs: 1000 };
  const { passed } = node([rateLimit("p", [{ requests: 1000, windowMs: 1000, baseline }])]);
  assert.equal(passed(1000, 1000), 1000);
});
