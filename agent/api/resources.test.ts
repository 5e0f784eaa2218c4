import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { meshResources, workloads } from "../../test/kit/arbitraries.ts";
import * as wire from "./mesh.gen.ts";
import { authorizationFromWire, isL7Rule, operationOf, sourceOf } from "./policy.ts";
import { decodeResource, encodeResource, kindOfTypeUrl, resourceKinds, typeUrlOf } from "./resources.ts";
import { serviceFromWire } from "./service.ts";
import { workloadFromWire, workloadToWire } from "./workload.ts";

test("every resource survives the wire unchanged", () => {
  fc.assert(
    fc.property(meshResources, (resource) => {
      const back = decodeResource(resource.kind, encodeResource(resource));
      assert.ok(back.ok, JSON.stringify(back));
      assert.deepEqual(back.value, resource);
    }),
    { numRuns: 500 },
  );
});

test("equal records have equal bytes, whatever the order of their labels", () => {
  fc.assert(
    fc.property(workloads, (value) => {
      const labels = Object.fromEntries(Object.entries(value.labels).reverse());
      const bytes = (labelled: typeof value) => Buffer.from(encodeResource({ kind: "Workload", value: labelled }));
      assert.deepEqual(bytes({ ...value, labels }), bytes(value));
    }),
  );
});

test("broken bytes are a value, never an exception", () => {
  fc.assert(
    fc.property(fc.constantFrom(...resourceKinds), fc.uint8Array({ maxLength: 200 }), (kind, bytes) => {
      decodeResource(kind, bytes);
    }),
    { numRuns: 2000 },
  );
});

test("[DIS-10] a controller that knows nothing of how Services lead clients says that they lead them anywhere", () => {
  const older = wire.Service.fromPartial({ name: "web", namespace: "shop", hostname: "web.shop.svc.cluster.local" });
  const service = serviceFromWire(older);
  assert.ok(service.ok);
  const { clientAffinityS, nodeLocalAddresses, publishNotReady } = service.value;
  assert.deepEqual([clientAffinityS, nodeLocalAddresses, publishNotReady], [0, [], false]);
  const pod = {
    trustDomain: "cluster.local",
    name: "web-1",
    namespace: "shop",
    services: [{ service: "shop/web", ports: [] }],
  };
  const workload = workloadFromWire(wire.Workload.fromPartial(pod));
  assert.ok(workload.ok);
  assert.deepEqual(workload.value.services, [{ service: "shop/web", ports: [] }]);
});

test("[DIS-9] every wrong field is named in one answer", () => {
  const result = workloadFromWire({
    ...wire.Workload.create(),
    uid: "x",
    namespace: "Bad_Name",
    name: "web",
    serviceAccount: "A B",
    trustDomain: "cluster.local",
    addresses: ["10.0.0.1", "300.0.0.1"],
    tunnel: 9 as wire.Tunnel,
    services: [{ service: "only-a-name", ports: [{ servicePort: 0, targetPort: 70000 }], forZones: [], forNodes: [] }],
  });
  assert.ok(!result.ok);
  assert.deepEqual(result.error.map((p) => p.path).sort(), [
    "addresses[1]",
    "namespace",
    "service_account",
    "services[0].ports[0].service_port",
    "services[0].ports[0].target_port",
    "services[0].service",
    "tunnel",
    "uid",
  ]);
});

test("a workload written by an older controller gets the defaults", () => {
  const [sample] = fc.sample(workloads, 1);
  assert.ok(sample);
  const decoded = workloadFromWire({ ...workloadToWire(sample), weight: 0, hbonePort: 0 });
  assert.ok(decoded.ok);
  assert.equal(decoded.value.weight, 1);
  assert.equal(decoded.value.hbonePort, 15008);
});

test("[DP-24] rules that need a parsed request are recognised", () => {
  const rule = { from: [], to: [], when: [] };
  assert.equal(isL7Rule(rule), false);
  assert.equal(
    isL7Rule({ ...rule, from: [sourceOf({ principals: ["*"] })], to: [operationOf({ ports: ["80"] })] }),
    false,
  );
  assert.equal(isL7Rule({ ...rule, to: [operationOf({ paths: ["/x"] })] }), true);
  assert.equal(isL7Rule({ ...rule, from: [sourceOf({ requestPrincipals: ["*"] })] }), true);
  assert.equal(isL7Rule({ ...rule, when: [{ key: "request.headers[x]", values: ["1"], notValues: [] }] }), true);
});

test("a policy with a port that is none is refused, not ignored", () => {
  const message = {
    ...wire.Authorization.create(),
    name: "p",
    namespace: "ns",
    rules: [{ from: [], to: [{ ...wire.Operation.create(), ports: ["http"] }], when: [] }],
  };
  const result = authorizationFromWire(message);
  assert.ok(!result.ok);
  assert.equal(result.error[0]?.path, "rules[0].to[0].ports[0]");
});

test("type URLs and kinds match both ways", () => {
  for (const kind of resourceKinds) assert.equal(kindOfTypeUrl(typeUrlOf(kind)), kind);
  assert.equal(kindOfTypeUrl("type.googleapis.com/fairlead.v1.Unheard"), undefined);
});
