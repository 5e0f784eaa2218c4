import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { probePorts, readNodeNamespace, readNodePod } from "./kubernetes-pod.ts";

const raw = (more: Record<string, unknown> = {}, metadata: Record<string, unknown> = {}) => ({
  metadata: { name: "web", namespace: "shop", uid: "u1", ...metadata },
  ...more,
});

test("[DP-10] probe ports: every sort of probe and hook, of containers and init containers, by number and by name", () => {
  const spec = {
    containers: [
      {
        ports: [{ name: "http", containerPort: 8080 }],
        livenessProbe: { httpGet: { port: "http", path: "/" } },
        readinessProbe: { grpc: { port: 9000 } },
        startupProbe: { exec: { command: ["true"] } },
        lifecycle: { postStart: { tcpSocket: { port: 7000 } }, preStop: { httpGet: { port: "8443" } } },
      },
    ],
    initContainers: [{ restartPolicy: "Always", startupProbe: { tcpSocket: { port: 15 } } }],
  };
  assert.deepEqual(probePorts(spec), [15, 7000, 8080, 8443, 9000]);
  // Not to this pod; a name that no port has; not a port.
  const none = {
    containers: [
      {
        livenessProbe: { httpGet: { port: 80, host: "192.0.2.1" } },
        readinessProbe: { tcpSocket: { port: "nothing" } },
        startupProbe: { tcpSocket: { port: 70_000 } },
      },
    ],
  };
  assert.deepEqual(probePorts(none), []);
});

test("a pod as the API has it", () => {
  const pod = readNodePod(
    raw(
      {
        spec: { nodeName: "n1", serviceAccountName: "web", runtimeClassName: "kata", hostNetwork: true },
        status: { phase: "Succeeded", podIP: "10.244.1.5", podIPs: [{ ip: "10.244.1.5" }, { ip: "fd00::5" }] },
      },
      { labels: { app: "web" }, annotations: { "fairlead.dev/bypass": "enabled", huge: "x" } },
    ),
  );
  assert.deepEqual(pod, {
    namespace: "shop",
    name: "web",
    uid: "u1",
    groupUid: "u1",
    serviceAccount: "web",
    labels: { app: "web" },
    annotations: { "fairlead.dev/bypass": "enabled" },
    node: "n1",
    ips: ["10.244.1.5", "fd00::5"],
    hostNetwork: true,
    probePorts: [],
    runtimeClass: "kata",
    hasEnded: true,
  });
});

test("a static pod's folders are named by the hash of its file", () => {
  const hash = { annotations: { "kubernetes.io/config.hash": "3f1e3cbf3f1e3cbf3f1e3cbf3f1e3cbf" } };
  assert.equal(readNodePod(raw({}, hash)).groupUid, "3f1e3cbf3f1e3cbf3f1e3cbf3f1e3cbf");
});

test("whatever shape an object has, nothing is thrown", () => {
  fc.assert(
    fc.property(fc.object(), fc.object(), fc.object(), (spec, status, metadata) => {
      const object = { spec, status, metadata: { ...metadata, name: "web" } };
      assert.equal(readNodePod(object).name, "web");
      assert.deepEqual(Object.keys(readNodeNamespace(object)), ["labels", "annotations"]);
    }),
  );
});
