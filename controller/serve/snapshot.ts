// Every resource for agents as bytes with a version; tells listeners which names changed. Versions are hashes of the content,
// so an agent that comes back (also to another or a restarted controller) gets only what differs.
import { createHash } from "node:crypto";
import { codecs, encodeResource, type MeshResource, resourceKinds, resourceName } from "../../agent/api/resources.ts";

export interface Versioned {
  readonly version: string;
  readonly bytes: Uint8Array;
}
export type Changes = ReadonlyMap<string, ReadonlySet<string>>;

export class Snapshot {
  readonly #types = new Map<string, Map<string, Versioned>>(
    resourceKinds.map((kind) => [codecs[kind].typeUrl, new Map()]),
  );
  readonly #listeners = new Set<(changes: Changes) => void>();
  // Translation keeps the record of what did not change, so its bytes need not be made again.
  readonly #encoded = new WeakMap<object, Versioned>();
  #generation = 0;
  #isReady = false;

  /** False until the first complete state: agents that come earlier wait, or they would take nothing for the truth. */
  get isReady(): boolean {
    return this.#isReady;
  }
  get generation(): number {
    return this.#generation;
  }
  typeUrls(): Iterable<string> {
    return this.#types.keys();
  }
  get(typeUrl: string, name: string): Versioned | undefined {
    return this.#types.get(typeUrl)?.get(name);
  }
  names(typeUrl: string): Iterable<string> {
    return this.#types.get(typeUrl)?.keys() ?? [];
  }
  count(typeUrl: string): number {
    return this.#types.get(typeUrl)?.size ?? 0;
  }
  onChange(listener: (changes: Changes) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Replaces the content of every type named in `kinds`; returns how many resources changed. */
  update(resources: readonly MeshResource[], typeUrls: Iterable<string>): number {
    const next = new Map<string, Map<string, Versioned>>([...typeUrls].map((typeUrl) => [typeUrl, new Map()]));
    for (const resource of resources) {
      next.get(codecs[resource.kind].typeUrl)?.set(resourceName(resource), this.#encode(resource));
    }
    const changes = new Map<string, Set<string>>();
    for (const [typeUrl, fresh] of next) {
      const changed = difference(this.#types.get(typeUrl) ?? new Map(), fresh);
      if (changed.size > 0) changes.set(typeUrl, changed);
      this.#types.set(typeUrl, fresh);
    }
    const isFirst = !this.#isReady;
    this.#isReady = true;
    if (changes.size === 0 && !isFirst) return 0;
    this.#generation += 1;
    for (const listener of [...this.#listeners]) listener(changes);
    let total = 0;
    for (const names of changes.values()) total += names.size;
    return total;
  }

  #encode(resource: MeshResource): Versioned {
    const known = this.#encoded.get(resource.value);
    if (known !== undefined) return known;
    const bytes = encodeResource(resource);
    const version = createHash("sha256").update(bytes).digest("base64url").slice(0, 16);
    const versioned = { version, bytes };
    this.#encoded.set(resource.value, versioned);
    return versioned;
  }
}

function difference(before: ReadonlyMap<string, Versioned>, after: ReadonlyMap<string, Versioned>): Set<string> {
  const changed = new Set<string>();
  for (const [name, { version }] of after) if (before.get(name)?.version !== version) changed.add(name);
  for (const name of before.keys()) if (!after.has(name)) changed.add(name);
  return changed;
}
