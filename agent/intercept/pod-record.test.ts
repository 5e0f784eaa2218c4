// Pod records: what is refused and why, who is in the mesh, what annotations ask for.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { domain } from "../../test/kit/mesh.ts";
import { defaultSettings } from "../api/settings.ts";
import { canonicalIp, parseCidr } from "../base/ip.ts";
import { localPodOf, type PodRecord, parsePodRecord, podOptions, wantsMesh } from "./pod-record.ts";

const base = {
  namespace: "shop",
  name: "web",
  uid: "u1",
  serviceAccount: "web",
  labels: {},
  annotations: {},
  namespaceLabels: { "fairlead.dev/mesh": "enabled" },
  namespaceAnnotations: {},
  netns: "/run/netns/x",
  ips: ["10.244.1.5", "FD00:244:1::5"],
  hostNetwork: false,
  probePorts: [8080],
};
const record = (more: object = {}): PodRecord => {
  const parsed = parsePodRecord(JSON.stringify({ ...base, ...more }));
  assert.ok(parsed.ok, JSON.stringify(parsed));
  return parsed.value;
};

test("a record is read with addresses in their one spelling", () => {
  assert.deepEqual(record().ips, ["10.244.1.5", "fd00:244:1::5"]);
  const pod = localPodOf(record(), domain, "node1");
  assert.equal(pod.identity, "spiffe://cluster.local/ns/shop/sa/web");
});

test("every wrong field is named at once", () => {
  const parsed = parsePodRecord(
    JSON.stringify({ ...base, name: "Bad_Name", ips: ["1.2.3"], probePorts: [0], netns: 7 }),
  );
  assert.ok(!parsed.ok);
  for (const field of ["name", "ips[0]", "probePorts[0]", "netns"])
    assert.ok(parsed.error.includes(`${field}:`), parsed.error);
  assert.ok(!parsePodRecord("{").ok);
  assert.ok(!parsePodRecord("[]").ok);
});

test("[INT-16] a pod on the host's network is never in the mesh, whatever its labels say", () => {
  const host = record({ hostNetwork: true, labels: { "fairlead.dev/mesh": "enabled" } });
  assert.equal(wantsMesh(host, defaultSettings).enrol, false);
});

test("the pod's label wins over its namespace's; the mesh's exclusions win over both", () => {
  const wish = (more: object) => wantsMesh(record(more), defaultSettings).enrol;
  assert.equal(wish({}), true);
  assert.equal(wish({ namespaceLabels: {} }), false);
  assert.equal(wish({ labels: { "fairlead.dev/mesh": "disabled" } }), false);
  assert.equal(wish({ namespaceLabels: {}, labels: { "fairlead.dev/mesh": "enabled" } }), true);
  assert.equal(wish({ namespace: "kube-system", labels: { "fairlead.dev/mesh": "enabled" } }), false);
});

test("[INT-13] exclusions by annotation; what cannot be read is reported and the rest holds", () => {
  const options = podOptions(
    record({
      annotations: {
        "fairlead.dev/exclude-outbound-ports": "5432, 99999,6379",
        "fairlead.dev/exclude-outbound-cidrs": "10.0.0.0/8,nonsense",
        "fairlead.dev/exclude-inbound-ports": "9090",
      },
    }),
  );
  assert.deepEqual(options.outboundPorts, [5432, 6379]);
  assert.deepEqual(options.outboundCidrs, ["10.0.0.0/8"]);
  assert.deepEqual(options.inboundPorts, [9090]);
  assert.equal(options.problems.length, 2);
  assert.match(options.problems[0] ?? "", /exclude-outbound-ports.*99999/);
});

test("[INT-14] the fail mode: pod over namespace, neither means by mTLS mode", () => {
  const key = "fairlead.dev/fail-mode";
  assert.equal(podOptions(record()).failOpen, undefined);
  assert.equal(podOptions(record({ namespaceAnnotations: { [key]: "open" } })).failOpen, true);
  assert.equal(
    podOptions(record({ namespaceAnnotations: { [key]: "open" }, annotations: { [key]: "closed" } })).failOpen,
    false,
  );
});

test("[INT-13] any text and any annotations are a value: a record that is taken is one that can be used, what cannot be read is told", () => {
  const odd = fc.oneof(
    fc.jsonValue(),
    fc.constantFrom<unknown>("shop", "10.0.0.1", ["10.0.0.1"], [80], { a: "b" }, { a: 1 }),
  );
  const keys = Object.keys(base) as (keyof typeof base)[];
  const changed = fc.tuple(fc.subarray(keys), fc.array(odd, { minLength: 9, maxLength: 9 }));
  const texts = fc.oneof(
    fc.string({ unit: "binary" }),
    fc.json(),
    changed.map(([names, values]) =>
      JSON.stringify({ ...base, ...Object.fromEntries(names.map((n, i) => [n, values[i]])) }),
    ),
  );
  fc.assert(
    fc.property(texts, (text) => {
      const parsed = parsePodRecord(text);
      if (!parsed.ok) return assert.notEqual(parsed.error, "");
      const { ips, labels, annotations, probePorts } = parsed.value;
      assert.ok(ips.every((ip) => canonicalIp(ip) === ip));
      for (const texts of [labels, annotations])
        assert.ok(Object.values(texts).every((one) => typeof one === "string"));
      assert.ok(probePorts.every((port) => Number.isInteger(port) && port > 0 && port < 65_536));
      assert.equal(typeof localPodOf(parsed.value, domain, "node1").identity, "string");
      wantsMesh(parsed.value, defaultSettings);
      podOptions(parsed.value);
    }),
    { numRuns: 1_000 },
  );
  const names = ["exclude-outbound-ports", "exclude-inbound-ports", "exclude-outbound-cidrs", "fail-mode", "bypass"];
  const said = fc.oneof(
    fc.string(),
    fc
      .array(fc.oneof(fc.integer({ min: -1, max: 70_000 }), fc.ipV4(), fc.constantFrom("::/0", "10.0.0.0/8", "")), {
        maxLength: 4,
      })
      .map(String),
  );
  fc.assert(
    fc.property(fc.constantFrom(...names), said, (name, value) => {
      const { outboundPorts, inboundPorts, outboundCidrs, failOpen, bypass, problems } = podOptions(
        record({ annotations: { [`fairlead.dev/${name}`]: value } }),
      );
      for (const port of [...outboundPorts, ...inboundPorts])
        assert.ok(Number.isInteger(port) && port > 0 && port < 65_536);
      assert.ok(outboundCidrs.every((block) => parseCidr(block) !== undefined));
      assert.ok([true, false, undefined].includes(failOpen));
      assert.equal(bypass, name === "bypass" && value === "enabled");
      assert.ok(problems.every((problem) => problem.includes(name)));
    }),
    { numRuns: 1_000 },
  );
});
