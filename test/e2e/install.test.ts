// From an empty cluster to a mesh and back, as a user does it: helm install, a label, helm upgrade, helm uninstall.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import type { KubeObject } from "../cluster/kubernetes/api.ts";
import { CHART, InstalledMesh } from "../kit/installed-mesh.ts";
import { waitFor } from "../kit/wait.ts";
import { webPod } from "../kit/web-pod.ts";

const timeout = 900_000;
const PATIENCE_MS = 240_000;
const mesh = new InstalledMesh();

const web = (node: string, name = `web-${node}`): KubeObject => webPod(name, node, { probed: true });
const ready = (pod: string): Promise<string> =>
  mesh.said("-n", "shop", "wait", "--for=condition=Ready", `pod/${pod}`, "--timeout=240s");
const address = (pod: string): Promise<string> =>
  mesh.said("-n", "shop", "get", "pod", pod, "-o", "jsonpath={.status.podIP}");
const fetched = async (from: string, to: string): Promise<string> =>
  mesh.said("-n", "shop", "exec", from, "--", "wget", "-qO-", `http://${await address(to)}:8080/`);
/** Pods of `shop` that are in the mesh, on both nodes. */
async function enrolled(): Promise<readonly string[]> {
  const answers = await Promise.all((await mesh.agents()).map((agent) => mesh.ask(agent, "/v1/pods")));
  return answers
    .flatMap((text) => (JSON.parse(text) as { pods: readonly { pod: string; enrolled: boolean }[] }).pods)
    .flatMap(({ pod, enrolled }) => (enrolled && pod.startsWith("shop/") ? [pod] : []))
    .sort();
}
/** Connections that came by mutual TLS, by the counters of both agents. */
async function tunnelled(): Promise<number> {
  const pages = await Promise.all((await mesh.agents()).map((agent) => mesh.ask(agent, "/metrics")));
  return pages
    .flatMap((page) => page.split("\n"))
    .filter((line) => /^istio_tcp_connections_closed_total\{.*reporter="destination".*mutual_tls/.test(line))
    .reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(" ") + 1)), 0);
}
const LEFT = [
  "ls -A /sys/fs/bpf | grep fairlead",
  "ls -d /run/fairlead /var/lib/fairlead 2>/dev/null",
  "ls /etc/cni/net.d /opt/cni/bin | grep fairlead",
].join("; ");

before(() => mesh.up(), { timeout });
after(() => mesh[Symbol.asyncDispose](), { timeout });

test("[OPS-1] [OPS-10] helm install brings up a controller over both nodes and an agent on each, without a privileged container", {
  timeout,
}, async () => {
  await mesh.said("create", "namespace", "shop");
  await mesh.api.apply(web("n1"));
  await ready("web-n1");
  await mesh.install();
  const nodes = await mesh.said(
    ...["-n", "fairlead-system", "get", "pods", "-l", "app.kubernetes.io/component=controller"],
    ...["-o", "jsonpath={.items[*].spec.nodeName}"],
  );
  assert.deepEqual(nodes.split(" ").sort(), ["n1", "n2"]);
  assert.equal((await mesh.agents()).length, 2);
  for (const agent of await mesh.agents()) {
    const status = JSON.parse(await mesh.ask(agent, "/v1/status"));
    assert.equal(status.interception, "ebpf", status.interceptionReason);
    assert.equal(status.cni.state, "installed", status.cni.problem);
  }
  assert.deepEqual(await enrolled(), []);
});

test("[OPS-1] [OPS-10] [INT-12] a label brings running pods into the mesh, and new ones begin in it", {
  timeout,
}, async () => {
  await mesh.said("label", "namespace", "shop", "fairlead.dev/mesh=enabled");
  await mesh.api.apply(web("n2"));
  await ready("web-n2");
  await waitFor("both pods are in the mesh", async () => (await enrolled()).length === 2, PATIENCE_MS);
  await waitFor(
    "a connection between the nodes is by mutual TLS",
    async () => {
      assert.equal(await fetched("web-n1", "web-n2"), "web-n2");
      return (await tunnelled()) > 0;
    },
    PATIENCE_MS,
  );
});

test("[OPS-2] helm upgrade replaces the agents one after the other, and no request fails", { timeout }, async () => {
  const were = await mesh.agents();
  const target = await address("web-n2");
  await mesh.said(
    ...["-n", "shop", "exec", "web-n1", "--", "sh", "-c"],
    `(while [ ! -e /tmp/stop ]; do said=$(wget -qO- http://${target}:8080/ 2>&1) && echo ok >>/tmp/good || echo "$(date +%T) $said" >>/tmp/bad; done; touch /tmp/stopped) >/dev/null 2>&1 &`,
  );
  await mesh.helm(
    "upgrade",
    "fairlead",
    CHART,
    ...mesh.values,
    "--set",
    "agent.logLevel=debug",
    "--wait",
    "--timeout",
    "8m",
  );
  await waitFor(
    "both agents are new and ready",
    async () => {
      const words = ["-n", "fairlead-system", "rollout", "status", "daemonset/fairlead-agent", "--timeout=5m"];
      const agents = await mesh.agents();
      return (await mesh.kubectl(...words)).code === 0 && agents.filter((agent) => !were.includes(agent)).length === 2;
    },
    PATIENCE_MS,
  );
  await mesh.said(
    "-n",
    "shop",
    "exec",
    "web-n1",
    "--",
    "sh",
    "-c",
    "touch /tmp/stop; until [ -e /tmp/stopped ]; do sleep 1; done",
  );
  const inPod = (script: string): Promise<string> =>
    mesh.said("-n", "shop", "exec", "web-n1", "--", "sh", "-c", script);
  assert.ok(Number(await inPod("wc -l </tmp/good")) > 0, "requests went on");
  assert.equal(await inPod("touch /tmp/bad; cat /tmp/bad"), "", "requests that failed");
});

test("[OPS-1] helm uninstall leaves nothing behind, on the cluster or the nodes, and pods go on", {
  timeout,
}, async () => {
  await mesh.helm("uninstall", "fairlead", "--wait", "--timeout", "8m");
  await waitFor(
    "the namespace is gone",
    async () => (await mesh.kubectl("get", "namespace", "fairlead-system")).code !== 0,
    PATIENCE_MS,
  );
  const wide =
    "crd,clusterroles,clusterrolebindings,priorityclasses,validatingwebhookconfigurations,mutatingwebhookconfigurations";
  const left = await mesh.said("get", wide, "-o", "name");
  assert.deepEqual(
    left.split("\n").filter((name) => name.includes("fairlead")),
    [],
  );
  for (const n of [1, 2])
    await waitFor(
      `nothing is left on node ${n}`,
      async () => (await mesh.onNode(n, `${LEFT}; true`)).trim() === "",
      PATIENCE_MS,
    );
  assert.equal(await fetched("web-n1", "web-n2"), "web-n2");
  await mesh.api.apply(web("n2", "later"));
  await ready("later");
  assert.equal(await fetched("later", "web-n1"), "web-n1");
});

test("[OPS-1] what was uninstalled can be installed again", { timeout }, async () => {
  await mesh.install();
  await waitFor("all three pods are in the mesh", async () => (await enrolled()).length === 3, PATIENCE_MS);
});

test("[OPS-1] in a namespace of the user's own nothing is left behind either", { timeout }, async () => {
  await mesh.helm("uninstall", "fairlead", "--wait", "--timeout", "8m");
  const gone = async (): Promise<boolean> => (await mesh.kubectl("get", "namespace", "fairlead-system")).code !== 0;
  await waitFor("the namespace is gone", gone, PATIENCE_MS);
  await mesh.said("create", "namespace", "fairlead-system");
  const privileged = "pod-security.kubernetes.io/enforce=privileged";
  await mesh.said("label", "namespace", "fairlead-system", privileged);
  await mesh.install("--namespace", "fairlead-system");
  const kept = ["-n", "fairlead-system", "get", "secrets,leases,configmaps", "-o", "name"];
  assert.match(await mesh.said(...kept), /secret\/fairlead-ca\n/);
  await mesh.helm("uninstall", "fairlead", "--namespace", "fairlead-system", "--wait", "--timeout", "8m");
  await waitFor(
    "only what every namespace has is there",
    async () => (await mesh.said(...kept)) === "configmap/kube-root-ca.crt",
    PATIENCE_MS,
  );
  const all = ["-n", "fairlead-system", "get", "serviceaccounts,roles,rolebindings,jobs,pods", "-o", "name"];
  await waitFor(
    "no account and no pod is there",
    async () => (await mesh.said(...all)) === "serviceaccount/default",
    PATIENCE_MS,
  );
});
