import assert from "node:assert/strict";
import { test } from "node:test";
import { defaultSettings } from "../../agent/api/settings.ts";
import { namespace, service } from "../../test/kit/objects.ts";
import { ClusterIndex } from "../index/cluster-index.ts";
import { parseManifests } from "../sources/parse.ts";
import { translate } from "./translate.ts";

const options = {
  settings: defaultSettings,
  rootNamespace: "istio-system",
  allocations: new Map<string, readonly string[]>(),
  unenrolled: new Map<string, string>(),
};

/** A route in namespace `shop` to a backend in `bank`: what its ResolvedRefs says for each parent. */
function resolved(parents: readonly object[], rule: object): readonly string[] {
  const ports = [{ name: "http", port: 80 }];
  const texts = [
    namespace("shop", true),
    namespace("bank", true),
    service("shop", "web", { clusterIP: "10.96.0.1", ports }),
    service("bank", "vault", { clusterIP: "10.96.0.2", ports }),
    service("bank", "other", { clusterIP: "10.96.0.3", ports }),
    JSON.stringify({
      apiVersion: "gateway.networking.k8s.io/v1",
      kind: "HTTPRoute",
      metadata: { name: "route", namespace: "shop" },
      spec: { parentRefs: parents.map((p) => ({ group: "", kind: "Service", ...p })), rules: [rule] },
    }),
  ];
  const index = new ClusterIndex();
  for (const { object, origin } of parseManifests(texts.join("\n---\n"), "f.yaml").objects) index.apply(object, origin);
  const { conditions } = translate(index, options);
  const status = conditions.find((c) => c.object.kind === "HTTPRoute")?.status as
    | { parents: { conditions: { type: string; reason: string }[] }[] }
    | undefined;
  return (status?.parents ?? []).flatMap((p) =>
    p.conditions.filter((c) => c.type === "ResolvedRefs").map((c) => c.reason),
  );
}
const toBank = (name: string): object => ({ backendRefs: [{ name, namespace: "bank", port: 80 }] });
const vault = { name: "vault", namespace: "bank" };

test("[TRF-1] a route that only its own namespace's clients follow needs no grant for any backend (GEP-1294)", () => {
  assert.deepEqual(resolved([vault], toBank("vault")), ["ResolvedRefs"]);
  assert.deepEqual(resolved([vault], toBank("other")), ["ResolvedRefs"]);
  const mirror = {
    type: "RequestMirror",
    requestMirror: { backendRef: { name: "other", namespace: "bank", port: 80 } },
  };
  assert.deepEqual(resolved([vault], { filters: [mirror], ...toBank("vault") }), ["ResolvedRefs"]);
});

test("[TRF-1] a route that clients of other namespaces follow needs a grant: their identity is not its owner's to lend", () => {
  assert.deepEqual(resolved([{ name: "web" }], toBank("vault")), ["RefNotPermitted"]);
  assert.deepEqual(resolved([vault, { name: "web" }], toBank("vault")), ["RefNotPermitted", "RefNotPermitted"]);
  assert.deepEqual(resolved([{ name: "web", namespace: "shop" }], toBank("vault")), ["RefNotPermitted"]);
});
