// One kind's objects as they are in force here: read, compared with what was known, the last good version of one that became bad.
import { isDeepStrictEqual } from "node:util";
import type { Mirror } from "../../../agent/kubernetes/reflector.ts";
import type { RawObject } from "../../../agent/kubernetes/wire.ts";
import { type MeshObject, type ObjectRef, type Problem, refKey } from "../types.ts";
import { type Resource, readObject, refOfRaw } from "./resources.ts";

const noProblems: readonly Problem[] = [];

interface Known {
  readonly ref: ObjectRef;
  readonly version: string;
  readonly uid: string;
  /** What is in force; undefined when no version of it was ever good. */
  readonly object: MeshObject | undefined;
  /** What is wrong with the newest version. */
  readonly problems: readonly Problem[];
}
/** Takes what really changed. */
export interface Changes {
  put(object: MeshObject): void;
  remove(ref: ObjectRef): void;
  /** Problems of this object, none if all is well. */
  problems(ref: ObjectRef, problems: readonly Problem[]): void;
}

export class Collection implements Mirror {
  readonly #resource: Resource;
  readonly #changes: Changes;
  #known = new Map<string, Known>();
  #staged: Map<string, Known> | undefined;
  #refused = 0;

  constructor(resource: Resource, changes: Changes) {
    this.#resource = resource;
    this.#changes = changes;
  }

  get size(): number {
    return this.#known.size;
  }
  /** Of these, objects whose newest version is refused. */
  get refused(): number {
    return this.#refused;
  }

  stage(items: readonly RawObject[]): void {
    this.#staged ??= new Map();
    for (const raw of items) {
      const known = this.#read(raw);
      this.#staged.set(refKey(known.ref), known);
    }
  }
  commit(): void {
    const staged = this.#staged ?? new Map<string, Known>();
    this.#staged = undefined;
    for (const [key, { ref }] of this.#known) if (!staged.has(key)) this.#drop(key, ref);
    for (const [key, known] of staged) this.#take(key, known);
  }
  discard(): void {
    this.#staged = undefined;
  }
  put(raw: RawObject): void {
    const known = this.#read(raw);
    this.#take(refKey(known.ref), known);
  }
  remove(raw: RawObject): void {
    const ref = refOfRaw(this.#resource, raw);
    this.#drop(refKey(ref), ref);
  }
  /** The kind itself is gone. */
  clear(): void {
    for (const [key, { ref }] of [...this.#known]) this.#drop(key, ref);
  }

  #read(raw: RawObject): Known {
    const ref = refOfRaw(this.#resource, raw);
    const { resourceVersion: version = "", uid = "" } = raw.metadata;
    const before = this.#known.get(refKey(ref));
    // The same version is the same object: a list that is read again costs nothing for it.
    if (before !== undefined && version !== "" && before.version === version && before.uid === uid) return before;
    const { object, problems } = readObject(this.#resource, raw);
    if (object === undefined) {
      // Another object of that name says nothing about this one.
      const isSameObject = before?.uid === uid;
      return { ref, version, uid, object: isSameObject ? before?.object : undefined, problems };
    }
    const isSame = before?.object !== undefined && isDeepStrictEqual(before.object, object);
    return { ref, version, uid, object: isSame ? before.object : object, problems: noProblems };
  }

  #take(key: string, known: Known): void {
    const before = this.#known.get(key);
    if (before === known) return;
    this.#known.set(key, known);
    if (known.object !== before?.object) {
      if (known.object === undefined) this.#changes.remove(known.ref);
      else this.#changes.put(known.object);
    }
    this.#tell(known.ref, before?.problems ?? [], known.problems);
  }
  #drop(key: string, ref: ObjectRef): void {
    const before = this.#known.get(key);
    if (before === undefined) return;
    this.#known.delete(key);
    if (before.object !== undefined) this.#changes.remove(ref);
    this.#tell(ref, before.problems, []);
  }
  #tell(ref: ObjectRef, before: readonly Problem[], after: readonly Problem[]): void {
    if (before.length === 0 && after.length === 0) return;
    this.#refused += Number(after.length > 0) - Number(before.length > 0);
    this.#changes.problems(ref, after);
  }
}
