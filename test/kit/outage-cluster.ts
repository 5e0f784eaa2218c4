// A two-node Kubernetes whose control plane is taken away piece by piece, with a mesh of two controllers under load that needs no API server.
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import type { TestCluster } from "../cluster/kit.ts";
import type { KubeObject } from "../cluster/kubernetes/api.ts";
import { controlPlanePrograms } from "../cluster/kubernetes/control-plane.ts";
import { hierarchies } from "../cluster/machine/groups.ts";
import { mainProcess, type Program, startProgram, stopProgram } from "../cluster/machine/programs.ts";
import {
  clusterService,
  httpRoute,
  install,
  istioDefinitions,
  meshedNamespace,
  routeDefinitions,
} from "./api-server.ts";
import { type ClusterMesh, type HandAgent, startClusterMesh } from "./cluster-mesh.ts";
import { call, type TestController } from "./controller.ts";
import { idlePod, patientAgent, service, strictShop, trafficServer } from "./mesh-cluster.ts";
import { FileClient } from "./pod-files.ts";
import { waitFor } from "./wait.ts";

const PATIENCE_MS = 240_000;
// What is held open through an agent that was replaced must not end with its drain.
const patient = { ...patientAgent, FAIRLEAD_DRAIN_MS: "7200000" };
const held = 50;

interface Pod {
  readonly status: { readonly podIP?: string; readonly conditions?: readonly { type: string; status: string }[] };
}
interface Lease {
  readonly spec: { readonly holderIdentity?: string };
}
interface Route {
  readonly metadata: { readonly name: string; readonly generation: number };
  readonly status?: {
    readonly parents?: readonly { readonly conditions: readonly { observedGeneration: number }[] }[];
  };
}
export interface Load {
  readonly from: string;
  readonly failed: number;
  readonly ok: number;
  readonly reasons: unknown;
  /** Of the connections that are held open. */
  readonly whole: number;
  readonly broken: unknown;
}

export class OutageCluster implements AsyncDisposable {
  readonly up: TestCluster;
  readonly mesh: ClusterMesh;
  readonly agents: HandAgent[] = [];
  readonly #load: { readonly from: string; readonly requests: FileClient; readonly idle: FileClient }[] = [];
  #generation = 0;
  #seats = 0;

  private constructor(up: TestCluster, mesh: ClusterMesh) {
    this.up = up;
    this.mesh = mesh;
  }

  /** Agents and pods are there, in the mesh and STRICT; nothing is loaded yet. */
  static async start(up: TestCluster, routes: number): Promise<OutageCluster> {
    const { api, cluster } = up;
    await install(api, [...routeDefinitions, ...istioDefinitions]);
    await api.apply(meshedNamespace("shop"));
    for (const name of ["cart", "other"]) await api.apply(clusterService(name));
    const it = new OutageCluster(up, await startClusterMesh(cluster, up.state, api, 2));
    for (const n of [1, 2]) {
      const agent = await it.mesh.agent(n, "a", patient);
      await agent.start();
      it.agents.push(agent);
    }
    for (const agent of it.agents) await agent.ready();
    const folder = join(cluster.dir, "load");
    mkdirSync(folder);
    for (const object of [trafficServer("web", "n2"), service("web", 7000, 7000), strictShop]) await api.apply(object);
    for (const [from, node] of [
      ["far", "n1"],
      ["near", "n2"],
    ] as const) {
      const requests = await FileClient.make(`${from}-requests`, node, folder);
      const idle = await FileClient.make(`${from}-idle`, node, folder);
      for (const { pod } of [requests, idle]) await api.apply(pod);
      it.#load.push({ from, requests, idle });
    }
    for (const [n, name] of [
      [2, "web"],
      [1, "far-requests"],
      [1, "far-idle"],
      [2, "near-requests"],
      [2, "near-idle"],
    ] as const)
      await it.meshed(n, name);
    await it.changeRoutes(routes);
    await it.statusesWritten(routes);
    return it;
  }
  async [Symbol.asyncDispose](): Promise<void> {
    for (const { requests, idle } of this.#load) for (const client of [requests, idle]) client[Symbol.dispose]();
    await this.mesh[Symbol.asyncDispose]();
  }

  /** Waits until the pod runs, and its agent holds STRICT for it. */
  async meshed(n: number, name: string): Promise<void> {
    await waitFor(
      `${name} is in the mesh and strict`,
      async () => {
        const pods: readonly { pod: string; state: string }[] = (await this.agent(n).ask("/v1/pods"))?.pods ?? [];
        if (!pods.some((p) => p.pod === `shop/${name}` && p.state === "strict")) return false;
        const { status } = await this.up.api.get<Pod>(`/api/v1/namespaces/shop/pods/${name}`);
        return status.conditions?.some((c) => c.type === "Ready" && c.status === "True");
      },
      PATIENCE_MS,
    );
  }
  agent(n: number): HandAgent {
    const agent = this.agents[n - 1];
    if (agent === undefined) throw new Error(`no agent on node ${n}`);
    return agent;
  }
  /** A pod that is new, until it is in the mesh. */
  async newPod(name: string): Promise<void> {
    const pod: KubeObject = idlePod(name, "n1");
    await waitFor(
      `${name} can be made`,
      () =>
        this.up.api.apply(pod).then(
          () => true,
          () => false,
        ),
      PATIENCE_MS,
    );
    await this.meshed(1, name);
  }
  /** Another agent takes over from the one of node `n`. */
  async replaceAgent(n: number): Promise<void> {
    const next = await this.mesh.agent(n, `b${++this.#seats}`, patient);
    const before = await this.agent(n).ask("/v1/status");
    await next.start();
    await next.ready(before);
    this.agents[n - 1] = next;
  }

  /** Begins to ask from pods of both nodes, so many a second each, and holds connections open. */
  async startLoad(rate: number): Promise<void> {
    const { spec } = await this.up.api.get<{ spec: { clusterIP: string } }>("/api/v1/namespaces/shop/services/web");
    const target = `--host ${spec.clusterIP} --port 7000 --timeout 60000`;
    for (const { from, requests, idle } of this.#load) {
      const opened = await idle.ask(`idle ${target} --count ${held}`);
      if (opened.open !== held) throw new Error(`${from}: ${JSON.stringify(opened)}`);
      await requests.ask(`load ${target} --rate ${rate}`);
    }
  }
  /** What became of the load up to now. @throws Error with the evidence when something failed */
  async look(when: string): Promise<readonly Load[]> {
    const found = await Promise.all(
      this.#load.map(async ({ from, requests, idle }): Promise<Load> => {
        const [{ failed, ok, reasons }, proved] = await Promise.all([requests.ask("report"), idle.ask("check")]);
        return { from, failed, ok, reasons, whole: proved.ok, broken: proved.reasons };
      }),
    );
    const bad = found.filter(({ failed, whole }) => failed > 0 || whole !== held);
    if (bad.length > 0) throw new Error(`traffic was harmed ${when}: ${JSON.stringify(bad)}`);
    return found;
  }

  /** The API server or etcd, as a program. */
  program(name: "etcd" | "kube-apiserver"): Program {
    const found = controlPlanePrograms(this.up.cluster, this.up.state).find((p) => p.name === name);
    if (found === undefined) throw new Error(`no program ${name}`);
    return found;
  }
  async stopProgram(name: "etcd" | "kube-apiserver", signal: "SIGTERM" | "SIGKILL"): Promise<void> {
    if (!(await stopProgram(hierarchies(), this.program(name), signal, 30_000))) throw new Error(`${name} did not run`);
  }
  /** Starts whatever does not run of the control plane: some programs end without an API server, as others start them again. */
  async controlPlaneUp(): Promise<void> {
    await waitFor(
      "the API server is ready",
      () => {
        for (const p of controlPlanePrograms(this.up.cluster, this.up.state))
          if (mainProcess(hierarchies(), p) === undefined) startProgram(hierarchies(), p);
        return this.up.api.ready().catch(() => false);
      },
      PATIENCE_MS,
    );
  }

  async holder(): Promise<string> {
    const path = "/apis/coordination.k8s.io/v1/namespaces/fairlead-system/leases/fairlead-controller";
    return (await this.up.api.get<Lease>(path)).spec.holderIdentity ?? "";
  }
  /** The controller that leads, by its own word. */
  async leader(): Promise<TestController | undefined> {
    for (const one of this.mesh.controllers) {
      const answer = await call({ host: "127.0.0.1", port: one.ports.health }, "GET", "/health").catch(() => undefined);
      if (answer?.json.lease.leading === true) return one;
    }
    return undefined;
  }
  /** Nodes whose agents this controller serves. */
  async served(by: TestController): Promise<readonly string[]> {
    const { json } = await by.admin("GET", "/v1/agents");
    return (json.agents as readonly { node: string }[]).map(({ node }) => node);
  }
  /** When the agent of a node lost its controller after `sinceMs`, and was served again; by its log. */
  whenServed(node: string, sinceMs: number): { readonly lostMs?: number; readonly againMs?: number } {
    const lines = this.agents.find((a) => a.node === node)?.log.split("\n") ?? [];
    const first = (event: string): number | undefined =>
      lines
        .filter((line) => line.includes(`"event":"${event}"`))
        .map((line) => Date.parse((JSON.parse(line) as { time: string }).time))
        .find((atMs) => atMs >= sinceMs);
    const [lostMs, againMs] = [first("controller_disconnected"), first("controller_connected")];
    return { ...(lostMs === undefined ? {} : { lostMs }), ...(againMs === undefined ? {} : { againMs }) };
  }

  /** Another version of each route, so that each has a status to be written. */
  async changeRoutes(count: number): Promise<void> {
    this.#generation += 1;
    const backend = this.#generation % 2 === 0 ? "cart" : "other";
    for (let i = 0; i < count; i++) await this.up.api.apply(httpRoute(`r${i}`, [{ name: "cart" }], backend));
  }
  /** Waits until `count` routes have the status of their present version. */
  async statusesWritten(count: number): Promise<void> {
    await waitFor(
      `statuses of ${count} routes`,
      async () => {
        const path = "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes";
        const { items } = await this.up.api.get<{ items: readonly Route[] }>(path);
        const current = items.filter(
          ({ metadata, status }) => status?.parents?.[0]?.conditions[0]?.observedGeneration === metadata.generation,
        );
        return current.length >= count;
      },
      PATIENCE_MS,
    );
  }
}
