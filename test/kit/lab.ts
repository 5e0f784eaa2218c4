// Labs for tests: a name of their own, always taken down, pods by a short form, programs run and watched inside pods.
import { randomBytes } from "node:crypto";
import { mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { labAsk, labDown, labStatus, labUp, missingForLab, pathsOf } from "../lab/client.ts";
import type { Finished } from "../lab/command.ts";
import { defaultOptions, type LabOptions, type LabStatus, type PodStatus } from "../lab/lab-options.ts";
import { type LabPaths, type NodePaths, nodePaths, PROJECT_DIR } from "../lab/paths.ts";
import { PodProgram, runInPod, trafficCommand } from "../lab/programs.ts";
import { call, callJson } from "../lab/unix-http.ts";
import { sharedCa } from "./shared-ca.ts";
import { patienceMs, waitFor } from "./wait.ts";

/** Reason for skipping lab tests here, or false. */
export const skipLab: string | false = missingForLab() ?? false;

/** Options of a test with labs. */
export const labOptions = { skip: skipLab, timeout: 600_000 } as const;

/** A lab that is up. */
export class TestLab {
  readonly name: string;
  readonly paths: LabPaths;
  readonly manifests: string;

  constructor(name: string, paths: LabPaths, manifests: string) {
    this.name = name;
    this.paths = paths;
    this.manifests = manifests;
  }

  node(name: string): NodePaths {
    return nodePaths(this.paths, name);
  }

  async status(): Promise<LabStatus> {
    return okOr(await labStatus(this.name));
  }

  async pod(key: string): Promise<PodStatus> {
    const found = (await this.status()).pods.find((p) => `${p.namespace}/${p.name}` === key);
    if (found === undefined) throw new Error(`no pod ${key}`);
    return found;
  }

  /** Waits for a pod that is there and ready. */
  ready(key: string, timeoutMs: number = patienceMs): Promise<PodStatus> {
    return waitFor(
      `pod ${key} ready`,
      async () => (await this.status()).pods.find((p) => `${p.namespace}/${p.name}` === key && p.ready),
      timeoutMs,
    );
  }

  /** Runs a command in a pod to its end. */
  run(pod: string, command: readonly string[], timeoutMs = 2 * patienceMs): Promise<Finished> {
    return runInPod(this.name, pod, command, timeoutMs);
  }

  /** Runs one of the traffic programs of test/kit in a pod and returns its single report. */
  async traffic(pod: string, args: readonly string[], timeoutMs = 300_000): Promise<Record<string, unknown>> {
    const done = await this.run(pod, trafficCommand("client", args), timeoutMs);
    const last = done.stdout.trim().split("\n").at(-1) ?? "";
    if (done.code !== 0 || last === "")
      throw new Error(`traffic client in ${pod}: exit code ${done.code}: ${done.stderr}`);
    return JSON.parse(last) as Record<string, unknown>;
  }

  /** Starts a program that is talked to in lines. */
  start(pod: string, command: readonly string[]): Promise<PodProgram> {
    return PodProgram.start(this.name, pod, command);
  }

  startTraffic(pod: string, args: readonly string[]): Promise<PodProgram> {
    return this.start(pod, trafficCommand("client", args));
  }

  async ask(path: string, body: unknown): Promise<Record<string, unknown>> {
    return okOr(await labAsk(this.name, path, body)) as Record<string, unknown>;
  }

  agent(
    node: string,
    action: "replace" | "kill-start" | "stop" | "kill" | "start" | "freeze" | "thaw",
    env?: Readonly<Record<string, string>>,
  ): Promise<Record<string, unknown>> {
    return this.ask("/v1/agent", { node, action, ...(env === undefined ? {} : { env }) });
  }

  /** As `agent`, with the agent of another checkout; absent: of this one. */
  agentOf(node: string, action: "replace" | "kill-start", dir?: string): Promise<Record<string, unknown>> {
    return this.ask("/v1/agent", { node, action, from: dir ?? PROJECT_DIR });
  }

  controller(action: "stop" | "kill" | "start"): Promise<Record<string, unknown>> {
    return this.ask("/v1/controller", { action });
  }

  /** Asks a node's agent. */
  async askAgent(node: string, path: string, method: "GET" | "POST" = "GET"): Promise<Record<string, unknown>> {
    return okOr(await callJson(this.node(node).adminSocket, path, { method })) as Record<string, unknown>;
  }

  /** Ended connections as a node's agent tells of them, the latest ones. */
  async records<T = Readonly<Record<string, unknown>>>(node: string, limit = 1000): Promise<readonly T[]> {
    return (await this.askAgent(node, `/v1/records?limit=${limit}`)).records as readonly T[];
  }

  /** What is scraped from a node's agent. */
  async metrics(node: string): Promise<string> {
    return okOr(await call(this.node(node).adminSocket, "/metrics")).text;
  }

  /** Sum of the samples of a metric whose labels hold all of these texts; 0 if there is none. */
  async metric(node: string, name: string, ...labels: readonly string[]): Promise<number> {
    const lines = (await this.metrics(node))
      .split("\n")
      .filter((line) => line.startsWith(`${name}{`) && labels.every((label) => line.includes(label)));
    return lines.reduce((sum, line) => sum + Number(line.split(" ").at(-1)), 0);
  }

  async askController(path: string, method: "GET" | "POST" = "GET", body?: unknown): Promise<Record<string, unknown>> {
    return okOr(
      await callJson(this.paths.controllerSocket, path, { method, ...(body === undefined ? {} : { body }) }),
    ) as Record<string, unknown>;
  }

  apply(manifest: string): Promise<Record<string, unknown>> {
    return this.ask("/v1/apply", { manifest, file: "test" });
  }

  /** Writes a file of the manifests folder; the lab takes it over by itself. */
  write(file: string, text: string): void {
    const path = join(this.manifests, file);
    mkdirSync(dirname(path), { recursive: true });
    // At once, as good editors do.
    writeFileSync(`${path}.new`, text);
    renameSync(`${path}.new`, path);
  }
}

function okOr<T>(result: { readonly ok: true; readonly value: T } | { readonly ok: false; readonly error: string }): T {
  if (result.ok) return result.value;
  throw new Error(result.error);
}

/** Waits until agents know what the controller last read (which pods are ready, above all), 10 s at most: some labs are made never to settle. */
async function settled(lab: TestLab): Promise<void> {
  const until = performance.now() + 10_000;
  await lab.askController("/v1/sync", "POST");
  for (;;) {
    const { objects } = (await lab.askController("/v1/status")) as {
      objects: readonly { readonly enforced: { readonly nodes: number; readonly of: number } | null }[];
    };
    if (objects.every((o) => o.enforced === null || o.enforced.nodes === o.enforced.of)) return;
    if (performance.now() > until) return;
    await sleep(25);
  }
}

export type WithLabOptions = Partial<Omit<LabOptions, "name" | "manifests">>;

/** What agents wait for others: long enough for a machine that is slow and busy, where the defaults would refuse. */
const patient = {
  FAIRLEAD_QUESTION_TIMEOUT_MS: "10000",
  FAIRLEAD_HANDSHAKE_TIMEOUT_MS: "10000",
  FAIRLEAD_CONNECT_TIMEOUT_MS: "10000",
};

/** Labs of this process that are up or on their way: whoever ends it early takes them down. */
export const openLabs = new Set<string>();

/** Brings a lab up from manifest files (name -> text), runs `body`, and takes it down whatever happens. */
export async function withLab(
  manifests: Readonly<Record<string, string>>,
  options: WithLabOptions,
  body: (lab: TestLab) => Promise<void>,
): Promise<void> {
  const name = `t${randomBytes(4).toString("hex")}`;
  const dir = mkdtempSync(join(tmpdir(), "fairlead-lab-"));
  const paths = okOr(pathsOf(name));
  const lab = new TestLab(name, paths, dir);
  for (const [file, text] of Object.entries(manifests)) lab.write(file, text);
  const lines: string[] = [];
  openLabs.add(name);
  try {
    const controllerEnv = { ...(await sharedCa()), ...options.controllerEnv };
    okOr(
      await labUp(
        {
          ...defaultOptions,
          ...options,
          agentEnv: { ...patient, ...options.agentEnv },
          controllerEnv,
          name,
          manifests: dir,
        },
        (line) => lines.push(line),
      ),
    );
    if (options.agents !== false) await settled(lab);
    await body(lab);
  } finally {
    await labDown(name);
    openLabs.delete(name);
    rmSync(dir, { recursive: true, force: true });
  }
}
