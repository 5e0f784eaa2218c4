// Which endpoints a client may use, compared with what kube-proxy does, worded anew here.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { member, mesh, service, workload } from "../../test/kit/mesh.ts";
import type { NodeName } from "../api/names.ts";
import type { Service } from "../api/service.ts";
import type { Workload } from "../api/workload.ts";
import { isOuterAddress, serviceEndpoints, whyNone } from "./service-endpoints.ts";

const from = { node: "n1", zone: "a", region: "" };
const plain = service("shop", "web", "10.96.0.1", [{ port: 80 }]);
const local = { ...plain, addresses: ["10.96.0.1", "192.0.2.1"], nodeLocalAddresses: ["10.96.0.1"] };

interface Pod {
  readonly node?: string;
  readonly ready?: boolean;
  readonly nodeSilent?: boolean;
  readonly draining?: boolean;
  readonly forZones?: readonly string[];
  readonly forNodes?: readonly string[];
}
function podsOf(pods: readonly Pod[]): Workload[] {
  return pods.map(({ node = "n1", ready = true, draining = false, nodeSilent, ...hints }, i) =>
    workload("shop", `p${i}`, `10.244.0.${i + 1}`, {
      ...{ node: node as NodeName, ready, draining, ...(nodeSilent && { nodeSilent }) },
      services: [{ ...member("shop", "web", 80, 8080), ...hints }],
    }),
  );
}
function endpoints(of: Service, pods: readonly Pod[], more: { isOuter?: boolean; zone?: string } = {}) {
  const { zone = "a", isOuter = false } = more;
  const state = mesh({ services: [of], workloads: podsOf(pods) });
  const [port] = of.ports;
  assert.ok(port);
  return serviceEndpoints(state, of, port, { from: { ...from, zone }, family: 4, isOuter });
}
const used = (...asked: Parameters<typeof endpoints>): number[] =>
  endpoints(...asked).flatMap(({ leftOut, workload: { name } }) =>
    leftOut === undefined ? [Number(name.slice(1))] : [],
  );

test("[DIS-10] hints hold where every ready endpoint has one and one is for the client's own zone or node", () => {
  const zones = [{ forZones: ["a"] }, { forZones: ["b"] }, { forZones: ["b", "a"] }];
  assert.deepEqual(used(plain, zones), [0, 2]);
  assert.deepEqual(used(plain, zones, { zone: "c" }), [0, 1, 2], "no endpoint is for that zone");
  assert.deepEqual(used(plain, zones, { zone: "" }), [0, 1, 2], "nobody knows where the client is");
  assert.deepEqual(used(plain, [...zones, {}]), [0, 1, 2, 3], "one has no hint");
  assert.deepEqual(used(plain, [...zones, { ready: false }]), [0, 2], "but that one is not ready");
  const nodes = [
    { forNodes: ["n1"], forZones: ["a"] },
    { forNodes: ["n2"], forZones: ["a"] },
  ];
  assert.deepEqual(used(plain, nodes), [0]);
  assert.deepEqual(
    used(plain, [{ ...nodes[0], ready: false }, nodes[1] as Pod]),
    [1],
    "the zone's, where the node has none",
  );
});

test("[DIS-10] a node-local address leads to the client's own node and nowhere else; one from outside to every node", () => {
  const pods = [{ node: "n2" }, { node: "n1" }, { node: "n1", ready: false }];
  assert.deepEqual(used(local, pods), [1]);
  assert.deepEqual(used(local, pods, { isOuter: true }), [0, 1]);
  assert.deepEqual(isOuterAddress(local, "192.0.2.1"), true);
  assert.deepEqual(isOuterAddress(local, "10.96.0.1"), false);
  assert.deepEqual(isOuterAddress(plain, "192.0.2.1"), false);
  assert.equal(whyNone(endpoints(local, [{ node: "n2" }])), "no_local_endpoint");
  assert.equal(whyNone(endpoints(local, [{ node: "n2", ready: false }])), "no_endpoints");
  assert.deepEqual(used(local, [{ draining: true }, { node: "n2" }]), [0], "one that ends, rather than nobody");
  const hinted = [{ forZones: ["b"] }, { forZones: ["a"], node: "n2" }];
  assert.deepEqual(used(local, hinted), [0], "of its own node, whatever zone it is for");
});

test("[DIS-6] pods whose nodes are not heard of are used where a service has no other, and nowhere else", () => {
  const silent = { ready: false, nodeSilent: true };
  assert.deepEqual(used(plain, [silent, {}, silent]), [1], "a ready one is better");
  assert.deepEqual(
    used(plain, [silent, { ready: false }, { ...silent, node: "n2" }]),
    [0, 2],
    "the control plane was away",
  );
  assert.deepEqual(
    used(plain, [{ ...silent, draining: true }, { ready: false }]),
    [],
    "one that ends is not ready either",
  );
  assert.deepEqual(used(local, [{ node: "n2" }, silent]), [1], "of its own node, where that is asked for");
});

test("[DIS-10] publishNotReadyAddresses: endpoints are used before they are ready and while they end", () => {
  const early = { ...plain, publishNotReady: true };
  const pods = [{ ready: false }, { draining: true }, {}];
  assert.deepEqual(used(plain, pods), [2]);
  assert.deepEqual(used(early, pods), [0, 1, 2]);
});

test("[DIS-10] [DIS-6] generated services: as kube-proxy chooses", () => {
  const some = fc.option(fc.subarray(["a", "b"], { minLength: 1 }), { nil: undefined });
  const nodes = fc.option(fc.subarray(["n1", "n2"], { minLength: 1 }), { nil: undefined });
  const pods = fc.array(
    fc.record({
      node: fc.constantFrom("n1", "n2"),
      ready: fc.boolean(),
      draining: fc.boolean(),
      forZones: some,
      forNodes: nodes,
    }),
    { maxLength: 5 },
  );
  const services = fc.record({ isLocal: fc.boolean(), publishNotReady: fc.boolean() });
  fc.assert(
    fc.property(pods, services, fc.boolean(), fc.constantFrom("a", "c", ""), (given, wish, isOuter, zone) => {
      const asked = { ...(wish.isLocal ? local : plain), publishNotReady: wish.publishNotReady };
      const clean = given.map(({ forZones, forNodes, ...pod }) => ({
        ...pod,
        ...(forZones === undefined ? {} : { forZones }),
        ...(forNodes === undefined ? {} : { forNodes }),
      }));
      assert.deepEqual(
        used(asked, clean, { isOuter, zone }),
        kubeProxy(clean, { ...wish, isLocal: wish.isLocal && !isOuter }, zone),
      );
    }),
    { numRuns: 2_000 },
  );
});

/** After its CategorizeEndpoints: sets of ready and of serving endpoints first, then where they are. */
function kubeProxy(
  pods: readonly Pod[],
  { isLocal, publishNotReady }: { isLocal: boolean; publishNotReady: boolean },
  zone: string,
): number[] {
  const all = pods.map((pod, index) => ({ ...pod, index }));
  const isReady = (pod: Pod): boolean => publishNotReady || (pod.ready === true && pod.draining !== true);
  const isServing = (pod: Pod): boolean => pod.ready === true && pod.draining === true;
  const near = isLocal ? all.filter((pod) => pod.node === "n1") : all;
  const ready = near.filter(isReady);
  if (ready.length === 0) return near.filter(isServing).map(({ index }) => index);
  if (isLocal) return ready.map(({ index }) => index);
  const byNode = ready.filter((pod) => pod.forNodes?.includes("n1"));
  const byZone = ready.filter((pod) => pod.forZones?.includes(zone));
  let chosen = ready;
  if (ready.every((pod) => pod.forNodes) && byNode.length > 0) chosen = byNode;
  else if (ready.every((pod) => pod.forZones) && zone !== "" && byZone.length > 0) chosen = byZone;
  return chosen.map(({ index }) => index);
}
