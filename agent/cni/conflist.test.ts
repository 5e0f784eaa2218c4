// Chaining: whatever another CNI writes stays as it is, ours is the last plugin and there once.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { chained, configFiles, isBeforeOurs, maxConfigBytes, ownFile, pluginType } from "./conflist.ts";

const entry = { socket: "/run/fairlead/cni.sock", excludedNamespaces: ["kube-system"] };
const own = { type: pluginType, ...entry };
const list = { cniVersion: "1.0.0", name: "pods", plugins: [{ type: "ptp", mtu: 1500 }, { type: "portmap" }] };
const made = (value: unknown): Record<string, unknown> => {
  const result = chained(JSON.stringify(value), entry);
  assert.ok(result.ok, JSON.stringify(result));
  return JSON.parse(result.value);
};
const refused = (text: string): string => {
  const result = chained(text, entry);
  assert.ok(!result.ok, text);
  return result.error;
};

test("[INT-11] a list gets our plugin as its last one", () => {
  assert.deepEqual(made(list), { ...list, plugins: [...list.plugins, own] });
  assert.deepEqual(made({ ...list, disableCheck: true, x: [1] }).x, [1]);
});

test("[INT-11] a single plugin becomes a list of two", () => {
  const single = { cniVersion: "0.3.1", name: "net", type: "bridge", ipam: { type: "host-local" } };
  const plugins = [{ type: "bridge", ipam: { type: "host-local" } }, own];
  assert.deepEqual(made(single), { cniVersion: "0.3.1", name: "net", plugins });
});

test("[INT-11] an entry of ours that is there already is replaced", () => {
  const stale = { type: pluginType, socket: "/old" };
  assert.deepEqual(made({ ...list, plugins: [stale, ...list.plugins, stale] }), made(list));
});

test("[INT-11] what is no configuration is told by its field", () => {
  assert.match(refused("{"), /not JSON/);
  assert.match(refused("[]"), /not a JSON object/);
  assert.match(refused("{}"), /neither plugins nor a type/);
  assert.match(refused(JSON.stringify({ ...list, cniVersion: "0.2.0" })), /^cniVersion: "0.2.0" is none of 0.3.0/);
  assert.match(refused(JSON.stringify({ ...list, name: 7 })), /^name/);
  assert.match(refused(JSON.stringify({ ...list, plugins: [] })), /no plugin but ours/);
  assert.match(refused(JSON.stringify({ ...list, plugins: [own] })), /no plugin but ours/);
  assert.match(refused(JSON.stringify({ ...list, plugins: [{ type: "a" }, {}] })), /^plugins\[1\].type/);
  assert.match(refused(" ".repeat(maxConfigBytes + 1)), /longer/);
});

test("[INT-11] the first file by bytes is the node's, ours goes before it, what is no configuration does not count", () => {
  const names = [
    "99-loopback.conf",
    ownFile,
    "10-calico.conflist",
    "b.json",
    "10-calico.conflist.tmp",
    "readme",
    "10-B.conf",
  ];
  assert.deepEqual(configFiles(names), ["10-B.conf", "10-calico.conflist", "99-loopback.conf", "b.json"]);
  for (const name of ["00-multus.conf", "0000.conf", "05-cilium.conflist", "A.conf"])
    assert.equal(isBeforeOurs(name), false);
  assert.equal(isBeforeOurs("-.conf"), true);
});

test("[INT-11] any text is chained or refused, and chaining what was chained changes nothing", () => {
  const plugin = fc.record(
    { type: fc.constantFrom("ptp", "portmap", pluginType, ""), x: fc.jsonValue() },
    { requiredKeys: [] },
  );
  const config = fc.record(
    {
      cniVersion: fc.constantFrom("0.3.1", "1.0.0", "1.1.0", "2", 1),
      name: fc.constantFrom("pods", ""),
      type: fc.constantFrom("bridge", 3),
      plugins: fc.oneof(fc.array(plugin), fc.jsonValue()),
      extra: fc.jsonValue(),
    },
    { requiredKeys: [] },
  );
  fc.assert(
    fc.property(
      fc.oneof(
        fc.string(),
        fc.json(),
        config.map((c) => JSON.stringify(c)),
      ),
      (text) => {
        const once = chained(text, entry);
        if (!once.ok) return once.error.length > 0;
        const { plugins } = JSON.parse(once.value);
        assert.deepEqual(plugins.at(-1), own);
        assert.equal(plugins.filter((p: { type: string }) => p.type === pluginType).length, 1);
        assert.deepEqual(chained(once.value, entry), once);
        return true;
      },
    ),
    { numRuns: 500 },
  );
});
