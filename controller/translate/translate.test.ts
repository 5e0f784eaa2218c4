import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { decodeResource, encodeResource, resourceName } from "../../agent/api/resources.ts";
import { defaultSettings } from "../../agent/api/settings.ts";
import { authorization, namespace, peerAuthentication, pod, service } from "../../test/kit/objects.ts";
import { ClusterIndex } from "../index/cluster-index.ts";
import { parseManifests } from "../sources/parse.ts";
import { allocate } from "./cluster-ips.ts";
import { translate } from "./translate.ts";

const options = {
  settings: defaultSettings,
  rootNamespace: "istio-system",
  allocations: new Map<string, readonly string[]>(),
  unenrolled: new Map<string, string>(),
};
function indexOf(texts: readonly string[]): ClusterIndex {
  const index = new ClusterIndex();
  for (const { object, origin } of parseManifests(texts.join("\n---\n"), "f.yaml").objects) index.apply(object, origin);
  return index;
}

const name = fc.constantFrom("a", "b", "c", "web", "x.y");
const space = fc.constantFrom("shop", "bank", "gone", "default");
const ip = fc.constantFrom("", "10.0.0.1", "10.0.0.2", "fd00::1", "nonsense");
const labels = fc.constantFrom({}, { app: "a" }, { app: "b" });
const manifests = fc.oneof(
  fc.tuple(space, fc.boolean()).map(([n, m]) => namespace(n, m)),
  fc
    .tuple(space, name, ip, labels, fc.boolean())
    .map(([n, p, address, l, hostNetwork]) => pod(n, p, address, { labels: l, hostNetwork })),
  fc
    .tuple(
      space,
      name,
      fc.constantFrom(
        {},
        { clusterIP: "10.96.0.20" },
        { clusterIP: "None" },
        { type: "ExternalName", externalName: "x.example" },
        { selector: {} },
      ),
    )
    .map(([n, s, spec]) => service(n, s, spec)),
  fc.tuple(space, name, labels).map(([n, p, l]) => authorization(n, p, { selector: { matchLabels: l }, rules: [{}] })),
  fc
    .tuple(fc.oneof(space, fc.constant("istio-system")), name)
    .map(([n, p]) => peerAuthentication(n, p, { mtls: { mode: "STRICT" } })),
);

test("[SEC-10] a ResiliencePolicy in dry run holds for nothing, and another for the same Service does", () => {
  const policy = (name: string, annotations: object): string =>
    JSON.stringify({
      apiVersion: "mesh.fairlead.dev/v1alpha1",
      kind: "ResiliencePolicy",
      metadata: { name, namespace: "shop", annotations },
      spec: { targetRefs: [{ kind: "Service", name: "web" }], connectionPool: { maxRequests: 1 } },
    });
  const trial = policy("a-trial", { "istio.io/dry-run": "true" });
  const base = [namespace("shop", true), service("shop", "web", { clusterIP: "10.96.0.20" })];
  const told = (...texts: readonly string[]) => {
    const { resources, conditions } = translate(indexOf([...base, ...texts]), options);
    const routings = resources.flatMap((r) => (r.kind === "HttpRouting" ? [r.value.policy.sources] : []));
    return { routings, reasons: conditions.filter((c) => c.object.kind === "ResiliencePolicy").map((c) => c.reason) };
  };
  assert.deepEqual(told(trial), { routings: [], reasons: ["DryRun"] });
  assert.deepEqual(told(trial, policy("b", {})), { routings: [["shop/b"]], reasons: ["DryRun", "Accepted"] });
  assert.deepEqual(told(policy("a-trial", { "istio.io/dry-run": "false" })).reasons, ["Accepted"]);
});

test("[DIS-9] whatever the folder holds, every resource is one that agents accept, and every object has a condition", () => {
  fc.assert(
    fc.property(fc.array(manifests, { maxLength: 25 }), (texts) => {
      const index = indexOf(texts);
      const { resources, conditions } = translate(index, options);
      const names = new Set<string>();
      const owners = new Map<string, string>();
      for (const resource of resources) {
        const back = decodeResource(resource.kind, encodeResource(resource));
        assert.ok(back.ok, JSON.stringify(back));
        const key = `${resource.kind} ${resourceName(resource)}`;
        assert.ok(!names.has(key), `${key} twice`);
        names.add(key);
        if (resource.kind !== "Service") continue;
        for (const address of resource.value.addresses) {
          assert.equal(owners.get(address), undefined, `${address} belongs to two services`);
          owners.set(address, key);
        }
      }
      assert.equal(conditions.length, index.size);
    }),
    { numRuns: 300 },
  );
});

test("[DP-30] a pod's change changes one resource, however many services it belongs to", () => {
  const base = [
    namespace("shop"),
    service("shop", "one", { selector: { app: "web" } }),
    service("shop", "two", { selector: { app: "web" } }),
  ];
  const pods = (ready: string) =>
    ["1", "2", "3"].map((n) => pod("shop", `web-${n}`, `10.0.0.${n}`).replace('"True"', n === "2" ? ready : '"True"'));
  const bytes = (ready: string) =>
    new Map(
      translate(indexOf([...base, ...pods(ready)]), options).resources.map((r) => [
        `${r.kind} ${resourceName(r)}`,
        Buffer.from(encodeResource(r)).toString("hex"),
      ]),
    );
  const [before, after] = [bytes('"True"'), bytes('"False"')];
  assert.deepEqual(
    [...after].filter(([key, value]) => before.get(key) !== value).map(([key]) => key),
    ["Workload cluster.local/shop/web-2"],
  );
});

test("[DIS-6] a pod that is not ready only because its node is not heard of is told apart from one that says so itself", () => {
  const told = (conditions: Readonly<Record<string, string>>, gates: readonly string[] = []) => {
    const made = JSON.parse(pod("shop", "web", "10.0.0.1"));
    made.status.conditions = Object.entries(conditions).map(([type, status]) => ({ type, status }));
    made.spec.readinessGates = gates.map((conditionType) => ({ conditionType }));
    const { resources } = translate(indexOf([namespace("shop"), JSON.stringify(made)]), options);
    return resources.flatMap((r) => (r.kind === "Workload" ? [[r.value.ready, r.value.nodeSilent === true]] : []));
  };
  const [True, False] = ["True", "False"];
  assert.deepEqual(told({ Ready: True, ContainersReady: True }), [[true, false]]);
  assert.deepEqual(told({ Ready: False, ContainersReady: False }), [[false, false]]);
  assert.deepEqual(told({ Ready: False, ContainersReady: True }), [[false, true]], "its kubelet would say it of both");
  assert.deepEqual(told({ Ready: False, ContainersReady: True, mine: False }, ["mine"]), [[false, false]], "a gate");
  assert.deepEqual(told({ Ready: False, ContainersReady: True }, ["mine"]), [[false, false]], "a gate that nobody set");
  assert.deepEqual(told({ Ready: False, ContainersReady: True, mine: True }, ["mine"]), [[false, true]]);
});

test("given addresses never move: not by other services, not by a restart, and freed ones come back", () => {
  const names = Array.from({ length: 300 }, (_, i) => `svc-${i}`);
  const addressesOf = (services: readonly string[], allocations: ReadonlyMap<string, readonly string[]>) =>
    translate(indexOf([namespace("shop"), ...services.map((n) => service("shop", n))]), {
      ...options,
      allocations,
      pools: { v4: "10.96.0.0/23", v6: "fd00:96::/119" },
    }).allocations;
  const first = addressesOf(names.slice(0, 150), new Map());
  const second = addressesOf(names.toReversed(), first);
  for (const [service, ips] of first) assert.deepEqual(second.get(service), ips);
  assert.equal(new Set([...second.values()].flat()).size, 600);
  const fresh = addressesOf(names.slice(0, 150), new Map());
  assert.deepEqual([...fresh], [...first], "without any memory the same folder gives the same addresses");
  // 512 addresses less the reserved ones: the last services are told, the others go on.
  const many = Array.from({ length: 520 }, (_, i) => service("shop", `many-${i}`));
  const { conditions } = translate(indexOf([namespace("shop"), ...many]), {
    ...options,
    pools: { v4: "10.96.0.0/23", v6: "fd00:96::/112" },
  });
  assert.equal(conditions.filter((c) => c.reason === "AddressesExhausted").length, 520 - 501);
});

test("allocation gives every address of a pool once, then none", () => {
  const taken = new Set<string>();
  for (let i = 0; i < 256 - 11; i++) {
    const address = allocate("10.1.2.0/24", `s-${i}`, taken);
    assert.ok(address !== undefined && !taken.has(address) && !/[.][0-9]$|[.]255$/.test(address));
    taken.add(address);
  }
  assert.equal(allocate("10.1.2.0/24", "one-more", taken), undefined);
});

test("[DP-9] no tunnel is announced for a pod that its agent could not enrol", () => {
  const index = indexOf([namespace("shop"), pod("shop", "web-1", "10.0.0.1")]);
  const tunnel = (unenrolled: ReadonlyMap<string, string>) =>
    translate(index, { ...options, unenrolled }).resources.flatMap((r) =>
      r.kind === "Workload" ? [r.value.tunnel] : [],
    );
  assert.deepEqual(tunnel(new Map()), ["fairlead/1"]);
  assert.deepEqual(tunnel(new Map([["shop/web-1", "no cgroup"]])), ["none"]);
});

test("[DP-6] hostPort and hostIP of a pod become addresses of its node; UDP and pods on the host's network have none", () => {
  const spec = (ports: string, more = "") => `apiVersion: v1
kind: Pod
metadata: {name: p}
spec: {nodeName: n1, ${more}containers: [{name: c, ports: ${ports}}]}
status: {podIP: 10.0.0.1, hostIP: 10.250.1.2, hostIPs: [{ip: 10.250.1.2}, {ip: "fd00:250:1::2"}]}`;
  const hostPorts = (text: string) =>
    translate(indexOf([text]), options).resources.flatMap((r) => (r.kind === "Workload" ? r.value.hostPorts : []));
  assert.deepEqual(hostPorts(spec("[{containerPort: 80, hostPort: 8081}]")), [
    { address: "10.250.1.2", port: 8081, targetPort: 80 },
    { address: "fd00:250:1::2", port: 8081, targetPort: 80 },
  ]);
  assert.deepEqual(hostPorts(spec('[{containerPort: 80, hostPort: 8081, hostIP: "fd00:250:1::2"}]')), [
    { address: "fd00:250:1::2", port: 8081, targetPort: 80 },
  ]);
  assert.deepEqual(hostPorts(spec("[{containerPort: 53, hostPort: 53, protocol: UDP}]")), []);
  assert.deepEqual(hostPorts(spec("[{containerPort: 80, hostPort: 80}]", "hostNetwork: true, ")), []);
});

test("[IDN-8] a PeerAuthentication that another one overrules says so: the older holds, without ages the stricter", () => {
  const policy = (name: string, mode: string, created = "") =>
    `apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: ${name}, creationTimestamp: ${created || '""'}}\nspec: {mtls: {mode: ${mode}}}`;
  const reasons = (...texts: readonly string[]) =>
    translate(indexOf([pod("default", "p", "10.0.0.1"), ...texts]), options)
      .conditions.filter((c) => c.object.kind === "PeerAuthentication")
      .map((c) => `${c.object.name} ${c.reason}`);
  assert.deepEqual(reasons(policy("a", "STRICT"), policy("b", "PERMISSIVE")), ["a Accepted", "b Overruled"]);
  const [old, young] = ["2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"];
  assert.deepEqual(reasons(policy("a", "STRICT", young), policy("b", "PERMISSIVE", old)), [
    "a Overruled",
    "b Accepted",
  ]);
  assert.deepEqual(reasons(policy("a", "UNSET"), policy("b", "STRICT")), ["a Accepted", "b Accepted"]);
});
