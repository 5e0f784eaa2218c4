// The data threads: each with a channel of its own to native, over which handed sockets arrive. Started only when configured.
import { Worker } from "node:worker_threads";
import type { Logger } from "../base/log.ts";
import { err, ok, type Result } from "../base/result.ts";
import type { Native } from "../native.ts";
import type { FromThread, HandedEnd, ThreadStart, ToThread } from "../threads.ts";

export interface DataThreads {
  /** The thread for the next connection, round robin; undefined when none runs. */
  next(): number | undefined;
  stop(): Promise<void>;
}

/** Starts `count` threads and attaches each to native. One that dies takes no more sockets; it is logged, not replaced. */
export async function startDataThreads(
  count: number,
  native: Native,
  log: Logger,
  ended: (thread: number, end: HandedEnd) => void,
): Promise<Result<DataThreads, string>> {
  const threads = new Map<number, Worker>();
  const stop = async (): Promise<void> => {
    const stopping = [...threads.values()];
    threads.clear();
    for (const worker of stopping) worker.postMessage({ say: "stop" } satisfies ToThread);
    await Promise.all(stopping.map((worker) => worker.terminate()));
  };
  for (let thread = 0; thread < count; thread++) {
    const attached = await native.call("handover.attach", { thread });
    if (!attached.ok) {
      await stop();
      return err(`data thread ${thread}: ${attached.error.message}`);
    }
    const workerData: ThreadStart = { thread, channelFd: attached.value.fd };
    const worker = new Worker(new URL("../worker.ts", import.meta.url), { workerData });
    threads.set(thread, worker);
    const dead = (reason: string): void => {
      if (threads.delete(thread)) log.error("data_thread_died", { thread, reason });
    };
    const ready = new Promise<void>((resolve) => {
      worker.on("message", (message: FromThread) => {
        if (message.say === "ready") resolve();
        else if (message.say === "ended") ended(thread, message.handed);
        else dead(message.reason);
      });
      worker.on("error", (error) => dead((error as Error).message));
      worker.on("exit", (code) => {
        dead(`exit code ${code}`);
        resolve();
      });
    });
    await ready;
  }
  let turn = 0;
  return ok({
    next() {
      const alive = [...threads.keys()];
      return alive.length === 0 ? undefined : alive[turn++ % alive.length];
    },
    stop,
  });
}
