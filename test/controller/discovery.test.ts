import assert from "node:assert/strict";
import { test } from "node:test";
import { status } from "@grpc/grpc-js";
import { typeUrlOf } from "../../agent/api/resources.ts";
import { startController } from "../kit/controller.ts";
import { joinedNode, makeCsr, nodeWith, recordsOf, rootsOf, versionsOf } from "../kit/node-agent.ts";
import { namespace, pod, service } from "../kit/objects.ts";
import { eventually } from "../kit/wait.ts";

const workloads = typeUrlOf("Workload");
const services = typeUrlOf("Service");
const bundles = typeUrlOf("TrustBundle");
const base = {
  "a.yaml": [
    namespace("shop"),
    pod("shop", "web-1", "10.244.1.5"),
    pod("shop", "web-2", "10.244.1.6"),
    service("shop", "web"),
  ].join("\n---\n"),
};

test("[DIS-2] an agent gets what the folder says, and afterwards only what changed", async () => {
  await using controller = await startController(base);
  const node = await joinedNode(controller, "n1");
  const stream = node.stream();
  try {
    stream.subscribe(workloads);
    const first = await stream.next();
    assert.deepEqual(first.resources.map((r) => r.name).sort(), [
      "cluster.local/shop/web-1",
      "cluster.local/shop/web-2",
    ]);
    assert.notEqual(first.systemVersionInfo, "", "the last part of a state names its generation");
    stream.ack(first);
    stream.subscribe(services);
    const second = await stream.next();
    assert.deepEqual(
      second.resources.map((r) => r.name),
      ["shop/web"],
    );
    stream.ack(second);

    await controller.write("b.yaml", pod("shop", "web-3", "10.244.1.7"));
    const third = await stream.next();
    assert.deepEqual(
      third.resources.map((r) => r.name),
      ["cluster.local/shop/web-3"],
      "[DP-30] a new pod sends one workload and no service",
    );
    const [added] = recordsOf(third);
    assert.ok(added?.kind === "Workload");
    assert.deepEqual(added.value.services, [{ service: "shop/web", ports: [{ servicePort: 80, targetPort: 8080 }] }]);
    assert.equal(added.value.tunnel, "fairlead/1");
    stream.ack(third);

    await controller.write("b.yaml", "# nothing left\n");
    const fourth = await stream.next();
    assert.deepEqual(fourth.removedResources, ["cluster.local/shop/web-3"]);
    assert.equal(fourth.resources.length, 0);
    stream.ack(fourth);
    assert.ok(await stream.isQuiet(150));
  } finally {
    stream.close();
  }
});

test("[DIS-2] changes in the folder are seen without being told, within two seconds", async () => {
  // Nothing is looked at unless the kernel says so.
  await using controller = await startController(base, { FAIRLEAD_POLL_MS: "600000" });
  const stream = (await joinedNode(controller, "n1")).stream();
  try {
    stream.subscribe(workloads);
    stream.ack(await stream.next());
    const began = performance.now();
    await controller.write(
      "live/shop_web-1.json",
      JSON.stringify(JSON.parse(livePod("web-1", "10.244.1.5", false))),
      false,
    );
    const next = await stream.next();
    // "Two seconds" on a machine that has nothing else to do.
    assert.ok(performance.now() - began < 20_000);
    const [record] = recordsOf(next);
    assert.ok(record?.kind === "Workload" && !record.value.ready, "[DIS-6] an unready pod is told at once");
  } finally {
    stream.close();
  }
});

const livePod = (name: string, ip: string, ready: boolean): string =>
  JSON.stringify({
    apiVersion: "v1",
    kind: "Pod",
    metadata: { name, namespace: "shop", labels: { app: "web" } },
    spec: { nodeName: "n1", serviceAccountName: "web", containers: [{ name: "c" }] },
    status: { phase: "Running", podIPs: [{ ip }], conditions: [{ type: "Ready", status: ready ? "True" : "False" }] },
  });

test("[DIS-1] a stream that comes back with its versions gets only the difference, also from a restarted controller", async () => {
  await using controller = await startController(base);
  const node = await joinedNode(controller, "n1");
  const first = node.stream();
  first.subscribe(workloads);
  const versions = versionsOf(await first.next());
  first.close();

  const same = node.stream();
  same.subscribe(workloads, versions);
  const nothing = await same.next();
  assert.equal(
    nothing.resources.length,
    0,
    "an answer comes though nothing changed, so that the agent knows that it is fresh",
  );
  assert.notEqual(nothing.systemVersionInfo, "");
  same.close();

  await controller.restart();
  await controller.write("c.yaml", pod("shop", "web-9", "10.244.1.9"));
  const after = node.stream();
  after.subscribe(workloads, { ...versions, "cluster.local/shop/gone": "x" });
  const difference = await after.next();
  assert.deepEqual(
    difference.resources.map((r) => r.name),
    ["cluster.local/shop/web-9"],
  );
  assert.deepEqual(difference.removedResources, ["cluster.local/shop/gone"]);
  after.close();
});

test("[DIS-1] one response is open at a time; a slow agent gets the newest state in one piece", async () => {
  await using controller = await startController(base);
  const stream = (await joinedNode(controller, "n1")).stream();
  try {
    stream.subscribe(workloads);
    const first = await stream.next();
    for (let i = 0; i < 5; i++) await controller.write("b.yaml", pod("shop", "web-3", `10.244.1.${20 + i}`));
    assert.ok(await stream.isQuiet(100), "nothing is sent before the answer");
    stream.ack(first);
    const second = await stream.next();
    const [record] = recordsOf(second);
    assert.ok(record?.kind === "Workload");
    assert.deepEqual(record.value.addresses, ["10.244.1.24"]);
    stream.ack({ ...second, nonce: "stale" });
    await controller.write("b.yaml", pod("shop", "web-3", "10.244.1.30"));
    assert.ok(await stream.isQuiet(100), "an answer to something else opens nothing");
    stream.ack(second);
    assert.equal((await stream.next()).resources.length, 1);
  } finally {
    stream.close();
  }
});

test("[DIS-9] a refused resource is shown with its reason, the accepted ones count as enforced", async () => {
  await using controller = await startController(base);
  const stream = (await joinedNode(controller, "n1")).stream();
  try {
    stream.subscribe(workloads);
    const first = await stream.next();
    stream.nack(first, "cluster.local/shop/web-2: addresses[0]: is odd");
    const pods = async () =>
      (await controller.admin("GET", "/v1/status")).json.objects.filter((o: { kind: string }) => o.kind === "Pod");
    await eventually(async () => assert.match((await pods())[1].why[0] ?? "", /n1: refused by the agent: .*is odd/));
    const [one, two] = await pods();
    assert.deepEqual(
      [one.enforced, two.enforced],
      [
        { nodes: 1, of: 1 },
        { nodes: 0, of: 1 },
      ],
    );
    assert.ok(await stream.isQuiet(100), "a refused version is not sent again");
    await controller.write("a.yaml", base["a.yaml"].replace("10.244.1.6", "10.244.1.66"));
    const next = await stream.next();
    assert.deepEqual(
      next.resources.map((r) => r.name),
      ["cluster.local/shop/web-2"],
    );
    stream.ack(next);
    await eventually(async () => assert.equal((await pods())[1].enforced.nodes, 1));
  } finally {
    stream.close();
  }
});

test("a subscription by name follows only these, and says which are not there", async () => {
  await using controller = await startController(base);
  const stream = (await joinedNode(controller, "n1")).stream();
  try {
    stream.subscribe(services, {}, ["shop/web", "shop/none"]);
    const first = await stream.next();
    assert.deepEqual(
      first.resources.map((r) => r.name),
      ["shop/web"],
    );
    assert.deepEqual(first.removedResources, ["shop/none"]);
    stream.ack(first);
    await controller.write("b.yaml", service("shop", "other"));
    assert.ok(await stream.isQuiet(100));
    await controller.write("c.yaml", service("shop", "none"));
    assert.deepEqual(
      (await stream.next()).resources.map((r) => r.name),
      ["shop/none"],
    );
  } finally {
    stream.close();
  }
});

test("an unknown type is answered with nothing instead of silence", async () => {
  await using controller = await startController(base);
  const stream = (await joinedNode(controller, "n1")).stream();
  stream.subscribe("type.googleapis.com/fairlead.v1.HttpRouting");
  assert.equal((await stream.next()).resources.length, 0);
  stream.close();
});

test("[SEC-6] discovery answers only nodes with a valid credential", async () => {
  await using controller = await startController(base);
  const roots = await rootsOf(controller);
  const { issue } = await joinedNode(controller, "n1");
  const workload = await makeCsr("spiffe://cluster.local/ns/shop/sa/web");
  const svid = await issue("spiffe://cluster.local/ns/shop/sa/web", workload.csrPem);
  for (const [credential, code] of [
    [undefined, status.UNAUTHENTICATED],
    [{ chainPem: svid.chainPem, keyPem: workload.keyPem }, status.PERMISSION_DENIED],
  ] as const) {
    const stream = nodeWith(controller, "n1", credential as never, roots).stream();
    stream.subscribe(bundles);
    await assert.rejects(stream.next(), (error: { code?: number }) => error.code === code);
    stream.close();
  }
});

test("[DIS-5] the controller's going away is a clean end for its agents, and it ends in time", async () => {
  await using controller = await startController(base);
  const stream = (await joinedNode(controller, "n1")).stream();
  stream.subscribe(workloads);
  await stream.next();
  const began = performance.now();
  assert.equal(await controller.stop(), 0);
  assert.ok(performance.now() - began < 20_000);
  stream.close();
});
