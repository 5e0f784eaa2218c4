import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { typeUrlOf } from "../../agent/api/resources.ts";
import { call, startController } from "../kit/controller.ts";
import { crd, crdPath, FakeKubernetes } from "../kit/fake-kubernetes.ts";
import { livePod, liveService, liveSlice, paths } from "../kit/kubernetes-source.ts";
import { joinedNode, recordsOf } from "../kit/node-agent.ts";
import { eventually } from "../kit/wait.ts";

const leases = "/apis/coordination.k8s.io/v1/leases";

interface Cluster extends AsyncDisposable {
  readonly fake: FakeKubernetes;
  readonly env: Readonly<Record<string, string>>;
  readonly kubeconfig: string;
}
async function cluster(): Promise<Cluster> {
  const fake = await FakeKubernetes.start();
  const dir = mkdtempSync(join(tmpdir(), "fairlead-kube-"));
  const kubeconfig = join(dir, "config");
  writeFileSync(kubeconfig, fake.kubeconfig());
  fake.put(paths.namespaces, { metadata: { name: "shop", labels: { "fairlead.dev/mesh": "enabled" } } });
  fake.put(paths.nodes, {
    metadata: { name: "n1", labels: { "topology.kubernetes.io/zone": "z1", "topology.kubernetes.io/region": "r1" } },
    status: {
      addresses: [
        { type: "InternalIP", address: "192.168.1.1" },
        { type: "Hostname", address: "n1" },
      ],
    },
  });
  fake.put(paths.accounts, { metadata: { name: "web", namespace: "shop" } });
  fake.put(paths.pods, livePod("web-1", "10.244.1.5"));
  fake.put(paths.services, liveService("web", "10.96.0.10"));
  fake.put(paths.slices, liveSlice("web", "10.244.1.5", "web-1"));
  fake.put(crdPath, crd("security.istio.io", "authorizationpolicies"));
  return {
    fake,
    kubeconfig,
    env: {
      FAIRLEAD_SOURCE: "kubernetes",
      FAIRLEAD_LEASE_NAMESPACE: "mesh",
      FAIRLEAD_KUBECONFIG: kubeconfig,
      FAIRLEAD_MANIFESTS: "",
      FAIRLEAD_LIVE_DIR: "",
    },
    async [Symbol.asyncDispose]() {
      await fake[Symbol.asyncDispose]();
      rmSync(dir, { recursive: true, force: true });
    },
  };
}

test("[DIS-1] agents get what the API server has, and changes as they come, also of their node's zone", async () => {
  await using made = await cluster();
  const { fake } = made;
  await using controller = await startController({}, made.env);
  const synced = await controller.logged("kubernetes_synced");
  assert.equal(synced.kinds, 7);
  const node = await joinedNode(controller, "n1");
  const stream = node.stream();
  try {
    stream.subscribe(typeUrlOf("Workload"));
    const first = await stream.next();
    const [web] = recordsOf(first);
    assert.ok(web?.kind === "Workload");
    assert.deepEqual(
      [web.value.addresses, web.value.ready, web.value.tunnel, web.value.zone, web.value.region, web.value.weight],
      [["10.244.1.5"], true, "fairlead/1", "z1", "r1", 2],
    );
    assert.deepEqual(web.value.services, [{ service: "shop/web", ports: [{ servicePort: 80, targetPort: 8080 }] }]);
    stream.ack(first);
    fake.remove(paths.pods, "shop", "web-1");
    const second = await stream.next();
    assert.deepEqual(second.removedResources, ["cluster.local/shop/web-1"]);
    stream.ack(second);
    // An API server that is away takes nothing from anybody.
    fake.leave();
    await controller.logged("kubernetes_watch_failed");
    const health = await call({ host: "127.0.0.1", port: controller.ports.health }, "GET", "/health");
    assert.equal(health.status, 200, health.text);
    assert.equal(health.json.source.source, "kubernetes");
    fake.put(paths.pods, livePod("web-2", "10.244.1.6"));
    fake.comeBack();
    const third = await stream.next();
    assert.deepEqual(
      third.resources.map((r) => r.name),
      ["cluster.local/shop/web-2"],
    );
    stream.ack(third);
  } finally {
    stream.close();
  }
  await controller.logged("leading");
  const { text } = await call({ host: "127.0.0.1", port: controller.ports.health }, "GET", "/metrics");
  assert.match(text, /^fairlead_kubernetes_objects\{kind="Pod",state="accepted"\} 1$/m);
  assert.match(text, /^fairlead_kubernetes_lists_total\{kind="Pod",reason="start"\} 1$/m);
  assert.match(text, /^fairlead_kubernetes_synced\{kind="AuthorizationPolicy"\} 1$/m);
  assert.match(text, /^fairlead_kubernetes_contact_age_seconds\{kind="Node"\} \d/m);
  assert.match(text, /^fairlead_kubernetes_apply_seconds_count [1-9]/m);
  assert.match(text, /^fairlead_lease_leading 1$/m);
  const lease = (): string => fake.get(leases, "mesh", "fairlead-controller")?.spec.holderIdentity;
  assert.notEqual(lease(), "");
  assert.equal(await controller.stop(), 0);
  assert.equal(lease(), "", "[DIS-8] given up for the next one");
});

test("[DIS-9] status names an object that we refuse; a sync on demand reads the cluster again", async () => {
  await using made = await cluster();
  const { fake } = made;
  await using controller = await startController({}, made.env);
  await eventually(() => assert.equal(fake.watching(paths.authorizations), 1));
  fake.freezeWatches();
  fake.put(paths.authorizations, { metadata: { name: "odd", namespace: "shop" }, spec: { action: "PERHAPS" } });
  await controller.admin("POST", "/v1/sync");
  const { json } = await controller.admin("GET", "/v1/status");
  const odd = json.objects.find((o: { name: string }) => o.name === "odd");
  assert.deepEqual(
    [odd.kind, odd.accepted, odd.reason, odd.field, odd.file],
    ["AuthorizationPolicy", false, "Invalid", "spec.action", "kubernetes"],
  );
  await controller.logged("object_refused", (line) => line.object === "AuthorizationPolicy shop/odd");
  assert.ok(json.objects.some((o: { kind: string; accepted: boolean }) => o.kind === "Node" && o.accepted));
});

test("[DIS-1] a kubeconfig that cannot be read ends the controller with one line that names it", async () => {
  await using made = await cluster();
  await assert.rejects(
    startController({}, { ...made.env, FAIRLEAD_KUBECONFIG: `${made.kubeconfig}-none` }),
    /exit 1: .*FAIRLEAD_KUBECONFIG: .* cannot be read: ENOENT/,
  );
});
