// What a reflector mirrors, as a map: of each object only what `read` makes of it.
import type { Mirror } from "./reflector.ts";
import type { RawObject } from "./wire.ts";

export class Store<T> implements Mirror {
  readonly #read: (raw: RawObject) => T;
  readonly #changed: () => void;
  #known = new Map<string, T>();
  #staged: Map<string, T> | undefined;
  /** Put by `tell` since the last list: one that was under way then does not have them. */
  #told = new Set<string>();

  /** `changed` is called after each change, and after each list. */
  constructor(read: (raw: RawObject) => T, changed: () => void) {
    this.#read = read;
    this.#changed = changed;
  }

  /** By "namespace/name", or "name". */
  get(key: string): T | undefined {
    return this.#known.get(key);
  }
  values(): IterableIterator<T> {
    return this.#known.values();
  }
  get size(): number {
    return this.#known.size;
  }

  stage(items: readonly RawObject[]): void {
    this.#staged ??= new Map();
    for (const raw of items) this.#staged.set(keyOf(raw), this.#read(raw));
  }
  commit(): void {
    const known = this.#staged ?? new Map<string, T>();
    for (const key of this.#told) {
      const told = this.#known.get(key);
      if (told !== undefined && !known.has(key)) known.set(key, told);
    }
    this.#told.clear();
    this.#known = known;
    this.#staged = undefined;
    this.#changed();
  }
  discard(): void {
    this.#staged = undefined;
  }
  put(raw: RawObject): void {
    this.#told.delete(keyOf(raw));
    this.#known.set(keyOf(raw), this.#read(raw));
    this.#changed();
  }
  /** As put, of an object that was asked for by itself: the next list does not take it away, since it may be older. The one after does. */
  tell(raw: RawObject): void {
    this.put(raw);
    this.#told.add(keyOf(raw));
  }
  remove(raw: RawObject): void {
    this.#told.delete(keyOf(raw));
    this.#known.delete(keyOf(raw));
    this.#changed();
  }
}

const keyOf = ({ metadata: { namespace, name } }: RawObject): string =>
  namespace === undefined ? name : `${namespace}/${name}`;
