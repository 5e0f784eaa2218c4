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

/** Of a container: ready as soon as it accepts on `port`. */
export const readyOn = (port: number): Readonly<Record<string, unknown>> => ({
  readinessProbe: { tcpSocket: { port }, periodSeconds: 1 },
});

/** A pod whose main container runs a program of Node that listens on port 8080. */
export const nodePod = (path: string, code: string, options: PodOptions = {}): unknown =>
  pod(path, [process.execPath, "-e", code], { container: readyOn(8080), ...options });

/** A pod that only waits: commands are run in it. */
export const clientPod = (path: string, options: PodOptions = {}): unknown => pod(path, ["sleep", "infinity"], options);

/** A pod with the traffic server on port 7000, a greeting server on 7001 and an echo on 7002. */
export const serverPod = (path: string, options: PodOptions = {}): unknown =>
  pod(path, trafficCommand("server", ["--port", "7000", "--greet", "7001", "--sink", "7002"]), {
    ...options,
    container: { ...readyOn(7000), ...options.container },
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

/** Of a service: port 80, declared to be what is spoken at the pods' `targetPort`. */
export const declaredPort = (appProtocol: string, targetPort = 8080) => ({
  ports: [{ name: "p", port: 80, targetPort, appProtocol }],
});
/** The same, HTTP, in front of `nodePod`s. */
export const httpPort = declaredPort("http");

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
  annotations: Readonly<Record<string, string>> = {},
): unknown {
  const [namespaceName = "", name = ""] = path.split("/");
  return {
    apiVersion: "security.istio.io/v1",
    kind: "PeerAuthentication",
    metadata: { name, namespace: namespaceName, annotations },
    spec: { mtls: { mode }, ...spec },
  };
}
