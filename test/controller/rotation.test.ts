import assert from "node:assert/strict";
import { X509Certificate } from "node:crypto";
import { readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { status } from "@grpc/grpc-js";
import { typeUrlOf } from "../../agent/api/resources.ts";
import { startController, type TestController } from "../kit/controller.ts";
import { joinedNode, makeCsr, nodeWith, recordsOf, type TestStream } from "../kit/node-agent.ts";
import { namespace, pod } from "../kit/objects.ts";
import { ownCa } from "../kit/shared-ca.ts";
import { eventually } from "../kit/wait.ts";

const web = "spiffe://cluster.local/ns/shop/sa/web";
const files = { "a.yaml": [namespace("shop"), pod("shop", "web-1", "10.244.1.5")].join("\n---\n") };
const rotate = (controller: TestController, phase: string, force?: boolean) =>
  controller.admin("POST", "/v1/ca/rotate", force === undefined ? { phase } : { phase, force });
const issuerOf = (chainPem: string): X509Certificate =>
  new X509Certificate(chainPem.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g)?.[1] ?? "");

async function nextBundle(stream: TestStream) {
  const response = await stream.next();
  const [record] = recordsOf(response);
  assert.ok(record?.kind === "TrustBundle");
  return { response, bundle: record.value };
}

test("[IDN-9] a root is replaced in three steps, with both trusted in between and nobody cut off", async () => {
  await using controller = await startController(files);
  const node = await joinedNode(controller, "n1");
  const stream = node.stream();
  try {
    stream.subscribe(typeUrlOf("TrustBundle"));
    const before = await nextBundle(stream);
    stream.ack(before.response);
    const [oldRoot = ""] = before.bundle.rootsPem;
    const oldSvid = await node.issue(web, (await makeCsr(web)).csrPem);

    assert.equal((await rotate(controller, "switch")).status, 409);
    assert.equal((await rotate(controller, "begin")).status, 200);
    const both = await nextBundle(stream);
    assert.equal(both.bundle.rootsPem.length, 2);
    assert.ok(both.bundle.generation > before.bundle.generation);
    const still = await node.issue(web, (await makeCsr(web)).csrPem);
    assert.ok(
      issuerOf(still.chainPem).verify(new X509Certificate(oldRoot).publicKey),
      "nobody is signed by the new root yet",
    );

    const early = await rotate(controller, "switch");
    assert.equal(early.status, 409, "an agent has not taken the bundle");
    assert.match(early.json.error.message, /have not taken the trust bundle yet: n1/);
    stream.ack(both.response);
    await eventually(async () => assert.equal((await rotate(controller, "switch")).status, 200));
    const switched = await nextBundle(stream);
    assert.ok(switched.bundle.generation > both.bundle.generation, "a new generation: agents renew");
    stream.ack(switched.response);
    const newRoot = switched.bundle.rootsPem.find((pem) => pem !== oldRoot) ?? "";

    // The old credential works until the end, so the node can renew under the new root.
    const keyed = await makeCsr("spiffe://cluster.local/node/n1");
    const renewed = await node.renew("n1", keyed.csrPem);
    assert.ok(issuerOf(renewed.chainPem).verify(new X509Certificate(newRoot).publicKey));
    const held = await eventually(async () => {
      const answer = await rotate(controller, "finish");
      assert.match(answer.json.error.message, /1 certificates of the old root are in force \(spiffe:.*web on n1\)/);
      return answer;
    });
    assert.equal(held.status, 409);
    const fresh = nodeWith(controller, "n1", { chainPem: renewed.chainPem, keyPem: keyed.keyPem }, renewed.rootsPem);
    await fresh.issue(web, (await makeCsr(web)).csrPem);
    assert.equal((await rotate(controller, "finish")).status, 200);
    const after = await nextBundle(stream);
    assert.deepEqual(after.bundle.rootsPem, [newRoot]);
    assert.ok(!readdirSync(controller.state).includes("root-1.key"), "the old key is gone");

    // What the removed root stands behind is refused, also after a restart.
    const stranger = () => node.issue(web, "");
    await eventually(async () =>
      assert.rejects(
        stranger(),
        (e: { code?: number }) => e.code === status.UNAUTHENTICATED || e.code === status.UNAVAILABLE,
      ),
    );
    await fresh.issue(web, (await makeCsr(web)).csrPem);
    await controller.restart();
    await fresh.issue(web, (await makeCsr(web)).csrPem);
    assert.ok(oldSvid.trustGeneration < after.bundle.generation);
  } finally {
    stream.close();
  }
});

test("[IDN-9] a rotation survives a restart at every step, and is forced only when asked for", async () => {
  await using controller = await startController(files);
  const node = await joinedNode(controller, "n1");
  const phase = async () => (await controller.admin("GET", "/v1/ca")).json.phase;
  await rotate(controller, "begin");
  assert.equal((await rotate(controller, "begin")).status, 409);
  await controller.restart();
  assert.equal(await phase(), "both-trusted");
  assert.equal((await rotate(controller, "switch")).status, 200);
  await controller.restart();
  assert.equal(await phase(), "switched");
  // An agent that knows only the old root, and was away meanwhile, still gets through.
  await node.issue(web, (await makeCsr(web)).csrPem);
  const answer = await rotate(controller, "finish");
  assert.equal(answer.status, 409, "a controller that was restarted knows what is still out");
  assert.match(answer.json.error.message, /1 certificates of the old root are in force .*node\/n1.*force/);
  rmSync(join(controller.state, "issued.jsonl"));
  await controller.restart();
  const blind = await rotate(controller, "finish");
  assert.equal(blind.status, 409, "one that has lost its ledger does not");
  assert.match(blind.json.error.message, /until 20\d\d-.*force/);
  assert.equal((await rotate(controller, "finish", true)).status, 200);
  assert.equal(await phase(), "steady");
  assert.equal((await rotate(controller, "sideways")).status, 400);
});

test("[IDN-5] [IDN-10] lifetimes of seconds: certificates end in time, and what ends next is a metric", async () => {
  await using controller = await startController(files, {
    FAIRLEAD_SVID_TTL_MS: "30000",
    FAIRLEAD_NODE_TTL_MS: "10000",
  });
  const node = await joinedNode(controller, "n1");
  const { notAfterMs } = await node.issue(web, (await makeCsr(web)).csrPem);
  assert.ok(notAfterMs - Date.now() <= 30_000 && notAfterMs - Date.now() > 15_000);
  const metrics = (await controller.admin("GET", "/metrics")).text;
  const soonest = Number(
    /^fairlead_certificate_soonest_expiry_seconds\{kind="workload"\} ([0-9.]+)/m.exec(metrics)?.[1],
  );
  assert.ok(soonest > 10 && soonest <= 30);
  for (const name of ["root-1", "intermediate", "server"])
    assert.match(metrics, new RegExp(`fairlead_ca_expiry_seconds\\{certificate="${name}"\\} [0-9]`));
  await new Promise((resolve) => setTimeout(resolve, 11_100));
  await assert.rejects(
    node.issue(web, (await makeCsr(web)).csrPem),
    (e: { code?: number; details?: string }) => e.code === status.UNAUTHENTICATED,
  );
  // An ended credential is replaced by joining again.
  await (await joinedNode(controller, "n1")).issue(web, (await makeCsr(web)).csrPem);
});

test("[IDN-1] [IDN-9] a root that the operator supplies later is rotated to, not jumped to", async () => {
  await using controller = await startController(files, ownCa);
  const [made = ""] = pems((await controller.admin("GET", "/v1/roots")).text);
  await using other = await startController(files, ownCa);
  const supplied = {
    FAIRLEAD_CA_ROOT_CERT_FILE: `${other.state}/root-1.crt`,
    FAIRLEAD_CA_ROOT_KEY_FILE: `${other.state}/root-1.key`,
  };
  await controller.restart(supplied);
  assert.deepEqual(pems((await controller.admin("GET", "/v1/roots")).text), [made]);
  await controller.logged("supplied_root_waits");
  await rotate(controller, "begin");
  const [wanted] = pems((await other.admin("GET", "/v1/roots")).text);
  assert.deepEqual(pems((await controller.admin("GET", "/v1/roots")).text), [made, wanted]);
});

const pems = (text: string): readonly string[] =>
  text.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? [];
