// What a runtime tells of a pod, looked up at an API server that is played.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { systemClock } from "../base/clock.ts";
import { silentLogger } from "../base/log.ts";
import { systemRandom } from "../base/random.ts";
import { ok } from "../base/result.ts";
import type { ApiClient } from "../kubernetes/client.ts";
import { faultOf } from "../kubernetes/fault.ts";
import type { ReflectorMeter } from "../kubernetes/meter.ts";
import { KubernetesPods } from "./kubernetes-pods.ts";

const pod = (name: string) => ({
  metadata: { namespace: "shop", name, uid: `uid-${name}`, resourceVersion: "1" },
  spec: { nodeName: "n1", serviceAccountName: "default" },
});

function setUp(t: TestContext) {
  const dir = mkdtempSync(join(tmpdir(), "pods-"));
  t.after(() => rmSync(dir, { recursive: true, force: true }));
  const server = { labels: {} as Record<string, string>, isAway: false, asked: [] as string[] };
  const api = {
    async send({ path }: { path: string }) {
      server.asked.push(path);
      if (server.isAway) return { ok: false, error: faultOf("network", "refused") };
      const [, name] = /\/pods\/(.+)$/.exec(path) ?? [];
      if (name !== undefined) return ok(pod(name));
      return ok({ metadata: { name: "shop", uid: "n", resourceVersion: "1", labels: server.labels } });
    },
  } as unknown as ApiClient;
  const pods = new KubernetesPods(
    {
      ...{ node: "n1", runDir: dir, excludedNamespaces: [], sandboxedClasses: [], rescanMs: 60_000 },
      places: { cgroup: dir, proc: "/proc", netnsDirs: [] },
      watch: { watchIdleMs: 1_000, watchMs: 1_000, resyncMs: 60_000 },
    },
    { api, clock: systemClock, random: systemRandom, log: silentLogger, meter: () => ({}) as ReflectorMeter },
  );
  const told = async (name: string) => {
    const said = { namespace: "shop", name, uid: `uid-${name}`, netns: "/proc/self/ns/net", ips: ["10.0.0.1"] };
    const record = await pods.told(said);
    return record.ok ? record.value.namespaceLabels : record.error;
  };
  return { server, told };
}

test("[INT-11] a pod that starts right after its namespace was labelled is in the mesh, though the watch is behind", async (t) => {
  const { server, told } = setUp(t);
  assert.deepEqual(await told("before"), {});
  server.labels = { "fairlead.dev/mesh": "enabled" };
  assert.deepEqual(await told("after"), server.labels);
  server.asked.length = 0;
  assert.deepEqual(await told("after"), server.labels);
  assert.deepEqual(server.asked, [], "nothing is asked about what is known to be in the mesh");
});

test("[DP-22] without the API server what is known of a namespace holds; a pod that is not known waits", async (t) => {
  const { server, told } = setUp(t);
  assert.deepEqual(await told("known"), {});
  server.isAway = true;
  assert.deepEqual(await told("known"), {});
  assert.match(String(await told("unknown")), /refused/);
});
