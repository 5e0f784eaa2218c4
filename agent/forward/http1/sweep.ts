// Deadlines without a timer per request: one timer asks every connection and pool a few times a second, another those whose time is near.
import { type Clock, every } from "../../base/clock.ts";
import { Deadlines } from "./deadlines.ts";

export interface Swept {
  sweep(nowMs: number): void;
}

export class Sweep {
  private readonly members = new Set<Swept>();
  private readonly cancel: () => void;
  readonly near: Deadlines;
  readonly clock: Clock;
  /** Monotonic ms as of the last sweep: good enough for deadlines, and free. */
  now: number;

  constructor(clock: Clock, everyMs = 100) {
    this.clock = clock;
    this.now = clock.monotonicMs();
    this.near = new Deadlines(clock);
    this.cancel = every(clock, everyMs, () => {
      this.now = clock.monotonicMs();
      for (const member of this.members) member.sweep(this.now);
    });
  }

  exactMs(): number {
    return this.clock.monotonicMs();
  }

  /** For waits that a decision asks for. */
  after(ms: number, fn: () => void): () => void {
    return this.clock.after(ms, fn);
  }

  add(member: Swept): void {
    this.members.add(member);
  }

  remove(member: Swept): void {
    this.members.delete(member);
  }

  stop(): void {
    this.cancel();
    this.near.stop();
  }
}
