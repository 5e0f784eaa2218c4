// A whole lab: builds it from manifests, keeps it equal to them while they change, and answers for it. The only constructor of its parts.
import { randomUUID } from "node:crypto";
import { existsSync, truncateSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { MAX_NODES, nodeNumber } from "./addresses.ts";
import { makeCgroup } from "./cgroup.ts";
import { finish } from "./command.ts";
import { ControllerRuntime } from "./controller.ts";
import { makeDir, sizeOf } from "./files.ts";
import type { LabOptions, LabStatus } from "./lab-options.ts";
import { Mirror } from "./mirror.ts";
import { buildRouter } from "./network.ts";
import { NodeRuntime } from "./node.ts";
import { displayName, type KubeObject, objectKey, type Problem } from "./objects.ts";
import { type LabPaths, netnsPath } from "./paths.ts";
import { PodRuntime } from "./pod.ts";
import type { NamespaceFacts } from "./pod-record.ts";
import { type PodSpec, parsePod, podIdentity, podKey } from "./pod-spec.ts";
import { hostsLines, namedPorts, ownAddresses, proxyRules, type ServiceView, viewServices } from "./services.ts";

const joinAddress = (ip: string, port: number): string => (ip.includes(":") ? `[${ip}]:${port}` : `${ip}:${port}`);
const LOG_LIMIT_BYTES = 32 << 20;

export class Lab {
  readonly paths: LabPaths;
  readonly options: LabOptions;
  readonly mirror: Mirror;
  readonly nodes = new Map<string, NodeRuntime>();
  readonly pods = new Map<string, PodRuntime>();
  readonly controller: ControllerRuntime | undefined;
  state: LabStatus["state"] = "starting";
  error = "";
  readonly #startedMs = Date.now();
  readonly #say: (line: string) => void;
  #problems: Problem[] = [];
  #namespaces = new Map<string, NamespaceFacts>();
  #services: ServiceView[] = [];
  #proxyText = "";
  #work: Promise<void> = Promise.resolve();
  #servicesDue: NodeJS.Timeout | undefined;
  #housekeeping: NodeJS.Timeout | undefined;

  constructor(paths: LabPaths, options: LabOptions, say: (line: string) => void) {
    this.paths = paths;
    this.options = options;
    this.#say = say;
    this.mirror = new Mirror(options.manifests, paths.manifestsDir);
    if (options.agents) this.controller = new ControllerRuntime(paths, options.controllerEnv, () => this.#changed());
  }

  async up(): Promise<void> {
    for (const dir of [this.paths.manifestsDir, this.paths.liveDir, this.paths.podsDir]) makeDir(dir);
    makeCgroup(this.paths.cgroup);
    this.mirror.sync();
    const count = this.options.nodes > 0 ? this.options.nodes : this.#nodesWanted();
    this.#say(`network: router and ${count} nodes`);
    await buildRouter(this.paths.routerNetns);
    for (let n = 1; n <= count; n++) {
      const node = new NodeRuntime(n, {
        lab: this.paths,
        agents: this.options.agents,
        agentEnv: this.options.agentEnv,
        agentPrefix: this.options.agentPrefix,
        joinToken: (name) => this.controller?.joinToken(name) ?? Promise.resolve(undefined),
        onVerdict: (v) => this.pods.get(v.pod)?.verdict(v),
        changed: () => this.#changed(),
      });
      await node.build();
      this.nodes.set(node.name, node);
    }
    if (this.controller !== undefined) {
      this.#say("controller: starting");
      await this.controller.start();
      this.#say(`agents: starting ${count}`);
      await Promise.all([...this.nodes.values()].map((node) => node.agent?.start()));
    }
    await this.#serviceTurn();
    await this.reconcile();
    await this.#podsReady();
    await this.#meshReady();
    this.mirror.watch(() => void this.reconcile());
    this.#housekeeping = setInterval(() => this.#trimLogs(), 10_000);
    this.state = "up";
  }

  #nodesWanted(): number {
    const named = this.mirror
      .objects()
      .filter((o) => o.kind === "Pod")
      .map((o) => nodeNumber(parsePod(o).pod?.nodeName ?? "") ?? 0);
    return Math.min(Math.max(2, ...named), MAX_NODES);
  }

  /** Waits until every pod is ready or clearly will not be soon; says so on the way. */
  async #podsReady(): Promise<void> {
    const deadline = Date.now() + this.options.waitReadyMs;
    let before = -1;
    while (Date.now() < deadline) {
      const all = [...this.pods.values()];
      const settled = all.filter(
        (p) =>
          p.condition.ready ||
          ["Succeeded", "Failed"].includes(p.condition.phase) ||
          p.condition.reason === "CrashLoopBackOff" ||
          p.condition.reason === "NoAddress",
      );
      if (settled.length !== before) this.#say(`pods: ${settled.length} of ${all.length} ready`);
      before = settled.length;
      if (settled.length === all.length) return;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    this.#say(
      `pods: not ready in time: ${[...this.pods.values()]
        .filter((p) => !p.condition.ready)
        .map((p) => p.key)
        .join(", ")}`,
    );
  }

  /** Waits a while until every agent is connected and has its certificates: "up" then means that policies are in force. */
  async #meshReady(): Promise<void> {
    const agents = [...this.nodes.values()].filter((n) => n.agent !== undefined);
    for (let waited = 0; waited < 10_000; waited += 100) {
      const settled = await Promise.all(agents.map((n) => n.isSettled()));
      if (settled.every(Boolean)) return;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    this.#say("agents: not all connected to the controller yet; fairlead status tells more");
  }

  /** Makes the lab equal to the manifests; calls queue up, each sees the newest manifests. */
  reconcile(): Promise<void> {
    this.#work = this.#work.then(() => this.#reconcile()).catch((e: Error) => this.#say(`reconcile: ${e.message}`));
    return this.#work;
  }

  async #reconcile(): Promise<void> {
    if (this.state === "stopping") return;
    const objects = this.mirror.objects();
    this.#problems = [];
    this.#namespaces = new Map(
      objects
        .filter((o) => o.kind === "Namespace")
        .map((o) => [
          o.name,
          { labels: { "kubernetes.io/metadata.name": o.name, ...o.labels }, annotations: o.annotations },
        ]),
    );
    const wanted = this.#wantedPods(objects);
    const ending: Promise<void>[] = [];
    for (const [key, pod] of this.pods) {
      const next = wanted.get(key);
      if (next !== undefined && podIdentity(next) === podIdentity(pod.spec) && (next.nodeName ?? pod.node) === pod.node)
        continue;
      this.#say(`pod ${key}: ${next === undefined ? "removed" : "replaced"}`);
      ending.push(pod.stop().then(() => void this.pods.delete(key)));
    }
    // Pods that stay are brought up to date while others end; a replaced pod starts once the old one is gone.
    await Promise.all([...wanted].map(([key, spec]) => this.#updatePod(key, spec)));
    await Promise.all(ending);
    const fresh = [...wanted].filter(([key]) => !this.pods.has(key)).map(([key, spec]) => this.#newPod(key, spec));
    await this.#serviceTurn(true);
    for (const pod of fresh) void pod?.start().then(() => this.#changed());
  }

  #wantedPods(objects: readonly KubeObject[]): Map<string, PodSpec> {
    const wanted = new Map<string, PodSpec>();
    for (const object of objects.filter((o) => o.kind === "Pod")) {
      const { pod, problems } = parsePod(object);
      this.#problems.push(...problems);
      if (pod === undefined) continue;
      const problem = (field: string, message: string, fix: string): void =>
        void this.#problems.push({ file: object.file, object: displayName(object), field, message, fix });
      const nodes = [...this.nodes.keys()];
      if (pod.nodeName !== undefined && !this.nodes.has(pod.nodeName))
        problem(
          "spec.nodeName",
          `${pod.nodeName} is no node of this lab`,
          `use one of ${nodes.join(", ")}, or leave it out`,
        );
      else if (!this.#namespaces.has(pod.namespace) && pod.namespace !== "default")
        problem(
          "metadata.namespace",
          `namespace ${pod.namespace} does not exist`,
          `add a manifest: kind Namespace, name ${pod.namespace}`,
        );
      else wanted.set(podKey(pod), pod);
    }
    return wanted;
  }

  async #updatePod(key: string, spec: PodSpec): Promise<void> {
    const pod = this.pods.get(key);
    if (pod === undefined || pod.terminating) return;
    const namespace = this.#namespaceOf(spec);
    const before = JSON.stringify([pod.spec.labels, pod.spec.annotations, pod.namespace]);
    if (JSON.stringify([spec.labels, spec.annotations, namespace]) !== before) await pod.update(spec, namespace);
  }

  #namespaceOf(spec: PodSpec): NamespaceFacts {
    return (
      this.#namespaces.get(spec.namespace) ?? {
        labels: { "kubernetes.io/metadata.name": spec.namespace },
        annotations: {},
      }
    );
  }

  #newPod(key: string, spec: PodSpec): PodRuntime | undefined {
    const load = (n: NodeRuntime): number => [...this.pods.values()].filter((p) => p.node === n.name).length;
    const node =
      this.nodes.get(spec.nodeName ?? "") ??
      [...this.nodes.values()].sort((a, b) => load(a) - load(b) || a.number - b.number)[0];
    if (node === undefined) return undefined;
    const pod = new PodRuntime(spec, this.#namespaceOf(spec), {
      lab: this.paths,
      node,
      uid: randomUUID(),
      hosts: (namespace) => hostsLines(this.#services, namespace),
      changed: () => this.#changed(),
    });
    this.pods.set(key, pod);
    return pod;
  }

  /** A pod's or a daemon's state changed: services may have other endpoints. */
  #changed(): void {
    this.#servicesDue ??= setTimeout(() => {
      this.#servicesDue = undefined;
      void this.#serviceTurn().catch((e: Error) => this.#say(`services: ${e.message}`));
    }, 20);
  }

  /** One after the other: rules of an earlier state must not be written over those of a later one. */
  #serviceTurn(isNew = false): Promise<void> {
    const turn = this.#serviceTurns.then(() => this.#refreshServices(isNew));
    this.#serviceTurns = turn.catch(() => undefined);
    return turn;
  }
  #serviceTurns: Promise<void> = Promise.resolve();

  /** Resolves when names and rules are those of the pods' present states, or after a second of change: who sees a pod ready may rely on both. */
  async settled(): Promise<void> {
    const untilMs = performance.now() + 1_000;
    while (this.#servicesDue !== undefined && performance.now() < untilMs) await sleep(10);
    await Promise.race([this.#serviceTurns, sleep(1_000)]);
  }

  async #refreshServices(isNew = false): Promise<void> {
    if (this.state === "stopping") return;
    const pods = [...this.pods.values()].map((p) => ({
      namespace: p.spec.namespace,
      name: p.spec.name,
      hostname: p.spec.hostname,
      subdomain: p.spec.subdomain,
      labels: p.spec.labels,
      ips: p.ips,
      ready: p.condition.ready,
      ports: namedPorts(p.spec.source),
    }));
    const objects = this.mirror.objects();
    const addresses =
      this.controller === undefined ? ownAddresses(objects) : await this.controller.serviceAddresses(isNew);
    // What the controller refuses nobody is to reach by another way: of two services on one address one has it.
    const inForce = objects.filter(
      (o) => this.controller === undefined || o.kind !== "Service" || addresses.has(`${o.namespace}/${o.name}`),
    );
    const services = viewServices(inForce, pods, addresses);
    const same = JSON.stringify(services) === JSON.stringify(this.#services);
    this.#services = services;
    if (same && this.#proxyText !== "") return;
    for (const pod of this.pods.values()) pod.refreshHosts();
    const rules = proxyRules(services);
    if (rules === this.#proxyText) return;
    this.#proxyText = rules;
    for (const node of this.nodes.values()) {
      const done = await finish(["nsenter", `--net=${netnsPath(node.paths.netns)}`, "--", "nft", "-f", "-"], {
        input: rules,
      });
      if (done.code !== 0) this.#say(`services: nft on ${node.name}: ${done.stderr.trim().slice(0, 300)}`);
    }
  }

  #trimLogs(): void {
    const logs = [
      this.paths.controllerLog,
      ...[...this.nodes.values()].flatMap((n) => [n.paths.agentLog, n.paths.accessLog]),
      ...[...this.pods.values()].map((p) => p.logFile),
    ];
    for (const log of logs) if (sizeOf(log) > LOG_LIMIT_BYTES && existsSync(log)) truncateSync(log); // writers append, so this is safe
  }

  apply(text: string, file: string): { readonly applied: readonly string[]; readonly problems: readonly Problem[] } {
    const done = this.mirror.apply(text, file);
    return { applied: done.applied.map(displayName), problems: done.problems };
  }

  remove(object: Pick<KubeObject, "kind" | "namespace" | "name">): boolean {
    return this.mirror.remove(objectKey(object));
  }

  problems(): readonly Problem[] {
    return [...this.mirror.problems(), ...this.#problems];
  }

  status(): LabStatus {
    const controller = this.controller?.daemon.status;
    return {
      name: this.options.name,
      state: this.state,
      error: this.error,
      manifests: this.options.manifests,
      startedMs: this.#startedMs,
      supervisor: process.pid,
      routerNetns: this.paths.routerNetns,
      controller: controller === undefined ? null : { ...controller, adminSocket: this.paths.controllerSocket },
      nodes: [...this.nodes.values()].map((n) => ({
        name: n.name,
        ips: n.ips,
        netns: n.paths.netns,
        cgroup: n.paths.cgroup,
        adminSocket: n.paths.adminSocket,
        agent: n.agent?.status ?? null,
      })),
      pods: [...this.pods.values()].map((p) => ({
        namespace: p.spec.namespace,
        name: p.spec.name,
        node: p.node,
        ips: p.ips,
        ...p.condition,
        restarts: p.restarts,
        meshed: p.meshed,
        enrolled: p.enrolled,
        netns: p.netns,
        cgroup: p.cgroup,
        pauseProcess: p.pauseProcess,
        log: p.logFile,
      })),
      services: this.#services.map((s) => {
        const ports = s.ports.map((p) => ({
          port: p.port,
          endpoints: p.endpoints.map((e) => joinAddress(e.ip, e.port)),
        }));
        return {
          namespace: s.namespace,
          name: s.name,
          addresses: s.addresses,
          endpoints: ports.flatMap((p) => p.endpoints),
          ports,
        };
      }),
      problems: this.problems(),
    };
  }

  /** Stops watching; the caller then tears everything down by name. */
  close(): void {
    this.state = "stopping";
    this.mirror.close();
    clearTimeout(this.#servicesDue);
    clearInterval(this.#housekeeping);
    this.controller?.daemon.abandon();
    for (const pod of this.pods.values()) pod.abandon();
    for (const node of this.nodes.values()) {
      node.agent?.abandon();
      node.stop();
    }
  }
}
