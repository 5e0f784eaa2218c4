// The ResiliencePolicy operator on a real API server: the ten properties of an operator, over generated policies. One server, many policies at a time.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import fc from "fast-check";
import { openAccess } from "../../controller/kubernetes/access.ts";
import { openApiServer, skipApi } from "../cluster/kit.ts";
import type { KubeApi, KubeObject } from "../cluster/kubernetes/api.ts";
import { parseObjects } from "../cluster/kubernetes/objects.ts";
import { applyGatewayApi } from "../conformance/gateway/crds.ts";
import { applyAs, type Operating, operate, served, withRights } from "../kit/operated.ts";
import { leaders, pass, Replica, stepMs } from "../kit/replicas.ts";
import { type Case, cases, expected, msOf, policyOf, specOf, surroundings } from "../kit/resilience-cases.ts";
import { eventually } from "../kit/wait.ts";

const timeout = 3_600_000;
const options = { skip: skipApi, timeout } as const;
const batch = 50;
/** For a whole batch: some hundred writes, on a machine that may have other things to do. */
const batchPatienceMs = 300_000;
const runs = { numRuns: 2, endOnFailure: true } as const;
const finalizer = "mesh.fairlead.dev/resilience-policy";
const manager = "fairlead-resilience";
let server: Awaited<ReturnType<typeof openApiServer>>;
let api: KubeApi;
let operating: Operating;
let rights: Awaited<ReturnType<typeof withRights>>;
let namespaces = 0;

// biome-ignore lint/suspicious/noExplicitAny: objects of any kind, as the server gives them
type Any = any;
const items = async (path: string): Promise<Map<string, Any>> =>
  new Map((await api.get<{ items: readonly Any[] }>(path)).items.map((item) => [item.metadata.name, item]));
interface There {
  readonly policies: Map<string, Any>;
  readonly services: Map<string, Any>;
  readonly routes: Map<string, Any>;
}
const policiesIn = (namespace: string): string =>
  `/apis/mesh.fairlead.dev/v1alpha1/namespaces/${namespace}/resiliencepolicies`;
const there = async (namespace: string): Promise<There> => ({
  policies: await items(policiesIn(namespace)),
  services: await items(`/api/v1/namespaces/${namespace}/services`),
  routes: await items(`/apis/gateway.networking.k8s.io/v1/namespaces/${namespace}/httproutes`),
});
const isOurs = (entry: Any): boolean => entry.manager === manager;
/** Annotations with their durations in ms, without those of others. */
function ownAnnotations(service: Any, foreign: Readonly<Record<string, string>>): Record<string, string | number> {
  const own = Object.entries((service.metadata.annotations ?? {}) as Record<string, string>).filter(
    ([name]) => foreign[name] === undefined,
  );
  return Object.fromEntries(
    own.map(([name, value]) => [
      name,
      /penalty|timeout/.test(name) && !name.startsWith("fairlead") ? msOf(value) : value,
    ]),
  );
}
const foreignOf = (one: Case, service: string): Readonly<Record<string, string>> =>
  service.endsWith("a") ? one.foreign : {};

before(
  async () => {
    if (skipApi !== false) return;
    server = await openApiServer();
    ({ api } = server);
    rights = await withRights(api, server.cluster);
    await applyAs(api, "test", parseObjects(readFileSync("manifests/crds/resiliencepolicies.yaml", "utf8")));
    await applyGatewayApi(api, () => {});
    await served(api, policiesIn("default"));
    operating = await operate(rights.path);
  },
  { timeout },
);
after(
  async () => {
    await operating?.stop();
    rights?.[Symbol.dispose]();
    await server?.[Symbol.asyncDispose]();
  },
  { timeout },
);

/** A namespace of its own with these policies. @returns its name */
async function made(all: readonly Case[]): Promise<string> {
  namespaces += 1;
  const namespace = `batch-${namespaces}`;
  await applyAs(api, "test", [{ apiVersion: "v1", kind: "Namespace", metadata: { name: namespace } }]);
  await applyAs(
    api,
    "somebody",
    all.flatMap((one, at) => surroundings(one, at, namespace)),
  );
  await applyAs(
    api,
    "somebody",
    all.map((one, at) => policyOf(one, at, namespace)),
  );
  return namespace;
}
/** Waits until everything is as it must be; what is not, is named with its policy. */
async function holds(
  namespace: string,
  all: readonly Case[],
  check: (one: Case, at: number, now: There) => void,
): Promise<There> {
  const deadline = performance.now() + batchPatienceMs;
  for (;;) {
    // Looked at now and then: lists cost the server what the operator waits for.
    await sleep(300);
    const now = await there(namespace);
    try {
      for (const [at, one] of all.entries()) {
        try {
          check(one, at, now);
        } catch (error) {
          throw new Error(`p${at} of ${namespace}, ${JSON.stringify(one)}: ${String(error)}`, { cause: error });
        }
      }
      return now;
    } catch (error) {
      if (performance.now() > deadline) throw error;
    }
  }
}
function hasAnnotations(one: Case, at: number, { services }: There): void {
  const { annotations } = expected(one, at);
  for (const name of [`s${at}a`, `s${at}b`]) {
    const foreign = foreignOf(one, name);
    assert.deepEqual(ownAnnotations(services.get(name), foreign), annotations[name] ?? {}, name);
    for (const [key, value] of Object.entries(foreign))
      assert.equal(services.get(name).metadata.annotations[key], value);
  }
}
function hasRoutes(one: Case, at: number, { routes, policies }: There): void {
  const wanted = expected(one, at).routes;
  const rendered = [...routes.values()].filter((route) => route.metadata.name.startsWith(`p${at}.`));
  assert.deepEqual(rendered.map((route) => route.metadata.name).sort(), wanted.map((route) => route.name).sort());
  const policy = policies.get(`p${at}`);
  for (const route of rendered) {
    const [owner, ...more] = route.metadata.ownerReferences;
    assert.deepEqual(more, []);
    assert.deepEqual(owner, {
      apiVersion: policy.apiVersion,
      kind: "ResiliencePolicy",
      name: policy.metadata.name,
      uid: policy.metadata.uid,
      controller: true,
    });
  }
}
function hasStatus(one: Case, at: number, { policies }: There): void {
  const wanted = expected(one, at);
  const { metadata, status = {} } = policies.get(`p${at}`);
  const conditions = new Map<string, Any>((status.conditions ?? []).map((c: Any) => [c.type, c]));
  const ready = conditions.get("Ready");
  assert.deepEqual({ status: ready?.status, reason: ready?.reason }, wanted.ready, ready?.message);
  assert.equal(conditions.get("Failed")?.status, wanted.isFailed ? "True" : "False");
  assert.equal(conditions.get("TargetServiceNotFound")?.status, wanted.isMissing ? "True" : "False");
  assert.equal(status.observedGeneration, metadata.generation);
  for (const type of ["Ready", "Failed", "TargetServiceNotFound"])
    assert.equal(conditions.get(type).observedGeneration, metadata.generation);
  assert.deepEqual(
    status.appliedToServices ?? [],
    wanted.holdsFor.map((name) => `${metadata.namespace}/${name}`).sort(),
  );
  assert.ok(Date.parse(status.lastUpdateTime) > 0);
  if (wanted.ready.status === "False") assert.notEqual(ready.message, "");
}
function leavesNothing(one: Case, at: number, { services, routes, policies }: There): void {
  assert.deepEqual(
    [...routes.keys()].filter((name) => name.startsWith(`p${at}.`)),
    [],
  );
  for (const name of [`s${at}a`, `s${at}b`]) {
    const { metadata } = services.get(name);
    assert.deepEqual(metadata.annotations ?? {}, foreignOf(one, name));
    assert.deepEqual(metadata.managedFields.filter(isOurs), []);
  }
  assert.ok(!(policies.get(`p${at}`)?.metadata.finalizers ?? []).includes(finalizer));
}
/** When and what the operator wrote last of each object; statuses of others may go on meanwhile. */
const written = (now: There): Record<string, unknown> =>
  Object.fromEntries(
    Object.values(now).flatMap((map) =>
      [...map.values()].map(({ metadata }: Any) => [
        metadata.uid,
        [metadata.generation, metadata.finalizers, metadata.managedFields.filter(isOurs)],
      ]),
    ),
  );
const change = (namespace: string, all: readonly Case[], spec: (one: Case, at: number) => unknown): Promise<void> =>
  applyAs(
    api,
    "somebody",
    all.map((one, at) => ({ ...policyOf(one, at, namespace), spec: spec(one, at) }) as KubeObject),
  );

test("[RES-3] [RES-10] what is generated is written, and nothing else", options, async (t) => {
  await t.test(
    "[RES-2] properties 1 to 8: annotations, routes and status are what the spec says, another leader changes nothing, and what is deleted leaves nothing",
    async () => {
      await fc.assert(
        fc.asyncProperty(cases(batch), async (all) => {
          const namespace = await made(all);
          await holds(namespace, all, (one, at, now) => {
            hasAnnotations(one, at, now);
            hasRoutes(one, at, now);
            hasStatus(one, at, now);
          });
          const before = written(await there(namespace));
          await operating.stop();
          operating = await operate(rights.path);
          await eventually(async () =>
            assert.ok((await operating.metric("fairlead_reconcile_seconds_count", 'kind="ResiliencePolicy"')) >= batch),
          );
          assert.deepEqual(written(await there(namespace)), before);
          assert.equal(await operating.metric("fairlead_writes_total", 'kind="ResiliencePolicy",outcome="written"'), 0);
          await Promise.all(all.map((_, at) => api.call("DELETE", `${policiesIn(namespace)}/p${at}`)));
          await holds(namespace, all, (one, at, now) => {
            leavesNothing(one, at, now);
            assert.ok(!now.policies.has(`p${at}`));
          });
        }),
        runs,
      );
    },
  );
  await t.test("[RES-2] property 9: what is switched off leaves nothing", async () => {
    const how = fc.constantFrom("policy", "parts", "render");
    await fc.assert(
      fc.asyncProperty(cases(batch), fc.array(how, { minLength: batch, maxLength: batch }), async (all, hows) => {
        const on = all.map((one) => ({
          ...one,
          spec: { ...one.spec, enabled: true, render: { httpRoutes: true, serviceAnnotations: true } },
        }));
        const namespace = await made(on);
        await holds(namespace, on, (one, at, now) => {
          hasAnnotations(one, at, now);
          hasRoutes(one, at, now);
          const { holdsFor, annotations, routes } = expected(one, at);
          const isHeld = Object.keys(annotations).length + routes.length > 0 && holdsFor.length > 0;
          assert.equal((now.policies.get(`p${at}`).metadata.finalizers ?? []).includes(finalizer), isHeld);
        });
        const off = { enabled: false };
        await change(namespace, on, (one, at) => {
          const spec = specOf(one, at);
          if (hows[at] === "policy") return { ...spec, enabled: false };
          if (hows[at] === "render") return { ...spec, render: {} };
          return { ...spec, retry: off, timeout: off, circuitBreaker: off, render: { serviceAnnotations: true } };
        });
        await holds(namespace, on, leavesNothing);
      }),
      runs,
    );
  });
});

test(
  "[RES-3] [RES-8] property 10: whatever becomes of replicas, never two that would write, and in the end one",
  options,
  async () => {
    const access = openAccess({ kubeconfig: server.cluster.kubeconfig, context: undefined });
    assert.ok(access.ok);
    const act = fc.record({
      who: fc.nat(2),
      do: fc.constantFrom("pause", "go on", "lost", "heard", "kill"),
      steps: fc.integer({ min: 1, max: 8 }),
    });
    let lease = 0;
    const elect = async (
      acts: readonly { readonly who: number; readonly do: string; readonly steps: number }[],
    ): Promise<void> => {
      lease += 1;
      const name = `lease-${lease}`;
      const replicas = ["a", "b", "c"].map(
        (id) => new Replica({ ...access.value, close: () => {} }, id, { namespace: "fairlead-system", name }),
      );
      const alone = (): void => assert.ok(leaders(replicas).length <= 1, leaders(replicas).join());
      try {
        for (const { who, do: what, steps } of acts) {
          const replica = replicas[who];
          assert.ok(replica !== undefined);
          if (what === "pause") replica.isPaused = true;
          else if (what === "go on") replica.isPaused = false;
          else if (what === "kill") replica.isDead = true;
          else replica.mishap = what === "lost" ? "lost" : undefined;
          await pass(replicas, steps * stepMs, alone);
        }
        if (replicas.every((replica) => replica.isDead)) return;
        for (const replica of replicas) {
          replica.isPaused = false;
          replica.mishap = undefined;
        }
        await pass(replicas, 16_000, alone);
        assert.equal(leaders(replicas).length, 1);
      } finally {
        await Promise.all(replicas.map((replica) => replica.stop()));
      }
    };
    const some = fc.array(fc.array(act, { maxLength: 4 }), { minLength: 20, maxLength: 20 });
    try {
      await fc.assert(
        fc.asyncProperty(some, async (all) => void (await Promise.all(all.map(elect)))),
        { numRuns: 5, endOnFailure: true },
      );
    } finally {
      access.value.close();
    }
  },
);
