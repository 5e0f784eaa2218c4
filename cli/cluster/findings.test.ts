// What is found of facts: minimums, nodes, an installation; pure.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import {
  aboutGatewayApi,
  aboutInstallation,
  aboutKubernetes,
  aboutNodes,
  aboutRights,
  type InstalledFacts,
  memoryOf,
  versionOf,
} from "./findings.ts";

const crd = (version: string) => ({
  metadata: { annotations: { "gateway.networking.k8s.io/bundle-version": version } },
});
const node = (name: string, kernelVersion: string, more: object = {}, memory = "16Gi") => ({
  metadata: { name },
  status: {
    allocatable: { memory },
    nodeInfo: { kernelVersion, operatingSystem: "linux", architecture: "amd64", ...more },
  },
});

test("[OPS-3] the least versions of Kubernetes and Gateway API are checked, and what to do is said", () => {
  assert.equal(aboutKubernetes({ gitVersion: "v1.30.0" }).state, "ok");
  assert.equal(aboutKubernetes({ gitVersion: "v1.36.3-eks-1" }).state, "ok");
  assert.deepEqual(aboutKubernetes({ gitVersion: "v1.29.9" }), {
    about: "Kubernetes",
    state: "failed",
    message: "v1.29.9 is older than 1.30",
    fix: "upgrade the cluster to 1.30 or newer",
  });
  assert.equal(aboutKubernetes({}).state, "warning");
  assert.equal(aboutGatewayApi(crd("v1.1.0")).state, "ok");
  assert.equal(aboutGatewayApi(crd("v1.0.1")).state, "failed");
  assert.equal(aboutGatewayApi(undefined).state, "warning");
  assert.equal(aboutGatewayApi({ metadata: {} }).state, "warning");
});

test("[OPS-3] versions compare as numbers, whatever follows them", () => {
  fc.assert(
    fc.property(fc.nat(400), fc.nat(400), fc.constantFrom("", ".3", "-gke.1", "+k3s2"), (major, minor, rest) => {
      assert.deepEqual(versionOf(`v${major}.${minor}${rest}`), [major, minor]);
      const isEnough = major > 1 || (major === 1 && minor >= 30);
      assert.equal(aboutKubernetes({ gitVersion: `v${major}.${minor}${rest}` }).state, isEnough ? "ok" : "failed");
    }),
  );
});

test("[OPS-3] each node that lacks something is named with what it lacks", () => {
  assert.deepEqual(
    aboutNodes([node("a", "6.8.0-45-generic"), node("b", "5.18.0")]).map((f) => f.message),
    ["2 of 2 with Linux 5.18 or newer, amd64 or arm64"],
  );
  const found = aboutNodes([
    node("a", "6.8.0"),
    node("old", "5.4.0-100"),
    node("odd", "6.8.0", { architecture: "riscv64" }),
    node("win", "10.0.20348", { operatingSystem: "windows" }),
    node("small", "6.8.0", {}, "400Mi"),
  ]);
  assert.deepEqual(
    found.map((f) => [f.about, f.state]),
    [
      ["nodes", "ok"],
      ["node old", "warning"],
      ["node odd", "failed"],
      ["node win", "warning"],
      ["node small", "failed"],
    ],
  );
  assert.match(found[1]?.message ?? "", /5\.4\.0-100 is older than 5\.18: nftables/);
  assert.equal(aboutNodes([])[0]?.state, "failed");
});

test("quantities of memory are read as Kubernetes writes them", () => {
  assert.equal(memoryOf("16Gi"), 2 ** 34);
  assert.equal(memoryOf("8000000Ki"), 8_000_000 * 1024);
  assert.equal(memoryOf("1.5G"), 1.5e9);
  assert.equal(memoryOf("128974848"), 128_974_848);
  assert.equal(memoryOf("many"), undefined);
});

test("missing rights are named", () => {
  assert.equal(aboutRights([]).state, "ok");
  assert.match(aboutRights(["create namespaces"]).message, /^you may not create namespaces$/);
});

const day = 86_400_000;
const fine = {
  phase: "ready",
  version: "0.1.0",
  interception: "ebpf",
  directLane: true,
  discovery: { connected: true },
  certificates: { troubled: [] },
  foreignHooks: [],
};
const facts = (more: Partial<InstalledFacts> = {}): InstalledFacts => ({
  daemonSet: { status: { desiredNumberScheduled: 2, numberReady: 2 } },
  deployment: { spec: { replicas: 2 }, status: { readyReplicas: 2 } },
  agents: [
    { node: "n1", value: fine },
    { node: "n2", value: fine },
  ],
  controller: {
    value: {
      ca: { trustDomain: "cluster.local", intermediateNotAfter: new Date(100 * day).toISOString() },
      objects: [],
    },
  },
  ...more,
});
const states = (of: InstalledFacts): readonly string[] =>
  aboutInstallation(of, 0)
    .filter((f) => f.state !== "ok")
    .map((f) => `${f.state} ${f.about}: ${f.message}`);

test("[OPS-3] an installation that works has nothing but good findings", () => {
  assert.deepEqual(states(facts()), []);
});

test("[OPS-3] what does not work is found: agents, replicas, certificates, controller, versions, CA, objects", () => {
  const agents: InstalledFacts["agents"] = [
    { node: "n1", error: "nothing listens" },
    { node: "n2", value: { ...fine, discovery: { connected: false, problem: "refused" }, version: "0.2.0" } },
    { node: "n3", value: { ...fine, certificates: { troubled: [{}] }, phase: "starting" } },
    {
      node: "n4",
      value: { ...fine, directLane: false, interception: "nftables", interceptionReason: "no BTF", foreignHooks: [{}] },
    },
  ];
  const object = { kind: "HTTPRoute", namespace: "shop", name: "web", accepted: false };
  const found = states(
    facts({
      daemonSet: { status: { desiredNumberScheduled: 4, numberReady: 3 } },
      deployment: { spec: { replicas: 2 }, status: {} },
      agents,
      controller: {
        value: {
          ca: { intermediateNotAfter: new Date(3 * day).toISOString() },
          objects: [object, object, object, object],
        },
      },
    }),
  );
  assert.deepEqual(found, [
    "failed agents: ready on 3 of 4 nodes",
    "failed controller: 0 of 2 replicas are ready",
    "failed agent of n1: does not answer: nothing listens",
    "failed agent of n2: has no controller: refused",
    "failed agent of n3: is starting",
    "failed agent of n3: 1 certificates are missing or late",
    "warning agent of n4: intercepts with nftables, without the direct lane: no BTF",
    "warning agent of n4: 1 connect hooks of others run after ours",
    "warning versions: agents of 0.2.0 and 0.1.0 run",
    "warning CA: its certificate ends in 3 days",
    "failed objects: refused: HTTPRoute shop/web, HTTPRoute shop/web, HTTPRoute shop/web and 1 more",
  ]);
  assert.ok(
    states(facts({ controller: { error: "no answer" } })).includes("failed controller: does not answer: no answer"),
  );
  assert.ok(states(facts({ controller: { value: {} } })).some((line) => line.startsWith("warning CA:")));
});
