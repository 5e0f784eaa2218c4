// One log line for each problem or warning when it appears, and again only after it was gone.
import type { Logger } from "../../agent/base/log.ts";
import { type Problem, refKey, showRef } from "../sources/types.ts";
import type { ConditionChange } from "../translate/condition-book.ts";

interface Said {
  readonly file: string;
  readonly line: number;
  readonly object: string;
  readonly field: string;
  readonly message: string;
  readonly fix: string;
}

export class Teller {
  readonly #log: Logger;
  #problems = new Set<string>();
  /** What was said of an object, by its key. */
  readonly #warnings = new Map<string, string>();

  constructor(log: Logger) {
    this.#log = log;
  }

  /** `problems`: all there are. */
  problems(problems: readonly Problem[]): void {
    const now = new Set<string>();
    for (const { file, line, object: ref, field, message, fix } of problems) {
      const object = ref === undefined ? "" : showRef(ref);
      const key = `${file}:${object}:${field}:${message}`;
      now.add(key);
      if (!this.#problems.has(key)) this.#say({ file, line, object, field, message, fix }, true);
    }
    this.#problems = now;
  }
  conditions(changes: readonly ConditionChange[]): void {
    for (const { before, after } of changes) {
      if (after === undefined || after.fix === "") {
        const gone = after ?? before;
        if (gone !== undefined) this.#warnings.delete(refKey(gone.object));
        continue;
      }
      const { object, origin, field, message, fix, accepted } = after;
      const text = `${origin.file}:${field}:${message}`;
      const key = refKey(object);
      if (this.#warnings.get(key) === text) continue;
      this.#warnings.set(key, text);
      this.#say({ ...origin, object: showRef(object), field, message, fix }, !accepted);
    }
  }

  #say(said: Said, isRefused: boolean): void {
    this.#log[isRefused ? "error" : "warn"](isRefused ? "object_refused" : "object_warning", { ...said });
  }
}
