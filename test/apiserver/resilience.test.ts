// ResiliencePolicy on a real API server as its users meet it: what kubectl shows, bad input, what agents get, rights that lack, a leader that dies.
import assert from "node:assert/strict";
import { globSync, readFileSync } from "node:fs";
import { after, before, test } from "node:test";
import { typeUrlOf } from "../../agent/api/resources.ts";
import { openApiServer, skipApi } from "../cluster/kit.ts";
import { ApiError, type KubeApi, type KubeObject } from "../cluster/kubernetes/api.ts";
import { parseObjects } from "../cluster/kubernetes/objects.ts";
import { applyGatewayApi } from "../conformance/gateway/crds.ts";
import { startController, type TestController } from "../kit/controller.ts";
import { joinedNode, recordsOf } from "../kit/node-agent.ts";
import { applyAs, eager, served, withRights } from "../kit/operated.ts";
import { eventually } from "../kit/wait.ts";

const timeout = 3_600_000;
const options = { skip: skipApi, timeout } as const;
const shop = "/apis/mesh.fairlead.dev/v1alpha1/namespaces/shop/resiliencepolicies";
let server: Awaited<ReturnType<typeof openApiServer>>;
let api: KubeApi;
let rights: Awaited<ReturnType<typeof withRights>>;
let controller: TestController;

// biome-ignore lint/suspicious/noExplicitAny: objects of any kind, as the server gives them
type Any = any;
const service = (name: string, spec: object = {}): KubeObject => ({
  apiVersion: "v1",
  kind: "Service",
  metadata: { name, namespace: "shop" },
  spec: { ports: [{ name: "http", port: 80 }], ...spec },
});
const policy = (name: string, spec: object): KubeObject => ({
  apiVersion: "mesh.fairlead.dev/v1alpha1",
  kind: "ResiliencePolicy",
  metadata: { name, namespace: "shop" },
  spec,
});
const apply = (...objects: readonly KubeObject[]): Promise<void> => applyAs(api, "somebody", objects);
const read = (name: string): Promise<Any> => api.get(`${shop}/${name}`);
const env = (): Readonly<Record<string, string>> => ({
  ...eager,
  FAIRLEAD_KUBECONFIG: rights.path,
  FAIRLEAD_LEASE_MS: "3000",
  FAIRLEAD_LEASE_RENEW_MS: "2000",
});
/** Waits until a condition is so, and gives its message. */
const condition = (name: string, type: string, status: string, reason: string): Promise<string> =>
  eventually(async () => {
    const { metadata, status: now } = await read(name);
    const found = now?.conditions?.find((c: Any) => c.type === type);
    const seen = { status: found?.status, reason: found?.reason, of: found?.observedGeneration };
    assert.deepEqual(seen, { status, reason, of: metadata.generation }, `${name} ${type}: ${found?.message}`);
    return found.message as string;
  });

before(
  async () => {
    if (skipApi !== false) return;
    server = await openApiServer();
    ({ api } = server);
    rights = await withRights(api, server.cluster);
    await apply({
      apiVersion: "v1",
      kind: "Namespace",
      metadata: { name: "shop", labels: { "fairlead.dev/mesh": "enabled" } },
    });
    await apply(...parseObjects(readFileSync("manifests/crds/resiliencepolicies.yaml", "utf8")));
    await applyGatewayApi(api, () => {});
    await served(api, shop);
    controller = await startController({}, env());
  },
  { timeout },
);
after(
  async () => {
    await controller?.[Symbol.asyncDispose]();
    rights?.[Symbol.dispose]();
    await server?.[Symbol.asyncDispose]();
  },
  { timeout },
);

test("[RES-1] examples are taken, and what kubectl get and explain show of them is there", options, async () => {
  const blocks = [...readFileSync("docs/resilience-policy.md", "utf8").matchAll(/```yaml\n([\s\S]*?)```/g)].map(
    (m) => m[1] ?? "",
  );
  const texts = [...globSync("examples/resilience/*.yaml").map((file) => readFileSync(file, "utf8")), ...blocks];
  const objects = texts.flatMap((text) => parseObjects(text)).filter((o) => o.kind === "ResiliencePolicy");
  assert.ok(objects.length >= 5);
  for (const object of objects)
    await api.call(
      "PATCH",
      `${await api.pathOf(object)}?fieldManager=somebody&force=true&fieldValidation=Strict`,
      object,
      "application/apply-patch+yaml",
    );
  await apply(service("web"), service("cart"), service("orders"));
  for (const name of ["web", "cart", "orders"]) await condition(name, "Ready", "True", "Applied");

  const table = (await tableOf(shop)) as {
    columnDefinitions: readonly { name: string; priority: number }[];
    rows: readonly { cells: readonly unknown[] }[];
  };
  const names = table.columnDefinitions.filter((c) => c.priority === 0).map((c) => c.name);
  assert.deepEqual(names, ["Name", "Targets", "Ready", "Reason", "Enforced", "Age"]);
  const row = table.rows.find((r) => r.cells[0] === "orders")?.cells ?? [];
  assert.deepEqual(row.slice(0, 4), ["orders", "orders", "True", "Applied"]);
  const { spec } = await api.get<Any>(
    "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/resiliencepolicies.mesh.fairlead.dev",
  );
  assert.deepEqual(spec.names.shortNames, ["respol"]);

  const document = await eventually(async () => {
    const found = await api.get<Any>("/openapi/v3/apis/mesh.fairlead.dev/v1alpha1");
    assert.ok(found.components.schemas["dev.fairlead.mesh.v1alpha1.ResiliencePolicy"] !== undefined);
    return found;
  });
  const silent: string[] = [];
  let fields = 0;
  const look = (schema: Any, path: string): void => {
    for (const [name, field] of Object.entries<Any>(schema.properties ?? schema.items?.properties ?? {})) {
      fields += 1;
      if (typeof field.description !== "string" || field.description.length < 5) silent.push(`${path}.${name}`);
      look(field, `${path}.${name}`);
    }
  };
  const { properties } = document.components.schemas["dev.fairlead.mesh.v1alpha1.ResiliencePolicy"];
  for (const part of ["spec", "status"]) look(properties[part], part);
  assert.deepEqual(silent, []);
  assert.ok(fields > 90, `${fields} fields`);
});
const tableOf = async (path: string): Promise<unknown> =>
  JSON.parse(await api.call("GET", path, undefined, undefined, "application/json;as=Table;v=v1;g=meta.k8s.io"));

test("[RES-1] what would make no sense, or smuggle something in, is refused with what to do", options, async () => {
  const target = { targetRefs: [{ name: "web" }] };
  const cases: readonly (readonly [object, RegExp])[] = [
    [
      { ...target, retry: { timeout: "2s" }, timeout: { request: "1s" } },
      /spec\.retry\.timeout: .*lower it or raise timeout\.request/,
    ],
    [{ ...target, timeout: { request: "5 s" } }, /spec\.timeout\.request: .*write it as "250ms"/],
    [{ ...target, timeout: { idle: "25h" } }, /use a duration from 0s to 24h/],
    [{ ...target, retry: { maxAttempts: 11 } }, /spec\.retry\.maxAttempts: .*less than or equal to 10/],
    [{ ...target, circuitBreaker: { openTime: "2m", maxOpenTime: "1m" } }, /lower it or raise maxOpenTime/],
    [{ ...target, outlierEjection: {} }, /set consecutiveErrors, successRateStdev or latencyFactor/],
    [{ ...target, healthCheck: { host: "a\r\nx-admin: 1" } }, /has a character that no header may carry/],
    [{ ...target, sessionAffinity: { type: "Header", name: "x y" } }, /not a name that HTTP allows/],
    [{ ...target, healthCheck: { path: "/a/../b" } }, /write it as "\/a\/b"/],
    [{ ...target, healthCheck: { host: "x".repeat(300) } }, /may not be more than 253/],
    [
      { ...target, tarpit: { hold: "5s", headers: [{ name: "x", value: "\u0007" }] } },
      /has a character that no header may carry/,
    ],
    [{ targetRefs: [] }, /spec\.targetRefs: .*at least 1/],
    [{ targetRefs: [{ name: "web" }, { name: "web" }] }, /stands there twice: remove one/],
    [
      { targetRefs: [{ kind: "Deployment", name: "web" }] },
      /Unsupported value: "Deployment": supported values: "Service"/,
    ],
    [{ targetRefs: [{ name: "Web" }] }, /use lower-case letters/],
    [{ ...target, retries: {} }, /unknown field "spec\.retries"/],
  ];
  for (const [spec, says] of cases)
    await assert.rejects(
      api.call("POST", `${shop}?dryRun=All&fieldValidation=Strict`, policy("bad", spec)),
      (e) => e instanceof ApiError && says.test(e.message),
      JSON.stringify(spec),
    );
});

test(
  "[RES-2] bad input that no schema can tell is told by conditions, and undone when it is mended",
  options,
  async () => {
    await apply(policy("lost", { targetRefs: [{ name: "later" }] }));
    assert.match(
      await condition("lost", "TargetServiceNotFound", "True", "TargetServiceNotFound"),
      /no Service shop\/later/,
    );
    await condition("lost", "Ready", "False", "TargetServiceNotFound");
    await apply(service("later"));
    await condition("lost", "Ready", "True", "Applied");
    await condition("lost", "TargetServiceNotFound", "False", "Found");

    await apply(policy("abroad", { targetRefs: [{ name: "web", namespace: "other" }] }));
    assert.match(
      await condition("abroad", "Ready", "False", "RefNotPermitted"),
      /in another namespace.*write a policy in the namespace other/,
    );

    await apply(service("one"));
    await apply(
      policy("first", {
        targetRefs: [{ name: "one" }],
        retry: { maxAttempts: 4 },
        render: { serviceAnnotations: true },
      }),
    );
    await condition("first", "Ready", "True", "Applied");
    // Ages are told in whole seconds.
    await eventually(async () =>
      assert.ok(Date.now() - Date.parse((await read("first")).metadata.creationTimestamp) > 1100),
    );
    await apply(
      policy("second", {
        targetRefs: [{ name: "one" }],
        retry: { maxAttempts: 9 },
        render: { serviceAnnotations: true },
      }),
    );
    assert.match(
      await condition("second", "Ready", "False", "Overruled"),
      /ResiliencePolicy shop\/first holds for Service shop\/one/,
    );
    const limit = async (): Promise<unknown> =>
      (await api.get<Any>("/api/v1/namespaces/shop/services/one")).metadata.annotations?.["retry.linkerd.io/limit"];
    await eventually(async () => assert.equal(await limit(), "4"));
    await api.call("DELETE", `${shop}/first`);
    await condition("second", "Ready", "True", "Applied");
    await eventually(async () => assert.equal(await limit(), "9"));

    await apply(service("turns"), policy("turns", { targetRefs: [{ name: "turns" }], render: { httpRoutes: true } }));
    await condition("turns", "Ready", "True", "Applied");
    const routes = async (): Promise<number> => {
      const { items } = await api.get<Any>("/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes");
      return items.filter((route: Any) => route.metadata.name.startsWith("turns.")).length;
    };
    await eventually(async () => assert.equal(await routes(), 1));
    await api.call("DELETE", "/api/v1/namespaces/shop/services/turns");
    await condition("turns", "Ready", "False", "TargetServiceNotFound");
    await eventually(async () => assert.equal(await routes(), 0));
    await apply(service("turns", { type: "ExternalName", externalName: "example.com", ports: undefined }));
    assert.match(
      await condition("turns", "Failed", "True", "TargetUnsupported"),
      /another name's address.*or remove render\.httpRoutes/,
    );

    await apply(
      policy("torn", {
        targetRefs: [{ name: "web" }],
        tarpit: { hold: "5s", headers: [{ name: "x", type: "RegularExpression", value: "(" }] },
      }),
    );
    assert.match(
      await condition("torn", "Failed", "True", "Invalid"),
      /spec\.tarpit\.headers\[0\]\.value .*not a regular expression/,
    );
    // It had rendered nothing, so nothing holds it.
    await api.call("DELETE", `${shop}/torn`);
    await assert.rejects(read("torn"), /404/);
    // Events are written after the conditions that they are about.
    await eventually(async () => {
      const { items } = await api.get<Any>("/apis/events.k8s.io/v1/namespaces/shop/events");
      const reasons = new Set(
        items
          .filter((e: Any) => e.regarding.kind === "ResiliencePolicy" && e.action === "Reconcile")
          .map((e: Any) => `${e.regarding.name} ${e.type} ${e.reason}`),
      );
      for (const told of [
        "lost Warning TargetServiceNotFound",
        "lost Normal Applied",
        "second Warning Overruled",
        "torn Warning Invalid",
      ])
        assert.ok(reasons.has(told), told);
    });
  },
);

test(
  "[TST-3] breaker, retry, timeout and failover settings of a policy are in what agents get, and go with it",
  options,
  async () => {
    await apply({ apiVersion: "v1", kind: "Node", metadata: { name: "n1" } });
    const stream = (await joinedNode(controller, "n1")).stream();
    const nextOf = async (name: string): Promise<Any> => {
      for (;;) {
        const response = await stream.next();
        stream.ack(response);
        if (response.removedResources.includes(name)) return undefined;
        const found = recordsOf(response).find(
          (r) => r.kind === "HttpRouting" && `${r.value.namespace}/${r.value.name}` === name,
        );
        if (found?.kind === "HttpRouting") return found.value.policy;
      }
    };
    try {
      stream.subscribe(typeUrlOf("HttpRouting"));
      await apply(service("scenes"));
      await apply(
        policy("scenes", { targetRefs: [{ name: "scenes" }], circuitBreaker: { failures: 3, openTime: "2s" } }),
      );
      assert.deepEqual((await nextOf("shop/scenes")).breaker, { failures: 3, openMs: 2000, maxOpenMs: 30_000 });
      await apply(
        policy("scenes", {
          targetRefs: [{ name: "scenes" }],
          retry: { maxAttempts: 4, statusCodes: [503], timeout: "1s" },
          timeout: { request: "5s" },
        }),
      );
      const retried = await nextOf("shop/scenes");
      assert.deepEqual(
        [
          retried.retry.attempts,
          retried.retry.codes,
          retried.timeouts.tryMs,
          retried.timeouts.requestMs,
          retried.breaker,
        ],
        [4, [503], 1000, 5000, undefined],
      );
      await apply(
        policy("scenes", {
          targetRefs: [{ name: "scenes" }],
          locality: { prefer: "Zone" },
          outlierEjection: { consecutiveErrors: 2 },
          healthCheck: { path: "/ok" },
        }),
      );
      const failover = await nextOf("shop/scenes");
      assert.deepEqual(
        [failover.locality.prefer, failover.outlier.consecutiveErrors, failover.health.path],
        ["zone", 2, "/ok"],
      );
      await apply(policy("scenes", { targetRefs: [{ name: "scenes" }], circuitBreaker: {}, enabled: false }));
      assert.equal(await nextOf("shop/scenes"), undefined);
      await condition("scenes", "Ready", "False", "Disabled");
    } finally {
      stream.close();
    }
  },
);

test("[RES-2] what may not be read or written is told, and done when it may", options, async () => {
  const role = parseObjects(readFileSync("manifests/kubernetes/controller-rbac.yaml", "utf8")).find(
    (o) => o.kind === "ClusterRole",
  ) as Any;
  const isOfServices = (rule: Any): boolean => rule.resources.includes("services") && rule.verbs.includes("patch");
  const asked = { circuitBreaker: {}, render: { serviceAnnotations: true } };
  const cases: readonly (readonly [string, readonly string[], RegExp])[] = [
    ["unwritten", ["get"], /Service shop\/unwritten could not be written: .*403/],
    ["unread", ["patch"], /Service shop\/unread cannot be read: .*403/],
  ];
  for (const [name, verbs, says] of cases) {
    const rules = role.rules.map((rule: Any) => (isOfServices(rule) ? { ...rule, verbs } : rule));
    await apply({ ...role, rules }, service(name));
    try {
      await apply(policy(name, { targetRefs: [{ name }], ...asked }));
      assert.match(await condition(name, "Failed", "True", "WriteFailed"), says);
    } finally {
      await apply(role);
    }
    await condition(name, "Ready", "True", "Applied");
    const { metadata } = await api.get<Any>(`/api/v1/namespaces/shop/services/${name}`);
    assert.equal(metadata.annotations["balancer.linkerd.io/failure-accrual"], "consecutive");
  }
});

test("[RES-8] when the leader is killed another replica goes on, and nothing is written twice", options, async () => {
  await using second = await startController({}, env());
  await apply(
    service("before"),
    policy("before", {
      targetRefs: [{ name: "before" }],
      circuitBreaker: {},
      render: { serviceAnnotations: true, httpRoutes: true },
    }),
  );
  await condition("before", "Ready", "True", "Applied");
  await apply(
    service("leaving"),
    policy("leaving", { targetRefs: [{ name: "leaving" }], retry: {}, render: { serviceAnnotations: true } }),
  );
  await condition("leaving", "Ready", "True", "Applied");
  const written = async (): Promise<unknown> => {
    const { metadata } = await api.get<Any>("/api/v1/namespaces/shop/services/before");
    return [metadata.annotations, metadata.managedFields];
  };
  const was = await written();
  await controller.stop("SIGKILL");
  // Made while nobody leads.
  await apply(
    service("after"),
    policy("after", { targetRefs: [{ name: "after" }], circuitBreaker: {}, render: { serviceAnnotations: true } }),
  );
  await api.call("DELETE", `${shop}/leaving`);
  await second.logged("leading");
  await condition("after", "Ready", "True", "Applied");
  await eventually(() => assert.rejects(read("leaving"), /404/));
  const left = await api.get<Any>("/api/v1/namespaces/shop/services/leaving");
  assert.equal(left.metadata.annotations, undefined);
  assert.deepEqual(await written(), was);
});
