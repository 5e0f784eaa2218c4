// What a reflector mirrors, as a map: of each object only what `read` makes of it.
import type { Mirror } from "./reflector.ts";
import type { RawObject } from "./wire.ts";

export class Store<T> implements Mirror {
  readonly #read: (raw: RawObject) => T;
  readonly #changed: () => void;
  #known = new Map<string, T>();
  #staged: Map<string, T> | undefined;

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
    this.#known = this.#staged ?? new Map();
    this.#staged = undefined;
    this.#changed();
  }
  discard(): void {
    this.#staged = undefined;
  }
  put(raw: RawObject): void {
    this.#known.set(keyOf(raw), this.#read(raw));
    this.#changed();
  }
  remove(raw: RawObject): void {
    this.#known.delete(keyOf(raw));
    this.#changed();
  }
}

const keyOf = ({ metadata: { namespace, name } }: RawObject): string =>
  namespace === undefined ? name : `${namespace}/${name}`;
