// L7 authorization case by case: Istio's operators, order, notes, what a refusal says, and paths that can be read in two ways.
import assert from "node:assert/strict";
import { test } from "node:test";
import { authorization, domain, mesh, workload } from "../../test/kit/mesh.ts";
import { workloadId } from "../api/names.ts";
import type { Authorization } from "../api/policy.ts";
import type { MeshSettings } from "../api/settings.ts";
import type { RequestHead } from "../http.ts";
import { judgeFor, type RequestConnection } from "./request-authorize.ts";
import { normalizePath, plainestReading } from "./request-path.ts";
import { hostReadings } from "./request-view.ts";

const db = workload("shop", "db", "10.0.0.9");
const connection = (more: Partial<RequestConnection> = {}): RequestConnection => ({
  destination: db,
  identity: workloadId(domain, "shop", "web"),
  sourceIp: "10.0.0.1",
  destinationIp: "10.0.0.9",
  port: 8080,
  sni: "",
  ...more,
});
type Loose = { method?: string; authority?: string; fields?: readonly string[] };
function head(path: string, { method = "GET", authority = "db", fields = [] }: Loose = {}): RequestHead {
  const values = (name: string): string[] => fields.filter((_, i) => i % 2 === 1 && fields[i - 1] === name);
  return {
    method,
    scheme: "http",
    authority,
    path,
    header: (name) => (values(name).length === 0 ? undefined : values(name).join(", ")),
    headers: () => fields,
  };
}
const judge = (policies: readonly Authorization[], settings: Partial<MeshSettings> = {}, more = {}) => {
  const made = judgeFor(mesh({ authorizations: policies, settings }), connection(more));
  return (path: string, loose: Loose = {}) => made.judge(head(path, loose));
};
const allow = (to: Parameters<typeof authorization>[1][number]) => authorization("a", [to]);
const deny = (to: Parameters<typeof authorization>[1][number]) => authorization("d", [to], { action: "deny" });

test("[SEC-1] methods, paths, templates, hosts and their negations", () => {
  const get = judge([allow({ to: [{ methods: ["GET"], paths: ["/info*", "/users/{*}/posts", "/files/{**}"] }] })]);
  for (const path of ["/info", "/information?x=1", "/users/7/posts", "/files/", "/files/a/b.txt"])
    assert.equal(get(path).allow, true, path);
  for (const path of ["/inf", "/users/posts", "/users/7/8/posts", "/files", "/", ""])
    assert.equal(get(path).allow, false, path);
  assert.equal(get("/info", { method: "POST" }).allow, false);
  assert.equal(get("/info", { method: "get" }).allow, false);
  assert.equal(judge([deny({ to: [{ methods: ["DELETE"] }] })])("/", { method: "delete" }).allow, false);
  const hosts = judge([deny({ to: [{ hosts: ["admin.example", "*.internal"], notPaths: ["/healthz"] }] })]);
  for (const authority of ["admin.example", "ADMIN.example:8080", "admin.example.", "a.internal:1"])
    assert.equal(hosts("/x", { authority }).allow, false, authority);
  assert.equal(hosts("/healthz", { authority: "admin.example" }).allow, true);
  assert.equal(hosts("/x", { authority: "shop.example" }).allow, true);
  assert.deepEqual(hostReadings("[FD00::1]:80"), ["[fd00::1]:80", "[fd00::1]"]);
});

test("[SEC-1] gRPC methods are paths", () => {
  const grpc = judge([allow({ to: [{ methods: ["POST"], paths: ["/shop.Cart/*"] }] })]);
  assert.equal(grpc("/shop.Cart/Add", { method: "POST" }).allow, true);
  assert.equal(grpc("/shop.Admin/Drop", { method: "POST" }).allow, false);
});

test("[SEC-1] headers: name without case, presence, absence, and no field hides behind another from a DENY", () => {
  const when = (values: string[], notValues: string[] = []) => ({
    when: [{ key: "request.headers[X-Role]", values, notValues }],
  });
  assert.equal(judge([allow(when(["admin"]))])("/", { fields: ["x-role", "admin"] }).allow, true);
  assert.equal(judge([allow(when(["admin"]))])("/", { fields: ["x-role", "admin", "x-role", "b"] }).allow, false);
  assert.equal(judge([allow(when(["*"]))])("/", { fields: ["x-role", ""] }).allow, true);
  assert.equal(judge([allow(when([], ["admin"]))])("/").allow, true);
  assert.equal(judge([allow(when([], ["admin"]))])("/", { fields: ["x-role", "a", "x-role", "admin"] }).allow, false);
  assert.equal(judge([deny(when(["admin"]))])("/", { fields: ["x-role", "x", "x-role", "admin"] }).allow, false);
});

test("[SEC-1] remoteIpBlocks: the source without trusted proxies, else the entry counted from the right", () => {
  const remote = [allow({ from: [{ remoteIpBlocks: ["203.0.113.0/24"] }] })];
  const fields = ["x-forwarded-for", "203.0.113.7, 10.9.9.9"];
  assert.equal(judge(remote)("/", { fields }).allow, false);
  assert.equal(judge(remote, {}, { sourceIp: "203.0.113.9" })("/").allow, true);
  assert.equal(judge(remote, { trustedProxies: 2 })("/", { fields }).allow, true);
  assert.equal(judge(remote, { trustedProxies: 1 })("/", { fields }).allow, false);
  assert.equal(judge(remote, { trustedProxies: 3 })("/", { fields }).allow, false);
  const bad = { fields: ["x-forwarded-for", "not-an-address"] };
  assert.equal(judge(remote, { trustedProxies: 1 })("/", bad).allow, false);
  const denied = judge([deny({ from: [{ remoteIpBlocks: ["198.51.100.0/24"] }] })], { trustedProxies: 1 })("/", bad);
  assert.deepEqual([denied.allow, denied.input], [false, "remote.ip is no address"]);
});

test("[SEC-1] connection.sni: absent is a value, not known fails closed", () => {
  const rule = { when: [{ key: "connection.sni", values: ["a.example"], notValues: [] }] };
  assert.equal(judge([allow(rule)], {}, { sni: "a.example" })("/").allow, true);
  assert.equal(judge([deny(rule)], {}, { sni: "" })("/").allow, true);
  assert.equal(judge([allow(rule)], {}, { sni: undefined })("/").allow, false);
  assert.equal(judge([deny(rule)], {}, { sni: undefined })("/").allow, false);
});

test("[DP-24] what only a token tells fails closed and says so", () => {
  const rule = { from: [{ requestPrincipals: ["*"] }], to: [{ paths: ["/a"] }] };
  const allowing = judge([allow(rule)])("/a");
  assert.equal(allowing.allow, false);
  assert.deepEqual(allowing.notes, [{ kind: "token_unread", policy: "shop/a" }]);
  assert.match(allowing.input ?? "", /request\.auth\.principal is not read: tokens are not supported/);
  const refusing = judge([deny(rule)]);
  assert.equal(refusing("/a").allow, false);
  assert.equal(refusing("/b").allow, true);
  const claim = judge([deny({ when: [{ key: "request.auth.claims[iss]", values: ["x"], notValues: [] }] })])("/");
  assert.deepEqual(
    [claim.allow, claim.input],
    [false, "request.auth.claims[iss] is not read: tokens are not supported"],
  );
});

test("[SEC-10] a refusal names policy, rule and input; order is CUSTOM, DENY, ALLOW", () => {
  const set = [
    authorization("a-allow", [{ to: [{ methods: ["GET"] }] }]),
    authorization("b-deny", [{ to: [{ ports: ["1"] }] }, { to: [{ methods: ["GET"], paths: ["/admin*"] }] }], {
      action: "deny",
    }),
    authorization("c-custom", [{ to: [{ paths: ["/admin/ext"] }] }], { action: "custom" }),
  ];
  const ask = judge(set);
  assert.deepEqual(ask("/admin/x"), {
    allow: false,
    reason: "policy_denied",
    policy: "shop/b-deny",
    rule: 1,
    input: 'method="GET" path="/admin/x"',
    notes: [],
  });
  const { policy, input } = ask("/admin/ext");
  const why = "CUSTOM refuses what it selects: no external authorizer is called";
  assert.deepEqual([policy, input], ["shop/c-custom", `${why}; path="/admin/ext"`]);
  assert.deepEqual(ask("/", { method: "PUT" }), {
    allow: false,
    reason: "policy_denied",
    policy: "shop/a-allow",
    input: 'no rule of 1 ALLOW policy matches method="PUT"',
    notes: [],
  });
  assert.deepEqual(ask("/ok"), { allow: true, reason: "allowed", policy: "shop/a-allow", rule: 0, notes: [] });
  const long = ask(`/admin/${"\u0000\n\u00ff".repeat(100)}`).input ?? "";
  assert.ok(long.length < 700 && /^[\x20-\x7e]*$/.test(long), "bounded and printable");
});

test("[SEC-10] AUDIT and dry run decide nothing and are noted with the rule", () => {
  const set = [
    authorization("audit", [{ to: [{ paths: ["/a*"] }] }], { action: "audit" }),
    authorization("try-deny", [{ to: [{ methods: ["POST"] }] }], { action: "deny", dryRun: true }),
    authorization("try-allow", [{ to: [{ paths: ["/a"] }] }], { dryRun: true }),
  ];
  const ask = judge(set);
  assert.deepEqual(ask("/a").notes, [{ kind: "audit", policy: "shop/audit", rule: 0 }]);
  assert.deepEqual(ask("/b", { method: "POST" }).notes, [
    { kind: "would_deny", policy: "shop/try-allow" },
    { kind: "would_deny", policy: "shop/try-deny", rule: 0 },
  ]);
  const closed = judge([authorization("only", [{ to: [{ paths: ["/x"] }] }]), ...set]);
  assert.deepEqual(closed("/a").notes, [
    { kind: "audit", policy: "shop/audit", rule: 0 },
    { kind: "would_allow", policy: "shop/try-allow", rule: 0 },
  ]);
});

test("Istio's normalisation, mode by mode", () => {
  const cases: readonly (readonly [string, string, string, string])[] = [
    // path, base, merge_slashes, decode_and_merge_slashes
    ["/a/../b", "/b", "/b", "/b"],
    ["/a/./b/..", "/a/", "/a/", "/a/"],
    ["/../../x", "/x", "/x", "/x"],
    ["/%61%2d%7E", "/a-~", "/a-~", "/a-~"],
    ["/a%2e%2E/b/%2e%2e/c", "/a../c", "/a../c", "/a../c"],
    ["/some\\data", "/some/data", "/some/data", "/some/data"],
    ["/some//data///abc", "/some//data///abc", "/some/data/abc", "/some/data/abc"],
    ["/some%2fdata/%61%62", "/some%2fdata/ab", "/some%2fdata/ab", "/some/data/ab"],
    ["/x%5c..%2Fy", "/x%5c..%2Fy", "/x%5c..%2Fy", "/y"],
    ["/%2561", "/%2561", "/%2561", "/%2561"],
    ["/a%20b", "/a%20b", "/a%20b", "/a%20b"],
  ];
  for (const [path, ...wanted] of cases) {
    const modes = ["base", "merge_slashes", "decode_and_merge_slashes"] as const;
    assert.deepEqual(
      modes.map((mode) => normalizePath(path, mode)),
      wanted,
      path,
    );
    assert.equal(normalizePath(path, "none"), path);
  }
  assert.equal(plainestReading("/a;v=1/%252e%252e;x//b%5Cc"), "/b/c");
});

test("[SEC-8] no spelling of a path slips past a DENY or into an ALLOW", () => {
  const spellings = [
    "/admin",
    "//admin",
    "/./admin",
    "/x/../admin",
    "/%61dmin",
    "/%2561dmin",
    "/x/%2e%2e/admin",
    "/x/..%2fadmin",
    "/x%2f..%2fadmin",
    "/x\\..\\admin",
    "/x/..%5cadmin",
    "/x/..;a=b/admin",
    "/admin;jsessionid=1",
    "/admin?x",
    "/admin#x",
    "/%2fadmin",
    "/x/%252e%252e/admin",
  ];
  for (const pathNormalization of ["none", "base", "merge_slashes", "decode_and_merge_slashes"] as const) {
    const denied = judge([deny({ to: [{ paths: ["/admin", "/admin/*"] }] })], { pathNormalization });
    const allowed = judge([allow({ to: [{ paths: ["/x/*", "/x*"] }] })], { pathNormalization });
    for (const path of spellings) {
      assert.equal(denied(path).allow, false, `DENY, ${pathNormalization}, ${path}`);
      assert.equal(allowed(path).allow, false, `ALLOW, ${pathNormalization}, ${path}`);
    }
    assert.equal(denied("/x/admins").allow, true);
    assert.equal(allowed("/x/a%20b").allow, true);
    assert.equal(allowed("/x/a%2Fb").allow, true);
  }
  const verdict = judge([deny({ to: [{ paths: ["/admin"] }] })])("/x/..%2fadmin");
  assert.equal(verdict.input, 'path="/x/..%2fadmin" (may be read as "/admin")');
});

test("a judge is kept until policies or settings change, and gives the same verdict object for the same rule", () => {
  const state = mesh({ authorizations: [allow({ to: [{ methods: ["GET"] }] })] });
  const at = connection();
  const first = judgeFor(state, at);
  assert.equal(judgeFor(state, at, first), first);
  assert.equal(judgeFor(state, { ...at }, first), first);
  assert.notEqual(judgeFor(state, { ...at, port: 1 }, first), first);
  assert.equal(first.judge(head("/a")), first.judge(head("/b")));
  state.apply({ changed: [{ kind: "Authorization", value: authorization("n", []) }], removed: [] });
  assert.notEqual(judgeFor(state, at, first), first);
  assert.equal(judgeFor(mesh({}), at).judge(head("/")).allow, true);
});
