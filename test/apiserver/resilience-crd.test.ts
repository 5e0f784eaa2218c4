// The CRD of ResiliencePolicy on a real API server: it takes what the controller takes, fills in the same defaults, and says what is wrong.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import fc from "fast-check";
import { parse } from "yaml";
import { readObject, resources } from "../../controller/sources/kubernetes/resources.ts";
import { skipApi, withApiServer } from "../cluster/kit.ts";
import { ApiError, type KubeApi, type KubeObject } from "../cluster/kubernetes/api.ts";
import { anySpec } from "../kit/resilience-specs.ts";
import { waitFor } from "../kit/wait.ts";

const resource = resources.find((r) => r.kind === "ResiliencePolicy");
assert.ok(resource !== undefined);
const root = "/apis/mesh.fairlead.dev/v1alpha1/namespaces/default/resiliencepolicies";
const policy = (spec: unknown): KubeObject => ({
  apiVersion: "mesh.fairlead.dev/v1alpha1",
  kind: "ResiliencePolicy",
  metadata: { name: "p", namespace: "default" },
  spec,
});
/** What the server makes of it, without keeping it; a text is its refusal. */
async function judged(api: KubeApi, object: KubeObject): Promise<KubeObject | string> {
  try {
    return JSON.parse(await api.call("POST", `${root}?dryRun=All&fieldValidation=Strict`, object)) as KubeObject;
  } catch (error) {
    if (error instanceof ApiError && (error.status === 422 || error.status === 400)) return error.message;
    throw error;
  }
}
const read = (object: KubeObject) => readObject(resource, object as never);

test("[RES-1] the definition", { skip: skipApi, timeout: 3_600_000 }, async (t) => {
  await withApiServer(async ({ api }) => {
    await api.apply(parse(readFileSync("manifests/crds/resiliencepolicies.yaml", "utf8")) as KubeObject);
    await waitFor("the kind is served", () =>
      judged(api, policy({ targetRefs: [{ name: "web" }] })).then(Boolean, () => false),
    );

    await t.test("[RES-1] API server and controller take the same objects, with the same defaults", async () => {
      let taken = 0;
      let refused = 0;
      await fc.assert(
        fc.asyncProperty(fc.array(anySpec(["web", "cart", "a.b"]), { minLength: 8, maxLength: 8 }), async (specs) => {
          await Promise.all(
            specs.map(async (spec) => {
              const answer = await judged(api, policy(spec));
              const ours = read(policy(spec));
              const why = ours.problems.map((p) => `${p.field}: ${p.message}`);
              if (typeof answer === "string") {
                refused += 1;
                assert.ok(ours.problems.length > 0, `the server alone refuses ${JSON.stringify(spec)}: ${answer}`);
                return;
              }
              taken += 1;
              // No schema can say whether a text is an expression: that is told by a condition.
              const isToBeTold = why.every((text) => text.includes("not a regular expression"));
              assert.ok(isToBeTold, `the controller alone refuses ${JSON.stringify(spec)}: ${why.join("; ")}`);
              const stored = read({ ...answer, metadata: { name: "p", namespace: "default" } });
              assert.deepEqual(stored.object, ours.object, `defaults differ: ${JSON.stringify(answer.spec)}`);
            }),
          );
        }),
        { numRuns: 40, endOnFailure: true },
      );
      assert.ok(taken >= 60 && refused >= 60, `${taken} taken, ${refused} refused`);
    });
  });
});
