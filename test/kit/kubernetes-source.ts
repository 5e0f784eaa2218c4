// A Kubernetes source over a scripted API server, feeding an index as the controller's does.
import { systemClock } from "../../agent/base/clock.ts";
import { silentLogger } from "../../agent/base/log.ts";
import { seededRandom } from "../../agent/base/random.ts";
import { createApiClient } from "../../agent/kubernetes/client.ts";
import { ClusterIndex } from "../../controller/index/cluster-index.ts";
import { createKubernetesSource, type KubernetesOptions } from "../../controller/sources/kubernetes/source.ts";
import { type MeshObject, type Problem, refKey, refOf, type Source } from "../../controller/sources/types.ts";
import type { FakeKubernetes } from "./fake-kubernetes.ts";
import { fastLimits, quickly, silentMeter } from "./mirrors.ts";

export interface Fed extends AsyncDisposable {
  readonly index: ClusterIndex;
  readonly source: Source;
  /** Resolves when the first snapshot is there. */
  readonly started: Promise<void>;
  problems: readonly Problem[];
  /** Batches that took effect. */
  settled: number;
  /** "apply KEY", "delete KEY" in order. */
  readonly events: string[];
  /** Objects in force by key. */
  objects(): ReadonlyMap<string, MeshObject>;
}

export function feed(fake: FakeKubernetes, options: Partial<KubernetesOptions> = {}): Fed {
  const index = new ClusterIndex();
  const stopping = new AbortController();
  const api = createApiClient(fake.access(), systemClock, fastLimits);
  const source = createKubernetesSource(
    { ...quickly, gatherMs: 1, busyMs: () => 0, ...options },
    {
      api,
      clock: systemClock,
      random: seededRandom(11),
      log: silentLogger,
      meter: silentMeter,
      sink: {
        apply(object, origin) {
          fed.events.push(`apply ${refKey(refOf(object))}`);
          index.apply(object, origin);
        },
        delete(ref) {
          fed.events.push(`delete ${refKey(ref)}`);
          index.delete(ref);
        },
        problems(problems) {
          fed.problems = problems;
        },
        settled() {
          fed.settled += 1;
        },
      },
    },
  );
  const fed: Fed = {
    index,
    source,
    started: source.start(stopping.signal),
    problems: [],
    settled: 0,
    events: [],
    objects: () => new Map([...index.entries()].map(({ object }) => [refKey(refOf(object)), object])),
    async [Symbol.asyncDispose]() {
      stopping.abort();
      await source.stop();
      api.close();
    },
  };
  return fed;
}

export const paths = {
  namespaces: "/api/v1/namespaces",
  nodes: "/api/v1/nodes",
  pods: "/api/v1/pods",
  services: "/api/v1/services",
  accounts: "/api/v1/serviceaccounts",
  slices: "/apis/discovery.k8s.io/v1/endpointslices",
  routes: "/apis/gateway.networking.k8s.io/v1/httproutes",
  authorizations: "/apis/security.istio.io/v1/authorizationpolicies",
} as const;

/** A ready pod with app=web and everything that an API server adds. */
export const livePod = (name: string, ip: string, extra: object = {}): object => ({
  metadata: {
    name,
    namespace: "shop",
    labels: { app: "web", ...(extra as { labels?: object }).labels },
    annotations: { "fairlead.dev/weight": "2", "kubectl.kubernetes.io/last-applied-configuration": "{...}" },
    managedFields: [{ manager: "kubelet", fieldsV1: { "f:status": {} } }],
    ownerReferences: [{ kind: "ReplicaSet", name: "web" }],
  },
  spec: {
    nodeName: "n1",
    serviceAccountName: "web",
    containers: [{ name: "c", image: "x", ports: [{ name: "http", containerPort: 8080 }], futureField: { a: 1 } }],
    tolerations: [],
    anotherFutureField: true,
  },
  status: {
    phase: "Running",
    podIP: ip,
    podIPs: [{ ip }],
    hostIP: "192.168.1.1",
    conditions: [{ type: "Ready", status: "True", futureField: 1 }],
    containerStatuses: [{ name: "c", ready: true, restartCount: 0, image: "x", imageID: "", futureField: 2 }],
  },
});
export const liveService = (name: string, ip: string, extra: object = {}): object => ({
  metadata: { name, namespace: "shop" },
  spec: {
    type: "ClusterIP",
    clusterIP: ip,
    clusterIPs: [ip],
    ipFamilyPolicy: "SingleStack",
    selector: { app: "web" },
    ports: [{ name: "http", protocol: "TCP", port: 80, targetPort: "http" }],
    ...extra,
  },
  status: { loadBalancer: {} },
});
export const liveSlice = (service: string, ip: string, podName: string): object => ({
  metadata: { name: `${service}-abcde`, namespace: "shop", labels: { "kubernetes.io/service-name": service } },
  addressType: "IPv4",
  endpoints: [
    {
      addresses: [ip],
      conditions: { ready: true, serving: true, terminating: false },
      nodeName: "n1",
      targetRef: { kind: "Pod", namespace: "shop", name: podName, uid: "u" },
    },
  ],
  ports: [{ name: "http", port: 8080, protocol: "TCP", appProtocol: "http" }],
});
