// The controller on a real API server: what it mirrors with the rights of its manifest, and what becomes of that when the server or etcd dies.
import assert from "node:assert/strict";
import { randomInt } from "node:crypto";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { typeUrlOf } from "../../agent/api/resources.ts";
import { guarded, testClusterName } from "../cluster/kit.ts";
import type { KubeApi, KubeObject } from "../cluster/kubernetes/api.ts";
import { adminApi } from "../cluster/kubernetes/credentials.ts";
import { cacheFolder, clusterPaths } from "../cluster/paths.ts";
import { clusterStatus } from "../cluster/status.ts";
import { up } from "../cluster/up.ts";
import { type ControllerAccess, controllerAccess } from "../kit/api-server.ts";
import { call, startController, type TestController } from "../kit/controller.ts";
import { joinedNode } from "../kit/node-agent.ts";
import { eventually, waitFor } from "../kit/wait.ts";
import { finish } from "../lab/command.ts";

const guard = guarded(clusterPaths(testClusterName()));
const { cluster } = guard;
const apiOnly = { nodes: 0, apiOnly: true, apiServerFlags: [] } as const;
const timeout = 3_600_000;
const bringUp = () => up(cluster, apiOnly, cacheFolder(process.env), () => {});
let access: ControllerAccess;
let api: KubeApi;

const pod = (name: string): KubeObject => ({
  apiVersion: "v1",
  kind: "Pod",
  metadata: { name, namespace: "shop", labels: { app: "web" } },
  spec: { nodeName: "n1", containers: [{ name: "c", image: "x", ports: [{ name: "http", containerPort: 8080 }] }] },
});
/** As a kubelet would report it. */
async function runs(name: string, ip: string): Promise<void> {
  await api.apply(pod(name));
  const status = {
    phase: "Running",
    podIP: ip,
    podIPs: [{ ip }],
    hostIP: "10.0.0.1",
    conditions: [{ type: "Ready", status: "True" }],
  };
  await api.call("PATCH", `/api/v1/namespaces/shop/pods/${name}/status`, { status }, "application/merge-patch+json");
}
const gone = (name: string): Promise<string> =>
  api.call("DELETE", `/api/v1/namespaces/shop/pods/${name}?gracePeriodSeconds=0`);

before(
  async () => {
    const state = await bringUp();
    api = adminApi(cluster, state.block);
    const namespace = { name: "shop", labels: { "fairlead.dev/mesh": "enabled" } };
    await api.apply({ apiVersion: "v1", kind: "Namespace", metadata: namespace });
    await api.apply({
      apiVersion: "v1",
      kind: "Node",
      metadata: { name: "n1", labels: { "topology.kubernetes.io/zone": "z1" } },
    });
    await api.apply({
      apiVersion: "v1",
      kind: "Service",
      metadata: { name: "web", namespace: "shop" },
      spec: { selector: { app: "web" }, ports: [{ name: "http", port: 80, targetPort: "http" }] },
    });
    await runs("web-1", "10.244.1.5");
    access = await controllerAccess({ api, cluster });
  },
  { timeout },
);
after(
  async () => {
    api?.close();
    await guard[Symbol.asyncDispose]();
    access?.[Symbol.dispose]();
  },
  { timeout },
);

/** What an agent gets of the namespace shop. The API server's own endpoint is in the namespace default. */
interface Agent {
  /** The next that comes and goes. */
  next(): Promise<{ readonly came: readonly string[]; readonly went: readonly string[] }>;
  /** What comes of the namespace within a while, and what goes of any. */
  within(ms: number): Promise<readonly string[]>;
  close(): void;
}
async function agent(controller: TestController): Promise<Agent> {
  const stream = (await joinedNode(controller, "n1")).stream();
  stream.subscribe(typeUrlOf("Workload"));
  const inShop = (names: readonly string[]): readonly string[] =>
    names.filter((name) => name.startsWith("cluster.local/shop/")).map((name) => name.slice(19));
  return {
    async next() {
      for (;;) {
        const response = await stream.next();
        stream.ack(response);
        const came = inShop(response.resources.map((r) => r.name));
        const went = inShop(response.removedResources);
        if (came.length + went.length > 0) return { came, went };
      }
    },
    async within(ms) {
      await sleep(ms);
      const told = stream.untaken();
      return told.flatMap((r) => [...inShop(r.resources.map((o) => o.name)), ...r.removedResources]);
    },
    close: () => stream.close(),
  };
}
const metricsOf = async (controller: TestController): Promise<string> =>
  (await call({ host: "127.0.0.1", port: controller.ports.health }, "GET", "/metrics")).text;
async function kill(name: string): Promise<void> {
  const { programs } = await clusterStatus(cluster);
  const pid = programs.find((program) => program.name === name)?.pid;
  assert.ok(pid, `${name} runs`);
  process.kill(pid, "SIGKILL");
}

/** Makes etcd forget everything that is older than now. */
async function compact(): Promise<void> {
  const { metadata } = await api.get<{ metadata: { resourceVersion: string } }>("/api/v1/pods?limit=1");
  const script = `fetch("http://127.0.0.1:2379/v3/kv/compaction", { method: "POST", body: '{"revision":${metadata.resourceVersion},"physical":true}' })
    .then(async (answer) => { if (!answer.ok) throw new Error(await answer.text()); })`;
  const done = await finish(["nsenter", `--net=/run/netns/${cluster.netns}`, "--", process.execPath, "-e", script]);
  assert.equal(done.code, 0, done.stderr);
}

test("[DIS-1] with the rights of the manifest everything is mirrored, and follows; the API server and etcd may die meanwhile", {
  timeout,
}, async () => {
  await using controller = await startController({}, access.env);
  const stream = await agent(controller);
  try {
    assert.deepEqual(await stream.next(), { came: ["web-1"], went: [] });
    await runs("web-2", "10.244.1.6");
    assert.deepEqual(await stream.next(), { came: ["web-2"], went: [] });
    for (const program of ["kube-apiserver", "etcd"]) {
      await kill(program);
      await controller.logged("kubernetes_watch_failed");
      assert.deepEqual(await stream.within(1_500), [], "what is known stays in force");
      await bringUp();
      const name = `after-${program}`;
      await runs(name, program === "etcd" ? "10.244.1.8" : "10.244.1.7");
      assert.deepEqual(await stream.next(), { came: [name], went: [] });
      await gone(name);
      assert.deepEqual(await stream.next(), { came: [], went: [name] });
    }
    // While it stands still its version is compacted, and the server that starts anew remembers nothing of before.
    controller.process.kill("SIGSTOP");
    try {
      await gone("web-2");
      await runs("web-3", "10.244.1.9");
      await compact();
      await kill("kube-apiserver");
      await bringUp();
      await runs("web-4", "10.244.1.10");
    } finally {
      controller.process.kill("SIGCONT");
    }
    const came = new Set<string>();
    const went = new Set<string>();
    while (came.size < 2 || went.size < 1) {
      const next = await stream.next();
      for (const name of next.came) came.add(name);
      for (const name of next.went) went.add(name);
    }
    assert.deepEqual([[...came].sort(), [...went]], [["web-3", "web-4"], ["web-2"]], "nothing of what stayed flaps");
    const metrics = await metricsOf(controller);
    // Kinds in which nothing happened since have the oldest versions.
    assert.match(metrics, /^fairlead_kubernetes_lists_total\{kind="\w+",reason="expired"\} [1-9]/m);
    const { json } = await controller.admin("GET", "/v1/status");
    assert.ok(json.objects.some((o: { kind: string; name: string }) => o.kind === "Node" && o.name === "n1"));
  } finally {
    stream.close();
    await bringUp(); // for the tests after this one, wherever it ended
  }
});

const policies: KubeObject = {
  apiVersion: "apiextensions.k8s.io/v1",
  kind: "CustomResourceDefinition",
  metadata: { name: "authorizationpolicies.security.istio.io" },
  spec: {
    group: "security.istio.io",
    scope: "Namespaced",
    names: { plural: "authorizationpolicies", singular: "authorizationpolicy", kind: "AuthorizationPolicy" },
    versions: ["v1", "v1beta1"].map((name) => ({
      name,
      served: true,
      storage: name === "v1",
      schema: { openAPIV3Schema: { type: "object", "x-kubernetes-preserve-unknown-fields": true } },
    })),
  },
};
const policy = (name: string, action: string): KubeObject => ({
  apiVersion: "security.istio.io/v1",
  kind: "AuthorizationPolicy",
  metadata: { name, namespace: "shop" },
  spec: { action, rules: [{}] },
});

test("[DIS-1] [DIS-9] a kind that is installed while the controller runs is read, what is wrong in it is told, and it goes again", {
  timeout,
}, async () => {
  await using controller = await startController({}, access.env);
  const found = async (name: string) =>
    (await controller.admin("GET", "/v1/status")).json.objects.find((o: { name: string }) => o.name === name);
  await api.apply(policies);
  await waitFor("the new kind is served", () => api.apply(policy("deny", "DENY")).then(Boolean, () => false));
  await api.apply(policy("odd", "PERHAPS"));
  await eventually(async () => assert.equal((await found("deny"))?.accepted, true));
  await eventually(async () => assert.equal((await found("odd"))?.field, "spec.action"));
  await api.apply(policy("odd", "ALLOW"));
  await eventually(async () => assert.equal((await found("odd"))?.accepted, true));
  await api.call(
    "DELETE",
    "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/authorizationpolicies.security.istio.io",
  );
  await controller.logged("kubernetes_kind_gone");
  await eventually(async () => assert.equal(await found("deny"), undefined));
});

test("[DIS-8] one replica leads; killed, it is followed by another, and one that stops gives way at once", {
  timeout,
}, async () => {
  await using one = await startController({}, access.env);
  await one.logged("leading");
  await using two = await startController({}, access.env);
  await two.logged("lease_holder", (line) => line.isOurs === false);
  assert.match(await metricsOf(two), /^fairlead_lease_leading 0$/m);
  const killedMs = performance.now();
  await one.stop("SIGKILL");
  await two.logged("leading");
  const tookMs = performance.now() - killedMs;
  assert.ok(tookMs > 5_000 && tookMs < 40_000, `${tookMs} ms`);
  await using three = await startController({}, access.env);
  await three.logged("lease_holder", (line) => line.isOurs === false);
  await two.stop();
  await three.logged("leading");
  const lease = await api.get<{ spec: { leaseTransitions: number } }>(
    "/apis/coordination.k8s.io/v1/namespaces/fairlead-system/leases/fairlead-controller",
  );
  assert.ok(lease.spec.leaseTransitions >= 2);
});

test("[OPS-1] without its rights the controller serves nothing and names what it may not read", {
  timeout,
}, async () => {
  const binding = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/fairlead-controller";
  const kept = await api.get<KubeObject>(binding);
  await api.call("DELETE", binding);
  await waitFor("the right is gone", async () => {
    const review = await api.call("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", {
      apiVersion: "authorization.k8s.io/v1",
      kind: "SubjectAccessReview",
      spec: {
        user: "system:serviceaccount:fairlead-system:fairlead-controller",
        resourceAttributes: { verb: "list", resource: "pods" },
      },
    });
    return !(JSON.parse(review) as { status: { allowed: boolean } }).status.allowed;
  });
  // An address of its own: the port is known before the controller says it, which it does only when it is ready.
  const host = `127.${randomInt(1, 250)}.${randomInt(250)}.${randomInt(1, 250)}`;
  const starting = startController({}, { ...access.env, FAIRLEAD_HEALTH_LISTEN: `${host}:15014` });
  starting.catch(() => {});
  // Judged when the rights are back and the controller can be ended.
  const told = await eventually(async () => {
    const answer = await call({ host, port: 15014 }, "GET", "/readyz");
    assert.equal(answer.status, 503);
    assert.match(answer.text, /waiting for the API server: .*403: [\w.]+ is forbidden/);
    return "told";
  }).catch((error: unknown) => error);
  await api.apply({
    apiVersion: kept.apiVersion,
    kind: kept.kind,
    metadata: { name: kept.metadata.name },
    roleRef: kept.roleRef,
    subjects: kept.subjects,
  });
  await using controller = await starting;
  assert.equal(told, "told");
  const refused = await controller.logged("kubernetes_list_failed");
  assert.match(String(refused.reason), /403: [\w.]+ is forbidden/);
  await controller.logged("kubernetes_reached");
  await controller.logged("kubernetes_synced");
});
