// What the plugin's questions come to, with pods that are played.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { PodName } from "../api/names.ts";
import { systemClock } from "../base/clock.ts";
import { silentLogger } from "../base/log.ts";
import { createMetrics } from "../base/metrics.ts";
import { err, ok, type Result } from "../base/result.ts";
import type { CniPod } from "../cni/protocol.ts";
import { readConfig } from "../config.ts";
import type { PodStatus } from "../intercept/enrol.ts";
import { Cni } from "./cni.ts";

const pod: CniPod = {
  ...{ containerId: "one", namespace: "shop", name: "cart", uid: "u1", netns: "/run/netns/x", netnsInode: 7 },
  ...{ interface: "eth0", addresses: ["10.1.2.3"] },
};
const identity = "spiffe://cluster.local/ns/shop/sa/cart";
const status = (changes: Partial<PodStatus>): PodStatus => ({
  ...{ pod: "shop/cart" as PodName, enrolled: false, state: "out", reason: "the reason" },
  ...changes,
});

function played(enrol: Result<PodStatus, string>, statuses: readonly PodStatus[] = []) {
  const config = readConfig({}, "/project");
  assert.ok(config.ok);
  const seen: string[] = [];
  const cni = new Cni({
    ...{ config: config.value, clock: systemClock, log: silentLogger, metrics: createMetrics() },
    pods: {
      excludedNamespaces: ["kube-system"],
      async enrolNow(told) {
        seen.push(`enrol ${JSON.stringify(told)}`);
        return enrol;
      },
      leaveNow: async (uid) => void seen.push(`leave ${uid}`),
      async sync() {
        seen.push("sync");
        return statuses;
      },
    },
    settled: async (id) => void seen.push(`settled ${id}`),
  });
  return { cni, seen };
}
const add = { command: "add", pod } as const;

test("[INT-11] a pod that belongs to the mesh starts when it is enrolled and its identity has been waited for", async () => {
  const { cni, seen } = played(ok(status({ enrolled: true, state: "enrolled", identity })));
  assert.deepEqual(await cni.answer(add), { outcome: "ok", reason: "in the mesh: the reason" });
  const told = { namespace: "shop", name: "cart", uid: "u1", netns: "/run/netns/x", ips: ["10.1.2.3"] };
  assert.deepEqual(seen, [`enrol ${JSON.stringify(told)}`, `settled ${identity}`]);
});

test("[INT-11] [DP-11] a pod outside starts at once, one that can never be enrolled too", async () => {
  for (const state of ["out", "refused"] as const) {
    const { cni, seen } = played(ok(status({ state })));
    assert.deepEqual(await cni.answer(add), { outcome: "ok", reason: "the reason" });
    assert.equal(seen.length, 1);
  }
});

test("[DP-22] a pod that is not known yet, or could not be enrolled, waits and is tried again", async () => {
  const unknown = await played(err("the API server does not answer")).cni.answer(add);
  assert.deepEqual(unknown, {
    ...{ outcome: "failed", code: "not_known", retry: true },
    message: "pod shop/cart cannot be looked up yet: the API server does not answer",
  });
  for (const state of ["failed", "leaving"] as const) {
    const answer = await played(ok(status({ state }))).cni.answer(add);
    assert.deepEqual(answer, {
      ...{ outcome: "failed", code: "not_enrolled", retry: true },
      message: "pod shop/cart is not in the mesh yet: the reason",
    });
  }
});

test("[DP-21] a pod's end is passed on; that of an earlier sandbox is not, nor one whose network has gone", async () => {
  const { cni, seen } = played(ok(status({})));
  const del = (changes: Partial<CniPod>) => cni.answer({ command: "del", pod: { ...pod, ...changes } });
  await del({ uid: "of an earlier agent" });
  assert.deepEqual(seen.splice(0), ["leave of an earlier agent"]);
  await cni.answer(add);
  await cni.answer({ command: "add", pod: { ...pod, containerId: "two" } });
  seen.length = 0;
  assert.equal((await del({})).outcome, "ok");
  assert.equal((await del({ containerId: "two", netns: "" })).outcome, "ok");
  assert.deepEqual(seen, []);
  await del({ containerId: "two" });
  assert.deepEqual(seen, ["leave u1"]);
});

test("[INT-11] CHECK tells whether the pod is as it should be, GC looks for what has ended", async () => {
  const known = (changes: Partial<PodStatus>) => played(ok(status({})), [status(changes)]).cni;
  const check = { command: "check", pod } as const;
  assert.equal((await known({ enrolled: true, state: "strict" }).answer(check)).outcome, "ok");
  assert.equal((await known({}).answer(check)).outcome, "ok");
  assert.equal((await known({ state: "failed" }).answer(check)).outcome, "failed");
  assert.equal((await played(ok(status({}))).cni.answer(check)).outcome, "failed");
  const { cni, seen } = played(ok(status({})));
  assert.equal((await cni.answer({ command: "gc" })).outcome, "ok");
  assert.deepEqual(seen, ["sync"]);
});
