// Which certificates are out: by node and identity, their end and root. It says when an old root may go, and what expires. Kept on
// disk as one line for each certificate, so that a controller that starts again knows what the one before it has issued.
import type { NodeName, SpiffeId } from "../../agent/api/names.ts";
import { type Logger, messageOf } from "../../agent/base/log.ts";
import type { Issued } from "../issue/authority.ts";
import type { StateFiles } from "../issue/state-files.ts";

interface Entry {
  readonly node: NodeName;
  readonly identity: SpiffeId;
  readonly notAfterMs: number;
  readonly rootNumber: number;
  /** The newest root that came with it, where its holder hears of roots in no other way. */
  readonly knowsRoot?: number;
}
export interface LedgerParts {
  readonly files: StateFiles;
  readonly now: () => number;
  readonly log: Logger;
}
const file = "issued.jsonl";
/** The file is written anew when it has this many lines more than there are certificates in force. */
const slack = 1000;

export class Ledger {
  readonly #entries = new Map<string, Entry>();
  readonly #parts: LedgerParts;
  #lines = 0;
  #knownSinceMs: number;
  #isBroken = false;

  constructor(parts: LedgerParts) {
    this.#parts = parts;
    this.#knownSinceMs = parts.now();
    this.#load();
    this.#rewrite();
  }

  /** Every certificate issued since then is known: since this start if the file was missing or could not be written. */
  get knownSinceMs(): number {
    return this.#knownSinceMs;
  }

  issued(node: NodeName, identity: SpiffeId, certificate: Issued, knowsRoot?: number): void {
    const { notAfterMs, rootNumber } = certificate;
    const entry = { node, identity, notAfterMs, rootNumber, ...(knowsRoot === undefined ? {} : { knowsRoot }) };
    this.#entries.set(`${node} ${identity}`, entry);
    if (this.#isBroken || this.#lines > this.#entries.size + slack) this.#rewrite();
    else this.#keep(() => this.#parts.files.append(file, `${JSON.stringify(entry)}\n`), 1);
  }
  /** Certificates in force, the ones that end first at the front. */
  living(): readonly Entry[] {
    const now = this.#parts.now();
    for (const [key, entry] of this.#entries) if (entry.notAfterMs <= now) this.#entries.delete(key);
    return [...this.#entries.values()].sort((a, b) => a.notAfterMs - b.notAfterMs);
  }
  /** Certificates in force that another root than this one stands behind. */
  underOtherRoots(rootNumber: number): readonly Entry[] {
    return this.living().filter((entry) => entry.rootNumber !== rootNumber);
  }
  /** Certificates in force whose holders cannot have heard of this root. */
  unawareOf(rootNumber: number): readonly Entry[] {
    return this.living().filter(({ knowsRoot }) => knowsRoot !== undefined && knowsRoot < rootNumber);
  }

  #load(): void {
    const [first = "", ...lines] = (this.#parts.files.read(file) ?? "").split("\n");
    const head = parse<{ readonly knownSinceMs: number }>(first);
    if (typeof head?.knownSinceMs !== "number") return;
    this.#knownSinceMs = head.knownSinceMs;
    for (const line of lines) {
      // A line cut by a crash is of a certificate that nobody got.
      const entry = parse<Entry>(line);
      if (entry !== undefined) this.#entries.set(`${entry.node} ${entry.identity}`, entry);
    }
  }

  #rewrite(): void {
    if (this.#isBroken) this.#knownSinceMs = this.#parts.now();
    const living = this.living();
    const lines = [{ knownSinceMs: this.#knownSinceMs }, ...living].map((line) => `${JSON.stringify(line)}\n`);
    this.#keep(() => this.#parts.files.write(file, lines.join("")), living.length - this.#lines);
  }

  /** A certificate is issued all the same when the disk is full; what is not on disk a later start does not know of. */
  #keep(write: () => void, lines: number): void {
    try {
      write();
      this.#lines += lines;
      this.#isBroken = false;
    } catch (error) {
      if (!this.#isBroken) this.#parts.log.error("ledger_not_kept", { reason: messageOf(error) });
      this.#isBroken = true;
    }
  }
}

function parse<T>(line: string): T | undefined {
  try {
    return JSON.parse(line) as T;
  } catch {
    return undefined;
  }
}
