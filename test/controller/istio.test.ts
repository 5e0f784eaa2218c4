// What an unmodified ztunnel does toward the controller, by the published messages: discovery of all and on demand, policies, certificates.
import assert from "node:assert/strict";
import { X509Certificate } from "node:crypto";
import { test } from "node:test";
import { type ServiceError, status } from "@grpc/grpc-js";
import type { DeltaDiscoveryResponse } from "../../agent/api/discovery.gen.ts";
import { Authorization } from "../../agent/api/istio-security.gen.ts";
import { Address } from "../../agent/api/istio-workload.gen.ts";
import { startController, type TestController } from "../kit/controller.ts";
import { istioChain } from "../kit/istio-client.ts";
import { callerWithToken, joinedNode, rootsOf } from "../kit/node-agent.ts";
import { authorization, namespace, peerAuthentication, pod, service } from "../kit/objects.ts";

const addresses = "type.googleapis.com/istio.workload.Address";
const policies = "type.googleapis.com/istio.security.Authorization";
const files = {
  "a.yaml": [
    namespace("shop"),
    pod("shop", "web-1", "10.244.1.5", { labels: { version: "v2" } }),
    pod("shop", "db-1", "10.244.2.5", { node: "n2", account: "db" }),
    service("shop", "web"),
  ].join("\n---\n"),
};
const env = { FAIRLEAD_ISTIO_ACCOUNTS: "istio-system/ztunnel" };
const tokenFor = async (controller: TestController, node: string): Promise<string> =>
  (await controller.admin("POST", "/v1/node-tokens", { node })).json.token;
const namesOf = (response: DeltaDiscoveryResponse): readonly string[] => response.resources.map((r) => r.name).sort();
const decoded = (response: DeltaDiscoveryResponse) =>
  new Map(response.resources.map((r) => [r.name, Address.decode(r.resource?.value ?? Buffer.alloc(0)).type]));

test("[DIS-11] a ztunnel is told of workloads and services, of changes, and on demand by name or address", async () => {
  await using controller = await startController(files, env);
  const caller = callerWithToken(controller, await tokenFor(controller, "n1"), await rootsOf(controller));
  const all = caller.stream();
  const some = caller.stream();
  try {
    // As ztunnel does it: nothing named means all.
    all.send({ typeUrl: addresses });
    const first = await all.next();
    assert.deepEqual(namesOf(first), [
      "Kubernetes//Pod/shop/db-1",
      "Kubernetes//Pod/shop/web-1",
      "shop/web.shop.svc.cluster.local",
    ]);
    const types = decoded(first);
    const web = types.get("Kubernetes//Pod/shop/web-1");
    assert.ok(web?.$case === "workload");
    assert.deepEqual(
      [web.value.addresses, web.value.tunnelProtocol, web.value.serviceAccount, web.value.node, web.value.status],
      [[Buffer.from([10, 244, 1, 5])], 1, "web", "n1", 0],
    );
    assert.deepEqual([web.value.canonicalName, web.value.canonicalRevision], ["web", "v2"]);
    assert.deepEqual(web.value.services["shop/web.shop.svc.cluster.local"]?.ports, [
      { servicePort: 80, targetPort: 8080, appProtocol: 0 },
    ]);
    const shop = types.get("shop/web.shop.svc.cluster.local");
    assert.ok(shop?.$case === "service" && shop.value.addresses.length > 0);
    all.ack(first);
    await controller.write("b.yaml", pod("shop", "web-2", "10.244.1.6"));
    const second = await all.next();
    assert.deepEqual(namesOf(second), ["Kubernetes//Pod/shop/web-2"]);
    all.ack(second);
    await controller.write("b.yaml", "# nothing\n");
    const third = await all.next();
    assert.deepEqual(third.removedResources, ["Kubernetes//Pod/shop/web-2"]);
    all.ack(third);

    // On demand: all and none of it in the first request, then names.
    some.send({ typeUrl: addresses, resourceNamesSubscribe: ["*"], resourceNamesUnsubscribe: ["*"] });
    const own = await some.next();
    // A ztunnel waits for the pods of its node, and never asks for them.
    assert.deepEqual(namesOf(own), ["Kubernetes//Pod/shop/web-1"]);
    some.ack(own);
    some.send({ typeUrl: addresses, resourceNamesSubscribe: ["/10.244.2.5"] });
    const byAddress = await some.next();
    assert.deepEqual(namesOf(byAddress), ["/10.244.2.5", "Kubernetes//Pod/shop/db-1"]);
    some.ack(byAddress);
    some.send({ typeUrl: addresses, resourceNamesSubscribe: ["shop/web.shop.svc.cluster.local"] });
    const byName = await some.next();
    assert.deepEqual(namesOf(byName), ["shop/web.shop.svc.cluster.local"]);
    some.ack(byName);
    some.send({ typeUrl: addresses, resourceNamesSubscribe: ["/10.9.9.9"] });
    const unknown = await some.next();
    assert.deepEqual([unknown.resources.length, unknown.removedResources], [0, ["/10.9.9.9"]]);
    some.ack(unknown);
    // A new endpoint of the service is told without being asked for; others are not.
    await controller.write(
      "b.yaml",
      [
        pod("shop", "web-2", "10.244.2.7", { node: "n2" }),
        pod("shop", "db-2", "10.244.2.6", { labels: { app: "db" }, node: "n2" }),
      ].join("\n---\n"),
    );
    assert.deepEqual(namesOf(await some.next()), ["Kubernetes//Pod/shop/web-2"]);
  } finally {
    all.close();
    some.close();
  }
});

test("[DIS-11] a ztunnel on demand that comes back names what it knows as versions only, and keeps it", async () => {
  await using controller = await startController(files, env);
  const caller = callerWithToken(controller, await tokenFor(controller, "n1"), await rootsOf(controller));
  const onDemand = { typeUrl: addresses, resourceNamesSubscribe: ["*"], resourceNamesUnsubscribe: ["*"] };
  const first = caller.stream();
  first.send(onDemand);
  first.ack(await first.next());
  first.send({ typeUrl: addresses, resourceNamesSubscribe: ["/10.244.2.5"] });
  const known = await first.next();
  assert.ok(known.resources.length > 0);
  first.close();
  const again = caller.stream();
  try {
    const initialResourceVersions = Object.fromEntries(known.resources.map((r) => [r.name, r.version]));
    again.send({ ...onDemand, initialResourceVersions });
    const nothingNew = await again.next();
    assert.deepEqual([namesOf(nothingNew), nothingNew.removedResources], [["Kubernetes//Pod/shop/web-1"], []]);
    again.ack(nothingNew);
    await controller.write("a.yaml", files["a.yaml"].replace("10.244.2.5", "10.244.2.9"));
    const moved = await again.next();
    assert.deepEqual([namesOf(moved), moved.removedResources], [["Kubernetes//Pod/shop/db-1"], ["/10.244.2.5"]]);
  } finally {
    again.close();
  }
});

test("[DIS-11] policies reach a ztunnel as far as layer 4 goes, strict mTLS among them", async () => {
  await using controller = await startController(
    {
      ...files,
      "p.yaml": [
        authorization("shop", "web-only", {
          selector: { matchLabels: { app: "web" } },
          action: "ALLOW",
          rules: [
            {
              from: [{ source: { principals: ["cluster.local/ns/shop/sa/*"] } }],
              to: [{ operation: { ports: ["8080"] } }],
            },
            { to: [{ operation: { methods: ["GET"] } }] },
          ],
        }),
        authorization("shop", "no-get", { action: "DENY", rules: [{ to: [{ operation: { methods: ["GET"] } }] }] }),
        peerAuthentication("shop", "default", { mtls: { mode: "STRICT" } }),
      ].join("\n---\n"),
    },
    env,
  );
  const stream = callerWithToken(controller, await tokenFor(controller, "n1"), await rootsOf(controller)).stream();
  try {
    stream.send({ typeUrl: policies });
    const first = await stream.next();
    assert.deepEqual(namesOf(first), ["istio-system/istio_converted_static_strict", "shop/no-get", "shop/web-only"]);
    const read = new Map(
      first.resources.map((r) => [r.name, Authorization.decode(r.resource?.value ?? Buffer.alloc(0))]),
    );
    const webOnly = read.get("shop/web-only");
    assert.deepEqual(
      [webOnly?.scope, webOnly?.action, webOnly?.rules.length],
      [2, 0, 1],
      "a rule by method allows nothing",
    );
    const [from, to] = webOnly?.rules[0]?.clauses ?? [];
    assert.deepEqual(from?.matches[0]?.principals, [
      { matchType: { $case: "prefix", value: "cluster.local/ns/shop/sa/" } },
    ]);
    assert.deepEqual(to?.matches[0]?.destinationPorts, [8080]);
    const noGet = read.get("shop/no-get");
    assert.deepEqual([noGet?.scope, noGet?.action, noGet?.rules.length], [1, 1, 1], "denies without the method");
    stream.ack(first);
    stream.send({ typeUrl: addresses });
    const web = decoded(await stream.next()).get("Kubernetes//Pod/shop/web-1");
    assert.ok(web?.$case === "workload");
    assert.deepEqual(web.value.authorizationPolicies, ["istio-system/istio_converted_static_strict", "shop/web-only"]);
  } finally {
    stream.close();
  }
});

test("[IDN-11] a ztunnel gets certificates for pods of its node, and for no others", async () => {
  await using controller = await startController(files, env);
  const roots = await rootsOf(controller);
  const web = "spiffe://cluster.local/ns/shop/sa/web";
  const db = "spiffe://cluster.local/ns/shop/sa/db";
  const create = (token: string, identity: string, asked?: string): Promise<readonly string[]> =>
    istioChain({ controller, roots, token }, identity, asked);
  const codeOf = (code: number) => (error: ServiceError) => error.code === code;
  const token = await tokenFor(controller, "n1");
  const chain = await create(token, web);
  assert.equal(chain.length, 3);
  const [leaf, intermediate, root] = chain.map((pem) => new X509Certificate(pem));
  assert.ok(leaf && intermediate && root);
  assert.equal(leaf.subjectAltName, `URI:${web}`);
  assert.ok(leaf.verify(intermediate.publicKey) && intermediate.verify(root.publicKey) && root.verify(root.publicKey));
  const lifeMs = Date.parse(leaf.validTo) - Date.now();
  assert.ok(lifeMs > 3_000_000 && lifeMs <= 3_600_000, "no longer than was asked for");
  await assert.rejects(create(token, db), codeOf(status.PERMISSION_DENIED));
  await assert.rejects(create(token, web, db), codeOf(status.INVALID_ARGUMENT));
  await assert.rejects(create(token, web, ""), codeOf(status.INVALID_ARGUMENT));
  await assert.rejects(create(`${token.slice(0, -8)}AAAAAAAA`, web), codeOf(status.UNAUTHENTICATED));
  await controller.logged("caller_refused", (line) => line.reason === "not_authenticated");
  // A workload's own token for the same audience names no node.
  const node = await joinedNode(controller, "n1");
  const own = await node.issueJwt(web, ["istio-ca"]);
  await assert.rejects(create(own, web), codeOf(status.UNAUTHENTICATED));
  await assert.rejects(
    node.issueJwt(db, ["x"]),
    codeOf(status.PERMISSION_DENIED),
    "[IDN-12] nor a JWT for a pod elsewhere",
  );
  await assert.rejects(node.issueJwt(web, []), codeOf(status.INVALID_ARGUMENT));
});

test("[IDN-9] [IDN-11] a root is rotated under a ztunnel: it gets both in the last entry of its chain, and none signs before it has", async () => {
  await using controller = await startController(files, env);
  const rotate = (phase: string) => controller.admin("POST", "/v1/ca/rotate", { phase });
  const web = "spiffe://cluster.local/ns/shop/sa/web";
  const asker = { controller, roots: await rootsOf(controller), token: await tokenFor(controller, "n1") };
  const chainFor = (identity: string): Promise<readonly string[]> => istioChain(asker, identity);
  await chainFor(web);
  assert.equal((await rotate("begin")).status, 200);
  // It hears of roots with its certificates only: this one knows nothing of the new one.
  const early = await rotate("switch");
  assert.equal(early.status, 409);
  assert.match(early.json.error.message, /1 certificates .*ztunnel.* \(spiffe:.*web on n1\)/);
  await controller.restart();
  assert.equal((await rotate("switch")).status, 409, "a controller that was restarted knows it too");
  // What is before the last entry it shows to peers; only the last it trusts.
  const chain = await chainFor(web);
  assert.equal(chain.length, 3);
  assert.equal(chain.at(-1)?.match(/BEGIN CERTIFICATE/g)?.length, 2);
  assert.equal((await rotate("switch")).status, 200);
  assert.equal((await rotate("finish")).status, 409);
  const [, intermediate = "", roots = ""] = await chainFor(web);
  const signed = roots
    .match(/-----BEGIN[^-]+-----[^-]+-----END[^-]+-----/g)
    ?.filter((root) => new X509Certificate(intermediate).verify(new X509Certificate(root).publicKey));
  assert.equal(signed?.length, 1);
  assert.equal((await rotate("finish")).status, 200);
});

test("[IDN-11] Istio's protocols are answered only where ztunnels are named", async () => {
  await using controller = await startController(files);
  const stream = callerWithToken(controller, await tokenFor(controller, "n1"), await rootsOf(controller)).stream();
  stream.send({ typeUrl: addresses });
  await assert.rejects(stream.next(), /tokens are not taken here/);
  stream.close();
});
