// The compiled evaluator of requests against the plain one: random policies, settings and requests, with few words so that they meet.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { type SpiffeId, workloadId } from "../../agent/api/names.ts";
import { type Authorization, operationOf, sourceOf } from "../../agent/api/policy.ts";
import { judgeFor } from "../../agent/decide/request-authorize.ts";
import type { RequestHead } from "../../agent/http.ts";
import { authorization, type domain, mesh, workload } from "../kit/mesh.ts";
import { type ReferenceRequest, reference } from "./authorize.ts";

const runs = 10_000;
const few = <T>(of: fc.Arbitrary<T>): fc.Arbitrary<T[]> =>
  fc.oneof({ weight: 3, arbitrary: fc.constant([] as T[]) }, fc.array(of, { minLength: 1, maxLength: 2 }));
const blocks = few(fc.constantFrom("10.0.0.0/8", "10.0.0.1", "192.168.0.0/16", "0.0.0.0/0"));
const principals = few(
  fc.constantFrom(
    "*",
    "cluster.local/ns/shop/sa/web",
    "cluster.local/ns/shop/*",
    "*/sa/web",
    "other.org/ns/shop/sa/web",
  ),
);
const namespaces = few(fc.constantFrom("shop", "sh*", "*op", "*", "other"));
const accounts = few(fc.constantFrom("web", "shop/web", "other/web", "shop/*"));
const hosts = few(fc.constantFrom("a.example", "A.Example", "*.example", "a.*", "*", "a.example:80", "b.example"));
const methods = few(fc.constantFrom("GET", "POST", "*", "P*", "DELETE"));
const paths = few(
  fc.constantFrom(
    "/a",
    "/a/*",
    "/a*",
    "*/b",
    "*",
    "/a/{*}",
    "/a/{**}",
    "/{*}/b",
    "/a/{**}/b",
    "/a%2Fb",
    "/a//b",
    "/",
    "/a%20b",
    "/b/a",
  ),
);
const tokens = fc.oneof({ weight: 12, arbitrary: fc.constant([]) }, fc.constant(["*"]));
const sources = fc
  .record(
    {
      principals,
      notPrincipals: principals,
      namespaces,
      notNamespaces: namespaces,
      serviceAccounts: accounts,
      notServiceAccounts: accounts,
      ipBlocks: blocks,
      notIpBlocks: blocks,
      remoteIpBlocks: blocks,
      notRemoteIpBlocks: blocks,
      requestPrincipals: tokens,
      notRequestPrincipals: tokens,
    },
    { requiredKeys: [] },
  )
  .map((lists) => sourceOf(lists as Parameters<typeof sourceOf>[0]));
const ports = few(fc.constantFrom("80", "8080"));
const operations = fc
  .record(
    { hosts, notHosts: hosts, methods, notMethods: methods, paths, notPaths: paths, ports, notPorts: ports },
    { requiredKeys: [] },
  )
  .map((lists) => operationOf(lists as Parameters<typeof operationOf>[0]));
const condition = (keys: fc.Arbitrary<string>, values: fc.Arbitrary<string[]>) =>
  fc.record({ key: keys, values, notValues: values });
const conditions = fc.oneof(
  condition(
    fc.constantFrom("request.headers[X-Role]", "request.headers[x-role]"),
    few(fc.constantFrom("admin", "*", "ad*", "*in", "user")),
  ),
  condition(fc.constantFrom("source.ip", "destination.ip", "remote.ip"), blocks),
  condition(fc.constant("destination.port"), ports),
  condition(fc.constant("source.namespace"), namespaces),
  condition(fc.constant("source.principal"), principals),
  condition(fc.constant("connection.sni"), few(fc.constantFrom("a.example", "*", "*.example"))),
  condition(
    fc.constantFrom("request.auth.claims[iss]", "request.auth.audiences", "experimental.x"),
    few(fc.constant("x")),
  ),
);
const rules = fc.record({
  from: fc.array(sources, { maxLength: 2 }),
  to: fc.array(operations, { maxLength: 2 }),
  when: fc.array(conditions, { maxLength: 2 }),
});
const actions = fc.constantFrom<Authorization["action"]>("allow", "allow", "allow", "deny", "deny", "audit", "custom");
const policySets = fc.array(
  fc.record({ action: actions, dryRun: fc.boolean().map((b) => b), rules: fc.array(rules, { maxLength: 3 }) }),
  { minLength: 1, maxLength: 4 },
);

const pieces = fc.constantFrom(
  "/",
  "a",
  "b",
  "/a",
  "/b",
  "//",
  "/../",
  "/./",
  "%2e",
  "%2F",
  "%5c",
  "\\",
  "%61",
  "%2561",
  "%252f",
  ";x",
  "%20",
  "%00",
  "%zz",
  "..",
);
const targets = fc
  .tuple(
    fc.constantFrom("/a", "/b", "/", "/a/b"),
    fc.array(pieces, { maxLength: 4 }),
    fc.constantFrom("", "", "?q=/a", "#f"),
  )
  .map(([head, tail, end]) => head + tail.join("") + end);
const requests: fc.Arbitrary<ReferenceRequest> = fc.record({
  identity: fc.constantFrom(
    null,
    ["cluster.local", "shop", "web"] as const,
    ["cluster.local", "other", "web"] as const,
    ["other.org", "shop", "web"] as const,
  ),
  sourceIp: fc.constantFrom("10.0.0.1", "10.1.1.1", "192.168.0.1", "8.8.8.8"),
  destinationIp: fc.constantFrom("10.0.0.1", "192.168.0.9"),
  port: fc.constantFrom(80, 8080),
  sni: fc.constantFrom("", "a.example", undefined),
  method: fc.constantFrom("GET", "POST", "PUT", "delete", "Get"),
  authority: fc.constantFrom("a.example", "A.EXAMPLE:80", "b.example", "a.example.", "a.example.:80", "x", ""),
  target: fc.oneof(targets, fc.constantFrom("/a", "/a/b", "/a/b/b", "*", "")),
  fields: fc.array(
    fc.oneof(
      fc.tuple(fc.constant("x-role"), fc.constantFrom("admin", "user", "", "evil")),
      fc.tuple(
        fc.constant("x-forwarded-for"),
        fc.constantFrom("10.0.0.1", "1.2.3.4, 192.168.0.1", "garbage", "8.8.8.8,10.0.0.1"),
      ),
    ),
    { maxLength: 3 },
  ),
});
const settings = fc.record({
  pathNormalization: fc.constantFrom("none", "base", "merge_slashes", "decode_and_merge_slashes"),
  trustedProxies: fc.constantFrom(0, 1, 2),
});

const db = workload("shop", "db", "10.0.0.9");
export const headOf = (r: Pick<ReferenceRequest, "method" | "authority" | "target" | "fields">): RequestHead => ({
  method: r.method,
  scheme: "http",
  authority: r.authority,
  path: r.target,
  header(name) {
    const values = r.fields.filter(([n]) => n === name).map(([, v]) => v);
    return values.length === 0 ? undefined : values.join(", ");
  },
  headers: () => r.fields.flat(),
});

test(`[SEC-1] ${runs} random sets of policies and requests are decided as the plain reference decides them`, () => {
  let allowed = 0;
  let refused = 0;
  fc.assert(
    fc.property(policySets, requests, settings, (set, request, reading) => {
      const policies = set.map((p, i) =>
        authorization(`p${i}`, p.rules, { action: p.action, dryRun: p.dryRun && i > 0 }),
      );
      const identity =
        request.identity === null
          ? null
          : (workloadId(request.identity[0] as typeof domain, request.identity[1], request.identity[2]) as SpiffeId);
      const { sourceIp, destinationIp, port, sni } = request;
      const state = mesh({ authorizations: policies, settings: reading as never });
      const judge = judgeFor(state, { destination: db, identity, sourceIp, destinationIp, port, sni });
      const verdict = judge.judge(headOf(request));
      assert.equal(verdict.allow, reference(policies, request, reading as never));
      if (verdict.allow) allowed += 1;
      else {
        refused += 1;
        // [SEC-10] Every refusal names its policy, its rule if one matched, and what decided.
        const named = policies.find((p) => `${p.namespace}/${p.name}` === verdict.policy);
        assert.ok(named !== undefined && !named.dryRun && verdict.input !== undefined && verdict.input !== "");
        assert.equal(verdict.rule === undefined, named.action === "allow");
      }
      // What is kept from a request never leaks into the next.
      assert.equal(judge.judge(headOf(request)).allow, verdict.allow);
    }),
    { numRuns: runs },
  );
  assert.ok(
    allowed > runs / 10 && refused > runs / 10,
    `${allowed} allowed, ${refused} refused: the generator has become one-sided`,
  );
});
