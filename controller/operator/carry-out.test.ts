import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { defaultBreaker, defaultPolicy, type HttpPolicy, noRetry, noTimeouts } from "../../agent/api/http-policy.ts";
import { type Address, type Desired, type Present, pathOf } from "../write/desired.ts";
import { annotationsIn, annotationsOf, marker, operatorManager, plainDuration } from "./annotations.ts";
import { finalizer, finalizersOf, policyAddress, type Said, serviceAddress, writesOf } from "./carry-out.ts";
import { type Facts, planOf } from "./plan.ts";
import { isAsRendered, renderRoute, routeName } from "./rendered-routes.ts";

const policy: HttpPolicy = {
  ...defaultPolicy,
  retry: { ...noRetry, attempts: 3, codes: [503, 502], grpcCodes: [14, 5], backoffMs: 25 },
  timeouts: { ...noTimeouts, requestMs: 5000, tryMs: 1500 },
  breaker: defaultBreaker,
};
// biome-ignore lint/suspicious/noExplicitAny: objects of any kind
type Any = any;

/** As much of an API server as the writes of one policy need: objects by path, and who applied which annotation. */
class Model {
  readonly objects = new Map<string, Any>();
  writes = 0;

  put(at: Address, object: object): void {
    this.objects.set(pathOf(at), { metadata: { name: at.name, uid: `uid of ${at.name}` }, ...object });
  }
  get(at: Address): Any {
    return this.objects.get(pathOf(at));
  }
  /** Carries writes out; one at the position `broken` fails, and what follows it is left out but for what is always done. */
  run(desired: readonly Desired[], broken = -1, isRefusal = false): void {
    let isStopped = false;
    for (const [i, one] of desired.entries()) {
      if (isStopped && one.isAlways !== true) continue;
      const present = this.get(one.at) as Present | undefined;
      const change = one.change(present, 1_700_000_000_000);
      if (change === undefined) continue;
      if (i === broken) {
        one.failed?.("the API server answered 403: no", isRefusal);
        isStopped = true;
        continue;
      }
      this.writes += 1;
      if (change.kind === "delete") this.objects.delete(pathOf(one.at));
      else this.#apply(one.at, change.fields as Any, change.kind === "apply" && !change.isStatus);
    }
  }
  #apply(at: Address, fields: Any, isApplied: boolean): void {
    const before = this.get(at) ?? { metadata: { name: at.name, uid: `uid of ${at.name}` } };
    const entries: Any[] = before.metadata.managedFields ?? [];
    const own = entries.find((e) => e.manager === operatorManager);
    const held = isApplied
      ? Object.keys(own?.fieldsV1["f:metadata"]["f:annotations"] ?? {}).map((k) => k.slice(2))
      : [];
    const kept = Object.entries(annotationsIn(before)).filter(([name]) => !held.includes(name));
    const annotations = { ...Object.fromEntries(kept), ...fields.metadata?.annotations };
    const others = entries.filter((e) => e.manager !== operatorManager || !isApplied);
    const ours = Object.fromEntries(Object.keys(fields.metadata?.annotations ?? {}).map((name) => [`f:${name}`, {}]));
    const managedFields =
      isApplied && Object.keys(ours).length > 0
        ? [
            ...others,
            { manager: operatorManager, operation: "Apply", fieldsV1: { "f:metadata": { "f:annotations": ours } } },
          ]
        : others;
    this.objects.set(pathOf(at), {
      ...before,
      ...fields,
      metadata: { ...before.metadata, ...fields.metadata, annotations, managedFields },
    });
  }
}
const at = policyAddress("shop", "p");
const services = ["a", "b"];
interface Setting {
  readonly render: { readonly httpRoutes: boolean; readonly serviceAnnotations: boolean };
  readonly isEnabled: boolean;
  readonly isDeleting: boolean;
  readonly holdsFor: readonly string[];
  readonly rivals: readonly string[];
}
const settings = fc.record<Setting>({
  render: fc.record({ httpRoutes: fc.boolean(), serviceAnnotations: fc.boolean() }),
  isEnabled: fc.boolean(),
  isDeleting: fc.constant(false),
  holdsFor: fc.subarray(services),
  rivals: fc.subarray(services),
});
const said: Said = { generation: 1, translation: undefined, problems: [] };
function factsOf(model: Model, { render, isEnabled, isDeleting, holdsFor, rivals }: Setting): Facts {
  const present = model.get(at);
  const uid = present?.metadata.uid ?? "";
  return {
    namespace: "shop",
    name: "p",
    policy: present && {
      namespace: "shop",
      name: "p",
      uid,
      generation: 1,
      isDeleting,
      hasFinalizer: finalizersOf(present).includes(finalizer),
      present,
    },
    spec: present && {
      isEnabled,
      render,
      policy,
      targetRefs: [],
      fault: undefined,
      tarpit: undefined,
      divert: undefined,
    },
    holdsFor: isEnabled ? holdsFor : [],
    services: new Map(services.map((name) => [name, model.get(serviceAddress("shop", name))])),
    views: new Map(
      services.map((name) => [name, { ports: [{ port: 80, protocol: "http" }], headless: false, externalName: "" }]),
    ),
    routes: new Map([...model.objects.values()].filter((o) => o.spec?.parentRefs).map((o) => [o.metadata.name, o])),
    rival: (service) => (rivals.includes(service) ? "HTTPRoute shop/own" : undefined),
    channel: "experimental",
  };
}
const reconcile = (model: Model, setting: Setting, broken = -1, isRefusal = false): void => {
  const facts = factsOf(model, setting);
  model.run(writesOf(facts, planOf(facts), said), broken, isRefusal);
};
function fresh(): Model {
  const model = new Model();
  model.put(at, {});
  for (const name of services)
    model.put(serviceAddress("shop", name), {
      metadata: {
        name,
        uid: `uid of ${name}`,
        annotations: { "example.com/team": "shop" },
        managedFields: [
          {
            manager: "somebody",
            operation: "Update",
            fieldsV1: { "f:metadata": { "f:annotations": { "f:example.com/team": {} } } },
          },
        ],
      },
    });
  return model;
}
const traces = (model: Model): readonly string[] => [
  ...services
    .flatMap((name) => Object.keys(annotationsIn(model.get(serviceAddress("shop", name)))))
    .filter((name) => name !== "example.com/team"),
  ...[...model.objects.values()].filter((o) => o.spec?.parentRefs).map((o) => o.metadata.name),
];

test("[RES-2] whatever is asked one after the other: once carried out there is nothing to do, and deletion leaves nothing", () => {
  fc.assert(
    fc.property(
      fc.array(settings, { minLength: 1, maxLength: 4 }),
      fc.nat(6),
      fc.boolean(),
      (all, broken, isRefusal) => {
        const model = fresh();
        for (const setting of all) {
          reconcile(model, setting, broken, isRefusal);
          reconcile(model, setting);
          const writes = model.writes;
          reconcile(model, setting);
          assert.equal(model.writes, writes, "nothing to do");
          const isHeld = finalizersOf(model.get(at)).includes(finalizer);
          assert.equal(isHeld, traces(model).length > 0, traces(model).join());
        }
        const last = all.at(-1) as Setting;
        reconcile(model, { ...last, isDeleting: true }, broken, isRefusal);
        reconcile(model, { ...last, isDeleting: true });
        assert.deepEqual(traces(model), []);
        assert.ok(!finalizersOf(model.get(at)).includes(finalizer));
      },
    ),
    { numRuns: 500 },
  );
});

test("[RES-2] a policy that is gone without having been let go leaves nothing either", () => {
  const model = fresh();
  const setting = {
    render: { httpRoutes: true, serviceAnnotations: true },
    isEnabled: true,
    isDeleting: false,
    holdsFor: services,
    rivals: [],
  };
  reconcile(model, setting);
  assert.ok(traces(model).length > 0);
  model.objects.delete(pathOf(at));
  reconcile(model, setting);
  assert.deepEqual(traces(model), []);
});

test("[RES-2] a status says nothing while something is still to be written, and what may not be written at once", () => {
  const setting = {
    render: { httpRoutes: false, serviceAnnotations: true },
    isEnabled: true,
    isDeleting: false,
    holdsFor: services,
    rivals: [],
  };
  const conditions = (model: Model): Any[] => model.get(at).status?.conditions ?? [];
  const later = fresh();
  reconcile(later, setting, 1, false);
  assert.deepEqual(conditions(later), []);
  reconcile(later, setting);
  assert.ok(conditions(later).length > 0);
  const never = fresh();
  reconcile(never, setting, 1, true);
  const failed = conditions(never).find((c) => c.type === "Failed");
  assert.deepEqual([failed.status, failed.reason], ["True", "WriteFailed"]);
  assert.match(failed.message, /Service shop\/a could not be written: .*403/);
});

test("[RES-10] annotations of others and of other policies are never touched", () => {
  const model = fresh();
  const there = model.get(serviceAddress("shop", "a"));
  there.metadata.annotations = { "retry.linkerd.io/limit": "9", [marker]: "q" };
  there.metadata.managedFields[0].fieldsV1["f:metadata"]["f:annotations"] = { "f:retry.linkerd.io/limit": {} };
  const setting = {
    render: { httpRoutes: false, serviceAnnotations: true },
    isEnabled: true,
    isDeleting: false,
    holdsFor: ["b"],
    rivals: [],
  };
  reconcile(model, setting);
  assert.deepEqual(model.get(serviceAddress("shop", "a")).metadata.annotations, {
    "retry.linkerd.io/limit": "9",
    [marker]: "q",
  });
  assert.equal(model.get(serviceAddress("shop", "b")).metadata.annotations["retry.linkerd.io/limit"], "3");
  reconcile(model, { ...setting, holdsFor: services });
  const taken = model.get(serviceAddress("shop", "a")).metadata.annotations;
  assert.deepEqual(
    [taken["retry.linkerd.io/limit"], taken[marker], taken["retry.linkerd.io/http"]],
    ["9", "p", "502,503"],
  );
});

test("[RES-1] a route has the policy's timeouts and, where the API has them, retries; names stay names", () => {
  const owner = { namespace: "shop", name: "p", uid: "u" };
  const rule = (channel: "standard" | "experimental") =>
    (renderRoute(owner, "web", 80, policy, channel).fields.spec as Any).rules[0];
  assert.deepEqual(rule("standard").timeouts, { request: "5s", backendRequest: "1500ms" });
  assert.equal(rule("standard").retry, undefined);
  assert.deepEqual(rule("experimental").retry, { attempts: 3, backoff: "25ms", codes: [503, 502] });
  assert.deepEqual(annotationsOf(defaultPolicy), {});
  assert.deepEqual([plainDuration(90_000), plainDuration(1500)], ["90s", "1500ms"]);
  const long = "x".repeat(240);
  assert.equal(routeName("p", "web", 80), "p.web.80");
  assert.match(routeName(long, "web-frontend-of-the-shop", 65_535), /^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$/);
  assert.ok(routeName(long, long, 65_535).length <= 253);
  assert.notEqual(routeName("p", "a-b", 80), routeName("p-a", "b", 80));
});

test("[RES-1] what is taken out of a policy goes out of its routes, though everything that is wanted is there", () => {
  const owner = { namespace: "shop", name: "p", uid: "u" };
  const fieldsOf = (changes: Partial<HttpPolicy>, channel: "standard" | "experimental" = "experimental"): Any =>
    renderRoute(owner, "web", 80, { ...policy, ...changes }, channel).fields;
  const present = { metadata: { name: "p.web.80", uid: "r" }, ...fieldsOf({}) };
  present.spec.rules[0].filters = [];
  assert.equal(isAsRendered(present, fieldsOf({})), true, "what others add does not matter");
  for (const less of [
    fieldsOf({ timeouts: noTimeouts }),
    fieldsOf({ timeouts: { ...noTimeouts, tryMs: 1500 } }),
    fieldsOf({ retry: noRetry }),
    fieldsOf({ retry: { ...noRetry, attempts: 3, codes: [], backoffMs: 25 } }),
    fieldsOf({}, "standard"),
  ])
    assert.equal(isAsRendered(present, less), false, JSON.stringify(less.spec.rules));
});
