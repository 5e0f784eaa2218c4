// The real controller as a process of its own, in temporary folders, for tests; everything is removed at the end.
import { type ChildProcess, spawn } from "node:child_process";
import { EventEmitter, once } from "node:events";
import { mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { type RequestOptions, request } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { controllerNodeFlags } from "../../controller/node-flags.ts";
import { inherited } from "../lab/inherited.ts";
import { sharedCa } from "./shared-ca.ts";
import { eventually, patienceMs } from "./wait.ts";

const main = fileURLToPath(new URL("../../controller/main.ts", import.meta.url));

export interface Answer {
  readonly status: number;
  readonly text: string;
  // biome-ignore lint/suspicious/noExplicitAny: tests read answers freely
  readonly json: any;
}
export type LogLine = Readonly<Record<string, unknown>>;
export interface TestController extends AsyncDisposable {
  readonly dir: string;
  readonly manifests: string;
  readonly live: string;
  readonly state: string;
  readonly socket: string;
  readonly ports: { readonly grpc: number; readonly health: number; readonly admin: number };
  readonly process: ChildProcess;
  /** The first log line of `event` that `matches`; waits for it, since the log comes through a pipe and an answer may overtake it. */
  logged(event: string, matches?: (line: LogLine) => boolean): Promise<LogLine>;
  /** Writes a manifest (atomically) and, unless told not to, has it read at once. */
  write(name: string, text: string, sync?: boolean): Promise<void>;
  /** Request on the admin socket. */
  admin(method: "GET" | "POST", path: string, body?: unknown): Promise<Answer>;
  /** Ends it and starts another on the same folders and ports. */
  restart(env?: Readonly<Record<string, string>>): Promise<void>;
  stop(signal?: NodeJS.Signals): Promise<number | null>;
}

/** Runs `controller/main.ts` until it ends or is ready. */
export async function startController(
  files: Readonly<Record<string, string>> = {},
  env: Readonly<Record<string, string>> = {},
): Promise<TestController> {
  const dir = mkdtempSync(join(tmpdir(), "fairlead-controller-"));
  const paths = {
    manifests: join(dir, "manifests"),
    live: join(dir, "live"),
    state: join(dir, "state"),
    socket: join(dir, "admin.sock"),
  };
  mkdirSync(paths.manifests);
  mkdirSync(paths.live);
  const put = (name: string, text: string): void => {
    const path = name.startsWith("live/") ? join(dir, name) : join(paths.manifests, name);
    writeFileSync(`${path}.tmp`, text);
    renameSync(`${path}.tmp`, path);
  };
  for (const [name, text] of Object.entries(files)) put(name, text);
  let running: Running;
  const ca = await sharedCa();
  const launch = async (extra: Readonly<Record<string, string>>, ports?: TestController["ports"]): Promise<void> => {
    running = run({
      FAIRLEAD_MANIFESTS: paths.manifests,
      FAIRLEAD_LIVE_DIR: paths.live,
      FAIRLEAD_STATE_DIR: paths.state,
      FAIRLEAD_ADMIN_SOCKET: paths.socket,
      FAIRLEAD_LISTEN: `127.0.0.1:${ports?.grpc ?? 0}`,
      FAIRLEAD_HEALTH_LISTEN: `127.0.0.1:${ports?.health ?? 0}`,
      FAIRLEAD_ADMIN_LISTEN: `127.0.0.1:${ports?.admin ?? 0}`,
      ...ca,
      ...env,
      ...extra,
    });
    await running.ready;
  };
  try {
    await launch({});
  } catch (error) {
    rmSync(dir, { recursive: true, force: true });
    throw error;
  }
  const controller: TestController = {
    dir,
    ...paths,
    get ports() {
      return running.ports();
    },
    get process() {
      return running.child;
    },
    logged: (event, matches) => running.logged(event, matches),
    async write(name, text, sync = true) {
      put(name, text);
      if (sync) await controller.admin("POST", "/v1/sync");
    },
    admin: (method, path, body) => call({ socketPath: paths.socket }, method, path, body),
    async restart(extra = {}) {
      const { ports } = controller;
      await controller.stop();
      // Meanwhile somebody else's connection may have got one of the ports.
      await eventually(() => launch(extra, ports), /EADDRINUSE|bind/);
    },
    stop: (signal = "SIGTERM") => running.stop(signal),
    async [Symbol.asyncDispose]() {
      // A process that is killed cannot say what it executed.
      await running.stop(NODE_V8_COVERAGE === undefined ? "SIGKILL" : "SIGTERM");
      rmSync(dir, { recursive: true, force: true });
    },
  };
  return controller;
}

interface Running {
  readonly child: ChildProcess;
  readonly ready: Promise<void>;
  logged: TestController["logged"];
  ports(): TestController["ports"];
  stop(signal: NodeJS.Signals): Promise<number | null>;
}

/** Where a measured run of the tests gathers what was executed, so that processes of theirs count too. */
const { NODE_V8_COVERAGE } = process.env;
const measured = NODE_V8_COVERAGE === undefined ? {} : { NODE_V8_COVERAGE };

function run(env: Readonly<Record<string, string>>): Running {
  const child = spawn(process.execPath, [...controllerNodeFlags, main], {
    env: { ...inherited(), ...measured, ...env },
    stdio: ["ignore", "ignore", "pipe"],
  });
  const log: LogLine[] = [];
  const more = new EventEmitter();
  let plain = "";
  const exited = new Promise<number | null>((resolve) => child.once("exit", resolve));
  const ready = new Promise<void>((resolve, reject) => {
    let rest = "";
    child.stderr.on("data", (chunk: Buffer) => {
      const lines = (rest + chunk.toString()).split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) {
        if (!line.startsWith("{")) plain += `${line}\n`;
        else log.push(JSON.parse(line) as LogLine);
        if (log.at(-1)?.event === "ready") resolve();
      }
      more.emit("lines");
    });
    void exited.then((code) => reject(new Error(`exit ${code}: ${plain.trim()}`)));
  });
  // Whoever does not wait for readiness learns of the end by `stop`.
  ready.catch(() => {});
  return {
    child,
    ready,
    async logged(event, matches = () => true) {
      const signal = AbortSignal.timeout(patienceMs);
      for (;;) {
        const line = log.find((l) => l.event === event && matches(l));
        if (line !== undefined) return line;
        await once(more, "lines", { signal }).catch(() => {
          throw new Error(`no log line ${event} within ${patienceMs} ms`);
        });
      }
    },
    ports() {
      const line = log.find((l) => l.event === "ready") as unknown as TestController["ports"];
      return { grpc: line.grpc, health: line.health, admin: line.admin };
    },
    async stop(signal) {
      if (child.exitCode === null && child.signalCode === null) child.kill(signal);
      return exited;
    },
  };
}

type Target = RequestOptions;
/** One HTTP request on a connection of its own (a kept one may be that of a controller that was ended since); the answer is read whole. */
export function call(target: Target, method: string, path: string, body?: unknown): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const data = body === undefined ? undefined : typeof body === "string" ? body : JSON.stringify(body);
    const outgoing = request(
      {
        agent: false,
        ...target,
        method,
        path,
        ...(data === undefined ? {} : { headers: { "content-length": Buffer.byteLength(data) } }),
      },
      (response) => {
        let text = "";
        response.on("data", (chunk: Buffer) => {
          text += chunk.toString();
        });
        response.on("end", () => {
          let json: unknown;
          try {
            json = JSON.parse(text);
          } catch {
            // Not every answer is JSON.
          }
          resolve({ status: response.statusCode ?? 0, text, json });
        });
        response.on("error", reject);
      },
    );
    outgoing.on("error", reject);
    outgoing.end(data);
  });
}
