// A two-node Kubernetes with a mesh on it and a namespace `shop`, as tests talk to it: kubectl, pods, agents, counters. Everything ends with it.
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface, type Interface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { BUSYBOX_IMAGE } from "../cluster/images/built-in.ts";
import { guarded, testClusterName } from "../cluster/kit.ts";
import type { KubeApi, KubeObject } from "../cluster/kubernetes/api.ts";
import { adminApi } from "../cluster/kubernetes/credentials.ts";
import { type ClusterPaths, cacheFolder, clusterPaths } from "../cluster/paths.ts";
import { type ClusterState, program } from "../cluster/state.ts";
import { up } from "../cluster/up.ts";
import { type Finished, finish } from "../lab/command.ts";
import { trafficCommand } from "../lab/programs.ts";
import { type ClusterMesh, type HandAgent, startClusterMesh } from "./cluster-mesh.ts";
import { waitFor } from "./wait.ts";

export const clusterTimeoutMs = 600_000;
const PATIENCE_MS = 180_000;
/** Settings of agents on a machine that is slow for everybody, which must not be taken for agents that lose connections. */
export const patientAgent = {
  FAIRLEAD_QUESTION_TIMEOUT_MS: "30000",
  FAIRLEAD_HANDSHAKE_TIMEOUT_MS: "30000",
  FAIRLEAD_CONNECT_TIMEOUT_MS: "30000",
  FAIRLEAD_HEARTBEAT_DEAD_MS: "60000",
  FAIRLEAD_TAKEOVER_MS: "60000",
} as const;
export const clusterCache = cacheFolder(process.env);
export const twoNodes = { nodes: 2, apiOnly: false, apiServerFlags: [] } as const;

export class MeshCluster implements AsyncDisposable {
  readonly #guard = guarded(clusterPaths(testClusterName()));
  readonly cluster: ClusterPaths = this.#guard.cluster;
  /** Of node N at N - 1. */
  readonly agents: HandAgent[] = [];
  #state: ClusterState | undefined;
  #api: KubeApi | undefined;
  #mesh: ClusterMesh | undefined;

  get state(): ClusterState {
    assert.ok(this.#state);
    return this.#state;
  }
  get api(): KubeApi {
    assert.ok(this.#api);
    return this.#api;
  }
  get mesh(): ClusterMesh {
    assert.ok(this.#mesh);
    return this.#mesh;
  }

  /** Brings everything up, with `objects` applied before the agents start. */
  async start(objects: readonly KubeObject[], agentEnv: Readonly<Record<string, string>> = {}): Promise<void> {
    await this.up();
    this.#api = adminApi(this.cluster, this.state.block);
    await this.api.apply({ apiVersion: "v1", kind: "Namespace", metadata: { name: "shop" } });
    for (const object of objects) await this.api.apply(object);
    this.#mesh = await startClusterMesh(this.cluster, this.state, this.api);
    for (const n of [1, 2]) this.agents[n - 1] = await this.mesh.agent(n, "a", agentEnv);
    await this.startAgents();
  }
  /** Starts what does not run of the cluster. */
  async up(): Promise<void> {
    this.#state = await up(this.cluster, twoNodes, clusterCache, (line) => console.error(line));
  }
  async startAgents(): Promise<void> {
    for (const agent of this.agents) if (agent.pid === undefined) await agent.start();
    for (const agent of this.agents) await agent.ready();
  }
  async [Symbol.asyncDispose](): Promise<void> {
    this.#api?.close();
    await this.#guard[Symbol.asyncDispose]();
    await this.#mesh?.[Symbol.asyncDispose]();
  }

  kubectl(...words: readonly string[]): Promise<Finished> {
    return finish([...this.#kubectl(), ...words], { timeoutMs: 60_000 });
  }
  #kubectl(): readonly string[] {
    return [program(this.state, "kube", "kube"), "kubectl", `--kubeconfig=${this.cluster.kubeconfig}`, "-n", "shop"];
  }
  async said(...words: readonly string[]): Promise<string> {
    const done = await this.kubectl(...words);
    assert.equal(done.code, 0, `kubectl ${words.join(" ")}: ${done.stderr}`);
    return done.stdout.trim();
  }
  /** Asked again until it ends well: names and rules of Services reach a node some time after the Service. */
  inPod(pod: string, script: string): Promise<string> {
    return waitFor(
      `in pod ${pod}: ${script}`,
      async () => {
        const done = await this.kubectl("exec", pod, "--", "sh", "-c", script);
        return done.code === 0 && done.stdout.trim();
      },
      PATIENCE_MS,
    );
  }
  address(pod: string): Promise<string> {
    return this.said("get", "pod", pod, "-o", "jsonpath={.status.podIP}");
  }
  clusterIp(service: string): Promise<string> {
    return this.said("get", "service", service, "-o", "jsonpath={.spec.clusterIP}");
  }
  async isReady(pod: string): Promise<boolean> {
    const path = 'jsonpath={.status.conditions[?(@.type=="Ready")].status}';
    return (await this.said("get", "pod", pod, "-o", path)) === "True";
  }
  ready(pod: string): Promise<boolean> {
    return waitFor(`pod ${pod} is ready`, () => this.isReady(pod), PATIENCE_MS);
  }
  async waitFor(what: string, ask: () => Promise<boolean>): Promise<void> {
    await waitFor(what, ask, PATIENCE_MS);
  }

  agent(n: number): HandAgent {
    const agent = this.agents[n - 1];
    assert.ok(agent);
    return agent;
  }
  async isEnrolled(n: number, pod: string): Promise<boolean> {
    return (await this.agent(n).enrolled()).includes(`shop/${pod}`);
  }
  /** Waits until the pod is in the mesh, or out of it. */
  async enrolled(n: number, pod: string, wish = true): Promise<void> {
    const ask = async (): Promise<boolean> => (await this.isEnrolled(n, pod)) === wish;
    await waitFor(`${pod} is ${wish ? "" : "not "}in the mesh`, ask, PATIENCE_MS);
  }
  /** Waits until nothing of the mesh is at work for the pod any more. */
  async isOut(n: number, pod: string): Promise<void> {
    await this.waitFor(`${pod} has left the mesh`, async () => {
      const { pods } = await this.agent(n).ask("/v1/pods");
      return pods.some((p: { pod: string; state: string }) => p.pod === `shop/${pod}` && p.state === "out");
    });
  }
  /** Sum of a counter's series that have all of `labels`. */
  async counted(n: number, name: string, labels: readonly string[]): Promise<number> {
    return String(await this.agent(n).ask("/metrics"))
      .split("\n")
      .filter((line) => line.startsWith(`${name}{`) && labels.every((label) => line.includes(label)))
      .reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(" ") + 1)), 0);
  }
  /** Connections that did not just finish, or took as long as patience lasts, and what agents complained of: for the messages of tests. */
  async endings(): Promise<readonly string[]> {
    await sleep(1_000); // records come in batches
    return [1, 2].flatMap((n) => {
      const told = this.agent(n).accessLog.filter((line) => line.includes('"duration_us":'));
      const odd = told.filter((line) => !line.includes('"reason":"finished"') || /"duration_us":[1-9]\d{8}/.test(line));
      const log = this.agent(n).log.split("\n");
      const complaints = log.filter((line) => /"level":"(warn|error)"/.test(line) && line.length < 2_000);
      return [...odd.slice(0, 6), ...complaints.slice(-12)].map((line) => `n${n} ${line}`);
    });
  }
  /** Connections that came to pods of node N by mTLS. */
  tunnelled(n: number): Promise<number> {
    return this.counted(n, "istio_tcp_connections_closed_total", [
      'reporter="destination"',
      'connection_security_policy="mutual_tls"',
      'destination_workload_namespace="shop"',
    ]);
  }

  /** The traffic program's client in a machine pod (`machinePod`). */
  traffic(pod: string, ...words: readonly string[]): TrafficClient {
    return this.exec(pod, trafficCommand("client", words));
  }
  /** Any other program of the machine in such a pod. */
  exec(pod: string, command: readonly string[]): TrafficClient {
    return new TrafficClient([...this.#kubectl(), "exec", "-i", pod, "--", "chroot", "/machine", ...command]);
  }
}

/** A program in a pod that answers in lines of JSON. */
export class TrafficClient {
  readonly #child: ChildProcess;
  readonly #lines: Interface;
  readonly #answers: AsyncIterator<string>;
  #stderr = "";

  constructor(command: readonly string[]) {
    const [file = "", ...args] = command;
    this.#child = spawn(file, args, { stdio: ["pipe", "pipe", "pipe"] });
    this.#child.stdin?.on("error", () => undefined);
    this.#child.stderr?.on("data", (chunk: Buffer) => {
      this.#stderr += chunk.toString();
    });
    assert.ok(this.#child.stdout);
    this.#lines = createInterface({ input: this.#child.stdout });
    this.#answers = this.#lines[Symbol.asyncIterator]();
  }
  // biome-ignore lint/suspicious/noExplicitAny: tests read answers freely
  async next(): Promise<any> {
    const { value, done } = await this.#answers.next();
    assert.ok(done !== true, `the program has ended: ${this.#stderr}`);
    return JSON.parse(value);
  }
  // biome-ignore lint/suspicious/noExplicitAny: as above
  ask(line: string): Promise<any> {
    this.#child.stdin?.write(`${line}\n`);
    return this.next();
  }
  kill(): void {
    this.#child.kill("SIGKILL");
  }
  async end(line: string): Promise<void> {
    const exit = this.#child.exitCode === null ? once(this.#child, "exit") : undefined;
    this.#child.stdin?.end(`${line}\n`);
    await exit;
  }
}

export interface PodMore {
  readonly labels?: Record<string, string>;
  readonly container?: object;
  readonly spec?: object;
}
export function pod(name: string, node: string, command: readonly string[], more: PodMore = {}): KubeObject {
  return {
    apiVersion: "v1",
    kind: "Pod",
    metadata: { name, namespace: "shop", labels: { app: name, ...more.labels } },
    spec: {
      nodeName: node,
      terminationGracePeriodSeconds: 0,
      containers: [{ name: "main", image: BUSYBOX_IMAGE, command, ...more.container }],
      ...more.spec,
    },
  };
}
/** Answers on port 8080 at /cgi-bin/who with its name and, in a second line, the address of whoever asks. */
export const whoScript = (name: string): readonly string[] => [
  "sh",
  "-c",
  `mkdir -p /www/cgi-bin && printf '#!/bin/sh\\necho\\necho ${name}\\necho $REMOTE_ADDR | tr -d "[]" | sed s/::ffff://\\n' >/www/cgi-bin/who && chmod +x /www/cgi-bin/who && exec httpd -f -h /www -p 8080`,
];
export const whoPod = (name: string, node: string, more: PodMore = {}): KubeObject =>
  pod(name, node, whoScript(name), more);

/** A pod with the machine's programs: the node's files lie under /machine. */
export const machinePod = (name: string, node: string, command: readonly string[], more: PodMore = {}): KubeObject =>
  pod(name, node, ["chroot", "/machine", ...command], {
    ...more,
    container: { volumeMounts: [{ name: "machine", mountPath: "/machine" }], ...more.container },
    spec: { volumes: [{ name: "machine", hostPath: { path: "/" } }], ...more.spec },
  });
export const trafficServer = (name: string, node: string, more: PodMore = {}): KubeObject =>
  machinePod(name, node, trafficCommand("server", ["--port", "7000"]), more);
export const idlePod = (name: string, node: string, more: PodMore = {}): KubeObject =>
  machinePod(name, node, ["sleep", "1000000"], more);

export const service = (name: string, port = 80, targetPort = 8080): KubeObject => ({
  apiVersion: "v1",
  kind: "Service",
  metadata: { name, namespace: "shop" },
  spec: { selector: { app: name }, ports: [{ port, targetPort }] },
});

/** As Istio defines PeerAuthentication, as far as the API server is concerned. */
export const peerAuthenticationKind: KubeObject = {
  apiVersion: "apiextensions.k8s.io/v1",
  kind: "CustomResourceDefinition",
  metadata: { name: "peerauthentications.security.istio.io" },
  spec: {
    group: "security.istio.io",
    scope: "Namespaced",
    names: { plural: "peerauthentications", singular: "peerauthentication", kind: "PeerAuthentication" },
    versions: [
      {
        name: "v1",
        served: true,
        storage: true,
        schema: { openAPIV3Schema: { type: "object", "x-kubernetes-preserve-unknown-fields": true } },
      },
    ],
  },
};
export const strictShop: KubeObject = {
  apiVersion: "security.istio.io/v1",
  kind: "PeerAuthentication",
  metadata: { name: "strict", namespace: "shop" },
  spec: { mtls: { mode: "STRICT" } },
};
