// Parts start in the order they were added and drain and stop in the reverse one; one deadline bounds the whole.
import type { Clock } from "./clock.ts";
import type { Logger } from "./log.ts";

export interface Part {
  readonly name: string;
  start?(signal: AbortSignal): Promise<void> | void;
  /** Take nothing new, finish what is open; returns when done or when the signal aborts. */
  drain?(deadline: AbortSignal): Promise<void> | void;
  /** Ends at once. Must not throw for being called twice. */
  stop?(): Promise<void> | void;
}
export interface Lifecycle {
  add(part: Part): void;
  /** Starts all; if one fails, stops those that had started and throws its error with the part's name. */
  start(): Promise<void>;
  /** Drains within `deadlineMs`, then stops. Later calls share the first one's promise. */
  shutdown(deadlineMs: number): Promise<void>;
  /** Aborts when shutdown begins. */
  readonly signal: AbortSignal;
}

export function createLifecycle(clock: Clock, log: Logger): Lifecycle {
  const parts: Part[] = [];
  const started: Part[] = [];
  const ending = new AbortController();
  let shuttingDown: Promise<void> | undefined;

  const each = async (what: string, run: (part: Part) => Promise<void> | void): Promise<void> => {
    for (const part of started.toReversed()) {
      try {
        await run(part);
      } catch (error) {
        log.error(`${what}_failed`, { name: part.name, error });
      }
    }
  };
  const end = async (deadlineMs: number): Promise<void> => {
    ending.abort();
    const deadline = new AbortController();
    const cancel = clock.after(deadlineMs, () => deadline.abort());
    // A part that ignores its deadline must not keep the others from stopping.
    const expired = new Promise<void>((resolve) => deadline.signal.addEventListener("abort", () => resolve()));
    await Promise.race([each("drain", (part) => part.drain?.(deadline.signal)), expired]);
    cancel();
    await each("stop", (part) => part.stop?.());
    started.length = 0;
  };
  return {
    signal: ending.signal,
    add(part) {
      parts.push(part);
    },
    async start() {
      for (const part of parts) {
        try {
          await part.start?.(ending.signal);
        } catch (error) {
          await each("stop", (p) => p.stop?.());
          started.length = 0;
          throw new Error(`${part.name}: ${error instanceof Error ? error.message : String(error)}`, { cause: error });
        }
        started.push(part);
        if (ending.signal.aborted) return;
      }
    },
    shutdown(deadlineMs) {
      shuttingDown ??= end(deadlineMs);
      return shuttingDown;
    },
  };
}
