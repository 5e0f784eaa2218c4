import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { parseAllDocuments } from "yaml";
import { resources } from "./resources.ts";

interface Role {
  readonly kind: string;
  readonly rules: readonly { readonly apiGroups: string[]; readonly resources: string[]; readonly verbs: string[] }[];
}

test("[OPS-1] the manifest grants what the source reads, and nothing else", () => {
  const text = readFileSync(new URL("../../../manifests/kubernetes/controller-rbac.yaml", import.meta.url), "utf8");
  const roles = parseAllDocuments(text).map((document) => document.toJS() as Role);
  const rules = roles.find((role) => role.kind === "ClusterRole")?.rules ?? [];
  const granted = rules.flatMap((rule) =>
    rule.apiGroups.flatMap((group) => rule.resources.map((plural) => `${group}/${plural}: ${rule.verbs.join()}`)),
  );
  const wanted = resources.map(({ group, plural }) => `${group}/${plural}: list,watch`);
  assert.deepEqual(
    granted.sort(),
    [...wanted, "apiextensions.k8s.io/customresourcedefinitions: get,list,watch"].sort(),
  );
});
