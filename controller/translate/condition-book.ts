// What is said of each object at present, and what of it changed since somebody asked.

import { refKey } from "../sources/types.ts";
import type { Condition } from "./conditions.ts";
import { same } from "./same.ts";

export interface ConditionChange {
  readonly before: Condition | undefined;
  readonly after: Condition | undefined;
}

export class ConditionBook {
  readonly #said = new Map<string, Condition>();
  readonly #layers = new Map<string, readonly Condition[]>();
  #before = new Map<string, Condition | undefined>();

  get(key: string): Condition | undefined {
    return this.#said.get(key);
  }
  /** The conditions of a layer in the order in which they were given. */
  layer(name: string): readonly Condition[] {
    return this.#layers.get(name) ?? [];
  }

  /** `condition` undefined: there is nothing to say of the object any more. */
  say(key: string, condition: Condition | undefined): void {
    const known = this.#said.get(key);
    if (known === condition || (known !== undefined && condition !== undefined && isSame(known, condition))) return;
    if (!this.#before.has(key)) this.#before.set(key, known);
    if (condition === undefined) this.#said.delete(key);
    else this.#said.set(key, condition);
  }
  /** Makes these all that is said of the objects of a layer. */
  sayLayer(name: string, conditions: readonly Condition[]): void {
    const gone = new Set(this.layer(name).map((condition) => refKey(condition.object)));
    for (const condition of conditions) {
      const key = refKey(condition.object);
      gone.delete(key);
      this.say(key, condition);
    }
    for (const key of gone) this.say(key, undefined);
    this.#layers.set(name, conditions);
  }
  takeChanges(): readonly ConditionChange[] {
    const before = this.#before;
    this.#before = new Map();
    return [...before].flatMap(([key, was]) => {
      const after = this.#said.get(key);
      return was === after ? [] : [{ before: was, after }];
    });
  }
}

/** Most are told apart by their first fields. */
const isSame = (a: Condition, b: Condition): boolean => a.reason === b.reason && a.message === b.message && same(a, b);
