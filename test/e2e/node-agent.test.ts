// Agents on the nodes of a Kubernetes: pods come into the mesh and go by labels, live; their way between nodes is the tunnel; probes, Jobs
// and init containers go on; restarts of the runtime, the kubelet and the node change nothing.
import assert from "node:assert/strict";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { BUSYBOX_IMAGE } from "../cluster/images/built-in.ts";
import { enteringNode, initProgram, nodePrograms } from "../cluster/kubernetes/node.ts";
import { hierarchies } from "../cluster/machine/groups.ts";
import { stopProgram } from "../cluster/machine/programs.ts";
import { nodePaths } from "../cluster/paths.ts";
import {
  clusterCache,
  MeshCluster,
  machinePod,
  peerAuthenticationKind,
  pod,
  service,
  strictShop,
  clusterTimeoutMs as timeout,
  whoPod,
  whoScript,
} from "../kit/mesh-cluster.ts";
import { finish } from "../lab/command.ts";
import { PROJECT_DIR } from "../lab/paths.ts";

const shop = new MeshCluster();

before(
  async () => {
    await shop.start([
      peerAuthenticationKind,
      ...(["a/n1", "b/n2", "c/n1"] as const).flatMap((at) => {
        const [name = "", node = ""] = at.split("/");
        return [whoPod(name, node), service(name)];
      }),
    ]);
    for (const name of ["a", "b", "c"]) await shop.ready(name);
  },
  { timeout },
);
after(() => shop[Symbol.asyncDispose](), { timeout });

const all = (wish: boolean): Promise<unknown> =>
  Promise.all([shop.enrolled(1, "a", wish), shop.enrolled(2, "b", wish), shop.enrolled(1, "c", wish)]);
/** Asks b from pods of the other node, as itself. */
const asksB = async (from: string): Promise<void> =>
  assert.equal(
    await shop.inPod(from, "wget -qO- http://b.shop.svc.cluster.local/cgi-bin/who"),
    `b\n${await shop.address(from)}`,
  );
/** Asks b from a until that was by the tunnel. */
async function byTunnel(): Promise<void> {
  const was = await shop.tunnelled(2);
  await shop.waitFor("a connection of a to b is by the tunnel", async () => {
    await asksB("a");
    return (await shop.tunnelled(2)) > was;
  });
}
const restarts = (name: string): Promise<string> =>
  shop.said("get", "pod", name, "-o", "jsonpath={.status.containerStatuses[0].restartCount}");

test("[INT-12] [OPS-10] pods come into the mesh by the label of their namespace, live and without a restart; the tunnel keeps their addresses", {
  timeout,
}, async () => {
  assert.deepEqual(await shop.agent(1).enrolled(), []);
  const before = await shop.said("get", "pods", "-o", "jsonpath={.items[*].metadata.uid}");
  await shop.said("label", "namespace", "shop", "fairlead.dev/mesh=enabled");
  await all(true);
  assert.equal(await shop.said("get", "pods", "-o", "jsonpath={.items[*].metadata.uid}"), before);
  await byTunnel();
});

test("[INT-12] a pod's own label takes it out and back in; its namespace's label takes all out", {
  timeout,
}, async () => {
  await shop.said("label", "pod", "c", "fairlead.dev/mesh=disabled");
  await shop.enrolled(1, "c", false);
  assert.equal(await shop.isEnrolled(1, "a"), true);
  await asksB("c");
  await shop.said("label", "pod", "c", "fairlead.dev/mesh-");
  await shop.enrolled(1, "c");
  await shop.said("label", "namespace", "shop", "fairlead.dev/mesh-");
  await all(false);
  await asksB("a");
  await shop.said("label", "namespace", "shop", "fairlead.dev/mesh=enabled");
  await all(true);
});

test("[INT-16] a pod of the node's network is never intercepted, and reaches what is in the mesh", {
  timeout,
}, async () => {
  await shop.api.apply(pod("host", "n1", ["sleep", "1000000"], { spec: { hostNetwork: true } }));
  await shop.ready("host");
  const known = async () =>
    (await shop.agent(1).ask("/v1/pods")).pods.find((p: { pod: string }) => p.pod === "shop/host");
  await shop.waitFor("the agent knows it", async () => (await known()) !== undefined);
  assert.deepEqual([(await known()).enrolled, (await known()).state], [false, "out"]);
  assert.match(await shop.inPod("host", `wget -qO- http://${await shop.address("b")}:8080/cgi-bin/who`), /^b\n/);
});

test("[INT-2] [DP-10] under STRICT the kubelet's probes pass, of every sort; nobody else's connections do, not even from the node", {
  timeout,
}, async () => {
  await shop.api.apply(strictShop);
  const probe = (action: object) => ({ ...action, periodSeconds: 1, failureThreshold: 2, timeoutSeconds: 5 });
  const probed = (name: string, command: readonly string[], action: object) =>
    pod(name, "n1", command, { container: { readinessProbe: probe(action), livenessProbe: probe(action) } });
  const grpc = [process.execPath, join(PROJECT_DIR, "test/kit/grpc-health-pod.ts"), "9000"];
  await shop.waitFor("all are strict", async () => {
    const { pods } = await shop.agent(1).ask("/v1/pods");
    return ["a", "c"].every((name) =>
      pods.some((p: { pod: string; state: string }) => p.pod === `shop/${name}` && p.state === "strict"),
    );
  });
  await shop.api.apply(probed("http", whoScript("http"), { httpGet: { path: "/cgi-bin/who", port: 8080 } }));
  await shop.api.apply(probed("tcp", whoScript("tcp"), { tcpSocket: { port: 8080 } }));
  await shop.api.apply(probed("exec", ["sleep", "1000000"], { exec: { command: ["true"] } }));
  const patient = { periodSeconds: 1, failureThreshold: 60, timeoutSeconds: 5 };
  await shop.api.apply(
    machinePod("grpc", "n1", grpc, {
      container: {
        volumeMounts: [{ name: "machine", mountPath: "/machine" }],
        startupProbe: { grpc: { port: 9000 }, ...patient },
        readinessProbe: probe({ grpc: { port: 9000 } }),
        livenessProbe: probe({ grpc: { port: 9000 } }),
      },
    }),
  );
  for (const name of ["http", "tcp", "exec", "grpc"]) await shop.enrolled(1, name);
  for (const name of ["http", "tcp", "exec", "grpc"]) await shop.ready(name);
  for (const name of ["http", "tcp", "exec", "grpc"]) assert.equal(await restarts(name), "0", name);
  // The same port from the same node, by a process that is not the kubelet.
  const entering = enteringNode(hierarchies(), nodePaths(shop.cluster, 1));
  const url = `http://${await shop.address("http")}:8080/cgi-bin/who`;
  const refused = await finish([...entering, "busybox", "wget", "-T", "10", "-qO-", url]);
  assert.notEqual(refused.code, 0, refused.stdout);
  await byTunnel();
});

test("[OPS-10] init containers reach the mesh, and a Job ends with nothing of ours in its pod", {
  timeout,
}, async () => {
  const ask = (name: string) => `until wget -qO- http://b/cgi-bin/who; do sleep 0.2; done; echo ${name}`;
  await shop.api.apply({
    apiVersion: "batch/v1",
    kind: "Job",
    metadata: { name: "once", namespace: "shop" },
    spec: {
      template: {
        spec: {
          nodeName: "n1",
          restartPolicy: "Never",
          initContainers: [{ name: "first", image: BUSYBOX_IMAGE, command: ["sh", "-c", ask("first")] }],
          containers: [{ name: "then", image: BUSYBOX_IMAGE, command: ["sh", "-c", ask("then")] }],
        },
      },
    },
  });
  await shop.said("wait", "job/once", "--for=condition=complete", "--timeout=180s");
  const name = await shop.said("get", "pods", "-l", "job-name=once", "-o", "jsonpath={.items[0].metadata.name}");
  assert.equal(await shop.said("get", "pod", name, "-o", "jsonpath={.spec.containers[*].name}"), "then");
  assert.match(await shop.said("logs", name, "-c", "first"), /^b\n/);
  await shop.enrolled(1, name, false);
});

test("[OPS-10] containerd killed: pods stay in the mesh, and new ones come", { timeout }, async () => {
  const h = hierarchies();
  const containerd = nodePrograms(h, shop.cluster, shop.state, 1)[0];
  assert.ok(containerd !== undefined && (await stopProgram(h, containerd, "SIGKILL", 10_000)));
  assert.equal(await shop.isEnrolled(1, "a"), true);
  await shop.up();
  await shop.api.apply(whoPod("late", "n1"));
  await shop.ready("late");
  await shop.enrolled(1, "late");
  assert.equal(await shop.isEnrolled(1, "a"), true);
  await byTunnel();
});

test("[INT-2] [DP-10] kubelet killed and started again: its probes pass still", { timeout }, async () => {
  const h = hierarchies();
  const kubelet = nodePrograms(h, shop.cluster, shop.state, 1)[1];
  assert.ok(kubelet !== undefined && (await stopProgram(h, kubelet, "SIGKILL", 10_000)));
  await shop.up();
  await shop.api.apply(
    pod("later", "n1", whoScript("later"), {
      container: { readinessProbe: { httpGet: { path: "/cgi-bin/who", port: 8080 }, periodSeconds: 1 } },
    }),
  );
  await shop.ready("later");
  await shop.enrolled(1, "later");
  assert.equal(await restarts("http"), "0");
});

test("[OPS-10] [DP-21] a pod that is deleted is gone from the mesh, and one of its name that follows is another", {
  timeout,
}, async () => {
  await shop.said("delete", "pod", "c", "--force", "--grace-period=0");
  await shop.enrolled(1, "c", false);
  await shop.api.apply(whoPod("c", "n1"));
  await shop.ready("c");
  await shop.enrolled(1, "c");
  await asksB("c");
});

test("[OPS-10] a node that loses its power: its pods are in the mesh again when it is back", { timeout }, async () => {
  const h = hierarchies();
  const init = initProgram({ cluster: shop.cluster, state: shop.state, programsDir: clusterCache }, 2);
  assert.ok(await stopProgram(h, init, "SIGKILL", 10_000));
  await shop.waitFor("its agent is gone", async () => shop.agent(2).pid === undefined);
  await shop.up();
  await shop.startAgents();
  await shop.ready("b");
  await shop.enrolled(2, "b");
  await byTunnel();
});
