// Deadlines that are too near for the sweep: a wheel of fine slots, and one timer that is armed for the first of them that has anybody in it.
// Nobody is taken out: who stands there from an earlier request looks, and stands there again for the next one's.
import type { Clock } from "../../base/clock.ts";

export interface Due {
  /** Its slot, as `put` gave it, has come. */
  due(nowMs: number, slot: number): void;
}

const slotMs = 4;
/** More than twice `nearMs`: the slot that came last may be so far behind the present, the next one so far ahead of it. */
const slotCount = 1024;
/** What is further off than this is left to the sweep, which comes several times before it. */
export const nearMs = 1_500;

export class Deadlines {
  private readonly clock: Pick<Clock, "monotonicMs" | "after">;
  private slots: Due[][] = Array.from({ length: slotCount }, () => []);
  private spare: Due[] = [];
  /** All slots up to this one have come. */
  private passed = 0;
  private count = 0;
  /** The slot that the timer is for; 0: it is not armed. */
  private armed = 0;
  private cancel: () => void = () => {};
  private isFiring = false;

  constructor(clock: Pick<Clock, "monotonicMs" | "after">) {
    this.clock = clock;
  }

  /** Asks `member` at `atMs` (monotonic) or some ms later. Gives the slot, 0 where that is too far off. */
  put(member: Due, atMs: number): number {
    if (this.count === 0) this.passed = Math.floor(this.clock.monotonicMs() / slotMs);
    const slot = Math.max(Math.ceil(atMs / slotMs), this.passed + 1);
    if (slot - this.passed >= slotCount) return 0;
    (this.slots[slot % slotCount] as Due[]).push(member);
    this.count++;
    if (!this.isFiring && (this.armed === 0 || slot < this.armed)) this.arm(slot);
    return slot;
  }

  stop(): void {
    this.cancel();
  }

  private arm(slot: number): void {
    this.cancel();
    this.armed = slot;
    this.cancel = this.clock.after(Math.max(1, slot * slotMs - this.clock.monotonicMs()), () => this.fire());
  }

  private fire(): void {
    this.armed = 0;
    const now = this.clock.monotonicMs();
    const last = Math.floor(now / slotMs);
    this.isFiring = true;
    while (this.passed < last && this.count > 0) {
      const slot = ++this.passed;
      const members = this.slots[slot % slotCount] as Due[];
      if (members.length === 0) continue;
      this.slots[slot % slotCount] = this.spare;
      this.count -= members.length;
      for (const member of members) member.due(now, slot);
      members.length = 0;
      this.spare = members;
    }
    this.isFiring = false;
    if (this.count === 0) return;
    let next = this.passed + 1;
    while ((this.slots[next % slotCount] as Due[]).length === 0) next++;
    this.arm(next);
  }
}
