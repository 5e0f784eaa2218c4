// What is kept from change to change is what a translation from nothing gives, whatever happened before.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { encodeResource, resourceName } from "../../agent/api/resources.ts";
import { defaultSettings } from "../../agent/api/settings.ts";
import { clusterHistory, type Step } from "../../test/kit/histories.ts";
import { ClusterIndex } from "../index/cluster-index.ts";
import { refKey, refOf } from "../sources/types.ts";
import type { Condition } from "./conditions.ts";
import { Contest } from "./contest.ts";
import { translate } from "./translate.ts";
import { Translator } from "./translator.ts";

const options = {
  settings: defaultSettings,
  rootNamespace: "istio-system",
  allocations: new Map<string, readonly string[]>(),
  pools: { v4: "10.97.0.0/27", v6: "fd00:97::/123" },
};
const origin = { file: "kubernetes", line: 0 };

function play(index: ClusterIndex, step: Step): void {
  if (step.kind === "put") index.apply(step.object, origin);
  else index.delete(step.ref);
}
const bytesOf = (resources: ReturnType<Translator["resources"]>): ReadonlyMap<string, string> =>
  new Map(resources.map((r) => [`${r.kind} ${resourceName(r)}`, Buffer.from(encodeResource(r)).toString("base64")]));
const byKey = (conditions: readonly Condition[]): ReadonlyMap<string, Condition> =>
  new Map(conditions.map((condition) => [refKey(condition.object), condition]));

test("[DIS-1] [PRF-3] whatever came and went before, resources and conditions are those of a translation from nothing", () => {
  fc.assert(
    fc.property(clusterHistory, (rounds) => {
      const index = new ClusterIndex();
      const translator = new Translator(index, options);
      // What somebody knows who hears of changes alone.
      const heard = new Map<string, string>();
      const said = new Map<string, Condition>();
      for (const { steps, unenrolled } of rounds) {
        for (const step of steps) play(index, step);
        const { allocations } = translator;
        const { resources, conditions } = translator.update(unenrolled);
        for (const { kind, name, resource } of resources) {
          if (resource === undefined) heard.delete(`${kind} ${name}`);
          else heard.set(`${kind} ${name}`, Buffer.from(encodeResource(resource)).toString("base64"));
        }
        for (const { before, after } of conditions) {
          const key = refKey((after ?? before ?? assert.fail()).object);
          assert.deepEqual(said.get(key), before);
          if (after === undefined) said.delete(key);
          else said.set(key, after);
        }
        const fresh = translate(index, { ...options, allocations, unenrolled });
        assert.deepEqual(bytesOf(translator.resources()), bytesOf(fresh.resources));
        assert.deepEqual(heard, bytesOf(fresh.resources));
        assert.deepEqual(translator.conditions(), fresh.conditions);
        assert.deepEqual(said, byKey(fresh.conditions));
        assert.deepEqual(translator.allocations, fresh.allocations);
        assert.deepEqual(translator.settings, fresh.settings);
        assert.equal(fresh.conditions.length, index.size, "every object is told of once");
      }
    }),
    { numRuns: 300 },
  );
});

test("[DP-30] a change of one pod is one changed resource, and the records of all others are the same objects", () => {
  fc.assert(
    fc.property(clusterHistory, fc.nat(), (rounds, pick) => {
      const index = new ClusterIndex();
      const translator = new Translator(index, options);
      for (const { steps } of rounds) for (const step of steps) play(index, step);
      translator.update(new Map());
      const pods = index.all("Pod").filter(({ object }) => !object.spec.hostNetwork && object.status.podIPs.length > 0);
      const entry = pods[pick % Math.max(1, pods.length)];
      if (entry === undefined) return;
      const before = new Map(translator.resources().map((r) => [`${r.kind} ${resourceName(r)}`, r.value]));
      const { object } = entry;
      index.apply(
        { ...object, metadata: { ...object.metadata, labels: { ...object.metadata.labels, x: "1" } } },
        origin,
      );
      const { resources } = translator.update(new Map());
      assert.ok(resources.length <= 1, JSON.stringify(resources.map((r) => r.name)));
      for (const resource of translator.resources()) {
        const key = `${resource.kind} ${resourceName(resource)}`;
        if (resource.kind === "Workload" && key !== `Workload ${resources[0]?.name}`)
          assert.equal(resource.value, before.get(key));
      }
    }),
    { numRuns: 100 },
  );
});

test("a contest settled step by step ends as one that begins anew", () => {
  const name = fc.constantFrom("a", "b", "c", "d", "e");
  const items = fc.uniqueArray(fc.constantFrom("1", "2", "3", "4"), { maxLength: 3 });
  const claims = fc.array(fc.tuple(name, items, fc.boolean()), { maxLength: 25 });
  fc.assert(
    fc.property(claims, (all) => {
      const kept = new Contest();
      const now = new Map<string, readonly string[]>();
      const order = new Map([..."abcde"].map((claimant, i) => [claimant, i]));
      for (const [claimant, claimed, isSettled] of all) {
        kept.claim(claimant, claimed, order.get(claimant) ?? 0);
        now.set(claimant, claimed);
        if (isSettled) kept.settle();
      }
      kept.settle();
      const owners = new Map<string, string>();
      for (const [claimant] of order) {
        const own = now.get(claimant) ?? [];
        const taken = own.find((item) => owners.has(item));
        assert.deepEqual(
          kept.lossOf(claimant),
          taken === undefined ? undefined : { item: taken, owner: owners.get(taken) },
        );
        if (taken === undefined) for (const item of own) owners.set(item, claimant);
      }
      for (const item of "1234") assert.equal(kept.ownerOf(item), owners.get(item));
    }),
  );
});

test("[DIS-10] a slice written by hand reaches pods by their addresses, and others as endpoints of their own", () => {
  const index = new ClusterIndex();
  const translator = new Translator(index, options);
  const put = (object: unknown): void => index.apply(object as Parameters<ClusterIndex["apply"]>[0], origin);
  for (const object of Object.values(byHand)) put(object);
  translator.update(new Map());
  const records = translator.resources().flatMap((r) => (r.kind === "Workload" ? [r.value] : []));
  const served = records.map(({ name, addresses, services }) => [name, addresses, services]);
  const services = [{ service: "shop/db", ports: [{ servicePort: 5432, targetPort: 15432 }] }];
  assert.deepEqual(served, [
    ["db-1", ["10.0.0.7"], services],
    ["endpoint-fd00--7", ["fd00::7"], services],
  ]);
  assert.equal(index.delete(refOf(byHand.slice as never)), true);
  translator.update(new Map());
  const left = translator.resources().flatMap((r) => (r.kind === "Workload" ? [[r.value.name, r.value.services]] : []));
  assert.deepEqual(left, [["db-1", []]]);
});

const meta = (name: string, namespace: string, labels: Readonly<Record<string, string>> = {}) => ({
  name,
  namespace,
  labels,
  uid: "",
  annotations: {},
  deletionTimestamp: "",
  creationTimestamp: "",
  generation: 0,
});
const byHand = {
  namespace: { kind: "Namespace", metadata: meta("shop", "") },
  service: {
    kind: "Service",
    metadata: meta("db", "shop"),
    spec: {
      type: "ClusterIP",
      clusterIP: "10.96.3.3",
      clusterIPs: ["10.96.3.3"],
      externalIPs: [],
      externalName: "",
      ipFamilies: [],
      ports: [{ name: "pg", protocol: "TCP", appProtocol: "", port: 5432, targetPort: undefined, nodePort: 0 }],
      selector: {},
      publishNotReadyAddresses: false,
    },
    status: { loadBalancer: { ingress: [] } },
  },
  slice: {
    kind: "EndpointSlice",
    metadata: meta("by-hand", "shop", { "kubernetes.io/service-name": "db" }),
    addressType: "IPv4",
    endpoints: ["10.0.0.7", "FD00:0::7"].map((address) => ({
      addresses: [address],
      conditions: { ready: true, terminating: false },
      targetRef: undefined,
      nodeName: "",
      zone: "",
    })),
    ports: [{ name: "pg", port: 15432, protocol: "TCP" }],
  },
  pod: {
    kind: "Pod",
    metadata: meta("db-1", "shop"),
    spec: { nodeName: "n1", serviceAccountName: "", hostNetwork: false, containers: [], initContainers: [] },
    status: {
      phase: "Running",
      podIP: "10.0.0.7",
      podIPs: [{ ip: "10.0.0.7" }],
      hostIP: "",
      hostIPs: [],
      conditions: [{ type: "Ready", status: "True" }],
      containerStatuses: [],
    },
  },
};
