// L4 authorization: Istio's order and forms case by case, and every combination against an evaluator written the plain way.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { authorization, domain, mesh, workload } from "../../test/kit/mesh.ts";
import { type SpiffeId, workloadId } from "../api/names.ts";
import type { Authorization } from "../api/policy.ts";
import { type AuthorizeInput, authorize } from "./authorize.ts";
import { textMatches } from "./rules.ts";

const db = workload("shop", "db", "10.0.0.9");
const web = workloadId(domain, "shop", "web");
const input = (more: Partial<AuthorizeInput> = {}): AuthorizeInput => ({
  destination: db,
  identity: web,
  sourceIp: "10.0.0.1",
  destinationIp: "10.0.0.9",
  port: 5432,
  ...more,
});
const judge = (policies: readonly Authorization[], more: Partial<AuthorizeInput> = {}, settings = {}) =>
  authorize(mesh({ authorizations: policies, settings }), input(more));

test("[SEC-2] without a policy everything is allowed; an ALLOW that does not match refuses and names itself", () => {
  assert.equal(judge([]).allow, true);
  const only = authorization("only-admin", [{ from: [{ principals: ["cluster.local/ns/shop/sa/admin"] }] }]);
  assert.deepEqual(judge([only]), { allow: false, reason: "policy_denied", policy: "shop/only-admin", notes: [] });
  assert.equal(judge([only], { identity: workloadId(domain, "shop", "admin") }).allow, true);
});

test("[SEC-2] a database port is open to one service account only, also by port", () => {
  const rule = { from: [{ serviceAccounts: ["web", "ops/backup"] }], to: [{ ports: ["5432"] }] };
  const policy = authorization("db", [rule]);
  assert.equal(judge([policy]).allow, true);
  assert.equal(judge([policy], { port: 22 }).allow, false);
  assert.equal(judge([policy], { identity: workloadId(domain, "ops", "backup") }).allow, true);
  // A bare name means the policy's own namespace.
  assert.equal(judge([policy], { identity: workloadId(domain, "ops", "web") }).allow, false);
  assert.equal(judge([policy], { identity: null }).allow, false);
});

test("DENY wins over ALLOW, and the verdict names policy and rule", () => {
  const allow = authorization("allow-all", [{}]);
  const deny = authorization("no-web", [{ to: [{ ports: ["1"] }] }, { from: [{ namespaces: ["shop"] }] }], {
    action: "deny",
  });
  assert.deepEqual(judge([allow, deny]), {
    allow: false,
    reason: "policy_denied",
    policy: "shop/no-web",
    rule: 1,
    notes: [],
  });
});

test("an ALLOW without rules refuses everything; one with an empty rule allows everything", () => {
  assert.equal(judge([authorization("nothing", [])]).allow, false);
  assert.equal(judge([authorization("all", [{}])]).allow, true);
});

test("[DP-24] what needs L7 fails closed: ALLOW matches nothing, DENY applies without it, and both are noted", () => {
  const allow = authorization("get-only", [{ to: [{ methods: ["GET"] }] }]);
  const verdict = judge([allow]);
  assert.equal(verdict.allow, false);
  assert.deepEqual(verdict.notes, [{ kind: "l7_unavailable", policy: "shop/get-only" }]);
  const deny = authorization("no-post", [{ from: [{ namespaces: ["shop"] }], to: [{ methods: ["POST"] }] }], {
    action: "deny",
  });
  assert.equal(judge([deny]).allow, false);
  assert.equal(judge([deny], { identity: workloadId(domain, "other", "x") }).allow, true);
  const when = authorization("jwt", [{ when: [{ key: "request.auth.claims[a]", values: ["b"], notValues: [] }] }]);
  assert.equal(judge([when]).allow, false);
  assert.equal(judge([{ ...when, action: "deny" }]).allow, false);
});

test("[SEC-1] [SEC-10] CUSTOM without an authorizer says so, and refuses what it covers and nothing else", () => {
  const custom = authorization("ext", [{ to: [{ ports: ["5432"] }] }], { action: "custom" });
  const { allow, policy, input } = judge([custom]);
  assert.deepEqual(
    [allow, policy, input],
    [false, "shop/ext", "CUSTOM refuses what it selects: no external authorizer is called"],
  );
  assert.equal(judge([custom], { port: 80 }).allow, true);
});

test("dry run and AUDIT decide nothing and are noted", () => {
  const dry = authorization("try", [{ from: [{ namespaces: ["shop"] }] }], { action: "deny", dryRun: true });
  const audit = authorization("look", [{}], { action: "audit" });
  const verdict = judge([dry, audit]);
  assert.equal(verdict.allow, true);
  assert.deepEqual(verdict.notes, [
    { kind: "audit", policy: "shop/look", rule: 0 },
    { kind: "would_deny", policy: "shop/try" },
  ]);
});

test("[IDN-9] a principal written with an alias of the trust domain means the same workload; another domain does not", () => {
  const policy = authorization("old", [{ from: [{ principals: ["old.example/ns/shop/sa/web"] }] }]);
  assert.equal(judge([policy], {}, { trustDomainAliases: ["old.example"] }).allow, true);
  assert.equal(judge([policy]).allow, false);
  const foreign = "spiffe://evil.example/ns/shop/sa/web" as SpiffeId;
  const own = authorization("own", [{ from: [{ principals: ["cluster.local/ns/shop/sa/web"] }] }]);
  assert.equal(judge([own], { identity: foreign }, { trustDomainAliases: ["old.example"] }).allow, false);
});

test("IPv4 and IPv6 blocks, with their negations and as conditions", () => {
  const rule = { from: [{ ipBlocks: ["10.0.0.0/8", "fd00::/8"], notIpBlocks: ["10.0.0.0/30"] }] };
  const policy = authorization("net", [rule]);
  assert.equal(judge([policy], { sourceIp: "10.0.0.9" }).allow, true);
  assert.equal(judge([policy], { sourceIp: "10.0.0.1" }).allow, false);
  assert.equal(judge([policy], { sourceIp: "fd00::1" }).allow, true);
  assert.equal(judge([policy], { sourceIp: "11.0.0.1" }).allow, false);
  const when = authorization("w", [{ when: [{ key: "source.ip", values: ["10.0.0.1"], notValues: [] }] }]);
  assert.equal(judge([when]).allow, true);
});

test("policies apply by selector, by target service, and mesh-wide", () => {
  const none = { rules: [] as const };
  const elsewhere = authorization("x", [], { selector: { app: "other" }, scope: "workload" });
  assert.equal(judge([elsewhere]).allow, true);
  assert.equal(judge([authorization("x", [], { namespace: "root", scope: "mesh", ...none })]).allow, false);
  const target = authorization("x", [], { targetServices: ["shop/db" as never] });
  assert.equal(judge([target]).allow, true);
  const services = [{ service: "shop/db" as never, ports: [] }];
  assert.equal(judge([target], { destination: { ...db, services } }).allow, false);
});

// The reference: no index, no sharing of code, the words of Istio's documentation one after the other.
const texts = fc.constantFrom(
  "*",
  "shop",
  "sh*",
  "*op",
  "other",
  "cluster.local/ns/shop/sa/web",
  "*/sa/web",
  "cluster.local/*",
);
const lists = fc.array(texts, { maxLength: 2 });
const blocks = fc.array(fc.constantFrom("10.0.0.0/8", "10.0.0.1", "fd00::/16", "0.0.0.0/0"), { maxLength: 2 });
const portTexts = fc.array(fc.constantFrom<string>("80", "5432"), { maxLength: 2 });
const sourceArbitrary = fc.record({
  principals: lists,
  notPrincipals: lists,
  namespaces: lists,
  notNamespaces: lists,
  ipBlocks: blocks,
  notIpBlocks: blocks,
  requestPrincipals: fc.oneof({ weight: 5, arbitrary: fc.constant([]) }, { weight: 1, arbitrary: fc.constant(["*"]) }),
});
const ruleArbitrary = fc.record({
  from: fc.array(sourceArbitrary, { maxLength: 2 }),
  to: fc.array(
    fc.record({
      ports: portTexts,
      notPorts: portTexts,
      methods: fc.oneof({ weight: 5, arbitrary: fc.constant([]) }, { weight: 1, arbitrary: fc.constant(["GET"]) }),
    }),
    { maxLength: 2 },
  ),
});
type RuleShape = typeof ruleArbitrary extends fc.Arbitrary<infer T> ? T : never;
const policies = fc.array(
  fc.record({
    action: fc.constantFrom("allow" as const, "deny" as const),
    rules: fc.array(ruleArbitrary, { maxLength: 3 }),
  }),
  { maxLength: 3 },
);

function glob(pattern: string, value: string): boolean {
  const quoted = pattern.split("*").map((part) => part.replace(/[.*+?^${}()|[\]\\/]/g, "\\$&"));
  return new RegExp(`^${quoted.join(pattern === "*" ? ".+" : ".*")}$`).test(value);
}
const inBlock = (block: string, ip: string): boolean =>
  block === "0.0.0.0/0"
    ? !ip.includes(":")
    : block === "10.0.0.1"
      ? ip === block
      : block === "10.0.0.0/8"
        ? ip.startsWith("10.")
        : ip.startsWith("fd00:");

function reference(
  set: readonly { action: "allow" | "deny"; rules: readonly RuleShape[] }[],
  at: AuthorizeInput,
): boolean {
  const me =
    at.identity === null
      ? null
      : { principal: at.identity.slice("spiffe://".length), namespace: at.identity.split("/")[4] ?? "" };
  const hit = (rule: RuleShape, deny: boolean): boolean => {
    const from =
      rule.from.length === 0 ||
      rule.from.some((s) => {
        if (s.requestPrincipals.length > 0 && !deny) return false;
        if (s.principals.length > 0 && !s.principals.some((p) => me !== null && glob(p, me.principal))) return false;
        if (s.notPrincipals.some((p) => me !== null && glob(p, me.principal))) return false;
        if (s.namespaces.length > 0 && !s.namespaces.some((p) => me !== null && glob(p, me.namespace))) return false;
        if (s.notNamespaces.some((p) => me !== null && glob(p, me.namespace))) return false;
        if (s.ipBlocks.length > 0 && !s.ipBlocks.some((b) => inBlock(b, at.sourceIp))) return false;
        return !s.notIpBlocks.some((b) => inBlock(b, at.sourceIp));
      });
    const to =
      rule.to.length === 0 ||
      rule.to.some((o) => {
        if (o.methods.length > 0 && !deny) return false;
        if (o.ports.length > 0 && !o.ports.includes(String(at.port))) return false;
        return !o.notPorts.includes(String(at.port));
      });
    return from && to;
  };
  if (set.some((p) => p.action === "deny" && p.rules.some((r) => hit(r, true)))) return false;
  const allows = set.filter((p) => p.action === "allow");
  return allows.length === 0 || allows.some((p) => p.rules.some((r) => hit(r, false)));
}

test("[SEC-2] every combination of ALLOW and DENY agrees with the reference evaluator", () => {
  const ids = fc.constantFrom(
    null,
    web,
    workloadId(domain, "other", "x"),
    "spiffe://else.where/ns/shop/sa/web" as SpiffeId,
  );
  const ips = fc.constantFrom("10.0.0.1", "10.2.3.4", "192.168.0.1", "fd00::7", "2001:db8::1");
  fc.assert(
    fc.property(policies, ids, ips, fc.constantFrom(80, 5432, 9), (set, identity, sourceIp, port) => {
      const named = set.map((p, i) => authorization(`p${i}`, p.rules, { action: p.action }));
      const at = input({ identity, sourceIp, port });
      assert.equal(authorize(mesh({ authorizations: named }), at).allow, reference(set, at));
    }),
    { numRuns: 3000 },
  );
});

test("the four forms of a text match", () => {
  assert.ok(textMatches("*", "a") && !textMatches("*", ""));
  assert.ok(textMatches("ab*", "abc") && !textMatches("ab*", "xab"));
  assert.ok(textMatches("*bc", "abc") && !textMatches("*bc", "bcd"));
  assert.ok(textMatches("abc", "abc") && !textMatches("abc", "abcd"));
});
