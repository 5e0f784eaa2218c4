// What `fairlead install` makes of the rendered manifests, and when it says that they are rolled out.
import assert from "node:assert/strict";
import { test } from "node:test";
import { manifestsFrom, rolloutOf, withAgentEnv } from "./install.ts";

const text = `---
# nothing but a comment
---
apiVersion: apps/v1
kind: DaemonSet
metadata: { name: agent, namespace: fairlead-system }
spec: { template: { spec: { containers: [{ name: agent, image: fairlead.dev/agent:0.1.0 }] } } }
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: { name: a }
---
apiVersion: v1
kind: Namespace
metadata: { name: fairlead-system }
`;
const imageIn = (prefix?: string, tag?: string): string =>
  /"image":"([^"]+)"/.exec(JSON.stringify(manifestsFrom(text, prefix, tag)))?.[1] ?? "";

test("[OPS-3] namespaces and definitions come first, empty documents count for nothing", () => {
  const kinds = manifestsFrom(text, undefined, undefined).map((m) => m.kind);
  assert.deepEqual(kinds, ["Namespace", "CustomResourceDefinition", "DaemonSet"]);
});

test("[OPS-3] images are taken from elsewhere where asked", () => {
  assert.equal(imageIn(), "fairlead.dev/agent:0.1.0");
  assert.equal(imageIn("registry.local:5000/mesh"), "registry.local:5000/mesh/agent:0.1.0");
  assert.equal(imageIn(undefined, "next"), "fairlead.dev/agent:next");
});

test("[OPS-3] settings of the agents take the place of those of the same name", () => {
  const [, , daemonSet] = manifestsFrom(
    text.replace("image: fairlead.dev", "env: [{ name: A, value: x }, { name: B }], image: fairlead.dev"),
    undefined,
    undefined,
  );
  assert.ok(daemonSet);
  const env = /"env":(\[.*?\])/.exec(JSON.stringify(withAgentEnv(daemonSet, { A: "y", C: "z" })))?.[1];
  assert.equal(env, '[{"name":"B"},{"name":"A","value":"y"},{"name":"C","value":"z"}]');
});

test("[OPS-3] rolled out is what its controller has seen, of this version and available", () => {
  const daemonSet = (status: object) => ({ kind: "DaemonSet", metadata: { generation: 2 }, status });
  assert.match(rolloutOf(daemonSet({ observedGeneration: 1 })) ?? "", /not seen/);
  const seen = { observedGeneration: 2, desiredNumberScheduled: 3 };
  assert.equal(rolloutOf(daemonSet({ ...seen, updatedNumberScheduled: 1 })), "1 of 3 pods are of this version");
  assert.equal(
    rolloutOf(daemonSet({ ...seen, updatedNumberScheduled: 3, numberAvailable: 2 })),
    "2 of 3 pods are ready",
  );
  assert.equal(rolloutOf(daemonSet({ ...seen, updatedNumberScheduled: 3, numberAvailable: 3 })), undefined);
  const deployment = { kind: "Deployment", metadata: { generation: 1 }, spec: { replicas: 2 } };
  assert.equal(rolloutOf({ ...deployment, status: { observedGeneration: 1 } }), "0 of 2 pods are of this version");
  assert.equal(
    rolloutOf({ ...deployment, status: { observedGeneration: 1, updatedReplicas: 2, availableReplicas: 2 } }),
    undefined,
  );
});
