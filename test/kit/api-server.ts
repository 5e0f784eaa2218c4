// What tests of the controller need on a real API server: its rights and credentials, definitions of kinds, and objects as users write them.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestCluster } from "../cluster/kit.ts";
import type { KubeApi, KubeObject } from "../cluster/kubernetes/api.ts";
import { parseObjects } from "../cluster/kubernetes/objects.ts";

export interface ControllerAccess extends Disposable {
  /** For startController: with the rights of the manifest. */
  readonly env: Readonly<Record<string, string>>;
}

/** A token of a service account, "<namespace>/<name>". `spec`: of a TokenRequest. */
export async function accountToken(api: KubeApi, account: string, spec: object): Promise<string> {
  const [namespace, name] = account.split("/");
  const asked = await api.call("POST", `/api/v1/namespaces/${namespace}/serviceaccounts/${name}/token`, {
    apiVersion: "authentication.k8s.io/v1",
    kind: "TokenRequest",
    spec,
  });
  return (JSON.parse(asked) as { status: { token: string } }).status.token;
}

/** A token as the kubelet projects it into a pod; without a pod it is bound to none. */
export function podToken(api: KubeApi, account: string, pod: string | undefined, audience: string): Promise<string> {
  const boundObjectRef = pod === undefined ? undefined : { apiVersion: "v1", kind: "Pod", name: pod };
  return accountToken(api, account, { expirationSeconds: 600, audiences: [audience], boundObjectRef });
}

/** Applies the manifest of rights, and makes a kubeconfig of a token of its service account. */
export async function controllerAccess({
  api,
  cluster,
}: Pick<TestCluster, "api" | "cluster">): Promise<ControllerAccess> {
  for (const object of parseObjects(readFileSync("manifests/kubernetes/controller-rbac.yaml", "utf8")))
    await api.apply(object);
  const token = await accountToken(api, "fairlead-system/fairlead-controller", { expirationSeconds: 36_000 });
  const root = readFileSync(join(cluster.pki, "ca.crt")).toString("base64");
  const dir = mkdtempSync(join(tmpdir(), "fairlead-access-"));
  const kubeconfig = join(dir, "kubeconfig");
  writeFileSync(
    kubeconfig,
    JSON.stringify({
      "current-context": "it",
      clusters: [{ name: "it", cluster: { server: api.server, "certificate-authority-data": root } }],
      contexts: [{ name: "it", context: { cluster: "it", user: "it", namespace: "fairlead-system" } }],
      users: [{ name: "it", user: { token } }],
    }),
    { mode: 0o600 },
  );
  return {
    env: {
      FAIRLEAD_SOURCE: "kubernetes",
      FAIRLEAD_KUBECONFIG: kubeconfig,
      FAIRLEAD_MANIFESTS: "",
      FAIRLEAD_LIVE_DIR: "",
    },
    [Symbol.dispose]: () => rmSync(dir, { recursive: true, force: true }),
  };
}

interface Definition {
  readonly group: string;
  readonly kind: string;
  readonly plural: string;
  readonly version?: string;
}
/** Definitions that take any spec and have a status beside it, as far as writers can tell the published ones. */
export const openDefinition = ({ group, kind, plural, version = "v1" }: Definition): KubeObject => {
  const anything = { type: "object", "x-kubernetes-preserve-unknown-fields": true };
  return {
    apiVersion: "apiextensions.k8s.io/v1",
    kind: "CustomResourceDefinition",
    metadata: { name: `${plural}.${group}`, annotations: { "api-approved.kubernetes.io": "unapproved, a test's own" } },
    spec: {
      group,
      scope: "Namespaced",
      names: { plural, singular: kind.toLowerCase(), kind },
      versions: [
        {
          name: version,
          served: true,
          storage: true,
          subresources: { status: {} },
          schema: { openAPIV3Schema: { type: "object", properties: { spec: anything, status: anything } } },
        },
      ],
    },
  };
};
export const routeDefinitions: readonly KubeObject[] = [
  openDefinition({ group: "gateway.networking.k8s.io", kind: "HTTPRoute", plural: "httproutes" }),
  openDefinition({ group: "gateway.networking.k8s.io", kind: "GRPCRoute", plural: "grpcroutes" }),
];
/** Conditions as Istio's published definitions have them: a list without keys, with fields of Istio's own beside. */
export const istioDefinitions: readonly KubeObject[] = [
  openDefinition({ group: "security.istio.io", kind: "AuthorizationPolicy", plural: "authorizationpolicies" }),
  openDefinition({ group: "security.istio.io", kind: "PeerAuthentication", plural: "peerauthentications" }),
];

/** Applies definitions and waits until their kinds are served. */
export async function install(api: KubeApi, definitions: readonly KubeObject[]): Promise<void> {
  for (const definition of definitions) await api.apply(definition);
  for (const { metadata } of definitions) {
    const path = `/apis/apiextensions.k8s.io/v1/customresourcedefinitions/${metadata.name}`;
    for (;;) {
      const { status } = await api.get<{ status?: { conditions?: { type: string; status: string }[] } }>(path);
      if (status?.conditions?.some((c) => c.type === "Established" && c.status === "True")) break;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
}

export const meshedNamespace = (name: string): KubeObject => ({
  apiVersion: "v1",
  kind: "Namespace",
  metadata: { name, labels: { "fairlead.dev/mesh": "enabled" } },
});
export const clusterService = (name: string): KubeObject => ({
  apiVersion: "v1",
  kind: "Service",
  metadata: { name, namespace: "shop" },
  spec: { selector: { app: name }, ports: [{ name: "http", port: 80, targetPort: 8080 }] },
});
/** A pod that runs, as its kubelet would report it. */
export async function runningPod(api: KubeApi, name: string, app: string, node: string, ip: string): Promise<void> {
  await api.apply({
    apiVersion: "v1",
    kind: "Pod",
    metadata: { name, namespace: "shop", labels: { app } },
    spec: { nodeName: node, containers: [{ name: "c", image: "x", ports: [{ containerPort: 8080 }] }] },
  });
  const status = {
    phase: "Running",
    podIP: ip,
    podIPs: [{ ip }],
    conditions: [{ type: "Ready", status: "True" }],
  };
  await api.call("PATCH", `/api/v1/namespaces/shop/pods/${name}/status`, { status }, "application/merge-patch+json");
}
export interface ParentRef {
  readonly name: string;
  readonly kind?: string;
  readonly group?: string;
}
/** A route of these parents to one Service. */
export const httpRoute = (name: string, parents: readonly ParentRef[], backend: string): KubeObject => ({
  apiVersion: "gateway.networking.k8s.io/v1",
  kind: "HTTPRoute",
  metadata: { name, namespace: "shop" },
  spec: {
    parentRefs: parents.map((ref) => ({ group: "", kind: "Service", ...ref })),
    rules: [{ backendRefs: [{ name: backend, port: 80 }] }],
  },
});

/** Namespace shop in the mesh: services web and cart, with a pod of each, web-1 on node n1 and cart-1 on n2. */
export async function meshedShop(api: KubeApi): Promise<void> {
  await api.apply(meshedNamespace("shop"));
  for (const name of ["web", "cart"]) await api.apply(clusterService(name));
  await runningPod(api, "web-1", "web", "n1", "10.244.1.5");
  await runningPod(api, "cart-1", "cart", "n2", "10.244.2.5");
}

/** For controllers that are to write, and to take over from each other, without long waits. */
export const quickReplicas = {
  FAIRLEAD_STATUS_SPACING_MS: "100",
  FAIRLEAD_LEASE_MS: "2000",
  FAIRLEAD_LEASE_RENEW_MS: "1400",
  FAIRLEAD_LEASE_RETRY_MS: "300",
};
