// Who has what when several claim it: who came first has all that it claims, and whoever claims a part of that has nothing. Settled again
// only among those whose claims touch each other.

export interface Loss {
  /** The first of the loser's claims that somebody else has. */
  readonly item: string;
  readonly owner: string;
}
interface Claim {
  readonly items: readonly string[];
  readonly sequence: number;
}

export class Contest {
  readonly #claims = new Map<string, Claim>();
  /** By item; a set only where there are several, which is seldom. */
  readonly #claimants = new Map<string, string | Set<string>>();
  readonly #losses = new Map<string, Loss>();
  readonly #open = new Set<string>();

  /** What `claimant` claims from now on; nothing when it takes no part. */
  claim(claimant: string, items: readonly string[], sequence: number): void {
    for (const item of this.#claims.get(claimant)?.items ?? []) {
      this.#open.add(item);
      const others = this.#claimants.get(item);
      if (others instanceof Set) others.delete(claimant);
      if (others === claimant || (others instanceof Set && others.size === 0)) this.#claimants.delete(item);
    }
    this.#losses.delete(claimant);
    if (items.length === 0) {
      this.#claims.delete(claimant);
      return;
    }
    this.#claims.set(claimant, { items, sequence });
    for (const item of items) {
      this.#open.add(item);
      const others = this.#claimants.get(item);
      if (others instanceof Set) others.add(claimant);
      else
        this.#claimants.set(item, others === undefined || others === claimant ? claimant : new Set([others, claimant]));
    }
  }

  /** Decides what was touched; returns the claimants whose outcome may be another now, and the items that were touched. */
  settle(): { readonly claimants: ReadonlySet<string>; readonly items: ReadonlySet<string> } {
    const items = new Set(this.#open);
    this.#open.clear();
    const claimants = new Set<string>();
    // The items grow while they are walked: whatever is claimed together with one of them is decided together.
    for (const item of items) {
      for (const claimant of this.#claimantsOf(item)) {
        if (claimants.has(claimant)) continue;
        claimants.add(claimant);
        for (const other of this.#claims.get(claimant)?.items ?? []) items.add(other);
      }
    }
    const owners = new Map<string, string>();
    const ordered = [...claimants].sort((a, b) => this.#sequenceOf(a) - this.#sequenceOf(b));
    for (const claimant of ordered) {
      const own = this.#claims.get(claimant)?.items ?? [];
      const item = own.find((one) => owners.has(one));
      if (item === undefined) {
        for (const one of own) owners.set(one, claimant);
        this.#losses.delete(claimant);
      } else this.#losses.set(claimant, { item, owner: owners.get(item) ?? "" });
    }
    return { claimants, items };
  }

  lossOf(claimant: string): Loss | undefined {
    return this.#losses.get(claimant);
  }
  /** Who has the item, as settled last. */
  ownerOf(item: string): string | undefined {
    for (const claimant of this.#claimantsOf(item)) if (!this.#losses.has(claimant)) return claimant;
    return undefined;
  }
  #claimantsOf(item: string): Iterable<string> {
    const found = this.#claimants.get(item) ?? [];
    return typeof found === "string" ? [found] : found;
  }
  #sequenceOf(claimant: string): number {
    return this.#claims.get(claimant)?.sequence ?? 0;
  }
}
