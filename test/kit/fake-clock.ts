// A clock that moves only when told, for tests that would otherwise wait.
import { type Clock, sleepOn } from "../../agent/base/clock.ts";

export interface FakeClock extends Clock {
  /** Moves time forward, running what falls due in order. */
  advance(ms: number): void;
  /** As advance, and lets promises settle between timers. */
  advanceAsync(ms: number): Promise<void>;
  readonly pending: number;
}

export function createFakeClock(startMs = 1_700_000_000_000): FakeClock {
  let elapsed = 0;
  let sequence = 0;
  const timers = new Map<number, { readonly at: number; readonly fn: () => void }>();
  const nextDue = (limit: number): number | undefined => {
    let best: number | undefined;
    for (const [id, timer] of timers) {
      if (timer.at <= limit && (best === undefined || timer.at < (timers.get(best)?.at ?? 0))) best = id;
    }
    return best;
  };
  const runOne = (limit: number): boolean => {
    const id = nextDue(limit);
    const timer = id === undefined ? undefined : timers.get(id);
    if (id === undefined || timer === undefined) return false;
    timers.delete(id);
    elapsed = timer.at;
    timer.fn();
    return true;
  };
  const settle = async (): Promise<void> => {
    for (let i = 0; i < 20; i++) await Promise.resolve();
  };
  const clock: FakeClock = {
    now: () => startMs + elapsed,
    monotonicMs: () => elapsed,
    after(ms, fn) {
      const id = ++sequence;
      timers.set(id, { at: elapsed + Math.max(0, ms), fn });
      return () => timers.delete(id);
    },
    sleep: (ms, signal) => sleepOn(clock, ms, signal),
    advance(ms) {
      const limit = elapsed + ms;
      while (runOne(limit));
      elapsed = limit;
    },
    async advanceAsync(ms) {
      const limit = elapsed + ms;
      await settle();
      while (runOne(limit)) await settle();
      elapsed = limit;
      await settle();
    },
    get pending() {
      return timers.size;
    },
  };
  return clock;
}
