// Gathers changes for a moment and gives them to the sink together: one translation and one message to each agent for many. What follows from a
// batch (translating, sending, taking what agents answer) is to take less than two fifths of a processor: after one from which much followed
// the next waits longer, and a change that comes later than that waits no longer than any other. Processor time counts and not time that
// passed: where the machine is busy with others, waiting longer would make it worse for those who wait.
import type { Clock } from "../../../agent/base/clock.ts";
import type { Logger } from "../../../agent/base/log.ts";
import {
  type Ignored,
  type MeshObject,
  type ObjectRef,
  type Problem,
  refKey,
  refOf,
  type SourceSink,
} from "../types.ts";
import type { Changes } from "./collection.ts";
import { clusterOrigin } from "./resources.ts";

const longestMs = 150;
/** From one batch to the next at least as many times what followed from the one. */
const costShare = 2.5;
/** Less is not worth a timer. */
const leastMs = 2;

export interface BatchOptions {
  /** A change waits as long for others. */
  readonly gatherMs: number;
  /** Processor time that this thread has used so far. */
  readonly busyMs: () => number;
}

export class Batch implements Changes {
  readonly #options: BatchOptions;
  readonly #sink: SourceSink;
  readonly #clock: Clock;
  readonly #log: Logger;
  readonly #applied: (seconds: number) => void;
  readonly #pending = new Map<string, { readonly ref: ObjectRef; readonly object: MeshObject | undefined }>();
  readonly #problems = new Map<string, readonly Problem[]>();
  #ignored: readonly Ignored[] = [];
  #isOpen = false;
  #sinceMs: number | undefined;
  /** When the last one began to take effect, and how long the thread had been at work by then. */
  #last: { readonly atMs: number; readonly busyMs: number } | undefined;
  #cancel: (() => void) | undefined;

  /** `applied` is told, in seconds, how long the first change of a batch took until it was in force. */
  constructor(options: BatchOptions, sink: SourceSink, clock: Clock, log: Logger, applied: (seconds: number) => void) {
    this.#options = options;
    this.#sink = sink;
    this.#clock = clock;
    this.#log = log;
    this.#applied = applied;
  }

  put(object: MeshObject): void {
    const ref = refOf(object);
    this.#pending.set(refKey(ref), { ref, object });
    this.#wake();
  }
  remove(ref: ObjectRef): void {
    this.#pending.set(refKey(ref), { ref, object: undefined });
    this.#wake();
  }
  problems(ref: ObjectRef, problems: readonly Problem[]): void {
    if (problems.length === 0) this.#problems.delete(refKey(ref));
    else this.#problems.set(refKey(ref), problems);
    this.#wake();
  }

  /** Everything that is known and not translated. */
  ignored(ignored: readonly Ignored[]): void {
    this.#ignored = ignored;
    this.#wake();
  }

  /** From now on changes take effect; the first ones in an order that every replica finds the same. */
  open(): void {
    this.#isOpen = true;
    const ordered = [...this.#pending].sort(([a, x], [b, y]) => {
      const [ageA, ageB] = [ageOf(x.object), ageOf(y.object)];
      return ageA === ageB ? (a < b ? -1 : 1) : ageA < ageB ? -1 : 1;
    });
    this.#pending.clear();
    for (const [key, change] of ordered) this.#pending.set(key, change);
    this.#sinceMs ??= this.#clock.monotonicMs();
    this.flush();
  }
  /** Gives now what has been gathered. */
  flush(): void {
    this.#cancel?.();
    this.#cancel = undefined;
    if (!this.#isOpen || this.#sinceMs === undefined) return;
    this.#last = { atMs: this.#clock.monotonicMs(), busyMs: this.#options.busyMs() };
    try {
      for (const { ref, object } of this.#pending.values()) {
        if (object === undefined) this.#sink.delete(ref);
        else this.#sink.apply(object, clusterOrigin);
      }
      this.#pending.clear();
      this.#sink.problems([...this.#problems.values()].flat(), this.#ignored);
      this.#sink.settled();
    } catch (error) {
      // The snapshot before stays in force; the next change tries again.
      this.#log.error("kubernetes_changes_failed", { error });
    }
    this.#applied((this.#clock.monotonicMs() - this.#sinceMs) / 1000);
    this.#sinceMs = undefined;
  }
  stop(): void {
    this.#isOpen = false;
    this.#cancel?.();
  }

  /** Only now it is known what followed from the last one. */
  #flushRested(): void {
    const nowMs = this.#clock.monotonicMs();
    const busyMs = this.#last === undefined ? 0 : this.#options.busyMs() - this.#last.busyMs;
    const restMs = (this.#last?.atMs ?? 0) + busyMs * costShare - nowMs;
    const leftMs = (this.#sinceMs ?? nowMs) + longestMs - nowMs;
    if (Math.min(restMs, leftMs) < leastMs) this.flush();
    else this.#cancel = this.#clock.after(Math.min(restMs, leftMs), () => this.#flushRested());
  }
  #wake(): void {
    this.#sinceMs ??= this.#clock.monotonicMs();
    if (!this.#isOpen || this.#cancel !== undefined) return;
    this.#cancel = this.#clock.after(this.#options.gatherMs, () => this.#flushRested());
  }
}

const ageOf = (object: MeshObject | undefined): string => object?.metadata.creationTimestamp ?? "";
