import assert from "node:assert/strict";
import { test } from "node:test";
import { crd, crdPath, FakeKubernetes } from "../../../test/kit/fake-kubernetes.ts";
import { feed, livePod, liveService, liveSlice, paths } from "../../../test/kit/kubernetes-source.ts";
import { eventually } from "../../../test/kit/wait.ts";
import type { AuthorizationPolicyObject, PodObject } from "../types.ts";
import { type Resource, readObject, resources } from "./resources.ts";

function resourceOf(kind: string): Resource {
  const resource = resources.find((r) => r.kind === kind);
  assert.ok(resource !== undefined);
  return resource;
}
function shop(fake: FakeKubernetes): void {
  fake.put(paths.namespaces, { metadata: { name: "shop", labels: { "fairlead.dev/mesh": "enabled" } } });
  fake.put(paths.nodes, {
    metadata: { name: "n1", labels: { "topology.kubernetes.io/zone": "z1" } },
    spec: { podCIDR: "10.244.1.0/24" },
    status: { addresses: [{ type: "InternalIP", address: "192.168.1.1" }], nodeInfo: {} },
  });
  fake.put(paths.accounts, { metadata: { name: "web", namespace: "shop" }, secrets: [] });
  fake.put(paths.pods, livePod("web-1", "10.244.1.5"));
  fake.put(paths.services, liveService("web", "10.96.0.10"));
  fake.put(paths.slices, liveSlice("web", "10.244.1.5", "web-1"));
}
const policy = (spec: object = { action: "DENY", rules: [{}] }): object => ({
  metadata: { name: "deny", namespace: "shop" },
  spec,
});
const policyKey = "AuthorizationPolicy/shop/deny";
const istio = crd("security.istio.io", "authorizationpolicies", ["v1beta1", "v1"]);

test("[DIS-1] everything of a cluster comes in one first snapshot; only what is read is kept", async () => {
  await using fake = await FakeKubernetes.start();
  shop(fake);
  fake.put(crdPath, istio);
  fake.put(paths.authorizations, policy());
  await using fed = feed(fake);
  await fed.started;
  assert.equal(fed.settled, 1, "nobody sees a part of it");
  assert.deepEqual([...fed.objects().keys()].sort(), [
    policyKey,
    "EndpointSlice/shop/web-abcde",
    "Namespace//shop",
    "Node//n1",
    "Pod/shop/web-1",
    "Service/shop/web",
    "ServiceAccount/shop/web",
  ]);
  assert.deepEqual(fed.problems, [], "fields that a newer API server has are no fault");
  const pod = fed.index.get("Pod", "shop", "web-1")?.object as PodObject;
  assert.deepEqual(pod.metadata.annotations, { "fairlead.dev/weight": "2" });
  assert.equal(JSON.stringify(pod).includes("futureField"), false);
  assert.equal(JSON.stringify(pod).includes("managedFields"), false);
  assert.equal(fed.source.notReady(), undefined);
});

test("[DIS-1] changes arrive together after a moment, and what changes nothing for us is not told", async () => {
  await using fake = await FakeKubernetes.start();
  shop(fake);
  await using fed = feed(fake);
  await fed.started;
  await eventually(() => assert.equal(fake.watching(paths.pods), 1));
  fed.events.length = 0;
  fake.put(paths.pods, { ...livePod("web-1", "10.244.1.5"), alsoNew: 1 });
  fake.put(paths.pods, livePod("web-2", "10.244.1.6"));
  await eventually(() => assert.ok(fed.index.get("Pod", "shop", "web-2")));
  assert.deepEqual(fed.events, ["apply Pod/shop/web-2"]);
  fake.remove(paths.pods, "shop", "web-2");
  await eventually(() => assert.equal(fed.index.get("Pod", "shop", "web-2"), undefined));
});

test("[DIS-9] an object that the API server takes and we cannot is told with its field; its last good version stays", async () => {
  await using fake = await FakeKubernetes.start();
  shop(fake);
  fake.put(crdPath, istio);
  fake.put(paths.authorizations, policy());
  await using fed = feed(fake);
  await fed.started;
  await eventually(() => assert.equal(fake.watching(paths.authorizations), 1));
  fake.put(paths.authorizations, policy({ action: "DENY", rules: [{ unheardOf: true }] }));
  fake.put(paths.authorizations, { ...policy({ action: "PERHAPS" }), metadata: { name: "other", namespace: "shop" } });
  await eventually(() => assert.equal(fed.problems.length, 2));
  const [bad, other] = fed.problems;
  assert.deepEqual(
    [bad?.file, bad?.line, bad?.object, bad?.field],
    ["kubernetes", 0, { kind: "AuthorizationPolicy", namespace: "shop", name: "deny" }, "spec.rules[0].unheardOf"],
  );
  assert.match(`${other?.message} ${other?.fix}`, /PERHAPS.*ALLOW/);
  const kept = fed.index.get("AuthorizationPolicy", "shop", "deny")?.object as AuthorizationPolicyObject;
  assert.deepEqual([kept.spec.action, kept.spec.rules.length], ["DENY", 1]);
  assert.equal(fed.index.get("AuthorizationPolicy", "shop", "other"), undefined);
  // Another object of the same name inherits nothing.
  fake.remove(paths.authorizations, "shop", "deny");
  fake.put(paths.authorizations, policy({ action: "PERHAPS" }));
  await eventually(() => assert.equal(fed.index.get("AuthorizationPolicy", "shop", "deny"), undefined));
  fake.put(paths.authorizations, policy({ action: "ALLOW" }));
  fake.remove(paths.authorizations, "shop", "other");
  await eventually(() => assert.ok(fed.index.get("AuthorizationPolicy", "shop", "deny")));
  await eventually(() => assert.deepEqual(fed.problems, []));
});

test("[DIS-9] values of every sort in every place are told, and nothing else is lost by them", async () => {
  await using fake = await FakeKubernetes.start();
  shop(fake);
  const odd = [null, 7, "x", [], {}, true, -1.5];
  odd.forEach((value, i) => {
    fake.put(paths.pods, {
      metadata: { name: `p${i}`, namespace: "shop", labels: value, annotations: value },
      spec: value,
      status: value,
    });
    fake.put(paths.services, {
      metadata: { name: `s${i}`, namespace: "shop" },
      spec: { ports: value, selector: value },
    });
    fake.put(paths.slices, {
      metadata: { name: `e${i}`, namespace: "shop" },
      addressType: value,
      endpoints: value,
      ports: value,
    });
    fake.put(paths.slices, {
      metadata: { name: `f${i}`, namespace: "shop" },
      addressType: "IPv4",
      ports: [value],
      endpoints: [value],
    });
  });
  fake.put(paths.slices, {
    metadata: { name: "fqdn", namespace: "shop" },
    addressType: "FQDN",
    endpoints: [{ addresses: ["a.example"] }],
    ports: null,
  });
  // Deep enough that whoever writes it out runs out of stack.
  const deep = JSON.parse(`${"[".repeat(30_000)}${"]".repeat(30_000)}`);
  const metadata = { name: "deep", namespace: "shop", uid: "u", resourceVersion: "1" };
  const read = readObject(resourceOf("AuthorizationPolicy"), { metadata, spec: { action: deep, rules: deep } });
  assert.ok(read.problems.length > 0 && read.object === undefined);
  await using fed = feed(fake);
  await fed.started;
  assert.ok(fed.index.get("Pod", "shop", "web-1"));
  assert.ok(fed.index.get("EndpointSlice", "shop", "fqdn"), "names instead of addresses are no fault");
  const told = new Set(fed.problems.map((p) => `${p.object?.kind}/${p.object?.namespace}/${p.object?.name}`));
  for (const name of ["p1", "p2", "p3", "p5", "p6"]) assert.ok(told.has(`Pod/shop/${name}`), name);
  for (const key of told) assert.equal(fed.objects().has(key), false, `${key} is either in force or told`);
  for (const { field, message, fix } of fed.problems) assert.ok(field !== "" && message !== "" && fix !== "");
});

test("[DIS-1] kinds come and go with their definitions, while the controller runs", async () => {
  await using fake = await FakeKubernetes.start();
  shop(fake);
  await using fed = feed(fake);
  await fed.started;
  assert.equal(fake.count("GET", paths.authorizations), 0, "nobody asks for a kind that is not there");
  fake.put(paths.authorizations, policy());
  fake.put(crdPath, crd("security.istio.io", "authorizationpolicies", ["v1"], false));
  await eventually(() =>
    assert.ok(fake.asked.some((a) => a.path.endsWith("/authorizationpolicies.security.istio.io"))),
  );
  // In its first second a new kind is answered with 429 or 404.
  let refusals = 0;
  fake.mishap = ({ path }) =>
    path === paths.authorizations && ++refusals <= 2 ? { status: refusals === 1 ? 429 : 404 } : undefined;
  fake.put(crdPath, istio);
  await eventually(() => assert.ok(fed.index.get("AuthorizationPolicy", "shop", "deny")));
  fake.remove(crdPath, "", "authorizationpolicies.security.istio.io");
  await eventually(() => assert.equal(fed.index.get("AuthorizationPolicy", "shop", "deny"), undefined));
  fake.put(crdPath, istio);
  await eventually(() => assert.ok(fed.index.get("AuthorizationPolicy", "shop", "deny")));
});

test("[DIS-1] another version of a kind takes over without a gap; a version that we cannot read is no kind", async () => {
  await using fake = await FakeKubernetes.start();
  shop(fake);
  const beta = paths.authorizations.replace("/v1/", "/v1beta1/");
  fake.put(crdPath, crd("security.istio.io", "authorizationpolicies", ["v1beta1"]));
  fake.put(beta, policy());
  fake.put(paths.authorizations, policy());
  await using fed = feed(fake);
  await fed.started;
  assert.ok(fed.index.get("AuthorizationPolicy", "shop", "deny"));
  fed.events.length = 0;
  fake.put(crdPath, istio);
  await eventually(() => assert.equal(fake.watching(paths.authorizations), 1));
  await eventually(() => assert.equal(fake.watching(beta), 0));
  assert.deepEqual(
    fed.events.filter((event) => event.startsWith("delete")),
    [],
  );
  fake.put(crdPath, crd("security.istio.io", "authorizationpolicies", ["v7"]));
  await eventually(() => assert.equal(fed.index.get("AuthorizationPolicy", "shop", "deny"), undefined));
});

test("[DIS-1] the first snapshot waits for policies that cannot be read, and says what it waits for", async () => {
  await using fake = await FakeKubernetes.start();
  shop(fake);
  fake.put(crdPath, istio);
  fake.put(paths.authorizations, policy());
  let isForbidden = true;
  fake.mishap = ({ path }) =>
    isForbidden && path === paths.authorizations
      ? { status: 403, body: { kind: "Status", code: 403, message: "authorizationpolicies is forbidden" } }
      : undefined;
  await using fed = feed(fake);
  await eventually(() => assert.match(fed.source.notReady() ?? "", /AuthorizationPolicy: .*403.*forbidden/));
  assert.equal(fed.settled, 0, "without the policy it would let in what is refused");
  isForbidden = false;
  await fed.started;
  assert.ok(fed.index.get("AuthorizationPolicy", "shop", "deny"));
  // Later on the same changes nothing.
  isForbidden = true;
  fake.cutWatches(paths.authorizations);
  await eventually(() => assert.match(JSON.stringify(fed.source.details()), /forbidden/));
  assert.equal(fed.source.notReady(), undefined);
  assert.ok(fed.index.get("AuthorizationPolicy", "shop", "deny"));
});

test("[DIS-1] an API server that is away when the controller starts is waited for; stopping ends the wait", async () => {
  const fake = await FakeKubernetes.start();
  shop(fake);
  fake.leave();
  const fed = feed(fake);
  await eventually(() =>
    assert.match(fed.source.notReady() ?? "", /CustomResourceDefinition: .*(ECONNRE|hang up|EPIPE)/),
  );
  fake.comeBack();
  await fed.started;
  await fed[Symbol.asyncDispose]();
  await fake[Symbol.asyncDispose]();
  const other = feed(fake);
  await other[Symbol.asyncDispose]();
  await other.started;
  assert.equal(other.settled, 0);
});

test("[DIS-1] asked to, everything is read again, and what a watch has lost is found", async () => {
  await using fake = await FakeKubernetes.start();
  shop(fake);
  await using fed = feed(fake);
  await fed.started;
  await eventually(() => assert.equal(fake.watching(paths.pods), 1));
  fake.freezeWatches();
  fake.put(paths.pods, livePod("web-2", "10.244.1.6"));
  fake.put(crdPath, istio);
  fake.put(paths.authorizations, policy());
  await fed.source.resync();
  assert.ok(fed.index.get("Pod", "shop", "web-2"));
  await eventually(() => assert.ok(fed.index.get("AuthorizationPolicy", "shop", "deny")));
});
