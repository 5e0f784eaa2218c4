// Every resource for agents as bytes with a version, in the order of their last changes. Versions are hashes of the content, so an agent that
// comes back (also to another or a restarted controller) gets only what differs. An agent that takes all of a type is at a position in the
// order of changes, and needs no record of its own for each resource; a resource is encoded once for all agents.
import { createHash } from "node:crypto";
import type { InitialVersions } from "./request.ts";
import { encodeEntry, type Response, type Versioned } from "./response.ts";

/** One resource as it is now. `bytes` undefined: it is gone. */
export interface SnapshotChange {
  readonly typeUrl: string;
  readonly name: string;
  readonly bytes: Uint8Array | undefined;
}

/** 66 bits: two contents of one name that share a version are not met with in practice, and it goes with every change to every agent. */
const versionLength = 11;
/** Removed names that are remembered, beside as many as there are resources; who has not heard of an older one must connect anew. */
const keptRemovals = 10_000;

/** After a restart all agents come back at once, and most of them with the same state: of so many states the answer is kept until something changes. */
const keptComparisons = 4;

/** What whoever follows all of a type is told of, and its position afterwards. */
export interface Told {
  readonly response: Response;
  readonly position: number;
}

/** The resources of one type. */
export class TypeSnapshot {
  readonly #resources = new Map<string, Versioned>();
  /** Positions of removals that are remembered, by name. */
  readonly #removals = new Map<string, number>();
  /** By position, increasing. What was changed again later is skipped, and left out when the list is made anew. */
  #order: { readonly position: number; readonly name: string }[] = [];
  #position = 0;
  #oldest = 0;
  #compared: { readonly has: InitialVersions; readonly differing: readonly string[] }[] = [];
  readonly #told = new Map<string, Told>();
  #toldGeneration = 0;

  /** Position of the last change. */
  get position(): number {
    return this.#position;
  }
  /** Whoever is at an earlier position cannot be told all that was removed since. */
  get oldest(): number {
    return this.#oldest;
  }
  get size(): number {
    return this.#resources.size;
  }
  get(name: string): Versioned | undefined {
    return this.#resources.get(name);
  }
  names(): Iterable<string> {
    return this.#resources.keys();
  }
  /** Position at which a name was removed, if it is remembered. */
  removalOf(name: string): number | undefined {
    return this.#removals.get(name);
  }

  put(typeUrl: string, name: string, bytes: Uint8Array | undefined): boolean {
    const known = this.#resources.get(name);
    if (bytes === undefined) {
      if (known === undefined) return false;
      this.#resources.delete(name);
      this.#removals.set(name, this.#next(name));
      return true;
    }
    const version = createHash("sha256").update(bytes).digest("base64url").slice(0, versionLength);
    if (known?.version === version) return false;
    this.#removals.delete(name);
    const entry = encodeEntry(typeUrl, name, version, bytes);
    this.#resources.set(name, { name, version, entry, position: this.#next(name) });
    return true;
  }

  /** Names of which an agent that has these must be told: other versions, missing ones, and those that are no more. */
  differing(has: InitialVersions): readonly string[] {
    const known = this.#compared.find((one) => one.has.equals(has));
    if (known !== undefined) return known.differing;
    const same = new Set<string>();
    const differing = new Set<string>();
    has.forEach((name, version) => {
      if (this.#resources.get(name)?.version === version) same.add(name);
      else differing.add(name);
    });
    if (same.size < this.#resources.size)
      for (const name of this.#resources.keys()) if (!same.has(name)) differing.add(name);
    if (this.#compared.length >= keptComparisons) this.#compared.shift();
    const names = [...differing];
    this.#compared.push({ has, differing: names });
    return names;
  }

  /**
   * What is told to all who are at `place`, until something changes: of so many agents nearly all are at the same one, so the first makes it
   * for them. `generation` is the snapshot's.
   */
  told(place: string, generation: number, make: () => Told): Told {
    if (this.#toldGeneration !== generation) this.#told.clear();
    this.#toldGeneration = generation;
    const known = this.#told.get(place);
    if (known !== undefined) return known;
    const told = make();
    this.#told.set(place, told);
    return told;
  }

  /** Names changed after `position` in the order of their last changes, each with its place. */
  *after(position: number): Iterable<{ readonly name: string; readonly position: number }> {
    let [low, high] = [0, this.#order.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((this.#order[middle]?.position ?? 0) <= position) low = middle + 1;
      else high = middle;
    }
    for (let i = low; i < this.#order.length; i++) {
      const change = this.#order[i];
      if (change !== undefined && this.#isLast(change)) yield change;
    }
  }

  #isLast({ name, position }: { readonly name: string; readonly position: number }): boolean {
    return (this.#resources.get(name)?.position ?? this.#removals.get(name)) === position;
  }
  #next(name: string): number {
    const position = ++this.#position;
    this.#compared = [];
    this.#told.clear();
    this.#order.push({ position, name });
    if (this.#order.length > 2 * (this.#resources.size + keptRemovals)) this.#tidy();
    return position;
  }
  #tidy(): void {
    const surplus = this.#removals.size - keptRemovals;
    let dropped = 0;
    // A removal that comes back moves to the end, so these are the oldest.
    for (const [name, position] of this.#removals) {
      if (dropped++ >= surplus) break;
      this.#removals.delete(name);
      this.#oldest = Math.max(this.#oldest, position);
    }
    this.#order = this.#order.filter((change) => this.#isLast(change) || change.position === this.#position);
  }
}

export class Snapshot {
  readonly #types: ReadonlyMap<string, TypeSnapshot>;
  readonly #listeners = new Set<() => void>();
  #generation = 0;
  #nonces = 0;
  #isReady = false;

  constructor(typeUrls: Iterable<string>) {
    this.#types = new Map([...typeUrls].map((typeUrl) => [typeUrl, new TypeSnapshot()]));
  }

  /** False until the first complete state: agents that come earlier wait, or they would take nothing for the truth. */
  get isReady(): boolean {
    return this.#isReady;
  }
  /** Grows with every update that changed something. */
  get generation(): number {
    return this.#generation;
  }
  /** Of a response for many agents: no other response of any type has it. */
  newNonce(): string {
    return `p${++this.#nonces}`;
  }
  /** undefined for a type that is not offered. */
  type(typeUrl: string): TypeSnapshot | undefined {
    return this.#types.get(typeUrl);
  }
  count(typeUrl: string): number {
    return this.#types.get(typeUrl)?.size ?? 0;
  }
  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Takes changes in; returns how many resources are really other ones now. */
  apply(changes: Iterable<SnapshotChange>): number {
    let changed = 0;
    for (const { typeUrl, name, bytes } of changes)
      if (this.#types.get(typeUrl)?.put(typeUrl, name, bytes)) changed += 1;
    const isFirst = !this.#isReady;
    this.#isReady = true;
    if (changed === 0 && !isFirst) return 0;
    this.#generation += 1;
    for (const listener of [...this.#listeners]) listener();
    return changed;
  }
}
