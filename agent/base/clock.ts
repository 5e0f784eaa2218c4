// Time as an argument. The only file (with random.ts, config and the compositions) that touches the ambient clock.
// Imported, since the global of that name is a getter, called with each look.
import { performance } from "node:perf_hooks";

export interface Clock {
  /** Unix time, ms. May jump; for deadlines use monotonicMs. */
  now(): number;
  /** Milliseconds since some start; never goes back. */
  monotonicMs(): number;
  /** Calls `fn` once after `ms`; the returned function cancels it. Does not keep the process alive by itself. */
  after(ms: number, fn: () => void): () => void;
  /** Resolves after `ms`, or at once when `signal` aborts: look at the signal to tell which. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
}

// setTimeout takes 31 bits; anything beyond fires at once, so longer waits go in steps.
const longestTimerMs = 2_147_483_647;

function startTimer(ms: number, fn: () => void, keepAlive: boolean): () => void {
  let timer: NodeJS.Timeout;
  const arm = (left: number): void => {
    const step = Math.min(Math.max(0, left), longestTimerMs);
    timer = setTimeout(() => (left > step ? arm(left - step) : fn()), step);
    if (!keepAlive) timer.unref();
  };
  arm(ms);
  return () => clearTimeout(timer);
}

/** Processor time that this thread has used so far, ms; what it waited, for a processor too, is not in it. */
export function systemBusyMs(): number {
  const { user, system } = process.threadCpuUsage();
  return (user + system) / 1_000;
}

export const systemClock: Clock = {
  now: () => Date.now(),
  monotonicMs: () => performance.now(),
  after: (ms, fn) => startTimer(ms, fn, false),
  // Somebody awaits it, so the process must live that long.
  sleep: (ms, signal) => sleepOn({ after: (wait, fn) => startTimer(wait, fn, true) }, ms, signal),
};

/** `sleep` in terms of `after`; for implementations of Clock. */
export function sleepOn(clock: Pick<Clock, "after">, ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted) {
      resolve();
      return;
    }
    const done = (): void => {
      cancel();
      signal?.removeEventListener("abort", done);
      resolve();
    };
    const cancel = clock.after(ms, done);
    signal?.addEventListener("abort", done, { once: true });
  });
}

/** Calls `fn` every `ms` until cancelled; the next wait starts after `fn` returned. */
export function every(clock: Clock, ms: number, fn: () => void): () => void {
  let cancel = clock.after(ms, tick);
  let stopped = false;
  function tick(): void {
    fn();
    if (!stopped) cancel = clock.after(ms, tick);
  }
  return () => {
    stopped = true;
    cancel();
  };
}
