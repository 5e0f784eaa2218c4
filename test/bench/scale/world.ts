// A cluster of any size without machines, on a real API server: nodes played by kwok, what kubelets and controllers would write of pods and
// slices written here (kwok gives a pod a second address when its first write is refused by a busy server, and then it never runs).
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdtempSync, openSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { buildModule } from "../../cluster/compile/build.ts";
import { modules } from "../../cluster/compile/modules.ts";
import type { TestCluster } from "../../cluster/kit.ts";
import { ApiError, type KubeApi } from "../../cluster/kubernetes/api.ts";
import { adminApi } from "../../cluster/kubernetes/credentials.ts";
import { cacheFolder } from "../../cluster/paths.ts";
import { finish } from "../../lab/command.ts";

export interface Size {
  readonly pods: number;
  readonly services: number;
  readonly nodes: number;
}
/** A pod: which service it is behind, and where. */
export interface Placed {
  readonly name: string;
  readonly service: number;
  readonly node: number;
  /** In the order of creation. */
  readonly number: number;
}
export const namespaceOf = (service: number): string => `ns-${service % 10}`;
const serviceName = (service: number): string => `svc-${service}`;
const nodeName = (node: number): string => `node-${node}`;
export const workloadName = ({ service, name }: Placed): string => `cluster.local/${namespaceOf(service)}/${name}`;

/** Connections of one client are few, so that a test does not flood the server; a measure takes several. */
const clients = 4;
const parallel = 12;

export class World implements AsyncDisposable {
  readonly size: Size;
  readonly pods: Placed[] = [];
  readonly #apis: readonly KubeApi[];
  readonly #kwok: ChildProcess;
  readonly #dir: string;
  #turn = 0;
  #made = 0;

  private constructor(size: Size, apis: readonly KubeApi[], kwok: ChildProcess, dir: string) {
    this.size = size;
    this.#apis = apis;
    this.#kwok = kwok;
    this.#dir = dir;
  }

  /** Makes everything and waits until every pod is ready. */
  static async make(up: TestCluster, size: Size, say: (line: string) => void): Promise<World> {
    const dir = mkdtempSync(join(tmpdir(), "fairlead-scale-"));
    const kwok = await startKwok(up, dir, say);
    const apis = Array.from({ length: clients }, () => adminApi(up.cluster, up.state.block));
    const world = new World(size, apis, kwok, dir);
    try {
      await world.#fill(say);
    } catch (error) {
      await world[Symbol.asyncDispose]();
      throw error;
    }
    return world;
  }
  async [Symbol.asyncDispose](): Promise<void> {
    this.#kwok.kill("SIGKILL");
    for (const api of this.#apis) api.close();
    rmSync(this.#dir, { recursive: true, force: true });
  }

  call(method: string, path: string, body?: unknown, type?: string): Promise<string> {
    const api = this.#apis[this.#turn++ % this.#apis.length] as KubeApi;
    return api.call(method, path, body, type);
  }
  /** The next pod of a service, not made yet. */
  nextPod(service: number): Placed {
    const number = this.#made++;
    return { name: `${serviceName(service)}-${number.toString(36)}`, service, node: number % this.size.nodes, number };
  }
  /** Makes the pod, and says that it runs. */
  async createPod(pod: Placed): Promise<void> {
    await this.call("POST", `/api/v1/namespaces/${namespaceOf(pod.service)}/pods`, podManifest(pod));
    const { number: n } = pod;
    const ip = `10.${128 + ((n >> 16) & 63)}.${(n >> 8) & 255}.${n & 255}`;
    const hostIP = `10.250.${pod.node >> 8}.${pod.node & 255}`;
    const conditions = [{ type: "Ready", status: "True" }];
    const status = { phase: "Running", podIP: ip, podIPs: [{ ip }], hostIP, hostIPs: [{ ip: hostIP }], conditions };
    await this.call("PATCH", `${podPath(pod)}/status`, { status }, "application/strategic-merge-patch+json");
  }
  deletePod(pod: Placed): Promise<string> {
    return this.call("DELETE", `${podPath(pod)}?gracePeriodSeconds=0`);
  }
  setReady(pod: Placed, isReady: boolean): Promise<string> {
    const conditions = [{ type: "Ready", status: isReady ? "True" : "False" }];
    return this.call(
      "PATCH",
      `${podPath(pod)}/status`,
      { status: { conditions } },
      "application/strategic-merge-patch+json",
    );
  }
  /** Writes the slice of a service as it must be with the pods that it has, as its controller would. */
  async writeSlice(service: number): Promise<void> {
    const slice = sliceManifest(
      service,
      this.pods.filter((pod) => pod.service === service),
    );
    const path = `/apis/discovery.k8s.io/v1/namespaces/${namespaceOf(service)}/endpointslices`;
    try {
      await this.call("PUT", `${path}/${slice.metadata.name}`, slice);
    } catch (error) {
      if (!(error instanceof ApiError) || error.status !== 404) throw error;
      await this.call("POST", path, slice);
    }
  }

  async #fill(say: (line: string) => void): Promise<void> {
    const { size } = this;
    const began = performance.now();
    const spent = (): string => `${Math.round((performance.now() - began) / 1000)} s`;
    const labels = { "fairlead.dev/mesh": "enabled" };
    const namespaces = Array.from({ length: 10 }, (_, i) => ({ name: namespaceOf(i), labels }));
    // The controller keeps its CA and its lease in its own.
    for (const metadata of [{ name: "fairlead-system" }, ...namespaces])
      await this.call("POST", "/api/v1/namespaces", { apiVersion: "v1", kind: "Namespace", metadata });
    await inParallel(size.nodes, (i) => this.call("POST", "/api/v1/nodes", nodeManifest(i)));
    await inParallel(size.services, (i) =>
      this.call("POST", `/api/v1/namespaces/${namespaceOf(i)}/services`, serviceManifest(i)),
    );
    say(`${size.nodes} nodes and ${size.services} services made after ${spent()}`);
    await inParallel(size.pods, async (i) => {
      const pod = this.nextPod(i % size.services);
      await this.createPod(pod);
      this.pods.push(pod);
      if (this.pods.length % 1_000 === 0) say(`${this.pods.length} pods made after ${spent()}`);
    });
    await inParallel(size.services, (i) => this.writeSlice(i));
    say(`all pods run after ${spent()}`);
  }
}

/** Calls `make` for 0 to `count` - 1, some at a time. */
async function inParallel(count: number, make: (i: number) => Promise<unknown>): Promise<void> {
  let next = 0;
  const worker = async (): Promise<void> => {
    while (next < count) await make(next++);
  };
  await Promise.all(Array.from({ length: Math.min(parallel, count) }, worker));
}

/** Plays every node by the rules that come with its module. */
async function startKwok(up: TestCluster, dir: string, say: (line: string) => void): Promise<ChildProcess> {
  const built = await buildModule(cacheFolder(process.env), modules.kwok, say);
  const asked = await finish(["go", "-C", modules.kwok.folder, "mod", "download", "-json", modules.kwok.of], {
    timeoutMs: 300_000,
  });
  if (asked.code !== 0) throw new Error(`kwok's rules are not to be had: ${asked.stderr}`);
  const rules = join((JSON.parse(asked.stdout) as { Dir: string }).Dir, "kustomize/stage");
  const files = ["node/fast/node-initialize.yaml", "node/heartbeat-with-lease/node-heartbeat-with-lease.yaml"].map(
    (file) => join(rules, file),
  );
  for (const file of files) if (!existsSync(file)) throw new Error(`${file} is missing in ${modules.kwok.of}`);
  const log = openSync(join(dir, "kwok.log"), "a");
  const flags = [
    "--kubeconfig",
    up.cluster.kubeconfig,
    "--manage-all-nodes",
    "-v",
    "ERROR",
    "--node-lease-duration-seconds",
    "600",
  ];
  const child = spawn(join(built.folder, "kwok"), [...flags, "--config", files.join(",")], {
    stdio: ["ignore", log, log],
    env: { ...process.env, HOME: dir },
  });
  child.on("error", () => {});
  return child;
}

const podPath = ({ service, name }: Placed): string => `/api/v1/namespaces/${namespaceOf(service)}/pods/${name}`;

const nodeManifest = (node: number) => ({
  apiVersion: "v1",
  kind: "Node",
  metadata: { name: nodeName(node), labels: { "topology.kubernetes.io/zone": `zone-${node % 3}` } },
});
const serviceManifest = (service: number) => ({
  apiVersion: "v1",
  kind: "Service",
  metadata: { name: serviceName(service), namespace: namespaceOf(service) },
  spec: { selector: { app: serviceName(service) }, ports: [{ name: "http", port: 80, targetPort: 8080 }] },
});
/** What a Deployment's pod has that goes to agents or fills memory. */
const podManifest = (pod: Placed) => ({
  apiVersion: "v1",
  kind: "Pod",
  metadata: {
    name: pod.name,
    namespace: namespaceOf(pod.service),
    labels: { app: serviceName(pod.service), "pod-template-hash": "6d4b75cb6d" },
  },
  spec: {
    nodeName: nodeName(pod.node),
    containers: [
      {
        name: "main",
        image: "shop/app:1.2.3",
        ports: [{ name: "http", containerPort: 8080 }],
        env: Array.from({ length: 10 }, (_, i) => ({ name: `SETTING_${i}`, value: `value of setting ${i}` })),
        resources: { requests: { cpu: "100m", memory: "128Mi" }, limits: { memory: "256Mi" } },
        readinessProbe: { httpGet: { path: "/healthz", port: 8080 } },
      },
    ],
  },
});
const sliceManifest = (service: number, pods: readonly Placed[]) => ({
  apiVersion: "discovery.k8s.io/v1",
  kind: "EndpointSlice",
  metadata: {
    name: `${serviceName(service)}-1`,
    namespace: namespaceOf(service),
    labels: { "kubernetes.io/service-name": serviceName(service) },
  },
  addressType: "IPv4",
  // Which pod is meant is told by its name; the address must only be one.
  endpoints: pods.map((pod) => ({
    addresses: ["10.199.0.1"],
    conditions: { ready: true },
    nodeName: nodeName(pod.node),
    targetRef: { kind: "Pod", name: pod.name, namespace: namespaceOf(service) },
  })),
  ports: [{ name: "http", port: 8080, protocol: "TCP" }],
});
