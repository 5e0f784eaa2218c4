// Every object in force, by kind and name; fed by apply/delete from any source. Pure and synchronous.
import {
  type MeshObject,
  type ObjectKind,
  type ObjectOf,
  type ObjectRef,
  type Origin,
  refKey,
  refOf,
} from "../sources/types.ts";

export interface Indexed<O extends MeshObject = MeshObject> {
  readonly object: O;
  readonly origin: Origin;
  /** Order of first appearance: who came later loses a contest. */
  readonly sequence: number;
}

/** One object since changes were taken last; `before` and `after` differ in identity. */
export interface IndexChange {
  readonly ref: ObjectRef;
  readonly before: Indexed | undefined;
  readonly after: Indexed | undefined;
}

export class ClusterIndex {
  readonly #entries = new Map<string, Indexed>();
  readonly #byKind = new Map<ObjectKind, Map<string, Indexed>>();
  readonly #sorted = new Map<ObjectKind, readonly Indexed[]>();
  /** What each object that was touched was when changes were taken last. */
  #touched = new Map<string, { readonly ref: ObjectRef; readonly before: Indexed | undefined }>();
  #sequence = 0;

  get size(): number {
    return this.#entries.size;
  }

  apply(object: MeshObject, origin: Origin): void {
    const ref = refOf(object);
    const key = refKey(ref);
    const before = this.#entries.get(key);
    const entry: Indexed = { object, origin, sequence: before?.sequence ?? ++this.#sequence };
    if (!this.#touched.has(key)) this.#touched.set(key, { ref, before });
    this.#entries.set(key, entry);
    let ofKind = this.#byKind.get(object.kind);
    if (ofKind === undefined) {
      ofKind = new Map();
      this.#byKind.set(object.kind, ofKind);
    }
    ofKind.set(key, entry);
    this.#sorted.delete(object.kind);
  }

  delete(ref: ObjectRef): boolean {
    const key = refKey(ref);
    const entry = this.#entries.get(key);
    if (entry === undefined) return false;
    if (!this.#touched.has(key)) this.#touched.set(key, { ref: refOf(entry.object), before: entry });
    this.#entries.delete(key);
    this.#byKind.get(entry.object.kind)?.delete(key);
    this.#sorted.delete(entry.object.kind);
    return true;
  }

  /** What changed since the last call, each object once. */
  takeChanges(): readonly IndexChange[] {
    const touched = this.#touched;
    this.#touched = new Map();
    return [...touched].flatMap(([key, { ref, before }]) => {
      const after = this.#entries.get(key);
      return before === after ? [] : [{ ref, before, after }];
    });
  }

  get<K extends ObjectKind>(kind: K, namespace: string, name: string): Indexed<ObjectOf<K>> | undefined {
    return this.#entries.get(refKey({ kind, namespace, name })) as Indexed<ObjectOf<K>> | undefined;
  }

  /** All objects of a kind, in order of their first appearance. */
  all<K extends ObjectKind>(kind: K): readonly Indexed<ObjectOf<K>>[] {
    let sorted = this.#sorted.get(kind);
    if (sorted === undefined) {
      sorted = [...(this.#byKind.get(kind)?.values() ?? [])].sort((a, b) => a.sequence - b.sequence);
      this.#sorted.set(kind, sorted);
    }
    return sorted as readonly Indexed<ObjectOf<K>>[];
  }

  entries(): Iterable<Indexed> {
    return this.#entries.values();
  }
}
