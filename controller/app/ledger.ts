// Which certificates are out: by node and identity, their end and root. It says when an old root may go, and what expires.
import type { NodeName, SpiffeId } from "../../agent/api/names.ts";
import type { Issued } from "../issue/authority.ts";

interface Entry {
  readonly node: NodeName;
  readonly identity: SpiffeId;
  readonly notAfterMs: number;
  readonly rootNumber: number;
}

export class Ledger {
  readonly #entries = new Map<string, Entry>();
  readonly #now: () => number;
  readonly startedAtMs: number;

  constructor(now: () => number) {
    this.#now = now;
    this.startedAtMs = now();
  }

  issued(node: NodeName, identity: SpiffeId, certificate: Issued): void {
    const { notAfterMs, rootNumber } = certificate;
    this.#entries.set(`${node} ${identity}`, { node, identity, notAfterMs, rootNumber });
  }
  /** Certificates in force, the ones that end first at the front. */
  living(): readonly Entry[] {
    const now = this.#now();
    for (const [key, entry] of this.#entries) if (entry.notAfterMs <= now) this.#entries.delete(key);
    return [...this.#entries.values()].sort((a, b) => a.notAfterMs - b.notAfterMs);
  }
  /** Certificates in force that another root than this one stands behind. */
  underOtherRoots(rootNumber: number): readonly Entry[] {
    return this.living().filter((entry) => entry.rootNumber !== rootNumber);
  }
}
