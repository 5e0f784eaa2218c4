// The kubelet's prober of one node: a process of its own in the node's namespace and the kubelet's cgroup, so that probes come from where real ones do.
// In: lines of JSON {set: Target} | {remove: pod} on standard input. Out: lines of Verdict on standard output. Ends with its input.
import { spawn } from "node:child_process";
import { request as httpRequest } from "node:http";
import { request as httpsRequest } from "node:https";
import { connect } from "node:net";
import { createInterface } from "node:readline";
import type { ProbeSpec } from "./probe-spec.ts";

export type ProbeKind = "startup" | "readiness" | "liveness";
/** One probe of one container; `epoch` changes when the container is started again, so that late results are known as such. */
export interface Target {
  readonly pod: string;
  readonly container: string;
  readonly probe: ProbeKind;
  readonly epoch: number;
  readonly ip: string;
  readonly spec: ProbeSpec;
  /** exec probes: the command line that enters the pod. */
  readonly enter: readonly string[];
}
export interface Verdict {
  readonly pod: string;
  readonly container: string;
  readonly probe: ProbeKind;
  readonly epoch: number;
  readonly ok: boolean;
  readonly message: string;
}
type Outcome = { readonly ok: boolean; readonly message: string };

/** Until its first success a probe is retried this often at first (Kubernetes would wait a whole period); failures still count per period. */
const EAGER_MS = 100;

function http(spec: ProbeSpec & { kind: "http" }, ip: string): Promise<Outcome> {
  return new Promise((resolve) => {
    const request = (spec.scheme === "HTTPS" ? httpsRequest : httpRequest)(
      {
        host: spec.host ?? ip,
        port: spec.port,
        path: spec.path,
        headers: { "user-agent": "kube-probe/1.34", connection: "close", ...Object.fromEntries(spec.headers) },
        rejectUnauthorized: false, // as the kubelet: the probe asks for life, not for identity
        agent: false,
        timeout: spec.timeoutMs,
      },
      (response) => {
        response.resume();
        const code = response.statusCode ?? 0;
        resolve({ ok: code >= 200 && code < 400, message: `HTTP probe: status ${code}` });
      },
    );
    const deadline = setTimeout(
      () => request.destroy(new Error(`no answer within ${spec.timeoutMs} ms`)),
      spec.timeoutMs,
    );
    request.on("close", () => clearTimeout(deadline));
    request.on("error", (e) =>
      resolve({ ok: false, message: `HTTP probe: ${e.message || (e as NodeJS.ErrnoException).code}` }),
    );
    request.end();
  });
}

function tcp(spec: ProbeSpec & { kind: "tcp" }, ip: string): Promise<Outcome> {
  return new Promise((resolve) => {
    const socket = connect({ host: spec.host ?? ip, port: spec.port });
    const deadline = setTimeout(
      () => socket.destroy(new Error(`no connection within ${spec.timeoutMs} ms`)),
      spec.timeoutMs,
    );
    socket.on("connect", () => {
      resolve({ ok: true, message: "TCP probe: connected" });
      socket.destroy();
    });
    socket.on("error", (e) =>
      resolve({ ok: false, message: `TCP probe: ${e.message || (e as NodeJS.ErrnoException).code}` }),
    );
    socket.on("close", () => clearTimeout(deadline));
  });
}

function execute(spec: ProbeSpec & { kind: "exec" }, enter: readonly string[]): Promise<Outcome> {
  return new Promise((resolve) => {
    const [file = "", ...args] = [...enter, ...spec.argv];
    const child = spawn(file, args, {
      stdio: ["ignore", "pipe", "pipe"],
      timeout: spec.timeoutMs,
      killSignal: "SIGKILL",
    });
    let said = "";
    const take = (b: Buffer): void => {
      if (said.length < 200) said += b.toString();
    };
    child.stdout.on("data", take);
    child.stderr.on("data", take);
    child.on("error", (e) => resolve({ ok: false, message: `exec probe: ${e.message}` }));
    child.on("exit", (code) =>
      resolve({
        ok: code === 0,
        message: `exec probe: exit code ${code ?? "none (timeout)"} ${said.trim().slice(0, 200)}`,
      }),
    );
  });
}

const attempt = (t: Target): Promise<Outcome> =>
  t.spec.kind === "http" ? http(t.spec, t.ip) : t.spec.kind === "tcp" ? tcp(t.spec, t.ip) : execute(t.spec, t.enter);

/** Runs one probe for ever, reporting each crossing of a threshold. */
class Probe {
  #stopped = false;
  #timer: NodeJS.Timeout | undefined;
  #state: boolean | undefined;
  #streak = 0;
  #lastCounted = 0;
  readonly target: Target;
  readonly #report: (v: Verdict) => void;

  constructor(target: Target, report: (v: Verdict) => void) {
    this.target = target;
    this.#report = report;
    this.#next(target.spec.initialDelayMs);
  }

  stop(): void {
    this.#stopped = true;
    clearTimeout(this.#timer);
  }

  #next(delayMs: number): void {
    this.#timer = setTimeout(() => void this.#once(), delayMs);
  }

  async #once(): Promise<void> {
    const { target } = this;
    const { spec } = target;
    const outcome = await attempt(target);
    if (this.#stopped) return;
    const eager = this.#state !== true && target.probe !== "liveness";
    const now = performance.now();
    if (this.#state !== outcome.ok) {
      // Tries within one period are one failure: eagerness must not use the threshold up.
      const counts = outcome.ok || now - this.#lastCounted >= spec.periodMs * 0.9;
      if (counts) {
        this.#streak++;
        this.#lastCounted = now;
      }
      const threshold = outcome.ok ? spec.successThreshold : spec.failureThreshold;
      if (this.#streak >= threshold) {
        this.#state = outcome.ok;
        this.#streak = 0;
        const { pod, container, probe, epoch } = target;
        this.#report({ pod, container, probe, epoch, ...outcome });
      }
    } else this.#streak = 0;
    this.#next(eager && !outcome.ok ? Math.min(EAGER_MS, spec.periodMs) : spec.periodMs);
  }
}

const key = (t: Pick<Target, "pod" | "container" | "probe">): string => `${t.pod} ${t.container} ${t.probe}`;

/** Entry of the process. */
function main(): void {
  const probes = new Map<string, Probe>();
  const report = (v: Verdict): void => void process.stdout.write(`${JSON.stringify(v)}\n`);
  const lines = createInterface({ input: process.stdin });
  lines.on("line", (line) => {
    const message = JSON.parse(line) as { readonly set?: Target; readonly remove?: string };
    if (message.set !== undefined) {
      probes.get(key(message.set))?.stop();
      probes.set(key(message.set), new Probe(message.set, report));
    }
    if (message.remove !== undefined) {
      for (const [k, probe] of probes) {
        if (probe.target.pod !== message.remove) continue;
        probe.stop();
        probes.delete(k);
      }
    }
  });
  lines.on("close", () => process.exit(0));
}

if (import.meta.main) main();
