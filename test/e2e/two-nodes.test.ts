// A Kubernetes of two nodes on this machine, looked at from inside its pods: what everything that is tested on a cluster stands on.
// Run by `npm run e2e`, not by `npm test`.
import assert from "node:assert/strict";
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { writeImage } from "../../scripts/image/oci.ts";
import { BUSYBOX_IMAGE } from "../cluster/images/built-in.ts";
import { downCluster, guarded, testClusterName } from "../cluster/kit.ts";
import type { KubeApi, KubeObject } from "../cluster/kubernetes/api.ts";
import { adminApi } from "../cluster/kubernetes/credentials.ts";
import { importImage, initProgram, nodePrograms } from "../cluster/kubernetes/node.ts";
import { readyNodes } from "../cluster/kubernetes/objects.ts";
import { groupFolders, hierarchies } from "../cluster/machine/groups.ts";
import { mainProcess, stopProgram } from "../cluster/machine/programs.ts";
import { cacheFolder, clusterPaths, nodePaths } from "../cluster/paths.ts";
import { type ClusterState, program } from "../cluster/state.ts";
import { clusterStatus } from "../cluster/status.ts";
import { leftOf } from "../cluster/teardown.ts";
import { up } from "../cluster/up.ts";
import { waitFor } from "../kit/wait.ts";
import { webPod } from "../kit/web-pod.ts";
import { type Finished, finish } from "../lab/command.ts";

const guard = guarded(clusterPaths(testClusterName()));
const { cluster } = guard;
const two = { nodes: 2, apiOnly: false, apiServerFlags: [] } as const;
const cache = cacheFolder(process.env);
const timeout = 600_000;
const PATIENCE_MS = 180_000;
let state: ClusterState;
let api: KubeApi;

const kubectl = (...words: string[]): Promise<Finished> =>
  finish([program(state, "kube", "kube"), "kubectl", `--kubeconfig=${cluster.kubeconfig}`, ...words], {
    timeoutMs: 60_000,
  });

async function said(...words: string[]): Promise<string> {
  const done = await kubectl(...words);
  assert.equal(done.code, 0, `kubectl ${words.join(" ")}: ${done.stderr}`);
  return done.stdout.trim();
}

/** Asked again until it answers: names and rules of Services reach a node some time after the Service. */
const inPod = (pod: string, script: string): Promise<string> =>
  waitFor(
    `in pod ${pod}: ${script}`,
    async () => {
      const done = await kubectl("exec", pod, "--", "sh", "-c", script);
      return done.code === 0 && done.stdout.trim();
    },
    PATIENCE_MS,
  );

const server = (node: string): KubeObject[] => [
  webPod(`web-${node}`, node, { namespace: "default", labels: { app: "web", on: node }, page: node, probed: true }),
  {
    apiVersion: "v1",
    kind: "Service",
    metadata: { name: `web-${node}`, namespace: "default" },
    spec: { selector: { on: node }, ports: [{ port: 80, targetPort: 8080 }] },
  },
];

const isReady = async (pod: string): Promise<boolean> => {
  const { status } = await api.get<{ status: { conditions?: { type: string; status: string }[] } }>(
    `/api/v1/namespaces/default/pods/${pod}`,
  );
  return status.conditions?.some((c) => c.type === "Ready" && c.status === "True") === true;
};
const ready = (pod: string): Promise<boolean> => waitFor(`pod ${pod} is ready`, () => isReady(pod), PATIENCE_MS);

before(async () => {
  state = await up(cluster, two, cache, (line) => console.error(line));
  api = adminApi(cluster, state.block);
  for (const node of ["n1", "n2"]) for (const object of server(node)) await api.apply(object);
  for (const node of ["n1", "n2"]) await ready(`web-${node}`);
});
after(async () => {
  api?.close();
  await guard[Symbol.asyncDispose]();
});

test("every program runs, and the control groups are the nodes' own", { timeout }, async () => {
  const status = await clusterStatus(cluster);
  assert.deepEqual([status.state, status.problems], ["up", []]);
  assert.deepEqual(
    status.nodes.map((n) => [n.name, n.ready]),
    [
      ["n1", true],
      ["n2", true],
    ],
  );
  const h = hierarchies();
  for (const node of ["n1", "n2"])
    for (const folder of groupFolders(h, `${cluster.group}/${node}/kubepods`)) assert.ok(existsSync(folder), folder);
});

test("pods reach pods and Services on both nodes by address and by name", { timeout }, async () => {
  for (const from of ["n1", "n2"])
    for (const to of ["n1", "n2"]) {
      const address = await said("get", "pod", `web-${to}`, "-o", "jsonpath={.status.podIP}");
      assert.equal(await inPod(`web-${from}`, `timeout 5 wget -qO- http://${address}:8080/`), to);
      assert.equal(await inPod(`web-${from}`, `timeout 5 wget -qO- http://web-${to}.default.svc.cluster.local/`), to);
    }
});

test("a pod reaches the API server with its service account, and the machine reaches pods", { timeout }, async () => {
  const folder = "/var/run/secrets/kubernetes.io/serviceaccount";
  const token = await inPod("web-n1", `cat ${folder}/token`);
  const review = { apiVersion: "authentication.k8s.io/v1", kind: "TokenReview", spec: { token } };
  const judged = JSON.parse(await api.call("POST", "/apis/authentication.k8s.io/v1/tokenreviews", review));
  assert.equal(judged.status.user.username, "system:serviceaccount:default:default");
  assert.deepEqual(judged.status.user.extra["authentication.kubernetes.io/pod-name"], ["web-n1"]);
  // The pod's own way to it is the Service's address, which only rules on its node know.
  assert.equal(await inPod("web-n1", "nc -w 5 10.96.0.1 443 </dev/null && echo open"), "open");
  const address = await said("get", "pod", "web-n2", "-o", "jsonpath={.status.podIP}");
  const direct = await fetch(`http://${address}:8080/`);
  assert.equal((await direct.text()).trim(), "n2");
});

test("exit codes and logs come back through the API server", { timeout }, async () => {
  assert.equal((await kubectl("exec", "web-n2", "--", "sh", "-c", "exit 7")).code, 7);
  assert.equal(await said("logs", "web-n1"), "");
  const proxied = await api.call("GET", "/api/v1/namespaces/default/services/web-n2:80/proxy/");
  assert.equal(proxied.trim(), "n2");
});

test("an image that was made of a folder runs on every node", { timeout }, async () => {
  const scratch = mkdtempSync(join(tmpdir(), "fairlead-e2e-"));
  try {
    mkdirSync(join(scratch, "root"));
    writeFileSync(join(scratch, "root/page"), "from a folder");
    const file = join(scratch, "image.tar");
    await writeImage(join(scratch, "root"), file, {
      name: "fairlead.dev/test/folder:1",
      command: ["/tool/busybox", "cat", "/page"],
    });
    for (const n of [1, 2]) await importImage(cluster, state, n, file);
    for (const node of ["n1", "n2"])
      await api.apply({
        apiVersion: "v1",
        kind: "Pod",
        metadata: { name: `folder-${node}`, namespace: "default" },
        spec: {
          nodeName: node,
          restartPolicy: "Never",
          initContainers: [
            {
              name: "tool",
              image: BUSYBOX_IMAGE,
              command: ["cp", "/bin/busybox", "/tool/busybox"],
              volumeMounts: [{ name: "tool", mountPath: "/tool" }],
            },
          ],
          containers: [
            {
              name: "folder",
              image: "fairlead.dev/test/folder:1",
              volumeMounts: [{ name: "tool", mountPath: "/tool" }],
            },
          ],
          volumes: [{ name: "tool", emptyDir: {} }],
        },
      });
    for (const node of ["n1", "n2"])
      await waitFor(
        `folder-${node} has run`,
        async () => (await said("get", "pod", `folder-${node}`, "-o", "jsonpath={.status.phase}")) === "Succeeded",
        PATIENCE_MS,
      );
    assert.equal(await said("logs", "folder-n2"), "from a folder");
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
});

test("a containerd that is killed and started again has its pods still running", { timeout }, async () => {
  const h = hierarchies();
  const restarts = (): Promise<string> =>
    said("get", "pod", "web-n1", "-o", "jsonpath={.status.containerStatuses[0].restartCount} {.metadata.uid}");
  const before = await restarts();
  const containerd = nodePrograms(h, cluster, state, 1)[0];
  assert.ok(containerd !== undefined && (await stopProgram(h, containerd, "SIGKILL", 10_000)));
  await up(cluster, two, cache, () => undefined);
  await ready("web-n1");
  assert.equal(await inPod("web-n1", "timeout 5 wget -qO- http://127.0.0.1:8080/"), "n1");
  assert.equal(await restarts(), before);
});

test("a node that loses its power comes back with its pods", { timeout }, async () => {
  const h = hierarchies();
  const init = initProgram({ cluster, state, programsDir: cache }, 2);
  assert.ok(await stopProgram(h, init, "SIGKILL", 10_000));
  await waitFor("nothing runs on it", () =>
    nodePrograms(h, cluster, state, 2).every((p) => mainProcess(h, p) === undefined),
  );
  assert.match((await clusterStatus(cluster)).problems.join("\n"), /n2\/init does not run/);
  await up(cluster, two, cache, (line) => console.error(line));
  await ready("web-n2");
  assert.deepEqual((await readyNodes(api)).sort(), ["n1", "n2"]);
  assert.equal(await inPod("web-n1", "timeout 5 wget -qO- http://web-n2/"), "n2");
});

test("down leaves no process, group, namespace, link or mount", { timeout }, async () => {
  await downCluster(cluster);
  assert.equal(leftOf(hierarchies(), cluster), false);
  assert.equal(existsSync(cluster.dir), false);
  for (const n of [1, 2]) assert.equal(existsSync(`/run/netns/${nodePaths(cluster, n).netns}`), false);
});
