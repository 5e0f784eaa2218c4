// Random histories of a cluster: objects of every kind that name each other, put, changed and deleted in rounds.
import fc from "fast-check";
import { parseManifests } from "../../controller/sources/parse.ts";
import type { MeshObject, ObjectRef } from "../../controller/sources/types.ts";
import { authorization, namespace, peerAuthentication, pod, service } from "./objects.ts";

export type Step =
  | { readonly kind: "put"; readonly object: MeshObject }
  | { readonly kind: "delete"; readonly ref: ObjectRef };
export interface Round {
  readonly steps: readonly Step[];
  /** Pods that their agents could not enrol. */
  readonly unenrolled: ReadonlyMap<string, string>;
}

const space = fc.constantFrom("shop", "bank", "default", "istio-system");
const name = fc.constantFrom("web", "db", "api");
const podName = fc.constantFrom("web-1", "web-2", "db-1", "api-1");
const app = fc.constantFrom("web", "db", "api");
const ip = fc.constantFrom("", "10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1", "fd00:1::", "nonsense");
const outsideIp = fc.constantFrom("10.0.0.1", "10.0.0.2", "192.0.2.1", "fd00::1", "FD00:1::");
const node = fc.constantFrom("n1", "n2");
const parsed = (text: string): readonly MeshObject[] => parseManifests(text, "f.yaml").objects.map((o) => o.object);
const yaml = (value: unknown): string => JSON.stringify(value);

const pods = fc
  .record({
    in: space,
    name: podName,
    ips: fc.uniqueArray(ip, { maxLength: 2 }),
    app,
    node,
    account: fc.constantFrom("default", "web"),
    hostNetwork: fc.boolean(),
    phase: fc.constantFrom("Running", "Running", "Running", "Succeeded", "Failed"),
    ready: fc.constantFrom("True", "False"),
    host: fc.constantFrom("", "10.9.0.1", "10.9.0.2"),
    annotations: fc.constantFrom({}, { "fairlead.dev/weight": "5" }, { "fairlead.dev/weight": "no" }),
    mesh: fc.constantFrom({}, { "fairlead.dev/mesh": "disabled" }, { "fairlead.dev/mesh": "enabled" }),
    deleted: fc.constantFrom("", "2026-01-01T00:00:00Z"),
  })
  .map((p) => {
    const value = JSON.parse(pod(p.in, p.name, "", { ...p, labels: { app: p.app, ...p.mesh } }));
    value.status = {
      ...value.status,
      podIPs: p.ips.map((one) => ({ ip: one })),
      hostIP: p.host,
      conditions: [{ type: "Ready", status: p.ready }],
    };
    value.metadata.deletionTimestamp = p.deleted;
    return yaml(value);
  });
const slices = fc
  .record({
    in: space,
    name: fc.constantFrom("s-1", "s-2"),
    service: fc.constantFrom("web", "db", "gone", ""),
    pods: fc.uniqueArray(podName, { maxLength: 3 }),
    outside: fc.uniqueArray(outsideIp, { maxLength: 2 }),
    ready: fc.boolean(),
    port: fc.constantFrom(8080, 9090),
    hints: fc.constantFrom({}, { hints: { forZones: [{ name: "z1" }] } }, { hints: { forNodes: [{ name: "n1" }] } }),
  })
  .map((s) =>
    yaml({
      apiVersion: "discovery.k8s.io/v1",
      kind: "EndpointSlice",
      metadata: { name: s.name, namespace: s.in, labels: { "kubernetes.io/service-name": s.service } },
      addressType: "IPv4",
      endpoints: [
        ...s.pods.map((one) => ({
          addresses: ["10.0.0.9"],
          targetRef: { kind: "Pod", name: one, namespace: s.in },
          ...s.hints,
        })),
        ...s.outside.map((address) => ({ addresses: [address], conditions: { ready: s.ready }, ...s.hints })),
      ],
      ports: [{ name: "http", port: s.port, protocol: "TCP" }],
    }),
  );
const services = fc
  .tuple(
    space,
    name,
    fc.constantFrom(
      {},
      { clusterIP: "10.97.0.20" },
      { clusterIP: "None" },
      { type: "ExternalName", externalName: "x.example" },
      { selector: {} },
      { selector: { app: "web" } },
      { ports: [{ name: "grpc", port: 81, targetPort: 9090 }] },
      { trafficDistribution: "PreferClose", selector: { app: "web" } },
      { trafficDistribution: "PreferSameNode", selector: { app: "web" }, sessionAffinity: "ClientIP" },
      { internalTrafficPolicy: "Local", publishNotReadyAddresses: true },
    ),
  )
  .map(([n, s, spec]) => service(n, s, spec));
const selector = fc.constantFrom({}, { app: "web" }, { app: "db" }, { app: "nobody" });
const target = name.map((n) => [{ group: "", kind: "Service", name: n }]);
const route = (kind: string) =>
  fc.tuple(space, name, name, name, fc.constantFrom(80, 81)).map(([n, r, parent, backend, port]) =>
    yaml({
      apiVersion: "gateway.networking.k8s.io/v1",
      kind,
      metadata: { name: r, namespace: n },
      spec: {
        parentRefs: [{ group: "", kind: "Service", name: parent }],
        rules: [{ backendRefs: [{ name: backend, port }] }],
      },
    }),
  );
const own = (kind: string, spec: fc.Arbitrary<object>) =>
  fc
    .tuple(space, name, spec)
    .map(([n, p, s]) =>
      yaml({ apiVersion: "mesh.fairlead.dev/v1alpha1", kind, metadata: { name: p, namespace: n }, spec: s }),
    );

const texts = fc.oneof(
  { arbitrary: pods, weight: 6 },
  { arbitrary: slices, weight: 4 },
  { arbitrary: services, weight: 3 },
  { arbitrary: fc.tuple(space, fc.boolean()).map(([n, meshed]) => namespace(n, meshed)), weight: 3 },
  fc
    .tuple(space, fc.constantFrom("web", "default"))
    .map(([n, a]) => yaml({ apiVersion: "v1", kind: "ServiceAccount", metadata: { name: a, namespace: n } })),
  fc
    .tuple(space, name, selector)
    .map(([n, p, matchLabels]) => authorization(n, p, { selector: { matchLabels }, rules: [{}] })),
  fc.tuple(space, name, target).map(([n, p, targetRefs]) => authorization(n, p, { targetRefs, rules: [{}] })),
  fc
    .tuple(space, name, selector, fc.constantFrom("STRICT", "PERMISSIVE"))
    .map(([n, p, matchLabels, mode]) => peerAuthentication(n, p, { selector: { matchLabels }, mtls: { mode } })),
  route("HTTPRoute"),
  route("GRPCRoute"),
  own(
    "ResiliencePolicy",
    target.map((targetRefs) => ({ targetRefs, connectionPool: { maxRequests: 3 } })),
  ),
  own(
    "RateLimitPolicy",
    fc.oneof(
      target.map((targetRefs) => ({ targetRefs })),
      selector.map((s) => ({ selector: { matchLabels: s } })),
    ),
  ),
  fc
    .tuple(
      fc.constantFrom("mesh", "other"),
      fc.constantFrom({}, { unmeshedNamespaces: ["shop"] }, { serverFirstPorts: [80] }),
    )
    .map(([n, spec]) =>
      yaml({ apiVersion: "mesh.fairlead.dev/v1alpha1", kind: "MeshSettings", metadata: { name: n }, spec }),
    ),
);
const nodes = fc
  .tuple(node, fc.constantFrom("", "z1", "z2"), fc.constantFrom("10.9.0.1", "10.9.0.3"))
  .map(([n, zone, address]): readonly MeshObject[] => [
    {
      kind: "Node",
      metadata: {
        name: n,
        namespace: "",
        uid: "",
        labels: zone === "" ? {} : { "topology.kubernetes.io/zone": zone },
        annotations: {},
        deletionTimestamp: "",
        creationTimestamp: "",
        generation: 0,
      },
      status: { addresses: [{ type: "InternalIP", address }] },
    },
  ]);
const objects = fc.oneof({ arbitrary: texts.map(parsed), weight: 30 }, { arbitrary: nodes, weight: 2 });
const step = fc.tuple(objects, fc.integer({ min: 0, max: 3 })).map(([all, chance]): readonly Step[] =>
  all.map((object) =>
    chance === 0
      ? {
          kind: "delete",
          ref: { kind: object.kind, namespace: object.metadata.namespace, name: object.metadata.name },
        }
      : { kind: "put", object },
  ),
);
const unenrolled = fc
  .uniqueArray(fc.tuple(space, podName), { maxLength: 2 })
  .map((names) => new Map(names.map(([n, p]) => [`${n}/${p}`, "no cgroup"])));

/** Most histories begin with something there: from nothing it takes long until objects meet. */
export const clusterHistory: fc.Arbitrary<readonly Round[]> = fc
  .tuple(
    fc.array(step, { maxLength: 40 }),
    fc.array(fc.record({ steps: fc.array(step, { minLength: 1, maxLength: 4 }), unenrolled }), { maxLength: 25 }),
  )
  .map(([begin, rounds]) => [
    { steps: begin.flat(), unenrolled: new Map() },
    ...rounds.map((round) => ({ ...round, steps: round.steps.flat() })),
  ]);
