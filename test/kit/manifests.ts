// Manifests for tests in a short form: namespaces, pods, services, policies as text.
import { stringify } from "yaml";
import { trafficCommand } from "../lab/programs.ts";

/** Several objects as one manifest. */
export const manifest = (...objects: readonly unknown[]): string => objects.map((o) => stringify(o)).join("---\n");

export const namespace = (name: string, meshed = true, labels: Readonly<Record<string, string>> = {}): unknown => ({
  apiVersion: "v1",
  kind: "Namespace",
  metadata: { name, labels: { ...(meshed ? { "fairlead.dev/mesh": "enabled" } : {}), ...labels } },
});

export interface PodOptions {
  readonly node?: string;
  readonly serviceAccount?: string;
  readonly labels?: Readonly<Record<string, string>>;
  readonly annotations?: Readonly<Record<string, string>>;
  readonly spec?: Readonly<Record<string, unknown>>;
  readonly container?: Readonly<Record<string, unknown>>;
}

/** @param path "namespace/name" */
export function pod(path: string, command: readonly string[], options: PodOptions = {}): unknown {
  const [namespaceName = "", name = ""] = path.split("/");
  return {
    apiVersion: "v1",
    kind: "Pod",
    metadata: {
      name,
      namespace: namespaceName,
      labels: { app: name, ...options.labels },
      annotations: options.annotations ?? {},
    },
    spec: {
      ...(options.node === undefined ? {} : { nodeName: options.node }),
      serviceAccountName: options.serviceAccount ?? name,
      terminationGracePeriodSeconds: 1,
      ...options.spec,
      containers: [{ name: "main", command, ...options.container }],
    },
  };
}

/** A pod that only waits: commands are run in it. */
export const clientPod = (path: string, options: PodOptions = {}): unknown => pod(path, ["sleep", "infinity"], options);

/** A pod with the traffic server on port 7000, a greeting server on 7001 and an echo on 7002. */
export const serverPod = (path: string, options: PodOptions = {}): unknown =>
  pod(path, trafficCommand("server", ["--port", "7000", "--greet", "7001", "--sink", "7002"]), {
    ...options,
    container: { readinessProbe: { tcpSocket: { port: 7000 }, periodSeconds: 1 }, ...options.container },
  });

/** @param ports service port -> target port */
export function service(
  path: string,
  app: string,
  ports: Readonly<Record<number, number>>,
  spec: Readonly<Record<string, unknown>> = {},
): unknown {
  const [namespaceName = "", name = ""] = path.split("/");
  return {
    apiVersion: "v1",
    kind: "Service",
    metadata: { name, namespace: namespaceName },
    spec: {
      selector: { app },
      ports: Object.entries(ports).map(([port, targetPort]) => ({ name: `p${port}`, port: Number(port), targetPort })),
      ...spec,
    },
  };
}

export function authorization(path: string, spec: Readonly<Record<string, unknown>>): unknown {
  const [namespaceName = "", name = ""] = path.split("/");
  return {
    apiVersion: "security.istio.io/v1",
    kind: "AuthorizationPolicy",
    metadata: { name, namespace: namespaceName },
    spec,
  };
}

export function peerAuthentication(
  path: string,
  mode: "STRICT" | "PERMISSIVE" | "DISABLE",
  spec: Readonly<Record<string, unknown>> = {},
): unknown {
  const [namespaceName = "", name = ""] = path.split("/");
  return {
    apiVersion: "security.istio.io/v1",
    kind: "PeerAuthentication",
    metadata: { name, namespace: namespaceName },
    spec: { mtls: { mode }, ...spec },
  };
}
