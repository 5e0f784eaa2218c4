// Conditions on the enricher's findings in AuthorizationPolicies: as patterns of names, as comparisons of the score, and what absence means.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { authorization, mesh, workload } from "../../test/kit/mesh.ts";
import type { RequestFeatures } from "../api/enricher.ts";
import type { RequestHead } from "../http.ts";
import { featureOf, parseComparison } from "./feature-condition.ts";
import { judgeFor } from "./request-authorize.ts";

const web = workload("shop", "web", "10.244.2.1");
const head: RequestHead = {
  method: "GET",
  scheme: "http",
  authority: "web",
  path: "/",
  header: () => undefined,
  headers: () => [],
};
const features = (score: number, mesh?: RequestFeatures["mesh"]): RequestFeatures => ({
  score,
  anomalies: [],
  ...(mesh === undefined ? {} : { mesh }),
});

function judge(
  action: "allow" | "deny",
  when: { key: string; values?: string[]; notValues?: string[] },
  found?: RequestFeatures,
) {
  const rule = { when: [{ values: [], notValues: [], ...when }] };
  const state = mesh({ authorizations: [authorization("p", [rule], { action })] });
  const connection = {
    destination: web,
    identity: null,
    sourceIp: "10.0.0.1",
    destinationIp: "10.244.2.1",
    port: 80,
    sni: undefined,
  };
  return judgeFor(state, connection).judge(head, found);
}

test("[ENR-4] a policy refuses by score, and says which score it was", () => {
  const when = { key: "features.mesh.score", values: [">=0.6"] };
  const refused = judge("deny", when, features(0.6));
  assert.equal(refused.allow, false);
  assert.equal(refused.input, 'features.mesh.score="0.6"');
  assert.equal(judge("deny", when, features(0.59)).allow, true);
  assert.equal(judge("deny", when).allow, true, "the enricher is off");
  assert.equal(judge("allow", { key: "features.mesh.score", values: ["<0.5"] }, features(0.4)).allow, true);
  assert.equal(judge("allow", { key: "features.mesh.score", values: ["<0.5"] }).allow, false);
  assert.equal(judge("allow", { key: "features.mesh.score", notValues: [">0.5"] }, features(0.9)).allow, false);
});

test("[ENR-3] a policy asks for who calls as for any name; what is not known is none of the values", () => {
  const from = (namespace: string) => features(0, { namespace });
  const when = { key: "features.mesh.namespace", values: ["edge", "sand*"] };
  assert.equal(judge("deny", when, from("sandbox")).allow, false);
  assert.equal(judge("deny", when, from("shop")).allow, true);
  assert.equal(judge("deny", when, features(0)).allow, true);
  assert.equal(judge("deny", { key: when.key, notValues: ["shop"] }, features(0)).allow, false, "unknown is not shop");
  assert.equal(judge("deny", { key: when.key, notValues: ["shop"] }, from("shop")).allow, true);
});

test("keys and comparisons are what they look like, and nothing else", () => {
  assert.equal(featureOf("features.mesh.score"), "score");
  assert.equal(featureOf("features.mesh.mesh_source"), "mesh_source");
  assert.equal(featureOf("features.mesh.node"), undefined);
  assert.equal(featureOf("source.namespace"), undefined);
  fc.assert(
    fc.property(
      fc.constantFrom(">=", ">", "<=", "<"),
      fc.integer({ min: 0, max: 1000 }),
      fc.integer({ min: 0, max: 1000 }),
      (op, a, b) => {
        const compare = parseComparison(`${op}${a / 1000}`);
        const expected = op === ">=" ? b >= a : op === ">" ? b > a : op === "<=" ? b <= a : b < a;
        assert.equal(compare?.(b / 1000), expected);
      },
    ),
  );
  for (const wrong of ["", "0.6", "=0.6", ">= x", ">=10.5", ">=-1"]) assert.equal(parseComparison(wrong), undefined);
});
