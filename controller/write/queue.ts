// Keys that something is to be done for: each at most once in the queue and once at work, some at work at a time, what failed later again.
//
//   add ──▶ waiting ──due──▶ ready ──free place──▶ running ──done──▶ resting (spacing) ──▶ forgotten
//             ▲ ▲                                   │   │              │ added again
//             │ └──────────── failed: backoff ──────┘   └─ added again ┘
//             └────────────────────────────────────────────┘
import type { Clock } from "../../agent/base/clock.ts";
import type { Random } from "../../agent/base/random.ts";

export interface QueueOptions {
  readonly concurrency: number;
  readonly backoff: { readonly baseMs: number; readonly maxMs: number };
  /** So many failures on end, and the key is left alone until it is added again. */
  readonly attempts: number;
}
/** What becomes of a key: `again` counts as a failure, and not before `afterMs` if it is given. */
export type Verdict = { readonly kind: "done" } | { readonly kind: "again"; readonly afterMs?: number | undefined };
export interface QueueParts {
  readonly clock: Clock;
  readonly random: Random;
  /** Does what is to be done; must not throw. */
  readonly run: (key: string, attempt: number) => Promise<Verdict>;
  readonly spacingMs: (key: string) => number;
  readonly gaveUp: (key: string, attempts: number) => void;
  /** Seconds that a key was ready before it had its turn. */
  readonly waited: (seconds: number) => void;
}
interface Entry {
  state: "waiting" | "ready" | "running" | "resting";
  /** When it falls due, or became ready; of the monotonic clock. */
  atMs: number;
  /** Not to be hastened: the server asked for this pause. */
  isHeld: boolean;
  failures: number;
  /** Added while it was running. */
  again: boolean;
  /** End of the spacing after its last run. */
  freeMs: number;
  cancel: () => void;
}

export class KeyQueue {
  readonly #options: QueueOptions;
  readonly #parts: QueueParts;
  readonly #entries = new Map<string, Entry>();
  #ready: string[] = [];
  #running = 0;
  #isOpen = false;
  /** Grows with each opening: what was begun before the last closing belongs to nobody. */
  #life = 0;

  constructor(options: QueueOptions, parts: QueueParts) {
    this.#options = options;
    this.#parts = parts;
  }

  /** Keys that wait for their time or their turn, or are at work. */
  get depth(): number {
    let count = 0;
    for (const { state } of this.#entries.values()) if (state !== "resting") count += 1;
    return count;
  }
  open(): void {
    this.#isOpen = true;
  }
  /** Forgets everything; what is at work ends by itself, and its end means nothing any more. */
  close(): void {
    this.#isOpen = false;
    this.#life += 1;
    for (const entry of this.#entries.values()) entry.cancel();
    this.#entries.clear();
    this.#ready = [];
    this.#running = 0;
  }

  /** Has the key done as soon as its spacing allows. */
  add(key: string): void {
    if (!this.#isOpen) return;
    const nowMs = this.#parts.clock.monotonicMs();
    const entry = this.#entries.get(key);
    if (entry === undefined) {
      const fresh: Entry = {
        state: "waiting",
        atMs: nowMs,
        isHeld: false,
        failures: 0,
        again: false,
        freeMs: 0,
        cancel: () => {},
      };
      this.#entries.set(key, fresh);
      this.#wait(key, fresh, nowMs);
    } else if (entry.state === "running") entry.again = true;
    else if (entry.state === "resting") this.#wait(key, entry, entry.freeMs);
    else if (entry.state === "waiting" && !entry.isHeld) {
      // What is wanted may be another thing by now, so a failure does not hold it back; the spacing does.
      const dueMs = Math.max(nowMs, entry.freeMs);
      if (dueMs < entry.atMs) this.#wait(key, entry, dueMs);
    }
  }

  #wait(key: string, entry: Entry, dueMs: number): void {
    const { clock } = this.#parts;
    entry.cancel();
    entry.state = "waiting";
    entry.atMs = dueMs;
    const leftMs = dueMs - clock.monotonicMs();
    if (leftMs <= 0) this.#makeReady(key, entry);
    else entry.cancel = clock.after(Math.ceil(leftMs), () => this.#makeReady(key, entry));
  }
  #makeReady(key: string, entry: Entry): void {
    entry.cancel = () => {};
    entry.state = "ready";
    entry.isHeld = false;
    entry.atMs = this.#parts.clock.monotonicMs();
    this.#ready.push(key);
    this.#pump();
  }
  #pump(): void {
    while (this.#running < this.#options.concurrency) {
      const key = this.#ready.shift();
      if (key === undefined) return;
      const entry = this.#entries.get(key);
      if (entry !== undefined) void this.#run(key, entry);
    }
  }
  async #run(key: string, entry: Entry): Promise<void> {
    const { clock } = this.#parts;
    const life = this.#life;
    this.#running += 1;
    entry.state = "running";
    this.#parts.waited((clock.monotonicMs() - entry.atMs) / 1000);
    const verdict = await this.#parts.run(key, entry.failures + 1);
    if (life !== this.#life) return;
    this.#running -= 1;
    this.#after(key, entry, verdict);
    this.#pump();
  }
  #after(key: string, entry: Entry, verdict: Verdict): void {
    const nowMs = this.#parts.clock.monotonicMs();
    const { again } = entry;
    entry.again = false;
    entry.freeMs = nowMs + this.#parts.spacingMs(key);
    entry.failures = verdict.kind === "done" ? 0 : entry.failures + 1;
    if (verdict.kind === "again" && entry.failures < this.#options.attempts) {
      entry.isHeld = verdict.afterMs !== undefined;
      const pauseMs = Math.max(verdict.afterMs ?? 0, this.#backoffMs(entry.failures));
      this.#wait(key, entry, nowMs + (again && !entry.isHeld ? this.#parts.spacingMs(key) : pauseMs));
      return;
    }
    if (verdict.kind === "again") {
      this.#parts.gaveUp(key, entry.failures);
      entry.failures = 0;
    }
    if (again) this.#wait(key, entry, entry.freeMs);
    else this.#rest(key, entry);
  }
  #rest(key: string, entry: Entry): void {
    const { clock } = this.#parts;
    const leftMs = entry.freeMs - clock.monotonicMs();
    if (leftMs <= 0) {
      this.#entries.delete(key);
      return;
    }
    entry.state = "resting";
    entry.cancel = clock.after(Math.ceil(leftMs), () => this.#entries.delete(key));
  }
  /** Between half and all of base * 2^n, at most the limit. */
  #backoffMs(failures: number): number {
    const { baseMs, maxMs } = this.#options.backoff;
    const ceilingMs = Math.min(maxMs, baseMs * 2 ** Math.min(failures - 1, 40));
    return ceilingMs / 2 + (this.#parts.random.next() * ceilingMs) / 2;
  }
}
