import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { parseAllDocuments } from "yaml";
import { resources } from "./resources.ts";
import { untranslatedKinds } from "./untranslated.ts";

interface Role {
  readonly kind: string;
  readonly rules: readonly { readonly apiGroups: string[]; readonly resources: string[]; readonly verbs: string[] }[];
}
type Rights = readonly (readonly [resource: string, ...verbs: string[]])[];

/** Kinds whose objects get a status: they are read again before it is written. */
const withStatus = new Set([
  "HTTPRoute",
  "GRPCRoute",
  "AuthorizationPolicy",
  "PeerAuthentication",
  "ResiliencePolicy",
  "RateLimitPolicy",
  "MeshSettings",
]);
/** What carries ResiliencePolicies out (controller/operator). */
const operatorRights: Rights = [
  ["/services", "get", "patch"],
  ["gateway.networking.k8s.io/httproutes", "get", "create", "patch", "delete"],
  ["mesh.fairlead.dev/resiliencepolicies", "get", "patch"],
  ["mesh.fairlead.dev/resiliencepolicies/status", "patch"],
];

/** "group/plural: verbs in order", each resource once. */
function together(rights: Rights): readonly string[] {
  const verbs = new Map<string, Set<string>>();
  for (const [resource, ...more] of rights)
    verbs.set(resource, new Set([...(verbs.get(resource) ?? []), ...more].sort()));
  return [...verbs].map(([resource, all]) => `${resource}: ${[...all].join()}`).sort();
}

test("[OPS-1] the manifest grants what is read and written and whose tokens are shown, and nothing else", () => {
  const text = readFileSync(new URL("../../../manifests/kubernetes/controller-rbac.yaml", import.meta.url), "utf8");
  const roles = parseAllDocuments(text).map((document) => document.toJS() as Role);
  const rules = roles.find((role) => role.kind === "ClusterRole")?.rules ?? [];
  const granted = rules.flatMap((rule) =>
    rule.apiGroups.flatMap((group) =>
      rule.resources.map((plural) => [`${group}/${plural}`, ...rule.verbs] as [string, ...string[]]),
    ),
  );
  const mirrored: Rights = resources.flatMap(({ kind, group, plural }) => [
    [`${group}/${plural}`, "list", "watch"],
    ...(withStatus.has(kind)
      ? ([
          [`${group}/${plural}`, "get"],
          [`${group}/${plural}/status`, "patch"],
        ] as const)
      : []),
  ]);
  const wanted: Rights = [
    ...untranslatedKinds.map(({ group, plural }) => [`${group}/${plural}`, "list", "watch"] as const),
    ...mirrored,
    ...operatorRights,
    ["apiextensions.k8s.io/customresourcedefinitions", "get", "list", "watch"],
    ["authentication.k8s.io/tokenreviews", "create"],
    ["events.k8s.io/events", "create", "patch"],
  ];
  assert.deepEqual(together(granted), together(wanted));
});
