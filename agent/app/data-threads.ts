// The data threads: each with a channel of its own to native, over which handed sockets arrive. Started only when configured. One
// that dies or hangs is noticed, counted and replaced under the same number; while there is none, plans name none.
import { setFlagsFromString } from "node:v8";
import { Worker } from "node:worker_threads";
import { createBackoff } from "../base/backoff.ts";
import type { Clock } from "../base/clock.ts";
import { every } from "../base/clock.ts";
import type { Logger } from "../base/log.ts";
import type { CounterMetric } from "../base/metrics.ts";
import type { Random } from "../base/random.ts";
import { err, ok, type Result } from "../base/result.ts";
import type { TenantLimits, TenantRefusals } from "../forward/tenants.ts";
import type { Native } from "../native.ts";
import type { Decided } from "../report/decisions.ts";
import type { EndpointChange } from "../report/endpoint-changes.ts";
import type { NoteCount } from "../report/note-counts.ts";
import type { ObservedBatch } from "../report/observed.ts";
import type { RequestDeltas } from "../report/request-series.ts";
import type { FromThread, HandedEnd, ThreadStart, ToThread } from "../threads.ts";
import type { GuardMemory, GuardTold } from "../upstream/guard.ts";
import { createSharedMemory, forgetThread, type SharedMemory } from "../upstream/shared.ts";
import type { Replicas } from "./replicas.ts";

/**
 * Requests die young: a few MiB are emptied a few times a second at almost no cost, and V8's default of 16 would stay in memory twice. The process may
 * be started with less, and threads would inherit that.
 */
const threadSemiSpaceMb = 4;
/** For a thread to be ready: its code is compiled, and all that is known is copied to it. */
const startingMs = 60_000;
const heapSetting = "FAIRLEAD_DATA_THREAD_HEAP_MB";

export interface DataThreads {
  /** The thread for the next connection, round robin; undefined when none runs. */
  next(): number | undefined;
  /** Every thread lets what is open end, and tells clients to ask elsewhere. Resolves once none has a connection of a client left. */
  drain(): Promise<void>;
  stop(): Promise<void>;
}

/** What is noted of single requests, as the threads' owner sees it. */
export interface ThreadTelemetry {
  readonly settings: Pick<ThreadStart, "observe" | "trace">;
  /** A thread began: it is told who taps, now and at each change, until the returned function is called. */
  attach(post: (message: ToThread) => void): () => void;
  observed(batch: ObservedBatch): void;
  notes(notes: readonly NoteCount[]): void;
}

export interface DataThreadParts {
  readonly native: Native;
  readonly replicas: Replicas;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly died: CounterMetric<never>;
  /** A thread that does not answer for so long is ended. */
  readonly hungMs: number;
  /** Label sets of request metrics, each thread. */
  readonly metricSeries: number;
  readonly drainIdleMs: number;
  readonly guard: GuardMemory;
  /** Most MiB of old objects in a thread; beyond it the thread ends, and another takes its place. */
  readonly heapMb: number;
  /** Of each namespace on each thread. */
  readonly limits: TenantLimits;
  /** Namespaces met their limits. */
  readonly limited: (refusals: readonly TenantRefusals[]) => void;
  /** A connection that a thread carried has ended. */
  readonly ended: (thread: number, end: HandedEnd) => void;
  /** Requests that ended on a thread since it last told; undefined: the thread is gone. */
  readonly requests: (thread: number, ended: RequestDeltas | undefined) => void;
  /** Bytes of a client were no request. */
  readonly malformed: (refused: string) => void;
  readonly guarded: (told: GuardTold) => void;
  readonly decided: (told: Decided) => void;
  /** Copies of requests that ended since a thread last told, by how. */
  readonly mirrored: (counts: readonly (readonly [how: string, count: number])[]) => void;
  /** Something befell an endpoint of the HTTP lane. */
  readonly endpoint: (change: EndpointChange) => void;
  /** A request met a bug of ours, and ended by it alone. */
  readonly threw: (error: string) => void;
  /** What threads note of single requests, and who wants it. */
  readonly telemetry: ThreadTelemetry;
  /** A thread went or came back: plans that name threads are to be made anew. */
  readonly changed: () => void;
  readonly script?: URL;
  /** See ClientSessions; absent: the threads have their own. */
  readonly clients?: SharedArrayBuffer;
}

/** Starts `count` threads and attaches each to native. The error names the thread that cannot be started at all. */
export async function startDataThreads(count: number, parts: DataThreadParts): Promise<Result<DataThreads, string>> {
  // The flag the process was started with (node-flags.ts) would override the threads' own limit.
  if (count > 0) setFlagsFromString(`--max-semi-space-size=${threadSemiSpaceMb}`);
  const shared = createSharedMemory(Math.max(1, count), undefined, parts.clients);
  const threads = Array.from({ length: count }, (_, i) => new DataThread(i, parts, shared));
  const stop = async (): Promise<void> => void (await Promise.all(threads.map((thread) => thread.stop())));
  for (const thread of threads) {
    const started = await thread.start();
    if (started.ok) continue;
    await stop();
    return started;
  }
  let turn = 0;
  return ok({
    next() {
      const alive = threads.filter((thread) => thread.isAlive);
      return alive.length === 0 ? undefined : alive[turn++ % alive.length]?.thread;
    },
    drain: async () => void (await Promise.all(threads.map((thread) => thread.drain()))),
    stop,
  });
}

/** One place among the threads, and whoever fills it. */
class DataThread {
  readonly thread: number;
  readonly #parts: DataThreadParts;
  readonly #shared: SharedMemory;
  readonly #backoff;
  #worker: Worker | undefined;
  #ready = false;
  #stopped = false;
  #answeredMs = 0;
  #cancel: () => void = () => {};
  #isDraining = false;
  #drained: (() => void)[] = [];
  /** Number of the last order to drain: an answer to an earlier one says nothing of what came between. */
  #drainAsk = 0;

  constructor(thread: number, parts: DataThreadParts, shared: SharedMemory) {
    this.thread = thread;
    this.#shared = shared;
    this.#parts = parts;
    this.#backoff = createBackoff({ baseMs: 100, maxMs: 10_000 }, parts.random);
  }

  get isAlive(): boolean {
    return this.#ready;
  }

  async start(): Promise<Result<void, string>> {
    const { native, clock, hungMs } = this.#parts;
    const attached = await native.call("handover.attach", { thread: this.thread });
    if (!attached.ok) return err(`data thread ${this.thread}: ${attached.error.message}`);
    const workerData: ThreadStart = {
      thread: this.thread,
      channelFd: attached.value.fd,
      metricSeries: this.#parts.metricSeries,
      drainIdleMs: this.#parts.drainIdleMs,
      limits: this.#parts.limits,
      guard: this.#parts.guard,
      shared: this.#shared,
      ...this.#parts.telemetry.settings,
    };
    const worker = new Worker(this.#parts.script ?? new URL("../worker.ts", import.meta.url), {
      workerData,
      resourceLimits: {
        maxYoungGenerationSizeMb: 3 * threadSemiSpaceMb,
        maxOldGenerationSizeMb: this.#parts.heapMb,
      },
    });
    this.#worker = worker;
    this.#answeredMs = clock.monotonicMs();
    const stopAsking = every(clock, hungMs / 4, () => this.#ask(worker));
    const { replicas, telemetry } = this.#parts;
    const detach = replicas.attach((message) => worker.postMessage(message));
    const untap = telemetry.attach((message) => worker.postMessage(message));
    return new Promise((resolve) => {
      let why = "";
      worker.on("message", (message: FromThread) => {
        this.#answeredMs = clock.monotonicMs();
        if (message.say === "ready") {
          this.#ready = true;
          if (this.#isDraining) worker.postMessage({ say: "drain", ask: this.#drainAsk } satisfies ToThread);
          resolve(ok(undefined));
        } else if (message.say === "drained") {
          if (message.ask === this.#drainAsk) this.#tellDrained();
        } else if (message.say === "threw") this.#parts.threw(message.error);
        else if (message.say === "limited") this.#parts.limited(message.refusals);
        else if (message.say === "malformed") this.#parts.malformed(message.refused);
        else if (message.say === "requests") this.#parts.requests(this.thread, message.ended);
        else if (message.say === "mirrored") this.#parts.mirrored(message.counts);
        else if (message.say === "decided") this.#parts.decided(message.told);
        else if (message.say === "guarded") this.#parts.guarded(message.told);
        else if (message.say === "endpoint") this.#parts.endpoint(message.change);
        else if (message.say === "observed") {
          telemetry.observed(message.batch);
          worker.postMessage({ say: "read" } satisfies ToThread);
        } else if (message.say === "notes") telemetry.notes(message.notes);
        else if (message.say === "ended") this.#parts.ended(this.thread, message.handed);
        else if (message.say === "failed") why = message.reason;
      });
      worker.on("error", (error) => {
        const { code, message } = error as NodeJS.ErrnoException;
        why = code === "ERR_WORKER_OUT_OF_MEMORY" ? `${message} (${this.#parts.heapMb} MiB, ${heapSetting})` : message;
      });
      worker.on("exit", (code) => {
        stopAsking();
        detach();
        untap();
        this.#parts.requests(this.thread, undefined);
        forgetThread(this.#shared, this.thread);
        const reason = why === "" ? `exit code ${code}` : why;
        this.#gone(worker, reason);
        resolve(err(`data thread ${this.thread}: ${reason}`));
      });
    });
  }

  #ask(worker: Worker): void {
    // One that starts on a busy node takes its time, and carries nothing yet.
    const patienceMs = this.#ready ? this.#parts.hungMs : Math.max(startingMs, this.#parts.hungMs);
    if (this.#parts.clock.monotonicMs() - this.#answeredMs < patienceMs) {
      worker.postMessage({ say: "ping" } satisfies ToThread);
      return;
    }
    this.#parts.log.error("data_thread_hung", { thread: this.thread, ms: patienceMs });
    this.#answeredMs = this.#parts.clock.monotonicMs();
    void worker.terminate();
  }

  #gone(worker: Worker, reason: string): void {
    if (this.#worker === worker) this.#tellDrained();
    if (this.#stopped || this.#worker !== worker) return;
    const wasReady = this.#ready;
    this.#worker = undefined;
    this.#ready = false;
    this.#parts.died.add({});
    const inMs = this.#backoff.nextMs();
    this.#parts.log.error("data_thread_died", { thread: this.thread, reason, restartInMs: Math.round(inMs) });
    if (!wasReady) return; // whoever started it is told, and tries again or gives up
    this.#parts.changed();
    this.#restart(inMs);
  }

  #restart(inMs: number): void {
    this.#cancel = this.#parts.clock.after(inMs, async () => {
      const began = this.#parts.clock.monotonicMs();
      const started = await this.start();
      if (this.#stopped) return void (await this.stop());
      if (!started.ok) return this.#restart(this.#backoff.nextMs());
      this.#cancel = this.#parts.clock.after(60_000, () => this.#backoff.reset());
      this.#parts.log.info("data_thread_started", {
        thread: this.thread,
        ms: Math.round(this.#parts.clock.monotonicMs() - began),
      });
      this.#parts.changed();
    });
  }

  /** One that is just not there has nothing to drain. */
  drain(): Promise<void> {
    this.#isDraining = true;
    if (!this.#ready) return Promise.resolve();
    return new Promise((resolve) => {
      this.#drained.push(resolve);
      this.#worker?.postMessage({ say: "drain", ask: ++this.#drainAsk } satisfies ToThread);
    });
  }

  #tellDrained(): void {
    for (const resolve of this.#drained.splice(0)) resolve();
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    this.#ready = false;
    this.#cancel();
    const worker = this.#worker;
    this.#worker = undefined;
    worker?.postMessage({ say: "stop" } satisfies ToThread);
    await worker?.terminate();
  }
}
