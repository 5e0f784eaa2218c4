// What is installed asks for no more than it needs: every container of the rendered manifests, and every object's place.
import assert from "node:assert/strict";
import { globSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { parse, parseAllDocuments } from "yaml";

interface Container {
  readonly name: string;
  readonly image: string;
  readonly securityContext: Readonly<Record<string, unknown>> & {
    readonly capabilities: { readonly drop: readonly string[]; readonly add?: readonly string[] };
  };
  readonly resources: Readonly<Record<"requests" | "limits", Readonly<Record<string, string>>>>;
  readonly ports?: readonly { readonly hostPort?: number }[];
}
interface PodSpec {
  readonly containers: readonly Container[];
  readonly initContainers?: readonly Container[];
  readonly hostNetwork?: boolean;
  readonly priorityClassName?: string;
  readonly serviceAccountName?: string;
  readonly terminationGracePeriodSeconds?: number;
  readonly securityContext: {
    readonly runAsUser: number;
    readonly runAsNonRoot?: boolean;
    readonly seccompProfile: { readonly type: string };
  };
}
interface Installed {
  readonly kind: string;
  readonly metadata: { readonly name: string; readonly namespace?: string; readonly labels?: Record<string, string> };
  readonly spec?: Readonly<Record<string, unknown>> & { readonly template?: { readonly spec: PodSpec } };
}

const objects = parseAllDocuments(readFileSync("manifests/install/fairlead.yaml", "utf8"))
  .map((document) => document.toJS() as Installed | null)
  .filter((object) => object !== null);
const named = (kind: string, name: string): Installed => {
  const found = objects.find((o) => o.kind === kind && o.metadata.name === name);
  assert.ok(found, `${kind} ${name}`);
  return found;
};
const pods = objects.flatMap((o) => (o.spec?.template === undefined ? [] : [{ of: o, spec: o.spec.template.spec }]));

test("[OPS-1] every container is of least privilege, with requests and limits", () => {
  assert.deepEqual(
    pods.map(({ of }) => `${of.kind} ${of.metadata.name}`),
    ["DaemonSet fairlead-agent", "Deployment fairlead-controller"],
  );
  // docs/interception.md tells what each is for.
  const capabilities: Readonly<Record<string, readonly string[]>> = {
    agent: ["BPF", "PERFMON", "NET_ADMIN", "SYS_ADMIN", "SYS_PTRACE"],
  };
  for (const { of, spec } of pods) {
    assert.ok(["RuntimeDefault", "Localhost"].includes(spec.securityContext.seccompProfile.type), of.metadata.name);
    assert.ok(spec.priorityClassName, of.metadata.name);
    assert.ok(spec.serviceAccountName, of.metadata.name);
    for (const container of [...(spec.initContainers ?? []), ...spec.containers]) {
      const { securityContext: rights, resources, name } = container;
      assert.equal(rights.privileged, false, name);
      assert.equal(rights.allowPrivilegeEscalation, false, name);
      assert.equal(rights.readOnlyRootFilesystem, true, name);
      assert.deepEqual(rights.capabilities.drop, ["ALL"], name);
      assert.deepEqual(rights.capabilities.add ?? [], capabilities[name] ?? [], name);
      for (const kind of ["requests", "limits"] as const)
        for (const what of ["cpu", "memory"]) assert.ok(resources[kind][what], `${name}: ${kind}.${what}`);
      assert.doesNotMatch(container.image, /:latest$|^[^:]+$/, "an image is named by a version");
      assert.ok(
        (container.ports ?? []).every((port) => port.hostPort === undefined),
        name,
      );
    }
  }
  const controller = named("Deployment", "fairlead-controller").spec?.template?.spec;
  assert.equal(controller?.securityContext.runAsNonRoot, true);
  assert.notEqual(controller?.hostNetwork, true);
});

test("[OPS-2] [DP-19] an agent is placed beside the one that it replaces, and has the time to drain", () => {
  const { spec } = named("DaemonSet", "fairlead-agent");
  assert.deepEqual(spec?.updateStrategy, { type: "RollingUpdate", rollingUpdate: { maxSurge: 1, maxUnavailable: 0 } });
  const pod = spec?.template?.spec;
  assert.ok((pod?.terminationGracePeriodSeconds ?? 0) >= 330);
  assert.deepEqual(
    pod?.containers.flatMap((c) => c.ports ?? []),
    [],
  );
});

test("[OPS-1] two replicas over zones, one at a time away, scaled by load, reached by what is named alone", () => {
  const spec = named("Deployment", "fairlead-controller").spec as unknown as {
    replicas: number;
    template: { spec: { topologySpreadConstraints: readonly { topologyKey: string }[] } };
  };
  assert.equal(spec.replicas, 2);
  assert.equal(spec.template.spec.topologySpreadConstraints[0]?.topologyKey, "topology.kubernetes.io/zone");
  assert.equal(named("PodDisruptionBudget", "fairlead-controller").spec?.maxUnavailable, 1);
  assert.equal(named("HorizontalPodAutoscaler", "fairlead-controller").spec?.minReplicas, 2);
  assert.deepEqual(named("NetworkPolicy", "fairlead-default").spec, { podSelector: {}, policyTypes: ["Ingress"] });
  named("NetworkPolicy", "fairlead-controller");
});

test("[OPS-1] everything is in its own namespace, whose Pod Security level is said, and carries the labels that name it", () => {
  const wide = ["Namespace", "ClusterRole", "ClusterRoleBinding"];
  for (const { kind, metadata } of objects) {
    assert.equal(metadata.namespace, wide.includes(kind) ? undefined : "fairlead-system", `${kind} ${metadata.name}`);
    assert.equal(metadata.labels?.["app.kubernetes.io/part-of"], "fairlead", `${kind} ${metadata.name}`);
  }
  assert.equal(
    named("Namespace", "fairlead-system").metadata.labels?.["pod-security.kubernetes.io/enforce"],
    "privileged",
  );
});

test("[OPS-1] definitions mean the same to readers of YAML 1.1, as kubectl and Helm are, and to those of 1.2", () => {
  for (const file of globSync("manifests/crds/*.yaml")) {
    const text = readFileSync(file, "utf8");
    assert.deepEqual(parse(text, { version: "1.1" }), parse(text), file);
  }
});

test("[OPS-1] [RES-1] the chart brings the definitions as they are, every field of them", () => {
  const rendered = parseAllDocuments(readFileSync("manifests/install/definitions.yaml", "utf8"))
    .map((document) => document.toJS() as Installed | null)
    .filter((object) => object !== null);
  const own = globSync("manifests/crds/*.yaml").map((file) => parse(readFileSync(file, "utf8")) as Installed);
  const byName = (objects: readonly Installed[]): Record<string, unknown> =>
    Object.fromEntries(objects.map((o) => [o.metadata.name, o]));
  assert.deepEqual(byName(rendered), byName(own));
});
