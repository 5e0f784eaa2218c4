// Gathers changes for a moment and gives them to the sink together: one translation for many. The more a translation costs, the longer
// the moment, so that translating never takes more than a quarter of the time.
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

const longestMs = 500;
const costShare = 3;

export class Batch implements Changes {
  readonly #gatherMs: number;
  readonly #sink: SourceSink;
  readonly #clock: Clock;
  readonly #log: Logger;
  readonly #applied: (seconds: number) => void;
  readonly #pending = new Map<string, { readonly ref: ObjectRef; readonly object: MeshObject | undefined }>();
  readonly #problems = new Map<string, readonly Problem[]>();
  #ignored: readonly Ignored[] = [];
  #isOpen = false;
  #sinceMs: number | undefined;
  #costMs = 0;
  #cancel: (() => void) | undefined;

  /** `applied` is told, in seconds, how long the first change of a batch took until it was in force. */
  constructor(gatherMs: number, sink: SourceSink, clock: Clock, log: Logger, applied: (seconds: number) => void) {
    this.#gatherMs = gatherMs;
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
    const startedMs = this.#clock.monotonicMs();
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
    const endMs = this.#clock.monotonicMs();
    this.#costMs = endMs - startedMs;
    this.#applied((endMs - this.#sinceMs) / 1000);
    this.#sinceMs = undefined;
  }
  stop(): void {
    this.#isOpen = false;
    this.#cancel?.();
  }

  #wake(): void {
    this.#sinceMs ??= this.#clock.monotonicMs();
    if (!this.#isOpen || this.#cancel !== undefined) return;
    const waitMs = Math.min(longestMs, Math.max(this.#gatherMs, this.#costMs * costShare));
    this.#cancel = this.#clock.after(waitMs, () => this.flush());
  }
}

const ageOf = (object: MeshObject | undefined): string => object?.metadata.creationTimestamp ?? "";
