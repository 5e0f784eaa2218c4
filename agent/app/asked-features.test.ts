// What `explain` is told of the enricher's findings, and what it names where it is told nothing.
import assert from "node:assert/strict";
import { test } from "node:test";
import { authorization, localPod, mesh, workload } from "../../test/kit/mesh.ts";
import { subjectOf } from "../decide/inbound.ts";
import { askedFeatures, featuresOf, neededFeatures } from "./asked-features.ts";
import { askedRequest, headOf, judgeRequest } from "./explain-request.ts";

const pod = localPod(workload("shop", "a", "10.244.1.6"));
const when = (key: string, ...values: string[]) => ({ key, values, notValues: [] });
const deny = authorization(
  "risky",
  [{ when: [when("features.mesh.score", ">=0.6"), when("features.mesh.zone", "z1")] }],
  {
    action: "deny",
  },
);

test("[SEC-10] [ENR-3] a request is explained with what the enricher is said to find out; what was not said is named", () => {
  const state = mesh({ authorizations: [deny] });
  const ask = (query: string) => {
    const asked = askedRequest(new URLSearchParams(query));
    assert.ok(asked.ok && asked.value !== undefined);
    const { features } = asked.value;
    const from = { ip: "10.244.1.5", identity: null };
    const verdict = judgeRequest(state, pod, { ip: "10.244.1.6", port: 80 }, from, headOf(asked.value, "a"), features);
    return [verdict.allow, verdict.policy, neededFeatures(state, subjectOf(state, pod), features)];
  };
  assert.deepEqual(ask("path=/"), [true, undefined, ["features.mesh.score", "features.mesh.zone"]]);
  assert.deepEqual(ask("feature=mesh.score=0.7"), [true, undefined, ["features.mesh.zone"]]);
  assert.deepEqual(ask("feature=mesh.score=0.7&feature=features.mesh.zone=z1"), [false, "shop/risky", []]);
  assert.deepEqual(ask("feature=mesh.score=0.5&feature=mesh.zone=z1"), [true, undefined, []]);
});

test("[SEC-10] a feature that nobody knows, or a score that is none, is refused with what to write", () => {
  for (const [feature, why] of [
    ["mesh.colour=red", /is not mesh\.KEY=VALUE/],
    ["mesh.zone", /is not mesh\.KEY=VALUE/],
    ["zone=z1", /is not mesh\.KEY=VALUE/],
    ["mesh.score=high", /is no score: write it as 0\.6/],
  ] as const) {
    const asked = askedFeatures([feature]);
    assert.ok(!asked.ok);
    assert.match(asked.error, why);
  }
  assert.deepEqual(askedFeatures([]), { ok: true, value: new Map() });
  assert.equal(featuresOf(new Map()), undefined);
});
