// Least privilege, judged by the API server: its audit log tells what the mesh's accounts asked for while everything was done that they have
// rights for. A right that nothing used fails, and so does a request that was refused.
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { parseAllDocuments } from "yaml";
import { resources } from "../../controller/sources/kubernetes/resources.ts";
import { untranslatedKinds } from "../../controller/sources/kubernetes/untranslated.ts";
import type { KubeObject } from "../cluster/kubernetes/api.ts";
import { clusterService, httpRoute, install, meshedNamespace, openDefinition } from "../kit/api-server.ts";
import { CHART, InstalledMesh } from "../kit/installed-mesh.ts";
import { waitFor } from "../kit/wait.ts";
import { webPod } from "../kit/web-pod.ts";

const timeout = 900_000;
const PATIENCE_MS = 300_000;
const accounts = ["fairlead-agent", "fairlead-controller", "fairlead-removal"] as const;
const scratch = mkdtempSync(join(tmpdir(), "fairlead-audit-"));
const [policyFile, logFile] = [join(scratch, "policy.json"), join(scratch, "audit.log")];
const mesh = new InstalledMesh();

/** Granted for what a run cannot bring about at will: right -> why, and the test that shows it. */
const rare: Readonly<Record<string, { readonly why: string; readonly test: string }>> = {
  "fairlead-agent get /namespaces": {
    why: "a pod's network is made before the watch has brought its namespace",
    test: "agent/intercept/kubernetes-pods.test.ts",
  },
  "fairlead-agent get /pods": {
    why: "a pod's network is made before the watch has brought the pod",
    test: "agent/intercept/kubernetes-pods.test.ts",
  },
  "fairlead-controller patch events.k8s.io/events": {
    why: "the same thing is told again after a while: the event before is counted up",
    test: "controller/write/writers.test.ts",
  },
};

interface Asked {
  readonly right: string;
  readonly code: number;
  readonly line: string;
}
interface AuditEvent {
  readonly user: { readonly username: string };
  readonly verb: string;
  readonly requestURI: string;
  readonly objectRef?: { readonly apiGroup?: string; readonly resource?: string; readonly subresource?: string };
  readonly responseStatus?: { readonly code?: number };
}
/** Everything that the accounts have asked for up to now. */
function asked(): readonly Asked[] {
  return readFileSync(logFile, "utf8")
    .split("\n")
    .flatMap((line): Asked[] => {
      // The last line may still be being written.
      if (!line.endsWith("}")) return [];
      const { user, verb, objectRef, responseStatus, requestURI } = JSON.parse(line) as AuditEvent;
      const account = user.username.split(":").at(-1);
      if (objectRef?.resource === undefined) return [];
      const { apiGroup = "", resource, subresource } = objectRef;
      const what = `${apiGroup}/${resource}${subresource === undefined ? "" : `/${subresource}`}`;
      const code = responseStatus?.code ?? 0;
      const rights = [`${account} ${verb} ${what}`];
      // Server-side apply asks for the right to create, too, where there is nothing yet; so does a program's start in a pod.
      if ((verb === "patch" && code === 201) || (verb === "get" && subresource === "exec"))
        rights.push(`${account} create ${what}`);
      return rights.map((right) => ({ right, code, line: `${verb} ${requestURI}: ${code}` }));
    });
}

interface Role {
  readonly kind: string;
  readonly metadata: { readonly name: string };
  readonly rules: readonly { readonly apiGroups: string[]; readonly resources: string[]; readonly verbs: string[] }[];
}
/** Rights of the chart, "ACCOUNT VERB GROUP/RESOURCE"; roles are named as the account that has them. */
async function granted(): Promise<readonly string[]> {
  const text = await mesh.helm("template", "fairlead", CHART);
  const roles = parseAllDocuments(text)
    .map((document) => document.toJS() as Role | null)
    .filter((object) => object !== null && ["Role", "ClusterRole"].includes(object.kind)) as readonly Role[];
  const rights = roles.flatMap(({ metadata, rules }) =>
    rules.flatMap(({ apiGroups, resources, verbs }) =>
      apiGroups.flatMap((group) =>
        resources.flatMap((resource) => verbs.map((verb) => `${metadata.name} ${verb} ${group}/${resource}`)),
      ),
    ),
  );
  return [...new Set(rights)].sort();
}
/** What was asked for without a right to it. */
const refused = (): readonly string[] => [
  ...new Set(asked().flatMap(({ right, code, line }) => (code === 403 ? [`${right}: ${line}`] : []))),
];
/** A right to all resources of a group is used when it is used for one. */
const isUsed = (right: string, used: ReadonlySet<string>): boolean =>
  used.has(right) || (right.endsWith("/*") && [...used].some((u) => u.startsWith(right.slice(0, -1))));
async function unused(): Promise<readonly string[]> {
  const used = new Set(asked().map((a) => a.right));
  return (await granted()).filter((right) => !isUsed(right, used) && rare[right] === undefined);
}

before(
  async () => {
    const users = accounts.map((name) => `system:serviceaccount:fairlead-system:${name}`);
    const rules = [{ level: "Metadata", users }, { level: "None" }];
    writeFileSync(
      policyFile,
      JSON.stringify({ apiVersion: "audit.k8s.io/v1", kind: "Policy", omitStages: ["RequestReceived"], rules }),
    );
    writeFileSync(logFile, "");
    await mesh.up([`--audit-policy-file=${policyFile}`, `--audit-log-path=${logFile}`]);
  },
  { timeout },
);
after(
  async () => {
    await mesh[Symbol.asyncDispose]();
    rmSync(scratch, { recursive: true, force: true });
  },
  { timeout },
);

const own = (kind: string, name: string, spec: object): KubeObject => ({
  apiVersion: "mesh.fairlead.dev/v1alpha1",
  kind,
  metadata: { name, namespace: "shop" },
  spec,
});
const istio = (kind: string, name: string, spec: object): KubeObject => ({
  apiVersion: "security.istio.io/v1",
  kind,
  metadata: { name, namespace: "shop" },
  spec,
});
/** Of every kind that the controller reads where it is defined, but those that the chart defines. */
const definitions: readonly KubeObject[] = [...resources.filter((r) => r.isOptional), ...untranslatedKinds]
  .filter(({ group }) => group !== "mesh.fairlead.dev")
  .map(({ group, kind, plural, versions }) => openDefinition({ group, kind, plural, version: versions[0] ?? "v1" }));

test("[OPS-1] every right is used, and nothing is asked for that is not granted", { timeout }, async () => {
  const { api } = mesh;
  await install(api, definitions);
  await mesh.install();
  await api.apply(meshedNamespace("shop"));
  for (const name of ["web", "cart", "plain"]) await api.apply(clusterService(name));
  await waitFor("pods may be made", async () => {
    const account = await mesh.kubectl("-n", "shop", "get", "serviceaccount", "default");
    return account.code === 0;
  });
  for (const object of [webPod("web", "n1"), webPod("cart", "n2")]) await api.apply(object);
  const grpcRoute = { ...httpRoute("calls", [{ name: "cart" }], "cart"), kind: "GRPCRoute" };
  const selector = { matchLabels: { app: "web" } };
  const resilience = own("ResiliencePolicy", "plain", {
    targetRefs: [{ kind: "Service", name: "plain" }],
    timeout: { request: "3s" },
    retry: { maxAttempts: 2, statusCodes: [503] },
    circuitBreaker: { failures: 5 },
    render: { httpRoutes: true, serviceAnnotations: true },
  });
  for (const object of [
    httpRoute("web", [{ name: "web" }], "web"),
    grpcRoute,
    istio("AuthorizationPolicy", "web", {
      selector,
      action: "DENY",
      rules: [{ to: [{ operation: { ports: ["81"] } }] }],
    }),
    istio("PeerAuthentication", "web", { selector, mtls: { mode: "PERMISSIVE" } }),
    resilience,
    own("RateLimitPolicy", "web", {
      targetRefs: [{ kind: "Service", name: "web" }],
      limits: [{ name: "all", key: { type: "Service" }, requests: 1000, per: "1s" }],
    }),
    { ...own("MeshSettings", "mesh", {}), metadata: { name: "mesh" } },
  ])
    await api.apply(object);
  // The CA is written anew when its root is changed.
  const controllers = ["-n", "fairlead-system", "exec", "deploy/fairlead-controller", "--"];
  await waitFor(
    "the CA begins to change its root",
    async () => {
      const words = ["fairlead", "ask", "--post", '{"phase":"begin"}', "/v1/ca/rotate"];
      return (await mesh.kubectl(...controllers, ...words)).code === 0;
    },
    PATIENCE_MS,
  );
  // What a replica has told of its agents is removed when it is gone.
  const replica = [
    "-n",
    "fairlead-system",
    "get",
    "pods",
    "-l",
    "app.kubernetes.io/component=controller",
    "-o",
    "name",
  ];
  const [first = ""] = (await mesh.said(...replica)).split("\n");
  await mesh.said("-n", "fairlead-system", "delete", first, "--wait=false");
  let left: readonly string[] = [];
  const ofRemoval = (right: string): boolean => right.startsWith("fairlead-removal ");
  const withoutPolicy = "fairlead-controller delete gateway.networking.k8s.io/httproutes";
  await waitFor(
    "all rights but those of the removal are used",
    async () => {
      left = (await unused()).filter((right) => !ofRemoval(right) && right !== withoutPolicy);
      return left.length === 0;
    },
    PATIENCE_MS,
  ).catch(() => assert.deepEqual(left, [], "rights that nothing used"));
  await api.call("DELETE", await api.pathOf(resilience));
  await waitFor("its routes are removed", async () => !(await unused()).includes(withoutPolicy), PATIENCE_MS);
  // Until now: what is asked for while the rights themselves are taken away is refused in order.
  assert.deepEqual(refused(), [], "requests that were refused");
  await api.apply(resilience);
  await mesh.helm("uninstall", "fairlead", "--wait", "--timeout", "8m");
  assert.deepEqual(await unused(), [], "rights that nothing used");
  assert.deepEqual(refused().filter(ofRemoval), [], "requests of the removal that were refused");
});

test("[OPS-1] what a run cannot bring about has a reason, and a test elsewhere", () => {
  for (const { why, test } of Object.values(rare)) {
    assert.ok(why.length > 20);
    assert.ok(readFileSync(test, "utf8").includes("test("), test);
  }
});
