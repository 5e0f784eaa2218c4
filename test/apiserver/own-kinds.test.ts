// RateLimitPolicy and MeshSettings on a real API server: it refuses what the controller refuses and says what to do; their statuses and columns.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { parse } from "yaml";
import { systemClock } from "../../agent/base/clock.ts";
import { createApiClient } from "../../agent/kubernetes/client.ts";
import { openAccess } from "../../controller/kubernetes/access.ts";
import { readObject, resources } from "../../controller/sources/kubernetes/resources.ts";
import { skipApi, withApiServer } from "../cluster/kit.ts";
import { ApiError, type KubeApi, type KubeObject } from "../cluster/kubernetes/api.ts";
import { clusterService, controllerAccess, install, meshedNamespace } from "../kit/api-server.ts";
import { startController } from "../kit/controller.ts";
import { eventually } from "../kit/wait.ts";

const limits = (spec: unknown): KubeObject => ({
  apiVersion: "mesh.fairlead.dev/v1alpha1",
  kind: "RateLimitPolicy",
  metadata: { name: "p", namespace: "shop" },
  spec,
});
const settings = (spec: unknown, name = "mesh"): KubeObject => ({
  apiVersion: "mesh.fairlead.dev/v1alpha1",
  kind: "MeshSettings",
  metadata: { name },
  spec,
});
const good: readonly KubeObject[] = [
  limits({}),
  limits({
    targetRefs: [{ kind: "Service", name: "web" }],
    limits: [{ requests: 10, per: "1s", burst: 20, methods: ["GET"], paths: ["/a*", "/x/{*}"] }],
  }),
  limits({
    selector: { matchLabels: { app: "web" } },
    dryRun: true,
    responseHeaders: "Always",
    concurrency: { min: 2, max: 10, initial: 5, tolerance: 2 },
  }),
  limits({
    limits: [
      { name: "a", key: { type: "Header", header: "X-Key" } },
      { name: "b", key: { type: "Address", ipv4PrefixLength: 24 }, baseline: { interval: "5s", deviations: 0.5 } },
    ],
  }),
  settings({}),
  settings({
    trustDomainAliases: ["old.example"],
    excludedPorts: [22],
    excludedCidrs: ["10.0.0.0/8", "fd00::1"],
    renewAt: 0.3,
    pathNormalization: "NONE",
  }),
  settings({
    registryOnly: true,
    faultInjection: false,
    enricher: { enable_mesh_enricher: true, mesh_score_weights: { unusual_pair: 0.5 }, mesh_header_map: { pod: "" } },
  }),
];
const bad: readonly (readonly [KubeObject, RegExp])[] = [
  [limits({ limits: [{ requests: 0 }] }), /spec\.limits\[0\]\.requests/],
  [limits({ limits: [{ per: "soon" }] }), /is not a duration: write it as "250ms"/],
  [limits({ limits: [{ key: { type: "Header" } }] }), /name the header whose value tells clients apart/],
  [limits({ limits: [{ key: { type: "Identity", header: "x" } }] }), /does not go with this type: remove it/],
  [limits({ limits: [{ key: { type: "Identity", ipv4PrefixLength: 8 } }] }), /do not go with this type/],
  [
    limits({ targetRefs: [{ kind: "Service", name: "web" }], selector: { matchLabels: { a: "b" } } }),
    /does not go with targetRefs: keep one/,
  ],
  [limits({ concurrency: { min: 20, max: 10 } }), /is more than max: lower it or raise max/],
  [limits({ concurrency: { initial: 2 } }), /is not within min and max/],
  [limits({ mode: 1 }), /unknown field "spec\.mode"/],
  [settings({ excludedCidrs: ["everything"] }), /write it as "10\.0\.0\.0\/8"/],
  [settings({ renewAt: 0.9 }), /spec\.renewAt/],
  [settings({ pathNormalization: "SOME" }), /supported values/],
  [settings({ enricher: { mesh_limit_action: "no" } }), /supported values/],
];

async function judged(api: KubeApi, object: KubeObject): Promise<string | undefined> {
  const path = (await api.pathOf(object)).replace(/\/[^/]+$/, "");
  try {
    await api.call("POST", `${path}?dryRun=All&fieldValidation=Strict`, object);
    return undefined;
  } catch (error) {
    if (error instanceof ApiError && (error.status === 422 || error.status === 400)) return error.message;
    throw error;
  }
}

test(
  "[RES-8] own kinds: refused with what to do, accepted with a status, shown in columns",
  { skip: skipApi, timeout: 3_600_000 },
  () =>
    withApiServer(async (up) => {
      const { api } = up;
      const definitions = ["ratelimitpolicies", "meshsettings"].map(
        (name) => parse(readFileSync(`manifests/crds/${name}.yaml`, "utf8")) as KubeObject,
      );
      await install(api, definitions);
      await api.apply(meshedNamespace("shop"));
      await api.apply(clusterService("web"));
      const problemsOf = (object: KubeObject): number => {
        const resource = resources.find((r) => r.kind === object.kind);
        assert.ok(resource !== undefined);
        return readObject(resource, object as never).problems.length;
      };
      for (const object of good) {
        assert.equal(await eventually(() => judged(api, object)), undefined, JSON.stringify(object.spec));
        assert.equal(problemsOf(object), 0, JSON.stringify(object.spec));
      }
      for (const [object, message] of bad) {
        assert.match((await judged(api, object)) ?? "taken", message, JSON.stringify(object.spec));
        assert.ok(problemsOf(object) > 0, JSON.stringify(object.spec));
      }
      // Of these the controller says it in a condition.
      const alias = await judged(api, settings({ trustDomainAliases: ["Old Example"] }));
      assert.match(alias ?? "taken", /use lower-case letters, digits, dots/);
      assert.match((await judged(api, settings({}, "other"))) ?? "taken", /only the object named "mesh" has an effect/);

      using access = await controllerAccess(up);
      const policy = limits({ targetRefs: [{ kind: "Service", name: "nowhere" }] });
      await api.apply(policy);
      await api.apply(settings({ registryOnly: false }));
      await using controller = await startController({}, { ...access.env, FAIRLEAD_STATUS_SPACING_MS: "100" });
      await controller.logged("leading");
      const opened = openAccess({ kubeconfig: access.env.FAIRLEAD_KUBECONFIG, context: undefined });
      assert.ok(opened.ok);
      const client = createApiClient(opened.value, systemClock);
      try {
        const rowOf = async (path: string): Promise<Record<string, unknown>> => {
          const answer = await client.send({ path, accept: "application/json;as=Table;g=meta.k8s.io;v=v1" });
          assert.ok(answer.ok);
          const table = answer.value as { columnDefinitions: { name: string }[]; rows: { cells: unknown[] }[] };
          return Object.fromEntries(table.columnDefinitions.map(({ name }, i) => [name, table.rows[0]?.cells[i]]));
        };
        await eventually(async () => {
          const { Name, Targets, Accepted, Reason, Enforced } = await rowOf(
            "/apis/mesh.fairlead.dev/v1alpha1/ratelimitpolicies",
          );
          assert.deepEqual(
            { Name, Targets, Accepted, Reason, Enforced },
            { Name: "p", Targets: "nowhere", Accepted: "False", Reason: "TargetMissing", Enforced: "False" },
          );
        });
        await eventually(async () => {
          const { Name, Accepted, Enforced, Nodes } = await rowOf("/apis/mesh.fairlead.dev/v1alpha1/meshsettings");
          assert.deepEqual([Name, Accepted, Enforced], ["mesh", "True", "Unknown"]);
          assert.match(String(Nodes), /^0 of 0 nodes/);
        });
      } finally {
        client.close();
      }
      // Every writer holds its own conditions: another's, applied beside, stay.
      const path = await api.pathOf(policy);
      const theirs = {
        type: "Reviewed",
        status: "True",
        reason: "Yes",
        message: "",
        lastTransitionTime: "2026-01-01T00:00:00Z",
      };
      const { apiVersion, kind } = policy;
      const body = { apiVersion, kind, metadata: { name: "p" }, status: { conditions: [theirs] } };
      await api.call("PATCH", `${path}/status?fieldManager=another`, body, "application/apply-patch+yaml");
      await api.apply(clusterService("nowhere"));
      await eventually(async () => {
        const { status } = await api.get<{ status: { conditions: { type: string; status: string }[] } }>(path);
        const said = Object.fromEntries(status.conditions.map((c) => [c.type, c.status]));
        assert.deepEqual([said.Reviewed, said.Accepted], ["True", "True"]);
      });
    }),
);
