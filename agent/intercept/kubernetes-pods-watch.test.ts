// This node's pods out of a scripted API server and a node made of files.
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { makeHost } from "../../test/kit/fake-host.ts";
import { FakeKubernetes } from "../../test/kit/fake-kubernetes.ts";
import { countingMeter } from "../../test/kit/mirrors.ts";
import { waitFor } from "../../test/kit/wait.ts";
import { systemClock } from "../base/clock.ts";
import { silentLogger } from "../base/log.ts";
import { seededRandom } from "../base/random.ts";
import { createApiClient } from "../kubernetes/client.ts";
import { KubernetesPods, type KubernetesPodsOptions } from "./kubernetes-pods.ts";
import type { PodRecord } from "./pod-record.ts";

const podsPath = "/api/v1/pods";
const namespacesPath = "/api/v1/namespaces";
const enabled = { "fairlead.dev/mesh": "enabled" };

async function setUp(t: TestContext, more: Partial<KubernetesPodsOptions> = {}) {
  const api = await FakeKubernetes.start();
  t.after(() => api[Symbol.asyncDispose]());
  const host = makeHost(t);
  const runDir = mkdtempSync(join(tmpdir(), "fairlead-pods-"));
  t.after(() => rmSync(runDir, { recursive: true, force: true }));
  let pid = 100;
  /** A pod's network as its runtime makes it. */
  const network = (uid: string, ip: string, program = "/pause"): string => {
    pid += 1;
    const netns = host.namespace(`pod-${pid}`);
    const path = host.name(`cni-${pid}`, netns);
    host.process(pid, pid, netns, { ip, words: [program] });
    host.group(`kubepods/pod${uid}/pause`, pid);
    return path;
  };
  const makeSource = async (): Promise<KubernetesPods> => {
    const client = createApiClient(api.access(), systemClock);
    const source = new KubernetesPods(
      {
        node: "n1",
        places: host.places,
        runDir,
        excludedNamespaces: ["kube-system"],
        sandboxedClasses: ["kata*"],
        rescanMs: 600_000,
        watch: { watchIdleMs: 60_000, watchMs: 300_000, resyncMs: 0 },
        ...more,
      },
      { api: client, clock: systemClock, random: seededRandom(1), log: silentLogger, meter: () => countingMeter() },
    );
    t.after(async () => {
      await source.stop();
      client.close();
    });
    await source.start();
    return source;
  };
  const putNamespace = (name: string, labels: Record<string, string>) =>
    api.put(namespacesPath, { metadata: { name, labels } });
  let made = 0;
  const putPod = (
    namespace: string,
    name: string,
    spec: Record<string, unknown> = {},
    status = {},
    labels = {},
  ): string => {
    made += 1;
    const uid = `0b5c7f0e-1111-2222-3333-${String(made).padStart(12, "0")}`;
    // The server gives out uids of its own; a static pod's folders have the one that its node gave it.
    const annotations = { "kubernetes.io/config.hash": uid };
    api.put(podsPath, {
      metadata: { namespace, name, labels, annotations },
      spec: { nodeName: "n1", ...spec },
      status,
    });
    return uid;
  };
  return { api, host, runDir, network, makeSource, putNamespace, putPod };
}
const named = (records: readonly PodRecord[]): readonly string[] =>
  records.map((r) => `${r.namespace}/${r.name}`).sort();

test("[DP-22] [INT-12] pods of the node are records as soon as their network is there; labels of pod and namespace come with them", async (t) => {
  const { api, network, makeSource, putNamespace, putPod } = await setUp(t);
  putNamespace("shop", enabled);
  const spec = { serviceAccountName: "web", containers: [{ livenessProbe: { tcpSocket: { port: 8080 } } }] };
  const uid = putPod("shop", "web", spec);
  const source = await makeSource();
  await source.ready(60_000);
  assert.equal(source.missing(), undefined);
  assert.deepEqual((await source.read()).records, []);
  const path = network(uid, "10.244.1.5");
  const read = await waitFor("found", async () => (await source.read()).records[0]);
  assert.deepEqual(read, {
    namespace: "shop",
    name: "web",
    uid,
    serviceAccount: "web",
    labels: {},
    annotations: {},
    namespaceLabels: enabled,
    namespaceAnnotations: {},
    netns: path,
    ips: ["10.244.1.5"],
    hostNetwork: false,
    probePorts: [8080],
  });
  const asked = api.asked.find((a) => a.path === podsPath);
  assert.equal(asked?.query.get("fieldSelector"), "spec.nodeName=n1");
});

test("[INT-12] a change of a label is told at once, and so is a pod's end", async (t) => {
  const { host, network, makeSource, putNamespace, putPod } = await setUp(t);
  putNamespace("shop", {});
  const uid = putPod("shop", "web");
  network(uid, "10.244.1.5");
  const source = await makeSource();
  await source.ready(60_000);
  let changes = 0;
  const stop = source.watch(() => changes++);
  t.after(stop);
  const [before] = (await source.read()).records;
  assert.deepEqual(before?.namespaceLabels, {});
  const labelled = changes;
  putNamespace("shop", enabled);
  await waitFor("told of the label", () => changes > labelled);
  const found = await waitFor("labelled", async () => (await source.read()).records.find((r) => r.netns !== ""));
  assert.deepEqual(found.namespaceLabels, enabled);
  const ended = changes;
  host.unname(found.netns.slice(found.netns.lastIndexOf("/") + 1));
  host.end(101);
  await waitFor("told of the end", () => changes > ended);
  assert.deepEqual((await source.read()).records, []);
});

test("[DP-22] the API server away: a new agent goes on with what the one before knew, and pods that ended meanwhile are gone", async (t) => {
  const { api, host, runDir, network, makeSource, putNamespace, putPod } = await setUp(t);
  putNamespace("shop", enabled);
  network(putPod("shop", "web"), "10.244.1.5");
  const gone = network(putPod("shop", "old"), "10.244.1.6");
  const first = await makeSource();
  await first.ready(60_000);
  assert.deepEqual(named((await first.read()).records), ["shop/old", "shop/web"]);
  await first.stop();
  api.leave();
  host.unname(gone.slice(gone.lastIndexOf("/") + 1));
  host.end(102);
  const second = await makeSource();
  assert.equal(second.missing(), undefined);
  assert.deepEqual(named((await second.read()).records), ["shop/web"]);
  // What was kept is not forgotten by an agent that has learned nothing new.
  assert.match(readFileSync(join(runDir, "pods.json"), "utf8"), /shop/);
  api.comeBack();
  await second.ready(60_000);
  assert.deepEqual(named((await second.read()).records), ["shop/web"]);
});

test("an agent that knows nothing and cannot ask says why", async (t) => {
  const { api, makeSource } = await setUp(t);
  api.mishap = () => ({ status: 403, body: { kind: "Status", message: "pods is forbidden" } });
  const source = await makeSource();
  await waitFor("said", () => /not known yet: .*403: pods is forbidden/.test(source.missing() ?? ""));
});

test("[INT-11] a pod that the runtime tells of is asked for and known at once, and the watch changes nothing about it", async (t) => {
  const { api, host, makeSource, putNamespace, putPod } = await setUp(t);
  const source = await makeSource();
  await source.ready(60_000);
  // From now on the watch is silent.
  api.mishap = (asked) => (asked.query.get("watch") === "true" ? "hang" : undefined);
  putNamespace("shop", enabled);
  const uid = putPod("shop", "web");
  const path = host.name("cni-1", host.namespace("new"));
  const told = { namespace: "shop", name: "web", uid, netns: "/var/run/netns/cni-1", ips: ["10.244.1.5"] };
  const record = await source.told(told);
  assert.ok(record.ok, JSON.stringify(record));
  assert.deepEqual(
    [record.value.netns, record.value.ips, record.value.namespaceLabels],
    [path, ["10.244.1.5"], enabled],
  );
  assert.deepEqual((await source.read()).records, [record.value]);
  assert.deepEqual(await source.told(told), record);

  const wrong = await source.told({ ...told, uid: "another" });
  assert.match(wrong.ok ? "" : wrong.error, /another one by now/);
  const unknown = await source.told({ ...told, name: "nobody" });
  assert.match(unknown.ok ? "" : unknown.error, /404/);

  source.left(uid);
  assert.deepEqual((await source.read()).records, []);
  await source.told(told);
  assert.equal((await source.read()).records.length, 1);
});

test("[INT-16] [DP-22] [DP-11] pods of the host's network, of excluded namespaces, ended and sandboxed ones", async (t) => {
  const { network, makeSource, putNamespace, putPod } = await setUp(t);
  putNamespace("shop", enabled);
  putNamespace("kube-system", enabled);
  putPod("shop", "host", { hostNetwork: true });
  network(putPod("kube-system", "dns"), "10.244.1.2");
  network(putPod("shop", "job", {}, { phase: "Succeeded" }), "10.244.1.3");
  network(putPod("shop", "kata", { runtimeClassName: "kata-qemu" }), "10.244.1.4");
  network(putPod("shop", "gvisor"), "10.244.1.5", "/usr/bin/runsc-sandbox");
  const source = await makeSource();
  await source.ready(60_000);
  const { records } = await source.read();
  const of = (name: string): PodRecord | undefined => records.find((record) => record.name === name);
  assert.equal(of("host")?.hostNetwork, true);
  assert.equal(of("dns")?.excluded, true);
  assert.equal(of("job"), undefined);
  assert.match(of("kata")?.refused ?? "", /RuntimeClass kata-qemu/);
  assert.match(of("gvisor")?.refused ?? "", /runsc-sandbox/);
});
