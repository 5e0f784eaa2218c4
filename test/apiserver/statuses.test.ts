// Statuses that the controller writes to a real API server: what they say, what of others they leave alone, and who writes when replicas die.
import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { type MeshResource, typeUrlOf } from "../../agent/api/resources.ts";
import { skipApi, type TestCluster, withApiServer } from "../cluster/kit.ts";
import type { KubeApi, KubeObject } from "../cluster/kubernetes/api.ts";
import {
  type ControllerAccess,
  clusterService,
  controllerAccess,
  httpRoute,
  install,
  istioDefinitions,
  meshedShop,
  quickReplicas,
  routeDefinitions,
  runningPod,
} from "../kit/api-server.ts";
import { call, startController, type TestController } from "../kit/controller.ts";
import { joinedNode, type TestStream } from "../kit/node-agent.ts";
import { eventually } from "../kit/wait.ts";

const options = { skip: skipApi, timeout: 3_600_000 } as const;
interface Condition {
  readonly type: string;
  readonly status: string;
  readonly reason: string;
  readonly message: string;
  readonly observedGeneration: number;
  readonly lastTransitionTime: string;
}
interface Parent {
  readonly parentRef: { readonly name: string; readonly kind?: string };
  readonly controllerName: string;
  readonly conditions: readonly Condition[];
}
interface Written extends KubeObject {
  readonly metadata: KubeObject["metadata"] & { readonly resourceVersion: string; readonly generation: number };
  readonly status?: { readonly parents?: readonly Parent[]; readonly conditions?: readonly Condition[] };
}
const read = async (api: KubeApi, object: KubeObject): Promise<Written> => api.get<Written>(await api.pathOf(object));
const said = (conditions: readonly Condition[] = []): Record<string, string> =>
  Object.fromEntries(conditions.map((c) => [c.type, `${c.status} ${c.reason}`]));
const parentsOf = ({ status }: Written): Record<string, Record<string, string>> =>
  Object.fromEntries(
    (status?.parents ?? []).map((p) => [`${p.controllerName} ${p.parentRef.name}`, said(p.conditions)]),
  );

test(
  "[TRF-1] routes: a status for each parent that is a Service, as the specification words it; nothing of others is touched",
  options,
  () =>
    withApiServer(async (up) => {
      const { api } = up;
      await install(api, routeDefinitions);
      await meshedShop(api);
      using access = await controllerAccess(up);
      const good = httpRoute(
        "good",
        [{ name: "web" }, { name: "nowhere" }, { name: "edge", kind: "Gateway", group: "gateway.networking.k8s.io" }],
        "web",
      );
      await api.apply(good);
      const foreign = {
        parentRef: { name: "edge", kind: "Gateway", group: "gateway.networking.k8s.io" },
        controllerName: "example.com/edge",
        conditions: [],
      };
      const path = await api.pathOf(good);
      await api.call("PATCH", `${path}/status`, { status: { parents: [foreign] } }, "application/merge-patch+json");
      const lost = httpRoute("lost", [{ name: "web" }], "gone");
      await api.apply(lost);
      const gateway = httpRoute(
        "gateway",
        [{ name: "edge", kind: "Gateway", group: "gateway.networking.k8s.io" }],
        "web",
      );
      await api.apply(gateway);
      const gatewayBefore = await read(api, gateway);
      const delegated = httpRoute(
        "delegated",
        [{ name: "delegated", kind: "HTTPRoute", group: "gateway.networking.k8s.io" }],
        "web",
      );
      await api.apply(delegated);
      await using controller = await startController({}, { ...access.env, ...quickReplicas });
      await eventually(async () => {
        const { "fairlead.dev/mesh web": web, ...rest } = parentsOf(await read(api, good));
        assert.deepEqual([web?.Accepted, web?.ResolvedRefs], ["True Accepted", "True ResolvedRefs"]);
        assert.deepEqual(rest, {
          "example.com/edge edge": {},
          "fairlead.dev/mesh nowhere": { Accepted: "False NoMatchingParent", ResolvedRefs: "True ResolvedRefs" },
        });
      });
      await eventually(async () => {
        const { parents: [parent] = [] } = (await read(api, lost)).status ?? {};
        assert.equal(said(parent?.conditions).ResolvedRefs, "False BackendNotFound");
        assert.match(parent?.conditions.find((c) => c.type === "ResolvedRefs")?.message ?? "", /no Service shop\/gone/);
      });
      // The missing Service appears, and then the parent goes; what stays keeps its times.
      const before = (await read(api, lost)).status?.parents?.[0]?.conditions.find((c) => c.type === "Accepted");
      await api.apply(clusterService("gone"));
      await eventually(async () => {
        const { parents: [parent] = [] } = (await read(api, lost)).status ?? {};
        assert.equal(said(parent?.conditions).ResolvedRefs, "True ResolvedRefs");
        assert.deepEqual(
          parent?.conditions.find((c) => c.type === "Accepted"),
          before,
        );
      });
      await api.apply(
        httpRoute("good", [{ name: "edge", kind: "Gateway", group: "gateway.networking.k8s.io" }], "web"),
      );
      await eventually(async () =>
        assert.deepEqual(Object.keys(parentsOf(await read(api, good))), ["example.com/edge edge"]),
      );
      // A version that makes no sense falls back to the one before, and says so.
      const generation = (await read(api, lost)).metadata.generation;
      const spec = lost.spec as { parentRefs: unknown; rules: object[] };
      await api.apply({
        ...lost,
        spec: { ...spec, rules: [{ ...spec.rules[0], matches: [{ path: { type: "Guess", value: "/" } }] }] },
      });
      await eventually(async () => {
        const [parent] = (await read(api, lost)).status?.parents ?? [];
        const accepted = parent?.conditions.find((c) => c.type === "Accepted");
        const partial = parent?.conditions.find((c) => c.type === "PartiallyInvalid");
        assert.deepEqual([accepted?.status, accepted?.observedGeneration], ["True", generation]);
        assert.deepEqual([partial?.status, partial?.observedGeneration], ["True", generation + 1]);
        assert.match(partial?.message ?? "", /^Fall Back: spec\.rules\[0\]\.matches\[0\]\.path\.type /);
      });
      const { items } = await api.get<{
        items: { reason: string; regarding: { name: string }; metadata: { annotations?: Record<string, string> } }[];
      }>("/apis/events.k8s.io/v1/namespaces/shop/events");
      const event = items.find((e) => e.regarding.name === "lost" && e.reason === "BackendNotFound");
      assert.match(event?.metadata.annotations?.["fairlead.dev/reconcile"] ?? "", /^[0-9a-f]{16}$/);
      await controller.logged(
        "written",
        (line) => line.reconcile === event?.metadata.annotations?.["fairlead.dev/reconcile"],
      );
      assert.deepEqual(await read(api, gateway), gatewayBefore, "a route of a Gateway that is not ours is left alone");
      assert.equal((await read(api, delegated)).status, undefined, "a route under a route is nobody's here");
      await controller.logged("object_refused", (line) => line.object === "HTTPRoute shop/delegated");
    }),
);

/** An agent of a node: acknowledges what it gets of a type, or refuses it. */
async function agent(
  controller: TestController,
  node: string,
  kinds: readonly MeshResource["kind"][],
  refuse?: string,
): Promise<TestStream> {
  const stream = (await joinedNode(controller, node)).stream();
  for (const kind of kinds) stream.subscribe(typeUrlOf(kind));
  void (async () => {
    for (;;) {
      const response = await stream.next(3_600_000);
      if (refuse === undefined) stream.ack(response);
      else stream.nack(response, refuse);
    }
  })().catch(() => {});
  return stream;
}
const policy = (name: string, app: string, action = "ALLOW"): KubeObject => ({
  apiVersion: "security.istio.io/v1",
  kind: "AuthorizationPolicy",
  metadata: { name, namespace: "shop" },
  spec: { selector: { matchLabels: { app } }, action, rules: [{}] },
});

/** The shop with a pod on each of two nodes and a policy for both, as nobody has judged it yet. */
const withPolicy = (body: (api: KubeApi, access: ControllerAccess, web: KubeObject) => Promise<void>): Promise<void> =>
  withApiServer(async (up) => {
    const { api } = up;
    await install(api, istioDefinitions);
    await meshedShop(api);
    await runningPod(api, "web-2", "web", "n2", "10.244.2.6");
    using access = await controllerAccess(up);
    const web = policy("web", "web");
    await api.apply(web);
    await body(api, access, web);
  });

test(
  "[RES-8] policies: accepted, programmed and enforced on N of M nodes, as agents say, and only nodes that it is for count",
  options,
  () =>
    withPolicy(async (api, access, web) => {
      const theirs = { type: "Reconciled", status: "True", message: "by another" };
      await api.call(
        "PATCH",
        `${await api.pathOf(web)}/status`,
        { status: { conditions: [theirs] } },
        "application/merge-patch+json",
      );
      const cart = policy("cart", "cart");
      await api.apply(cart);
      const odd = policy("odd", "web", "PERHAPS");
      await api.apply(odd);
      await using controller = await startController({}, { ...access.env, ...quickReplicas });
      const messageOf = async (object: KubeObject, type: string): Promise<string> => {
        const condition = (await read(api, object)).status?.conditions?.find((c) => c.type === type);
        return `${condition?.status} ${condition?.reason} ${condition?.message}`;
      };
      await eventually(async () =>
        assert.match(await messageOf(web, "Programmed"), /^False Pending 0 of 2 nodes; n1: no agent/),
      );
      const n1 = await agent(controller, "n1", ["Authorization"]);
      const n2 = await agent(controller, "n2", ["Authorization"], "cannot take that");
      try {
        await eventually(async () => {
          assert.match(
            await messageOf(web, "Programmed"),
            /^False Refused 1 of 2 nodes; n2: refused by the agent: cannot take that$/,
          );
          assert.match(await messageOf(cart, "Programmed"), /^False Refused 0 of 1 nodes/);
        });
        n2.close();
        const better = await agent(controller, "n2", ["Authorization"]);
        try {
          await eventually(async () => {
            assert.equal(await messageOf(web, "Enforced"), "True Enforced 2 of 2 nodes");
            assert.equal(await messageOf(cart, "Enforced"), "True Enforced 1 of 1 nodes");
          });
          const conditions = (await read(api, web)).status?.conditions ?? [];
          assert.deepEqual(conditions[0], theirs, "conditions of others stay");
          assert.match(await messageOf(odd, "Accepted"), /^False Invalid spec\.action /);
          assert.match(await messageOf(odd, "Enforced"), /^False NotAccepted /);
        } finally {
          better.close();
        }
      } finally {
        n1.close();
        n2.close();
      }
    }),
);

test(
  "[DIS-8] agents of every replica count, also of those that do not write; with a replica its agents go",
  options,
  () =>
    withPolicy(async (api, access, web) => {
      const env = { ...access.env, ...quickReplicas };
      await using leader = await startController({}, env);
      await leader.logged("leading");
      await using other = await startController({}, env);
      const enforced = async (): Promise<string> =>
        (await read(api, web)).status?.conditions?.find((c) => c.type === "Enforced")?.message ?? "";
      const near = await agent(leader, "n1", ["Authorization"]);
      const far = await agent(other, "n2", ["Authorization"]);
      try {
        await eventually(async () => assert.equal(await enforced(), "2 of 2 nodes"));
        const [summary] = (
          await api.get<{ items: KubeObject[] }>(
            "/api/v1/namespaces/fairlead-system/configmaps?labelSelector=fairlead.dev/agents-of",
          )
        ).items;
        assert.ok(summary !== undefined);
        // Another's version of a policy is not ours: what is new must be acknowledged anew, there too.
        await api.apply({ ...web, spec: { ...(web.spec as object), action: "DENY" } });
        await eventually(async () => {
          const { metadata, status } = await read(api, web);
          const condition = status?.conditions?.find((c) => c.type === "Enforced");
          assert.deepEqual(
            [condition?.observedGeneration, condition?.status, condition?.message],
            [metadata.generation, "True", "2 of 2 nodes"],
          );
        });
        // Whatever somebody else puts there harms nobody.
        await api.apply({
          apiVersion: "v1",
          kind: "ConfigMap",
          metadata: { name: "odd", namespace: "fairlead-system", labels: { "fairlead.dev/agents-of": "replica" } },
          binaryData: { agents: "b2Rk" },
        });
        await leader.logged("replica_agents_unreadable", (line) => line.name === "odd");
        far.close();
        await other.stop();
        await eventually(async () => assert.match(await enforced(), /^1 of 2 nodes; n2: no agent is connected/));
      } finally {
        near.close();
        far.close();
      }
    }),
);

async function leaderOf(replicas: readonly TestController[]): Promise<TestController | undefined> {
  for (const replica of replicas) {
    const { json } = await call({ host: "127.0.0.1", port: replica.ports.health }, "GET", "/health");
    if (json.lease.leading) return replica;
  }
  return undefined;
}

/** Every state that a route's status had, as a watch tells them. */
async function watchRoutes(api: KubeApi, body: (states: Map<string, string[]>) => Promise<void>): Promise<void> {
  const states = new Map<string, string[]>();
  const versions = new Map<string, string>();
  let isOver = false;
  // Polled faster than two writes could follow each other: versions tell whether one was missed.
  const polling = (async () => {
    while (!isOver) {
      const { items } = await api.get<{ items: Written[] }>(
        "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes",
      );
      for (const item of items) {
        const { name, resourceVersion } = item.metadata;
        if (versions.get(name) === resourceVersion) continue;
        versions.set(name, resourceVersion);
        states.set(name, [
          ...(states.get(name) ?? []),
          JSON.stringify([item.metadata.generation, item.status ?? null]),
        ]);
      }
      await sleep(20);
    }
  })();
  try {
    await body(states);
  } finally {
    isOver = true;
    await polling;
  }
}

test(
  "[DIS-8] the leader is killed again and again: every status is written once, and by a new leader in time",
  options,
  () =>
    withApiServer(async (up: TestCluster) => {
      const { api } = up;
      await install(api, routeDefinitions);
      await meshedShop(api);
      using access = await controllerAccess(up);
      const names = Array.from({ length: 20 }, (_, i) => `r${i}`);
      const env = { ...access.env, ...quickReplicas };
      const replicas = new Map<TestController, true>();
      try {
        for (let i = 0; i < 3; i++) replicas.set(await startController({}, env), true);
        await watchRoutes(api, async (states) => {
          for (let round = 0; round < 4; round++) {
            for (const name of names)
              await api.apply(httpRoute(name, [{ name: "web" }], round % 2 === 0 ? "web" : "cart"));
            // In the middle of its writing.
            await eventually(() => assert.ok([...states.values()].flat().some((s) => s.startsWith(`[${round + 1},{`))));
            const leader = await leaderOf([...replicas.keys()]);
            if (leader !== undefined) {
              replicas.delete(leader);
              await leader.stop("SIGKILL");
              await leader[Symbol.asyncDispose]();
              replicas.set(await startController({}, env), true);
            }
            await eventually(async () => {
              for (const name of names) {
                const [parent] = (await read(api, httpRoute(name, [], "web"))).status?.parents ?? [];
                assert.equal(parent?.conditions[0]?.observedGeneration, round + 1, name);
              }
            });
          }
          for (const [name, all] of states) {
            const written = all.filter((state) => !state.endsWith("null]"));
            assert.equal(new Set(written).size, written.length, `${name}: the same status twice`);
          }
        });
      } finally {
        for (const replica of replicas.keys()) await replica[Symbol.asyncDispose]();
      }
    }),
);
