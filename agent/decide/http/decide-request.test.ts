import assert from "node:assert/strict";
import { test } from "node:test";
import { type HeadParts, requestHead } from "../../../test/kit/http-heads.ts";
import { backend, route, rule } from "../../../test/kit/routes.ts";
import type { Backend, Divert, PathEdit, Redirect, RouteFilter, Tarpit } from "../../api/http-filters.ts";
import { anyRequest, type PathMatch } from "../../api/http-match.ts";
import type { HttpRoute } from "../../api/http-routing.ts";
import { seededRandom } from "../../base/random.ts";
import { type DecideContext, decideRequest } from "./decide-request.ts";
import type { Forward, LocalAnswer } from "./decision.ts";
import { RouteTable, routeRequest, ServiceRoutes } from "./route-table.ts";

interface Given {
  readonly path?: PathMatch;
  readonly filters?: readonly RouteFilter[];
  readonly backends?: readonly Backend[];
}
const routeOf = (
  { path, filters = [], backends = [backend("web")] }: Given,
  more: Partial<HttpRoute> = {},
): HttpRoute => route("r", [rule({ matches: [{ ...anyRequest, path }], filters, backends })], more);
const contextOf = (more: Partial<DecideContext> = {}): DecideContext => ({
  random: seededRandom(7),
  nowMs: 1000,
  faults: true,
  ...more,
});
const decide = (given: Given, head: HeadParts = {}, context = contextOf()) =>
  decideRequest(new RouteTable([routeOf(given)]), requestHead(head), context);
const answered = (given: Given, head: HeadParts = {}, context = contextOf()): LocalAnswer => {
  const decision = decide(given, head, context);
  assert.equal(decision.kind, "answer");
  return decision as LocalAnswer;
};
const forwarded = (given: Given, head: HeadParts = {}, context = contextOf()): Forward => {
  const decision = decide(given, head, context);
  assert.equal(decision.kind, "forward");
  return decision as Forward;
};

test("[TRF-1] no rule: 404; no backend, weight 0 alone, or one that cannot be used: 500", () => {
  const why = (given: Given, head?: HeadParts) => {
    const { status, reason } = answered(given, head);
    return [status, reason];
  };
  assert.deepEqual(why({ path: { kind: "exact", value: "/a" } }, { path: "/b" }), [404, "no_route"]);
  assert.deepEqual(why({ backends: [] }), [500, "no_backend"]);
  assert.deepEqual(why({ backends: [backend("web", { weight: 0 })] }), [500, "no_backend"]);
  assert.deepEqual(why({ backends: [backend("web", { invalid: "not found" })] }), [500, "invalid_backend"]);
});

test("[LB-3] [TRF-1] backends share by weight within 5 %, weight 0 gets none", () => {
  const backends = [
    ["a", 90],
    ["b", 10],
    ["c", 0],
  ].map(([name, weight]) => backend(String(name), { weight: Number(weight) }));
  const table = new RouteTable([routeOf({ backends })]);
  const context = contextOf();
  const counts: Record<string, number> = {};
  const runs = 1000;
  for (let i = 0; i < runs; i++) {
    const { backend } = decideRequest(table, requestHead({}), context) as Forward;
    counts[backend.service] = (counts[backend.service] ?? 0) + 1;
  }
  assert.equal(counts["shop/c"], undefined);
  assert.ok(Math.abs((counts["shop/b"] ?? 0) / runs - 0.1) < 0.005, JSON.stringify(counts));
});

test("[TRF-5] paths are rewritten as the table of HTTPPathModifier says", () => {
  const cases: readonly (readonly [path: string, prefix: string, to: string, result: string])[] = [
    ["/foo/bar", "/foo", "/xyz", "/xyz/bar"],
    ["/foo/bar", "/foo", "/xyz/", "/xyz/bar"],
    ["/foo/bar", "/foo/", "/xyz", "/xyz/bar"],
    ["/foo/bar", "/foo/", "/xyz/", "/xyz/bar"],
    ["/foo", "/foo", "/xyz", "/xyz"],
    ["/foo/", "/foo", "/xyz", "/xyz/"],
    ["/foo/bar", "/foo", "", "/bar"],
    ["/foo/", "/foo", "", "/"],
    ["/foo", "/foo", "", "/"],
    ["/foo/", "/foo", "/", "/"],
    ["/foo", "/foo", "/", "/"],
    ["/bar?a=/foo", "/", "/xyz", "/xyz/bar?a=/foo"],
    ["/foo?x", "/foo", "/", "/?x"],
  ];
  for (const [path, prefix, value, expected] of cases) {
    const rewrite: RouteFilter = { kind: "rewrite", value: { hostname: "other", path: { kind: "prefix", value } } };
    const decision = forwarded({ path: { kind: "prefix", value: prefix }, filters: [rewrite] }, { path });
    assert.equal(decision.path, expected, `${path}, ${prefix} -> ${value}`);
    assert.equal(decision.authority, "other");
  }
  const full: PathEdit = { kind: "full", value: "/one" };
  const rewrite: RouteFilter = { kind: "rewrite", value: { hostname: "", path: full } };
  const decision = forwarded({ filters: [rewrite] }, { path: "/two/three?q=1" });
  assert.equal(decision.path, "/one?q=1");
  assert.equal(decision.authority, undefined);
  assert.equal(forwarded({}).path, undefined);
});

test("[TRF-5] redirects: scheme, host, port and path, well-known ports left out", () => {
  const cases: readonly (readonly [Partial<Redirect>, HeadParts, string])[] = [
    [{ hostname: "b.example" }, { authority: "a.example", path: "/x?y" }, "http://b.example/x?y"],
    [{ hostname: "b.example" }, { authority: "a.example:8080", path: "/x" }, "http://b.example:8080/x"],
    [{ scheme: "https" }, { authority: "a.example:8080" }, "https://a.example/"],
    [{ scheme: "https", port: 443 }, { authority: "a.example" }, "https://a.example/"],
    [{ scheme: "https", port: 8443 }, { authority: "a.example" }, "https://a.example:8443/"],
    [{ port: 80 }, { authority: "a.example:8080" }, "http://a.example/"],
    [{ path: { kind: "full", value: "/z" } }, { authority: "[::1]:90", path: "/x?y" }, "http://[::1]:90/z?y"],
    [{ path: { kind: "prefix", value: "/n" } }, { authority: "a.example", path: "/x/y" }, "http://a.example/n/x/y"],
  ];
  for (const [to, head, location] of cases) {
    const value: Redirect = { scheme: "", hostname: "", port: 0, path: undefined, status: 302, ...to };
    const { status, headers, reason } = answered({ filters: [{ kind: "redirect", value }], backends: [] }, head);
    assert.deepEqual([status, reason, headers], [302, "redirect", ["location", location]]);
  }
});

test("[TRF-5] header filters of the rule and of the backend become one change of each head", () => {
  const filters: RouteFilter[] = [
    { kind: "requestHeaders", value: { remove: ["a"], set: ["b", "1", "c", "1"], add: ["d", "1"] } },
    { kind: "responseHeaders", value: { remove: ["server"], set: [], add: [] } },
  ];
  const own: RouteFilter = {
    kind: "requestHeaders",
    value: { remove: ["c"], set: ["d", "2"], add: ["a", "2", "b", "2"] },
  };
  const decision = forwarded({ filters, backends: [backend("web", { filters: [own] })] });
  assert.deepEqual(decision.requestEdits, { remove: ["a", "c"], set: ["b", "1", "d", "2"], add: ["a", "2", "b", "2"] });
  assert.deepEqual(decision.responseEdits, { remove: ["server"], set: [], add: [] });
});

test("[TRF-5] mirrors take their share", () => {
  const mirror = (numerator: number): RouteFilter => ({
    kind: "mirror",
    value: { backend: backend("shadow"), numerator, denominator: 100 },
  });
  const context = contextOf();
  const table = new RouteTable([routeOf({ filters: [mirror(100), mirror(25), mirror(0)] })]);
  let copies = 0;
  for (let i = 0; i < 10_000; i++) copies += (decideRequest(table, requestHead({}), context) as Forward).mirrors.length;
  assert.ok(Math.abs(copies - 12_500) < 250, String(copies));
});

const corsFilter = (more: object): RouteFilter => ({
  kind: "cors",
  value: {
    allowOrigins: ["https://a.example", "https://*.b.example"],
    allowCredentials: false,
    allowMethods: ["GET", "PUT"],
    allowHeaders: ["x-a"],
    exposeHeaders: ["x-b"],
    maxAgeS: 60,
    ...more,
  },
});
const preflight = (origin: string): HeadParts => ({
  method: "OPTIONS",
  headers: { origin, "access-control-request-method": "PATCH", "access-control-request-headers": "x-z" },
});

test("[TRF-5] CORS preflights are answered, origins that are not allowed get no permission", () => {
  const ask = (more: object, origin: string) => {
    const { status, reason, headers } = answered({ filters: [corsFilter(more)] }, preflight(origin));
    assert.deepEqual([status, reason], [204, "cors_preflight"]);
    return Object.fromEntries(headers.flatMap((name, i) => (i % 2 === 0 ? [[name, headers[i + 1]]] : [])));
  };
  assert.deepEqual(ask({}, "https://a.example"), {
    "access-control-allow-origin": "https://a.example",
    vary: "origin",
    "access-control-allow-methods": "GET, PUT",
    "access-control-allow-headers": "x-a",
    "access-control-max-age": "60",
  });
  assert.equal(ask({}, "https://x.y.b.example")["access-control-allow-origin"], "https://x.y.b.example");
  for (const origin of [
    "https://b.example",
    "http://a.example",
    "https://a.example.evil",
    "https://evil/.b.example",
    "null",
  ]) {
    assert.deepEqual(ask({}, origin), { vary: "origin" }, origin);
  }
  assert.equal(ask({ allowOrigins: ["*"] }, "https://q")["access-control-allow-origin"], "*");
  const open = { allowOrigins: ["*"], allowMethods: ["*"], allowHeaders: ["*"], allowCredentials: true };
  assert.deepEqual(ask(open, "https://q"), {
    "access-control-allow-origin": "https://q",
    vary: "origin",
    "access-control-allow-credentials": "true",
    "access-control-allow-methods": "PATCH",
    "access-control-allow-headers": "x-z",
    "access-control-max-age": "60",
  });
});

test("[TRF-5] answers to allowed origins say so; OPTIONS that is no preflight goes on", () => {
  const { responseEdits } = forwarded({ filters: [corsFilter({})] }, { headers: { origin: "https://a.example" } });
  assert.deepEqual(responseEdits?.set, [
    "access-control-allow-origin",
    "https://a.example",
    "access-control-expose-headers",
    "x-b",
  ]);
  assert.deepEqual(responseEdits?.add, ["vary", "origin"]);
  const refused = forwarded({ filters: [corsFilter({})] }, { headers: { origin: "https://evil" } });
  assert.deepEqual([refused.responseEdits?.set, refused.responseEdits?.remove.length], [[], 3]);
  forwarded({ filters: [corsFilter({})] }, { method: "OPTIONS", headers: { origin: "https://a.example" } });
});

const fault = (more: object): RouteFilter => ({
  kind: "fault",
  value: {
    headers: [],
    delayMs: 0,
    delayPercent: 0,
    abortStatus: 0,
    abortGrpc: undefined,
    abortPercent: 100,
    expiresMs: 0,
    ...more,
  },
});

test("[TRF-4] faults: by percentage and header, until they expire, and with a switch for all", () => {
  const abort = fault({ abortStatus: 503 });
  assert.deepEqual(
    [answered({ filters: [abort] }).status, answered({ filters: [abort] }).reason],
    [503, "fault_abort"],
  );
  forwarded({ filters: [abort] }, {}, contextOf({ faults: false }));
  forwarded({ filters: [fault({ abortStatus: 503, expiresMs: 1000 })] });
  assert.equal(answered({ filters: [fault({ abortStatus: 503, expiresMs: 1001 })] }).status, 503);
  const marked = fault({ abortStatus: 503, headers: [{ name: "x-fault", kind: "regex", value: "on|yes" }] });
  forwarded({ filters: [marked] }, { headers: { "x-fault": "off" } });
  assert.equal(answered({ filters: [marked] }, { headers: { "x-fault": "yes" } }).status, 503);
  assert.equal(forwarded({ filters: [fault({ delayMs: 250, delayPercent: 100 })] }).delayMs, 250);
  const grpc = answered({ filters: [fault({ abortGrpc: 14 })] });
  assert.deepEqual([grpc.status, grpc.grpcStatus], [200, 14]);
  const table = new RouteTable([routeOf({ filters: [fault({ abortStatus: 500, abortPercent: 10 })] })]);
  const context = contextOf();
  let aborted = 0;
  for (let i = 0; i < 20_000; i++) if (decideRequest(table, requestHead({}), context).kind === "answer") aborted++;
  assert.ok(Math.abs(aborted / 20_000 - 0.1) < 0.008, String(aborted));
});

const always = { headers: [], percent: 100, expiresMs: 0 };
const divert = (more: Partial<Divert> = {}): RouteFilter => ({
  kind: "divert",
  value: { ...always, backend: backend("trap"), ...more },
});
const tarpit = (more: Partial<Tarpit> = {}): RouteFilter => ({
  kind: "tarpit",
  value: { ...always, holdMs: 5000, status: 429, ...more },
});
test("[TRF-8] divert sends a share elsewhere, tarpit keeps one waiting", () => {
  const decision = forwarded({ filters: [divert()] });
  assert.deepEqual([decision.backend.service, decision.isDiverted], ["shop/trap", true]);
  const held = answered({ filters: [tarpit(), divert()] });
  assert.deepEqual([held.status, held.delayMs, held.reason], [429, 5000, "tarpit"]);
  forwarded({ filters: [tarpit({ percent: 0 })] });
  const table = new RouteTable([routeOf({ filters: [divert({ percent: 10 })], backends: [backend("web")] })]);
  const context = contextOf();
  let diverted = 0;
  for (let i = 0; i < 20_000; i++) {
    const one = decideRequest(table, requestHead({}), context);
    if (one.kind === "forward" && one.isDiverted) diverted++;
  }
  assert.ok(Math.abs(diverted / 20_000 - 0.1) < 0.008, String(diverted));
});

test("[TRF-8] diverts and tarpits: by header, until they expire, and with the switch of faults", () => {
  const headers = [{ name: "user-agent", kind: "regex", value: "bad-bot/.*" }] as const;
  const bot = { headers: { "user-agent": "bad-bot/2" } };
  const person = { headers: { "user-agent": "mozilla" } };
  const isDiverted = (filter: RouteFilter, head = bot, more = {}): boolean =>
    forwarded({ filters: [filter] }, head, contextOf(more)).isDiverted;
  assert.deepEqual(
    [
      isDiverted(divert({ headers })),
      isDiverted(divert({ headers }), person),
      isDiverted(divert(), bot, { faults: false }),
    ],
    [true, false, false],
  );
  assert.deepEqual(
    [1000, 1001].map((expiresMs) => isDiverted(divert({ expiresMs }))),
    [false, true],
  );
  assert.equal(answered({ filters: [tarpit({ headers })] }, bot).status, 429);
  assert.equal(answered({ filters: [tarpit({ expiresMs: 1001 })] }).status, 429);
  forwarded({ filters: [tarpit({ headers })] }, person);
  forwarded({ filters: [tarpit({ expiresMs: 1000 })] });
  forwarded({ filters: [tarpit()] }, {}, contextOf({ faults: false }));
});

test("[TRF-5] a direct response", () => {
  const value = { status: 418, body: "no coffee", contentType: "text/plain" };
  const given = answered({ filters: [{ kind: "direct", value }], backends: [] });
  assert.deepEqual([given.status, given.body, given.headers], [418, "no coffee", ["content-type", "text/plain"]]);
});

test("[TRF-1] routes of the client's own namespace rule alone; ports are told apart", () => {
  const routes = new ServiceRoutes([
    routeOf({ path: { kind: "exact", value: "/own" } }, { name: "own", consumers: "tests" }),
    routeOf({}, { name: "all", ports: [80] }),
  ]);
  const at = (port: number, namespace: string, path: string) => {
    const table = routes.tableFor(port, namespace);
    return table && routeRequest(table, requestHead({ path }))?.rule.route;
  };
  assert.equal(at(80, "shop", "/own"), "shop/all");
  assert.equal(at(80, "tests", "/own"), "shop/own");
  assert.equal(at(80, "tests", "/other"), undefined);
  assert.equal(at(81, "tests", "/own"), "shop/own");
  assert.equal(routes.tableFor(81, "shop"), undefined);
  assert.equal(routes.tableFor(80, "a"), routes.tableFor(80, "b"));
});

test("[TRF-1] targets without a path fall only under rules that ask for none", () => {
  const star = { method: "OPTIONS", path: "*" };
  forwarded({}, star);
  assert.equal(answered({ path: { kind: "prefix", value: "/" } }, star).reason, "no_route");
  forwarded({}, { method: "CONNECT", path: "" });
});
