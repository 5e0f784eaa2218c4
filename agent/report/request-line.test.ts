// Lines of requests: what they say, what is masked, and that no value can end a line; which requests are written and shown.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { logOff, requestRecord } from "../../test/kit/telemetry.ts";
import type { Tap } from "./observed.ts";
import { isLogged, isTapped, parseFlag, parseStatus } from "./request-filter.ts";
import { maskAddress, maskQuery, requestLine, safeJson } from "./request-line.ts";

const bare = { addresses: false, queries: false };
const masked = { addresses: true, queries: true };
const read = (line: string): Record<string, unknown> => JSON.parse(line);

test("[OBS-3] [SEC-10] a line names parties, route, answer, and on a refusal the policy, its rule and what decided", () => {
  const denied = requestRecord({
    status: 403,
    flags: "UAEX",
    reason: "policy_denied",
    denied: true,
    policy: "shop/no-admin",
    policyRule: 0,
    input: 'path="/admin"',
    notes: [{ kind: "would_deny", policy: "shop/trial" as never, rule: 2 }],
  });
  assert.deepEqual(read(requestLine(denied, bare)), {
    time: "2023-11-14T22:13:20.012Z",
    type: "request",
    direction: "outbound",
    protocol: "http",
    method: "GET",
    authority: "web.shop",
    path: "/cart/7?token=abc",
    status: 403,
    flags: "UAEX",
    reason: "policy_denied",
    duration_us: 12_500,
    request_bytes: 0,
    response_bytes: 1_024,
    "src.addr": "10.244.1.5:40000",
    "src.workload": "shop/client",
    "src.identity": "spiffe://cluster.local/ns/shop/sa/client",
    "dst.addr": "10.96.0.1:80",
    "dst.upstream": "10.244.2.1:8080",
    "dst.workload": "shop/web",
    "dst.service": "shop/web",
    "dst.identity": "spiffe://cluster.local/ns/shop/sa/web",
    route: "shop/web",
    route_rule: 1,
    denied: true,
    policy: "shop/no-admin",
    rule: 0,
    input: 'path="/admin"',
    notes: [{ kind: "would_deny", policy: "shop/trial", rule: 2 }],
    trace_id: "4bf92f3577b34da6a3ce929d0e0e4736",
    span_id: "00f067aa0ba902b7",
    request_id: "r-1",
    correlation_id: "c-1",
    id: 7,
  });
});

test("[OBS-3] no value can begin a line of its own or steer a terminal, and none is of any length", () => {
  const anything = fc.oneof(
    fc.string({ unit: "binary", maxLength: 40 }),
    fc.constantFrom('"}\n{"forged":true}', "\u001b[2J", "\u0085", "\u2028\u2029", "x".repeat(5_000)),
  );
  fc.assert(
    fc.property(anything, anything, anything, (path, text, name) => {
      const record = requestRecord({
        path,
        method: text,
        requestId: text,
        input: text,
        sourceWorkload: name,
        policy: name,
      });
      const line = requestLine(record, bare);
      assert.match(line, /^\{[\x20-\x7e]*\}$/);
      assert.equal(read(line).path, path.length > 1_024 ? `${path.slice(0, 1_024)}...` : path);
    }),
  );
  assert.deepEqual(JSON.parse(safeJson({ a: "\u007f\u2028é" })), { a: "\u007f\u2028é" });
});

test("[OBS-3] masked: no address is whole, no query is there", () => {
  for (const [address, shown] of [
    ["10.244.1.5", "10.244.1.x"],
    ["10.244.1.5:80", "10.244.1.x"],
    ["[fd00:1:2:3::9]:80", "fd00:1:2::x"],
    ["fd00:1:2:3::9", "fd00:1:2::x"],
    ["::1", "0:0:0::x"],
    ["fd00::9", "fd00:0:0::x"],
    ["::ffff:10.1.2.3", "10.1.2.x"],
    ["web.shop:80", "web.shop:80"],
    ["web", "web"],
    ["", ""],
  ] as const)
    assert.equal(maskAddress(address), shown, address);
  assert.deepEqual(["/a?b=c", "/a", "/a?"].map(maskQuery), ["/a?...", "/a", "/a?"]);
  const record = requestRecord({
    authority: "10.96.0.1:80",
    input: 'source.ip="10.244.1.5" path="/a" remote.ip="fd00:1:2:3::9"',
  });
  const line = requestLine(record, masked);
  assert.ok(!/10\.244\.1\.5|10\.96\.0\.1|10\.244\.2\.1|token|abc|::9/.test(line), line);
  const { input, path } = read(line);
  assert.deepEqual([input, path], ['source.ip="10.244.1.x" path="/a" remote.ip="fd00:1:2::x"', "/cart/7?..."]);
});

test("[OBS-3] any address is masked to what 256 or more share, and masking twice is masking once", () => {
  const of = fc.oneof(
    fc.ipV4(),
    fc.ipV6(),
    fc.ipV4().map((ip) => `${ip}:80`),
    fc.ipV6().map((ip) => `[${ip}]:80`),
  );
  fc.assert(
    fc.property(of, (address) => {
      const shown = maskAddress(address);
      assert.match(shown, /^(\d+\.\d+\.\d+\.x|[0-9a-fA-F]+:[0-9a-fA-F]+:[0-9a-fA-F]+::x)$/);
      assert.equal(maskAddress(shown), shown);
    }),
  );
});

test("[OBS-3] statuses and flags are read strictly", () => {
  assert.deepEqual(parseStatus("5xx"), { ok: true, value: { low: 500, high: 599 } });
  assert.deepEqual(parseStatus("404"), { ok: true, value: { low: 404, high: 404 } });
  assert.deepEqual(parseStatus("0"), { ok: true, value: { low: 0, high: 0 } });
  assert.deepEqual(parseStatus("500-503"), { ok: true, value: { low: 500, high: 503 } });
  for (const bad of ["", "6xx", "xx", "abc", "503-500", "1000", "-1"]) {
    const parsed = parseStatus(bad);
    assert.ok(!parsed.ok && parsed.error.includes(`"${bad}"`), bad);
  }
  assert.ok(parseFlag("UAEX").ok);
  assert.ok(!parseFlag("uaex").ok);
});

test("[OBS-3] conditions name requests whatever the sample; a namespace shuts out all others", () => {
  const log = { ...logOff, on: true, codes: [{ low: 500, high: 599 }], flags: ["UF"], slowerMs: 100 };
  const cases: readonly (readonly [Parameters<typeof requestRecord>[0], boolean])[] = [
    [{}, false],
    [{ status: 503 }, true],
    [{ flags: "UF,URX" }, true],
    [{ flags: "UFX" }, false],
    [{ durationMs: 101 }, true],
    [{ durationMs: 100 }, false],
  ];
  for (const [more, named] of cases) {
    assert.equal(isLogged(requestRecord(more), log, false), named, JSON.stringify(more));
    assert.equal(isLogged(requestRecord(more), log, true), true);
    assert.equal(isLogged(requestRecord(more), { ...log, namespaces: ["other"] }, true), false);
    assert.equal(
      isLogged(requestRecord({ ...more, service: "other/x" }), { ...log, namespaces: ["other"] }, true),
      true,
    );
  }
});

test("[OBS-3] a tap shows what its filter names", () => {
  const all: Tap = { id: 1, pod: "", method: "", path: "", statuses: [], perSecond: 1 };
  const shown = (filter: Partial<Tap>): boolean => isTapped(requestRecord(), { ...all, ...filter });
  const yes: readonly Partial<Tap>[] = [
    {},
    { pod: "shop/client" },
    { pod: "shop/web" },
    { pod: "shop" },
    { method: "GET" },
    { path: "/cart/7" },
    { path: "/cart/*" },
    { path: "*/7" },
    { path: "*art*" },
    { path: "/cart/7?token=abc" },
    { statuses: [{ low: 200, high: 299 }] },
  ];
  const no: readonly Partial<Tap>[] = [
    { pod: "shop/other" },
    { pod: "sho" },
    { method: "POST" },
    { path: "/cart" },
    { path: "/cart/7?token=x" },
    { statuses: [{ low: 500, high: 599 }] },
    { pod: "shop", method: "POST" },
  ];
  for (const filter of yes) assert.ok(shown(filter), JSON.stringify(filter));
  for (const filter of no) assert.ok(!shown(filter), JSON.stringify(filter));
  assert.ok(!shown({ path: "*token=abc" }), "the query counts only where a pattern names it with ?");
});
