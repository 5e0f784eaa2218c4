// The life of one pod: address and namespace, record, enrolment, init containers, containers, probes, status, end.
import type { ChildProcess } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { podAddress } from "./addresses.ts";
import { killCgroup, makeCgroup, removeCgroup } from "./cgroup.ts";
import { entering } from "./command.ts";
import { Container } from "./container.ts";
import { makeDir, removePath, replaceFile, rewriteInPlace } from "./files.ts";
import { startHolder } from "./holder.ts";
import { buildPod, removePod } from "./network.ts";
import type { NodeRuntime } from "./node.ts";
import { type LabPaths, netnsPath, PROJECT_DIR, podFile, podNetns } from "./paths.ts";
import {
  conditionOf,
  livePod,
  type NamespaceFacts,
  type Placement,
  type PodCondition,
  podRecord,
} from "./pod-record.ts";
import { type ContainerSpec, expand, isMeshed, type PodSpec, podKey } from "./pod-spec.ts";
import type { ProbeKind, Verdict } from "./prober.ts";

export interface PodDeps {
  readonly lab: LabPaths;
  readonly node: NodeRuntime;
  readonly uid: string;
  readonly hosts: (namespace: string) => string;
  readonly changed: () => void;
}

/** Clean environment of a pod's programs; what a container image would set. */
const baseEnv = {
  PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
  HOME: "/root",
  LANG: "C.UTF-8",
  TERM: "xterm",
  // For manifests that run programs of this checkout: command: ["$(FAIRLEAD_LAB_NODE)", "$(FAIRLEAD_LAB_DIR)/..."]
  FAIRLEAD_LAB_NODE: process.execPath,
  FAIRLEAD_LAB_DIR: PROJECT_DIR,
} as const;

export class PodRuntime {
  spec: PodSpec;
  namespace: NamespaceFacts;
  readonly key: string;
  readonly netns: string;
  readonly cgroup: string;
  readonly dir: string;
  readonly logFile: string;
  enrolled: string = "";
  ips: readonly string[] = [];
  #host: number | undefined;
  #pause: ChildProcess | undefined;
  #init: Container[] = [];
  #containers: Container[] = [];
  #waiting: { reason: string; message: string } | undefined = { reason: "Scheduled", message: "" };
  #deletedMs: number | undefined;
  #probed = new Map<string, number>();
  readonly #deps: PodDeps;
  readonly #file: string;
  #starting: Promise<void> = Promise.resolve();

  constructor(spec: PodSpec, namespace: NamespaceFacts, deps: PodDeps) {
    this.spec = spec;
    this.namespace = namespace;
    this.#deps = deps;
    this.key = podKey(spec);
    this.#file = podFile(spec.namespace, spec.name);
    this.netns = spec.hostNetwork ? deps.node.paths.netns : podNetns(deps.lab, spec.namespace, spec.name);
    this.cgroup = join(deps.node.paths.cgroup, "pods", this.#file);
    this.dir = join(deps.lab.podsDir, this.#file);
    this.logFile = join(deps.lab.podsDir, `${this.#file}.log`);
  }

  get node(): string {
    return this.#deps.node.name;
  }
  get pauseProcess(): number {
    return this.#pause?.pid ?? 0;
  }
  get restarts(): number {
    return this.#containers.reduce((sum, c) => sum + c.restarts, 0);
  }
  get meshed(): boolean {
    return this.#deps.node.agent !== undefined && isMeshed(this.spec, this.namespace.labels);
  }
  get terminating(): boolean {
    return this.#deletedMs !== undefined;
  }
  get condition(): PodCondition {
    if (this.#deletedMs !== undefined) return { phase: "Running", ready: false, reason: "Terminating", message: "" };
    return conditionOf(this.#waiting, this.#init, this.#containers);
  }

  start(): Promise<void> {
    this.#starting = this.#start().catch((error: Error) => this.#wait("CreateError", error.message));
    return this.#starting;
  }

  async #start(): Promise<void> {
    const { node } = this.#deps;
    makeDir(this.dir, 0o755);
    makeCgroup(this.cgroup);
    if (this.spec.hostNetwork) this.ips = node.ips;
    else {
      this.#host = node.numbers.take(this.spec.addressNumber);
      if (this.#host === undefined)
        return this.#wait(
          "NoAddress",
          `node ${node.name} has no free address${this.spec.addressNumber === undefined ? "" : ` ${this.spec.addressNumber}`}`,
        );
      const address = podAddress(node.number, this.#host);
      this.ips = [address.v4, address.v6];
      await buildPod({
        nodeNetns: node.paths.netns,
        podNetns: this.netns,
        node: node.number,
        host: this.#host,
        address,
      });
    }
    writeFileSync(join(this.dir, "hosts"), this.#hostsText(), { mode: 0o644 });
    writeFileSync(join(this.dir, "resolv.conf"), "nameserver 10.250.0.1\noptions timeout:1 attempts:1\n", {
      mode: 0o644,
    });
    this.#hasHosts = true;
    this.#pause = await startHolder({
      key: this.key,
      cgroup: join(this.cgroup, "pause"),
      netns: this.netns,
      dir: this.dir,
    });
    await this.enrol();
    if (this.#deletedMs !== undefined) return;
    this.#waiting = undefined;
    await this.#runInit();
    if (this.#deletedMs !== undefined || this.condition.phase === "Failed") return this.publish();
    this.#containers = this.spec.containers.map((c) => this.#container(c, this.spec.restartPolicy));
    for (const c of this.#containers) c.start();
  }

  async #runInit(): Promise<void> {
    const policy = this.spec.restartPolicy === "Never" ? "Never" : "OnFailure";
    this.#init = this.spec.initContainers.map((c) => this.#container(c, policy));
    for (const c of this.#init) {
      if (this.#deletedMs !== undefined) return;
      c.start();
      await c.finished;
      if (c.state.kind === "terminated" && c.state.code !== 0) return;
    }
  }

  /** Writes the record and waits until the node's agent has it: a meshed pod's first instruction comes after its enrolment. */
  async enrol(): Promise<void> {
    for (let tried = 0; this.#deletedMs === undefined; tried++) {
      this.writeRecord();
      const answer = await this.#deps.node.syncPods();
      if (!answer.ok) {
        if (!this.meshed) {
          this.enrolled = "no";
          return;
        }
        this.#wait("WaitingForAgent", `node ${this.node}: ${answer.error}`);
      } else {
        const mine = answer.value.find((p) => p.pod === this.key);
        this.enrolled = mine?.enrolled === true ? "yes" : "no";
        if (!this.meshed || mine?.enrolled === true) return;
        this.#wait("NotEnrolled", `the agent of ${this.node} says: ${mine?.reason ?? "pod unknown"}`);
      }
      await sleep(Math.min(50 * 2 ** tried, 2000));
    }
  }

  writeRecord(): void {
    if (this.#abandoned) return;
    replaceFile(
      join(this.#deps.node.paths.podsDir, `${this.#file}.json`),
      `${JSON.stringify(podRecord(this.spec, this.#placement(), this.namespace), null, 1)}\n`,
    );
  }

  #placement(): Placement {
    const { node, uid } = this.#deps;
    return {
      node: node.name,
      uid,
      ips: this.ips,
      nodeIps: node.ips,
      netnsPath: netnsPath(this.netns),
      cgroup: this.cgroup,
    };
  }

  #wait(reason: string, message: string): void {
    this.#waiting = { reason, message };
    this.publish();
  }

  environment(spec: ContainerSpec): Record<string, string> {
    const facts: Record<string, string> = {
      "metadata.name": this.spec.name,
      "metadata.namespace": this.spec.namespace,
      "metadata.uid": this.#deps.uid,
      "spec.nodeName": this.node,
      "spec.serviceAccountName": this.spec.serviceAccount,
      "status.podIP": this.ips[0] ?? "",
      "status.podIPs": this.ips.join(","),
      "status.hostIP": this.#deps.node.ips[0] ?? "",
    };
    const env: Record<string, string> = { ...baseEnv, HOSTNAME: this.spec.hostname };
    for (const [name, path] of Object.entries(spec.fieldEnv)) env[name] = facts[path] ?? "";
    for (const [name, value] of Object.entries(spec.env)) env[name] = expand(value, env);
    return env;
  }

  #container(spec: ContainerSpec, restart: PodSpec["restartPolicy"]): Container {
    const env = this.environment(spec);
    return new Container({
      spec,
      argv: spec.argv.map((word) => expand(word, env)),
      env,
      podCgroup: this.cgroup,
      pauseProcess: this.pauseProcess,
      logFile: this.logFile,
      restart,
      changed: () => this.#containerChanged(),
    });
  }

  #containerChanged(): void {
    for (const c of this.#containers) {
      if (c.state.kind !== "running") continue;
      const asked = `${c.name} ${c.started}`;
      if (this.#probed.get(asked) === c.epoch) continue;
      this.#probed.set(asked, c.epoch);
      if (!c.started) this.#probe(c, "startup");
      else {
        this.#probe(c, "readiness");
        this.#probe(c, "liveness");
      }
    }
    this.publish();
  }

  #probe(c: Container, probe: ProbeKind): void {
    const spec = c.spec[probe];
    if (spec === undefined) return;
    const enter = entering(
      {
        cgroup: c.cgroup,
        pod: this.pauseProcess,
        capabilities: c.spec.capabilities,
        user: c.spec.user,
        cwd: c.spec.workingDir,
      },
      [],
    );
    this.#deps.node.prober.set({
      pod: this.key,
      container: c.name,
      probe,
      epoch: c.epoch,
      ip: this.ips[0] ?? "",
      spec,
      enter,
    });
  }

  /** A probe crossed its threshold. */
  verdict(v: Verdict): void {
    const c = this.#containers.find((each) => each.name === v.container);
    if (c === undefined || c.epoch !== v.epoch || c.state.kind !== "running") return;
    if (v.probe === "readiness") c.ready = v.ok;
    else if (v.probe === "startup" && v.ok) {
      c.started = true;
      c.ready = c.spec.readiness === undefined;
      this.#containerChanged();
    } else if (!v.ok) void c.restart(`${v.probe} probe failed: ${v.message}`, this.spec.graceMs);
    this.publish();
  }

  /** Takes over new labels and annotations of the pod or its namespace; the program goes on. */
  async update(spec: PodSpec, namespace: NamespaceFacts): Promise<void> {
    this.spec = spec;
    this.namespace = namespace;
    if (this.#pause === undefined) return;
    this.writeRecord();
    const answer = await this.#deps.node.syncPods();
    if (answer.ok) this.enrolled = answer.value.find((p) => p.pod === this.key)?.enrolled === true ? "yes" : "no";
    this.publish();
  }

  publish(): void {
    if (this.#abandoned) return;
    const text = JSON.stringify(
      livePod(this.spec, this.#placement(), this.condition, this.#init, this.#containers, this.#deletedMs),
      null,
      1,
    );
    if (text !== this.#published) replaceFile(join(this.#deps.lab.liveDir, `${this.#file}.json`), `${text}\n`);
    this.#published = text;
    this.#deps.changed();
  }
  #published = "";

  #hostsText(): string {
    const own = this.ips.map((ip) => `${ip} ${this.spec.hostname}\n`).join("");
    return `127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n${own}${this.#deps.hosts(this.spec.namespace)}`;
  }

  /** Services changed: the file that is (or will be, the holder may not run yet) mounted over /etc/hosts gets the new names. */
  refreshHosts(): void {
    if (this.#hasHosts && this.#deletedMs === undefined) rewriteInPlace(join(this.dir, "hosts"), this.#hostsText());
  }
  #hasHosts = false;

  /** Ends the pod as Kubernetes does: terminating in discovery, SIGTERM, grace, then everything of it is removed. */
  async stop(graceMs = this.spec.graceMs): Promise<void> {
    if (this.#deletedMs !== undefined) return;
    this.#deletedMs = Date.now();
    if (this.#pause !== undefined) this.publish();
    this.#deps.node.prober.remove(this.key);
    await Promise.all([...this.#init, ...this.#containers].map((c) => c.stop(graceMs)));
    await this.#starting.catch(() => undefined);
    removePath(join(this.#deps.node.paths.podsDir, `${this.#file}.json`));
    await this.#deps.node.syncPods();
    killCgroup(this.cgroup);
    await removeCgroup(this.cgroup);
    if (this.#host !== undefined) {
      await removePod(this.#deps.node.paths.netns, this.netns, this.#host);
      this.#deps.node.numbers.free(this.#host);
    }
    removePath(join(this.#deps.lab.liveDir, `${this.#file}.json`));
    removePath(this.dir);
    this.#deps.changed();
  }

  /** The lab goes down: nothing of this pod is started or written again; the teardown kills what runs. */
  abandon(): void {
    this.#deletedMs ??= Date.now();
    this.#abandoned = true;
    for (const c of [...this.#init, ...this.#containers]) c.abandon();
  }
  #abandoned = false;

  /** Command line and environment that run a program inside the pod, for `lab exec`. */
  execPlan(
    containerName?: string,
  ): { readonly argv: readonly string[]; readonly env: Record<string, string> } | string {
    const spec =
      containerName === undefined
        ? this.spec.containers[0]
        : this.spec.containers.find((c) => c.name === containerName);
    if (spec === undefined) return `pod ${this.key} has no container ${containerName ?? ""}`;
    if (this.#pause === undefined)
      return `pod ${this.key} is not there yet: ${this.condition.reason} ${this.condition.message}`.trim();
    const cgroup = join(this.cgroup, "exec");
    makeCgroup(cgroup);
    return {
      argv: entering(
        { cgroup, pod: this.pauseProcess, capabilities: spec.capabilities, user: spec.user, cwd: spec.workingDir },
        [],
      ),
      env: this.environment(spec),
    };
  }
}
