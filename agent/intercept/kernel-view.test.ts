// Maps: differences only, rows of an earlier agent removed, generation before rows, failures made up for.
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { silentListener, startFakeNative } from "../../test/kit/fake-native.ts";
import type { ServiceName } from "../api/names.ts";
import { systemClock } from "../base/clock.ts";
import { formatIp, parseIp } from "../base/ip.ts";
import { silentLogger } from "../base/log.ts";
import { KernelView, slots } from "./kernel-view.ts";
import { maps, Setting } from "./layout.gen.ts";

const web = "shop/web" as ServiceName;
const backend = (ip: string, weight = 1) => ({ ip, port: 8080, weight });
const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex");

async function setUp(t: TestContext) {
  const native = await startFakeNative(silentListener, systemClock);
  t.after(() => native.close());
  const view = new KernelView(native.channel, silentLogger, 500n, 100);
  const rows = <K, V>(spec: { name: string; key: { decode(b: Uint8Array): K }; value: { decode(b: Uint8Array): V } }) =>
    [...(native.maps.get(spec.name) ?? [])].map(([k, v]) => ({
      key: spec.key.decode(Buffer.from(k, "hex")),
      value: spec.value.decode(Buffer.from(v, "hex")),
    }));
  const generation = () =>
    Buffer.from(native.maps.get("settings")?.get(hex(Uint8Array.of(Setting.policyGeneration, 0, 0, 0))) ?? "", "hex");
  return { native, view, rows, generation };
}

test("[DP-31] how long direct verdicts outlive the agent is told to the kernel once", async (t) => {
  const { view, native } = await setUp(t);
  view.setDirectGrace(30_000);
  assert.ok(await view.flush());
  const written = native.maps.get("settings")?.get(hex(Uint8Array.of(Setting.directGraceNs, 0, 0, 0))) ?? "";
  assert.equal(Buffer.from(written, "hex").readBigUInt64LE(), 30_000_000_000n);
});

test("[DP-6] slots follow the weights; weight 0 gets none while another endpoint has more", () => {
  const ips = (...list: readonly (readonly [string, number])[]) =>
    slots(list.map(([ip, w]) => backend(ip, w))).map((b) => b.ip);
  assert.deepEqual(ips(["a", 2], ["b", 4], ["c", 0]), ["a", "b", "b"]);
  assert.deepEqual(ips(["a", 0], ["b", 0]), ["a", "b"]);
});

test("a service's rows point at backends that are there; a change swaps the number", async (t) => {
  const { view, rows } = await setUp(t);
  view.setService(web, [{ ip: "10.96.0.1", port: 80, backends: [backend("10.244.1.6"), backend("10.244.2.6")] }]);
  assert.ok(await view.flush());
  const [before] = rows(maps.services);
  assert.equal(before?.value.backendCount, 2);
  assert.deepEqual(
    rows(maps.backends)
      .map((r) => formatIp(r.value.ip))
      .sort(),
    ["10.244.1.6", "10.244.2.6"],
  );
  view.setService(web, [{ ip: "10.96.0.1", port: 80, backends: [backend("10.244.2.6")] }]);
  assert.ok(await view.flush());
  const [after] = rows(maps.services);
  assert.notEqual(after?.value.service, before?.value.service);
  assert.deepEqual(
    rows(maps.backends).map((r) => r.key.service),
    [after?.value.service],
  );
  view.setService(web, []);
  assert.ok(await view.flush());
  assert.deepEqual([rows(maps.services), rows(maps.backends)], [[], []]);
});

test("[DP-18] rows that an earlier agent left and nobody wants go with the first flush", async (t) => {
  const { native, view, rows } = await setUp(t);
  const row = { source: 7, ip: "10.244.1.9", port: 5432, verdict: 3, bypass: false };
  const stale = maps.verdicts.key.encode({ identity: 7, port: 1, ip: parseIp("10.244.1.9") ?? new Uint8Array(16) });
  native.maps.set("verdicts", new Map([[hex(stale), hex(new Uint8Array(24))]]));
  view.setDirect("a>b", [row]);
  assert.ok(await view.flush());
  assert.deepEqual(
    rows(maps.verdicts).map((r) => r.key.port),
    [5432],
  );
});

test("[DP-18] what another agent wrote and removed meanwhile is made right when that is said", async (t) => {
  const { native, view, rows, generation } = await setUp(t);
  view.setDirect("a>b", [{ source: 7, ip: "10.244.1.9", port: 5432, verdict: 3, bypass: false }]);
  view.setSpeaker("10.244.2.6", true);
  assert.ok(await view.flush());
  const foreign = maps.tunnelSpeakers.key.encode({ ip: parseIp("10.244.2.7") ?? new Uint8Array(16) });
  native.maps.set("tunnel_speakers", new Map([[hex(foreign), hex(new Uint8Array(8))]]));
  native.maps.set("verdicts", new Map());
  const policyGeneration = hex(Uint8Array.of(Setting.policyGeneration, 0, 0, 0));
  native.maps.get("settings")?.set(policyGeneration, hex(new Uint8Array(8)));
  view.readAgain();
  assert.ok(await view.flush());
  const speakers = rows(maps.tunnelSpeakers).map((r) => formatIp(r.key.ip));
  const verdicts = rows(maps.verdicts).map((r) => [r.key.port, r.value.generation]);
  assert.deepEqual([speakers, verdicts], [["10.244.2.6"], [[5432, 501n]]]);
  assert.equal(generation().readBigUInt64LE(), 501n);
});

test("[SEC-2] a direct row that goes raises the generation, and the remaining rows carry it", async (t) => {
  const { view, rows, generation } = await setUp(t);
  const row = (port: number) => ({ source: 7, ip: "10.244.1.9", port, verdict: port, bypass: false });
  view.setDirect("a>b", [row(1), row(2)]);
  assert.ok(await view.flush());
  assert.equal(generation().readBigUInt64LE(), 500n);
  const { removed } = view.setDirect("a>b", [row(2)]);
  assert.deepEqual(
    removed.map((r) => r.port),
    [1],
  );
  view.raiseGeneration();
  assert.ok(await view.flush());
  assert.equal(generation().readBigUInt64LE(), 501n);
  assert.deepEqual(
    rows(maps.verdicts).map((r) => [r.key.port, r.value.generation]),
    [[2, 501n]],
  );
});

test("a second flush without changes sends nothing", async (t) => {
  const { native, view } = await setUp(t);
  view.setSpeaker("10.244.2.6", true);
  await view.flush();
  const before = native.calls.length;
  await view.flush();
  view.setSpeaker("10.244.2.6", true);
  await view.flush();
  assert.equal(native.calls.length, before);
});

test("after a failed update the map is read and made right", async (t) => {
  const { native, view, rows } = await setUp(t);
  view.setSpeaker("10.244.2.6", true);
  await view.flush();
  native.answers.set("map.put", () => ({ error: { code: "map_full", message: "no room" } }));
  view.setSpeaker("10.244.2.7", true);
  assert.equal(await view.flush(), false);
  native.answers.delete("map.put");
  view.setSpeaker("10.244.2.6", false);
  assert.equal(await view.flush(), true);
  assert.deepEqual(
    rows(maps.tunnelSpeakers).map((r) => formatIp(r.key.ip)),
    ["10.244.2.7"],
  );
});

test("weights become slots, bounded, none lost", () => {
  const times = (weights: readonly number[]) => {
    const list = slots(weights.map((weight, i) => backend(`10.0.0.${i}`, weight)));
    return weights.map((_, i) => list.filter((b) => b.ip === `10.0.0.${i}`).length);
  };
  assert.deepEqual(times([1, 1]), [1, 1]);
  assert.deepEqual(times([10, 20]), [1, 2]);
  const [small = 0, large = 0] = times([1, 100_000]);
  assert.ok(small === 1 && large <= 256);
});
