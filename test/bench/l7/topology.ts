// What stands in both labs of the layer 7 benchmark: pods, services with one route each, a policy about requests. Addresses are the same in both.
import { meshedNamespace, type PodPlan, podDocuments } from "../topology.ts";

const pods: Readonly<Record<string, PodPlan>> = {
  client: { node: 1, host: 10 },
  server: { node: 2, host: 10 },
  near: { node: 2, host: 11 },
  guarded: { node: 2, host: 12 },
};

/** Cluster addresses, which only clients in the mesh use. */
export const serviceAddresses = { web: "10.96.0.80", guarded: "10.96.0.81" } as const;
/** What listens where in a pod; a service has the same ports. */
export const ports = { http: 8080, h2: 8081, grpc: 8082 } as const;
const appProtocols = { http: "http", h2: "kubernetes.io/h2c", grpc: "grpc" } as const;

type PortName = keyof typeof ports;

function serviceDocuments(name: keyof typeof serviceAddresses, app: string, names: readonly PortName[]): unknown[] {
  const servicePorts = names.map((n) => ({
    name: n,
    port: ports[n],
    targetPort: ports[n],
    appProtocol: appProtocols[n],
  }));
  return [
    {
      apiVersion: "v1",
      kind: "Service",
      metadata: { namespace: "bench", name },
      spec: { clusterIP: serviceAddresses[name], selector: { app }, ports: servicePorts },
    },
    ...names.map((n) => ({
      apiVersion: "gateway.networking.k8s.io/v1",
      kind: "HTTPRoute",
      metadata: { namespace: "bench", name: `${name}-${n}` },
      spec: {
        parentRefs: [{ group: "", kind: "Service", name, port: ports[n] }],
        rules: [{ matches: [{ path: { type: "PathPrefix", value: "/" } }], backendRefs: [{ name, port: ports[n] }] }],
      },
    })),
  ];
}

/** GET of any path, by the client alone: what the peer's RBAC filter is asked too. */
const policy = {
  apiVersion: "security.istio.io/v1",
  kind: "AuthorizationPolicy",
  metadata: { namespace: "bench", name: "guarded" },
  spec: {
    selector: { matchLabels: { app: "guarded" } },
    action: "ALLOW",
    rules: [
      {
        from: [{ source: { principals: ["cluster.local/ns/bench/sa/client"] } }],
        to: [{ operation: { methods: ["GET"], paths: ["/*"] } }],
      },
    ],
  },
};

export const documents = (): readonly unknown[] => [
  meshedNamespace("bench"),
  ...Object.entries(pods).flatMap(([name, plan]) => podDocuments(name, plan)),
  ...serviceDocuments("web", "server", ["http", "h2", "grpc"]),
  ...serviceDocuments("guarded", "guarded", ["http"]),
  policy,
];
