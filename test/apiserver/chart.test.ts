// The chart without nodes: its settings are checked, the rendered manifests are current, and a real API server takes every object.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { before, test } from "node:test";
import { parseAllDocuments } from "yaml";
import { CHART, renderInstall } from "../../scripts/gen-install.ts";
import { skipApi, withApiServer } from "../cluster/kit.ts";
import type { KubeObject } from "../cluster/kubernetes/api.ts";
import { cacheFolder } from "../cluster/paths.ts";
import { helmProgram } from "../cluster/up.ts";
import { type Finished, finish } from "../lab/command.ts";

const say = (line: string): void => console.error(line);
let helm = "";
before(async () => {
  helm = await helmProgram(cacheFolder(process.env), say);
});

const template = (...words: string[]): Promise<Finished> => finish([helm, "template", "fairlead", CHART, ...words]);

async function render(...words: string[]): Promise<readonly KubeObject[]> {
  const done = await template(...words);
  assert.equal(done.code, 0, done.stderr);
  return objectsOf(done.stdout);
}
const objectsOf = (text: string): readonly KubeObject[] =>
  parseAllDocuments(text).flatMap((d) => (d.toJS() === null ? [] : [d.toJS() as KubeObject]));
const named = (objects: readonly KubeObject[], kind: string, name: string): KubeObject => {
  const found = objects.find((o) => o.kind === kind && o.metadata.name === name);
  assert.ok(found, `${kind} ${name}`);
  return found;
};

test("[OPS-1] a wrong value is named, and what would be right", async () => {
  const wrong: readonly (readonly [string, RegExp])[] = [
    ["agent.drainSeconds=long", /\/agent\/drainSeconds': got string, want integer/],
    ["agent.drainSeconds=-1", /\/agent\/drainSeconds': minimum: got -1, want 0/],
    ["agent.drainSecond=1", /'\/agent': additional properties 'drainSecond' not allowed/],
    ["agent.interception=bpf", /\/agent\/interception': value must be one of 'auto', 'ebpf', 'nftables'/],
    ["agent.seccomp.type=None", /\/agent\/seccomp\/type': value must be one of 'RuntimeDefault', 'Localhost'/],
    ["agent.cni.binDir=opt", /\/agent\/cni\/binDir': 'opt' does not match pattern/],
    ["agent.cni.confDir=/opt/cni/bin", /agent\.cni\.confDir: \/opt\/cni\/bin is agent\.cni\.binDir too/],
    ["agent.env.FAIRLEAD_NODE=x", /agent\.env\.FAIRLEAD_NODE: the chart sets this itself; take it out/],
    ["controller.env.FAIRLEAD_SOURCE=folder", /controller\.env\.FAIRLEAD_SOURCE: the chart sets this itself/],
    ["controller.replicas=0", /\/controller\/replicas': minimum: got 0, want 1/],
    ["controller.replicas=6", /controller\.autoscaling\.maxReplicas: 5 is below controller\.replicas \(6\); raise it/],
    ["controller.resources.limits.memory=null", /\/controller\/resources\/limits': missing property 'memory'/],
    ["controller.logLevel=loud", /\/controller\/logLevel': value must be one of/],
    ["controller.ztunnelAccounts={ztunnel}", /\/controller\/ztunnelAccounts\/0': 'ztunnel' does not match pattern/],
    ["controller.env.FAIRLEAD_ISTIO_ACCOUNTS=a/b", /controller\.env\.FAIRLEAD_ISTIO_ACCOUNTS: the chart sets this/],
    ["image.prefix=Host/", /\/image\/prefix': 'Host\/' does not match pattern/],
    ["image.pullPolicy=Sometimes", /\/image\/pullPolicy': value must be one of/],
    ["namespace=kube-system", /namespace: kube-system is the cluster's own; give Fairlead one of its own/],
    ["trustDomain=a_b", /\/trustDomain': 'a_b' does not match pattern/],
    ["typo=1", /additional properties 'typo' not allowed/],
  ];
  for (const [value, message] of wrong) {
    const done = await template("--set", value);
    assert.notEqual(done.code, 0, value);
    assert.match(done.stderr, message, value);
  }
});

test("[OPS-1] values reach what they are for", async () => {
  const objects = await render(
    ...["--set", "namespace=mesh,trustDomain=shop.test,image.prefix=registry.test:5000/fairlead,image.tag=v9"],
    ...["--set", "agent.drainSeconds=60,agent.cgroup=/sys/fs/cgroup/x/$(FAIRLEAD_NODE),agent.env.FAIRLEAD_WORKERS=2"],
    ...["--set", "agent.seccomp.type=Localhost,agent.cni.enabled=false,monitoring.serviceMonitor.enabled=true"],
    ...["--set", "controller.autoscaling.enabled=false,podDisruptionBudget.enabled=false,networkPolicy.enabled=false"],
    ...["--api-versions", "monitoring.coreos.com/v1"],
  );
  // Definitions describe defaults, which name namespaces.
  const text = JSON.stringify(objects.filter((o) => o.kind !== "CustomResourceDefinition"));
  assert.doesNotMatch(text, /fairlead-system/, "everything is in the namespace that was asked for");
  assert.doesNotMatch(text, /HorizontalPodAutoscaler|PodDisruptionBudget|"NetworkPolicy"|\/host\/cni/);
  assert.match(text, /registry\.test:5000\/fairlead\/agent:v9/);
  assert.match(text, /spiffe:\/\/shop\.test\/ns\/mesh\/sa\//);
  named(objects, "ServiceMonitor", "fairlead-controller");
  named(objects, "PodMonitor", "fairlead-agent");
  const { template: pod } = named(objects, "DaemonSet", "fairlead-agent").spec as { template: { spec: Pod } };
  assert.equal(pod.spec.terminationGracePeriodSeconds, 90);
  assert.deepEqual(pod.spec.securityContext.seccompProfile, {
    type: "Localhost",
    localhostProfile: "fairlead/agent.json",
  });
  const env = new Map(pod.spec.containers[0]?.env.map((e) => [e.name, e.value]));
  assert.equal(env.get("FAIRLEAD_DRAIN_MS"), "60000");
  assert.equal(env.get("FAIRLEAD_CGROUP"), "/sys/fs/cgroup/x/$(FAIRLEAD_NODE)");
  assert.equal(env.get("FAIRLEAD_WORKERS"), "2");
});

interface Pod {
  readonly terminationGracePeriodSeconds: number;
  readonly securityContext: { readonly seccompProfile: unknown };
  readonly containers: readonly { readonly env: readonly { readonly name: string; readonly value: string }[] }[];
}

test("[OPS-1] [DIS-11] ztunnels are let in where a value names them: the setting, and rights once in each of their namespaces", async () => {
  const added = async (...words: string[]) => {
    const objects = await render(...words);
    const roles = objects.filter((o) => o.metadata.name === "fairlead-controller-ztunnels");
    const controller = named(objects, "Deployment", "fairlead-controller").spec as { template: { spec: Pod } };
    const env = controller.template.spec.containers[0]?.env.find((e) => e.name === "FAIRLEAD_ISTIO_ACCOUNTS");
    return { where: roles.map((o) => `${o.kind} ${o.metadata.namespace}`), accounts: env?.value, roles };
  };
  const none = await added();
  assert.deepEqual([none.where, none.accounts], [[], undefined]);
  const accounts = ["istio-system/ztunnel", "istio-system/other", "edge/ztunnel"];
  const some = await added("--set", `namespace=mesh,controller.ztunnelAccounts={${accounts.join(",")}}`);
  assert.equal(some.accounts, accounts.join(","));
  assert.deepEqual(some.where.sort(), [
    "Role edge",
    "Role istio-system",
    "RoleBinding edge",
    "RoleBinding istio-system",
  ]);
  for (const binding of some.roles.filter((o) => o.kind === "RoleBinding"))
    assert.deepEqual((binding as unknown as { subjects: unknown }).subjects, [
      { kind: "ServiceAccount", name: "fairlead-controller", namespace: "mesh" },
    ]);
});

test("[OPS-1] the namespace is the chart's, unless it is the release's own; definitions stay if they are to be kept", async () => {
  const kinds = async (...words: string[]): Promise<string[]> => (await render(...words)).map((o) => o.kind);
  assert.ok((await kinds()).includes("Namespace"));
  assert.ok(!(await kinds("--namespace", "fairlead-system")).includes("Namespace"));
  const definitions = (await render("--set", "crds.keep=true")).filter((o) => o.kind === "CustomResourceDefinition");
  assert.ok(definitions.length > 0);
  for (const { metadata } of definitions)
    assert.deepEqual(
      (metadata.annotations as Record<string, string>)["helm.sh/resource-policy"],
      "keep",
      metadata.name,
    );
  assert.ok(!(await kinds("--set", "crds.install=false")).includes("CustomResourceDefinition"));
});

test("[OPS-1] manifests/install is what the chart renders to (npm run gen)", async () => {
  for (const [file, text] of Object.entries(await renderInstall(say)))
    assert.equal(readFileSync(`manifests/install/${file}`, "utf8"), text, file);
});

test("[OPS-1] [OPS-10] an API server takes every object, with no field that it does not know", { skip: skipApi }, () =>
  withApiServer(async ({ api }) => {
    const objects = [...objectsOf(read("definitions.yaml")), ...objectsOf(read("fairlead.yaml"))];
    for (const object of objects) {
      const path = `${await api.pathOf(object)}?fieldManager=test&force=true&fieldValidation=Strict`;
      await api.call("PATCH", path, object, "application/apply-patch+yaml");
    }
    const daemonSet = await api.get<KubeObject>("/apis/apps/v1/namespaces/fairlead-system/daemonsets/fairlead-agent");
    assert.equal(daemonSet.metadata.name, "fairlead-agent");
  }),
);

const read = (file: string): string => readFileSync(`manifests/install/${file}`, "utf8");
