// Manifests of single objects as YAML text, for tests of the controller.
const yaml = (value: unknown): string => JSON.stringify(value);

export const namespace = (name: string, meshed = true): string =>
  yaml({
    apiVersion: "v1",
    kind: "Namespace",
    metadata: { name, labels: meshed ? { "fairlead.dev/mesh": "enabled" } : {} },
  });

export interface PodOptions {
  readonly node?: string;
  readonly account?: string;
  readonly labels?: Readonly<Record<string, string>>;
  readonly annotations?: Readonly<Record<string, string>>;
  readonly hostNetwork?: boolean;
  readonly phase?: string;
}
/** A ready pod of app=web on n1 with a port named http (8080). */
export const pod = (inNamespace: string, name: string, ip: string, options: PodOptions = {}): string =>
  yaml({
    apiVersion: "v1",
    kind: "Pod",
    metadata: {
      name,
      namespace: inNamespace,
      labels: { app: "web", ...options.labels },
      annotations: options.annotations ?? {},
    },
    spec: {
      nodeName: options.node ?? "n1",
      serviceAccountName: options.account ?? "web",
      hostNetwork: options.hostNetwork ?? false,
      containers: [{ name: "c", ports: [{ name: "http", containerPort: 8080 }] }],
    },
    status: {
      phase: options.phase ?? "Running",
      podIPs: ip === "" ? [] : [{ ip }],
      conditions: [{ type: "Ready", status: "True" }],
    },
  });

export const service = (inNamespace: string, name: string, spec: object = {}): string =>
  yaml({
    apiVersion: "v1",
    kind: "Service",
    metadata: { name, namespace: inNamespace },
    spec: { selector: { app: name }, ports: [{ name: "http", port: 80, targetPort: "http" }], ...spec },
  });

export const authorization = (inNamespace: string, name: string, spec: object): string =>
  yaml({
    apiVersion: "security.istio.io/v1",
    kind: "AuthorizationPolicy",
    metadata: { name, namespace: inNamespace },
    spec,
  });

export const peerAuthentication = (inNamespace: string, name: string, spec: object): string =>
  yaml({
    apiVersion: "security.istio.io/v1",
    kind: "PeerAuthentication",
    metadata: { name, namespace: inNamespace },
    spec,
  });
