import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { names } from "../../test/kit/arbitraries.ts";
import {
  defaultTrustDomain,
  type NodeName,
  nodeId,
  parseSpiffeId,
  parseTrustDomain,
  parseWorkloadUid,
  partsOf,
  workloadId,
  workloadUid,
} from "./names.ts";

test("[IDN-2] identities format and parse to the same parts", () => {
  fc.assert(
    fc.property(names, names, (namespace, account) => {
      const id = workloadId(defaultTrustDomain, namespace, account);
      assert.equal(id, `spiffe://cluster.local/ns/${namespace}/sa/${account}`);
      assert.ok(parseSpiffeId(id).ok);
      assert.deepEqual(partsOf(id), {
        kind: "workload",
        trustDomain: "cluster.local",
        namespace,
        serviceAccount: account,
      });
      assert.equal(partsOf(nodeId(defaultTrustDomain, account as NodeName)).kind, "node");
      assert.ok(parseWorkloadUid(workloadUid(defaultTrustDomain, namespace, account)).ok);
    }),
  );
});

test("[IDN-2] anything that is not exactly an identity is refused", () => {
  const good = "spiffe://cluster.local/ns/a/sa/b";
  assert.ok(parseSpiffeId(good).ok);
  for (const bad of [
    "",
    "SPIFFE://cluster.local/ns/a/sa/b",
    "spiffe://cluster.local/ns/a/sa/b/",
    "spiffe://cluster.local/ns/a/sa/b?x",
    "spiffe://cluster.local/ns/a/sa/b#x",
    "spiffe://cluster.local:80/ns/a/sa/b",
    "spiffe://u@cluster.local/ns/a/sa/b",
    "spiffe://Cluster.local/ns/a/sa/b",
    "spiffe:///ns/a/sa/b",
    "spiffe://cluster.local/ns//sa/b",
    "spiffe://cluster.local/ns/../sa/b",
    "spiffe://cluster.local/ns/a/sa/b\n",
    "spiffe://cluster.local/ns/a%2e/sa/b",
    "spiffe://cluster.local/node/",
    "spiffe://cluster.local/node/a/b",
  ]) {
    assert.equal(parseSpiffeId(bad).ok, false, JSON.stringify(bad));
  }
  assert.equal(parseTrustDomain("a".repeat(256)).ok, false);
});
