// BPF maps by type: bytes by layout.gen.ts, calls by native. A MirroredMap remembers what it wrote and sends differences only.
import { err, ok, type Result } from "../base/result.ts";
import type { Native } from "../native.ts";
import type { CallFault, HexEntry } from "../native-calls.ts";
import type { Codec } from "./layout.gen.ts";

export interface MapSpec<K, V> {
  readonly name: string;
  readonly key: Codec<K>;
  readonly value: Codec<V>;
}

/** Entries per call: a frame stays well under a megabyte. */
const batch = 4096;

const hex = (bytes: Uint8Array): string =>
  Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("hex");

/**
 * What one map should hold. `set` and `delete` only note the difference; the flushes send it.
 * After a failed call the map's content is unknown: the next flush reads it and starts from there.
 */
export class MirroredMap<K, V> {
  readonly #spec: MapSpec<K, V>;
  readonly #native: Native;
  /** What the kernel holds, as far as is known. */
  #actual = new Map<string, string>();
  #wanted = new Map<string, string>();
  #dirty = new Set<string>();
  #known = false;

  constructor(spec: MapSpec<K, V>, native: Native) {
    this.#spec = spec;
    this.#native = native;
  }

  get name(): string {
    return this.#spec.name;
  }
  get size(): number {
    return this.#wanted.size;
  }
  get pending(): number {
    return this.#dirty.size;
  }

  /** Another agent has written meanwhile: the next flush looks at what is there. */
  readAgain(): void {
    this.#known = false;
  }

  set(key: K, value: V): void {
    const k = hex(this.#spec.key.encode(key));
    const v = hex(this.#spec.value.encode(value));
    if (this.#wanted.get(k) === v) return;
    this.#wanted.set(k, v);
    this.#dirty.add(k);
  }

  delete(key: K): void {
    const k = hex(this.#spec.key.encode(key));
    if (this.#wanted.delete(k)) this.#dirty.add(k);
  }

  /** Writes what is wanted and not there. Rows of an earlier agent that nobody wants are noted for `flushDeletes`. */
  async flushPuts(): Promise<Result<void, CallFault>> {
    if (!this.#known) {
      const dump = await this.#native.call("map.dump", { map: this.#spec.name });
      if (!dump.ok) return dump;
      this.#actual = new Map(dump.value.entries);
      this.#dirty = new Set([...this.#actual.keys(), ...this.#wanted.keys()]);
      this.#known = true;
    }
    const entries: HexEntry[] = [];
    for (const key of this.#dirty) {
      const value = this.#wanted.get(key);
      if (value === undefined) continue;
      this.#dirty.delete(key);
      if (this.#actual.get(key) !== value) entries.push([key, value]);
    }
    for (let at = 0; at < entries.length; at += batch) {
      const part = entries.slice(at, at + batch);
      const done = await this.#native.call("map.put", { map: this.#spec.name, entries: part });
      if (!done.ok) return this.#lost(done.error);
      for (const [key, value] of part) this.#actual.set(key, value);
    }
    return ok(undefined);
  }

  /** Removes what is there and not wanted. */
  async flushDeletes(): Promise<Result<void, CallFault>> {
    const keys: string[] = [];
    for (const key of this.#dirty) {
      if (this.#wanted.has(key)) continue; // wanted again meanwhile: the next puts see to it
      this.#dirty.delete(key);
      if (this.#actual.has(key)) keys.push(key);
    }
    for (let at = 0; at < keys.length; at += batch) {
      const part = keys.slice(at, at + batch);
      const done = await this.#native.call("map.delete", { map: this.#spec.name, keys: part });
      if (!done.ok) return this.#lost(done.error);
      for (const key of part) this.#actual.delete(key);
    }
    return ok(undefined);
  }

  #lost(error: CallFault): Result<void, CallFault> {
    this.#known = false;
    return err(error);
  }
}
