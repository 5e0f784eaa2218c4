// What the operator makes of a view that changes while it reads from the API server.
import assert from "node:assert/strict";
import { test } from "node:test";
import { defaultPolicy } from "../../agent/api/http-policy.ts";
import { ok } from "../../agent/base/result.ts";
import type { ApiClient } from "../../agent/kubernetes/client.ts";
import { ClusterIndex } from "../index/cluster-index.ts";
import type { MeshObject } from "../sources/types.ts";
import type { Condition } from "../translate/conditions.ts";
import { finalizer, policyAddress } from "./carry-out.ts";
import { type MeshView, ResilienceOperator } from "./resilience-operator.ts";

const metadata = {
  ...{ name: "p", namespace: "shop", uid: "u", labels: {}, annotations: {} },
  ...{ deletionTimestamp: "", creationTimestamp: "", generation: 1 },
};
const policy = {
  kind: "ResiliencePolicy",
  metadata,
  spec: {
    ...{ isEnabled: true, policy: defaultPolicy, fault: undefined, tarpit: undefined, divert: undefined },
    targetRefs: [{ group: "", kind: "Service", namespace: "", name: "web" }],
    render: { httpRoutes: true, serviceAnnotations: false },
  },
} as unknown as MeshObject;
const condition = (type: string, isTrue: boolean, reason: string): object => ({
  ...{ type, status: isTrue ? "True" : "False", reason, message: "", observedGeneration: 1 },
});
/** Its Service is there, or not yet. */
const said = (isThere: boolean): Condition =>
  ({
    ...{ object: { kind: "ResiliencePolicy", namespace: "shop", name: "p" }, origin: { file: "", line: 0 } },
    ...{ accepted: isThere, reason: isThere ? "Accepted" : "TargetNotFound", message: "", field: "", fix: "" },
    ...{ resources: [], generation: 1 },
    status: {
      observedGeneration: 1,
      appliedToServices: isThere ? ["shop/web"] : [],
      conditions: [
        condition("TargetServiceNotFound", !isThere, "TargetServiceNotFound"),
        condition("Ready", isThere, isThere ? "Applied" : "TargetServiceNotFound"),
      ],
    },
  }) as unknown as Condition;

test("[RES-8] a policy is not Ready before its routes are there, though its Service comes while the operator looks", async () => {
  const index = new ClusterIndex();
  index.apply(policy, { file: "", line: 0 });
  let isThere = false;
  const view: MeshView = {
    index,
    problems: [],
    conditionOf: () => said(isThere),
    serviceRecord: () =>
      ({ ports: [{ port: 80, protocol: "http" }], headless: false, externalName: "" }) as unknown as ReturnType<
        MeshView["serviceRecord"]
      >,
  };
  const present = { metadata: { ...metadata, deletionTimestamp: undefined, finalizers: [finalizer] } };
  const api: ApiClient = {
    async send({ path }) {
      // The translation that knows of the Service is there with the first answer.
      isThere = true;
      return ok(path.endsWith("/resiliencepolicies/p") ? present : { metadata: { name: "crd" }, items: [] });
    },
    watch: () => assert.fail("nothing is watched"),
    close: () => {},
  };
  const operator = new ResilienceOperator(0, api, view);
  /** What is written in one run, in order. */
  const run = async (): Promise<readonly string[]> => {
    const told: string[] = [];
    for (const desired of await operator.desired("shop/p")) {
      const isPolicy = desired.at.kind === policyAddress("", "").kind;
      const change = desired.change(isPolicy ? present : undefined, 0);
      if (change === undefined || change.kind === "delete") continue;
      const { status } = change.fields as { status?: { conditions: readonly { type: string; status: string }[] } };
      const ready = status?.conditions.find((c) => c.type === "Ready");
      told.push(ready === undefined ? desired.at.kind : `Ready ${ready.status}`);
    }
    return told;
  };
  assert.ok(!(await run()).includes("Ready True"));
  assert.deepEqual(await run(), ["HTTPRoute", "Ready True"]);
});
