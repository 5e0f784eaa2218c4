// The SVID of every identity that a pod of this node has: fetched once, renewed long before its end, handed to native. Fetches
// of identities without one come first; a failing renewal is tried again with growing pauses and never disturbs what still holds.
import type { SpiffeId } from "../api/names.ts";
import { type Backoff, createBackoff } from "../base/backoff.ts";
import type { Clock } from "../base/clock.ts";
import type { Logger } from "../base/log.ts";
import type { Random } from "../base/random.ts";
import type { Result } from "../base/result.ts";
import type { CertificateAuthority } from "./ca-client.ts";
import { makeKeyAndRequest } from "./keys.ts";
import type { StoredSvid } from "./svid-files.ts";

export interface SvidKeeper {
  load(): Promise<readonly StoredSvid[]>;
  save(svid: StoredSvid): Promise<void>;
  remove(identity: string): Promise<void>;
}
export interface SvidSettings {
  /** Share of its life after which an SVID is renewed; 0.8 at most counts. */
  readonly renewAt: number;
  /** How long an expired SVID stays with native, so that open streams on its tunnels live on; then `tls_no_svid`. */
  readonly graceMs: number;
}
/** No pod here needs it any more, or it has ended and no new one was to be had. */
export type Withdrawn = "unneeded" | "lost";

export interface SvidParts {
  readonly ca: Pick<CertificateAuthority, "issue">;
  readonly files: SvidKeeper;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly settings: () => SvidSettings;
  /** Gives native the SVID; `generation` grows with each. */
  readonly push: (svid: StoredSvid, generation: number) => Promise<Result<unknown, { readonly message: string }>>;
  readonly withdraw: (identity: SpiffeId, why: Withdrawn) => Promise<unknown>;
  readonly failed: (identity: SpiffeId) => void;
  readonly rotated: (identity: SpiffeId) => void;
  /** An identity has a new SVID. */
  readonly arrived: (identity: SpiffeId) => void;
}
export interface SvidStatus {
  readonly identity: SpiffeId;
  readonly state: "missing" | "current" | "overdue" | "expired";
  readonly notAfterMs?: number;
  readonly renewAtMs?: number;
  readonly trustGeneration?: number;
  readonly failures: number;
  readonly lastError?: string;
}

interface Entry {
  readonly identity: SpiffeId;
  readonly backoff: Backoff;
  svid: StoredSvid | undefined;
  renewAtMs: number;
  fetching: boolean;
  failures: number;
  lastError: string | undefined;
  cancel: () => void;
}

const latestRenewal = 0.8;
const jitterShare = 0.05;
/** Fetches under way at once: a node with many new pods must not flood the authority. */
const parallel = 8;

export class SvidStore {
  readonly #parts: SvidParts;
  readonly #entries = new Map<SpiffeId, Entry>();
  readonly #waiting: Entry[] = [];
  /** Left by an earlier agent and with native since the start, until a pod's need of it is clear. */
  readonly #kept = new Map<string, StoredSvid>();
  readonly #arrivals = new Map<SpiffeId, Set<AbortController>>();
  #running = 0;
  #generation = 0;
  #trustGeneration = 0;
  #stopped = false;

  constructor(parts: SvidParts) {
    this.#parts = parts;
  }

  /** Reads what an earlier agent left, and hands on what still holds: a successor has SVIDs before the first connection is its own. */
  async load(): Promise<void> {
    for (const svid of await this.#parts.files.load()) {
      if (svid.notAfterMs <= this.#parts.clock.now()) {
        await this.#forget(svid.identity as SpiffeId);
        continue;
      }
      const pushed = await this.#parts.push(svid, ++this.#generation);
      // What native would not take is not taken for its own later either: it is fetched anew.
      if (pushed.ok) this.#kept.set(svid.identity, svid);
    }
  }

  /** All pods are known now: what an earlier agent left and none of them needs goes. */
  async dropUnneeded(): Promise<void> {
    const left = [...this.#kept.keys()] as SpiffeId[];
    this.#kept.clear();
    for (const identity of left) {
      if (this.#entries.has(identity)) continue;
      await this.#parts.withdraw(identity, "unneeded");
      await this.#forget(identity);
    }
  }

  async #forget(identity: SpiffeId): Promise<void> {
    await this.#parts.files.remove(identity).catch(() => {});
  }

  /** The identities that are needed from now on; all others are forgotten and their keys removed. */
  want(identities: ReadonlySet<SpiffeId>): void {
    for (const identity of identities) if (!this.#entries.has(identity)) this.#begin(identity);
    for (const [identity, entry] of this.#entries) {
      if (identities.has(identity)) continue;
      entry.cancel();
      this.#entries.delete(identity);
      void this.#forget(identity);
      void this.#parts.withdraw(identity, "unneeded");
    }
  }

  /** Resolves when the identity has an SVID that holds, or after `ms`. */
  async ready(identity: SpiffeId, ms: number): Promise<boolean> {
    const entry = this.#entries.get(identity);
    if (entry !== undefined && !this.#holds(entry)) {
      const done = new AbortController();
      const waiters = this.#arrivals.get(identity) ?? new Set();
      waiters.add(done);
      this.#arrivals.set(identity, waiters);
      await this.#parts.clock.sleep(ms, done.signal);
      waiters.delete(done);
      if (waiters.size === 0 && this.#arrivals.get(identity) === waiters) this.#arrivals.delete(identity);
    }
    return entry !== undefined && this.#holds(entry);
  }

  /** The roots changed: SVIDs issued under an older set are renewed within a tenth of their life, at most 30 s. */
  trustChanged(generation: number): void {
    if (generation <= this.#trustGeneration) return;
    this.#trustGeneration = generation;
    for (const entry of this.#entries.values()) {
      const { svid } = entry;
      if (svid === undefined || svid.trustGeneration >= generation) continue;
      const within = Math.min(30_000, (svid.notAfterMs - svid.issuedAtMs) / 10);
      this.#schedule(entry, this.#parts.clock.now() + this.#parts.random.next() * within);
    }
  }

  /** The current SVID of an identity that a pod here has; it may have expired. */
  current(identity: SpiffeId): StoredSvid | undefined {
    return this.#entries.get(identity)?.svid;
  }

  /** Tries again at once whatever failed: the controller is back. */
  retryNow(): void {
    for (const entry of this.#entries.values()) if (entry.failures > 0) this.#schedule(entry, this.#parts.clock.now());
  }

  statuses(): readonly SvidStatus[] {
    return [...this.#entries.values()].map((entry) => this.#status(entry));
  }

  stop(): void {
    this.#stopped = true;
    for (const entry of this.#entries.values()) entry.cancel();
  }

  #begin(identity: SpiffeId): void {
    const backoff = createBackoff({ baseMs: 250, maxMs: 15_000 }, this.#parts.random);
    const entry: Entry = {
      identity,
      backoff,
      svid: undefined,
      renewAtMs: 0,
      fetching: false,
      failures: 0,
      lastError: undefined,
      cancel: () => {},
    };
    this.#entries.set(identity, entry);
    const kept = this.#kept.get(identity);
    this.#kept.delete(identity);
    if (kept !== undefined && kept.notAfterMs > this.#parts.clock.now()) this.#current(entry, kept);
    else this.#enqueue(entry);
  }

  #enqueue(entry: Entry): void {
    entry.cancel();
    if (entry.fetching || this.#stopped || this.#waiting.includes(entry)) return;
    if (entry.svid === undefined) this.#waiting.unshift(entry);
    else this.#waiting.push(entry);
    this.#pump();
  }

  #pump(): void {
    while (this.#running < parallel) {
      const entry = this.#waiting.shift();
      if (entry === undefined) return;
      if (this.#entries.get(entry.identity) !== entry) continue;
      this.#running++;
      entry.fetching = true;
      void this.#fetch(entry).finally(() => {
        this.#running--;
        entry.fetching = false;
        this.#pump();
      });
    }
  }

  async #fetch(entry: Entry): Promise<void> {
    const { ca, clock, files, log } = this.#parts;
    const { keyPem, csrPem } = await makeKeyAndRequest(entry.identity);
    const issued = await ca.issue(entry.identity, csrPem);
    if (this.#entries.get(entry.identity) !== entry || this.#stopped) return;
    if (!issued.ok) {
      this.#fail(entry, issued.error);
      return;
    }
    const { chainPem, notAfterMs, trustGeneration } = issued.value;
    const svid = { identity: entry.identity, keyPem, chainPem, notAfterMs, trustGeneration, issuedAtMs: clock.now() };
    const isRenewal = entry.svid !== undefined;
    await this.#adopt(entry, svid);
    if (isRenewal) this.#parts.rotated(entry.identity);
    await files.save(svid).catch((error: Error) => log.warn("svid_not_kept", { identity: entry.identity, error }));
  }

  async #adopt(entry: Entry, svid: StoredSvid): Promise<void> {
    const pushed = await this.#parts.push(svid, ++this.#generation);
    if (!pushed.ok) {
      this.#fail(entry, `native refused it: ${pushed.error.message}`);
      return;
    }
    if (this.#entries.get(entry.identity) !== entry) {
      void this.#parts.withdraw(entry.identity, this.#entries.has(entry.identity) ? "lost" : "unneeded");
      return;
    }
    this.#current(entry, svid);
  }

  /** Native has it. */
  #current(entry: Entry, svid: StoredSvid): void {
    entry.svid = svid;
    entry.failures = 0;
    entry.lastError = undefined;
    entry.backoff.reset();
    this.#schedule(entry, this.#renewalTime(svid));
    for (const waiter of [...(this.#arrivals.get(entry.identity) ?? [])]) waiter.abort();
    this.#arrivals.delete(entry.identity);
    this.#parts.arrived(entry.identity);
    this.#parts.log.debug("svid_current", { identity: entry.identity, notAfterMs: svid.notAfterMs });
  }

  /** Life counts from issue, not from NotBefore, which lies in the past on purpose (IDN-6). */
  #renewalTime(svid: StoredSvid): number {
    const life = svid.notAfterMs - svid.issuedAtMs;
    const wanted = this.#parts.settings().renewAt + (this.#parts.random.next() * 2 - 1) * jitterShare;
    return svid.issuedAtMs + life * Math.min(latestRenewal, Math.max(0.05, wanted));
  }

  #fail(entry: Entry, message: string): void {
    const { clock, log } = this.#parts;
    entry.failures++;
    entry.lastError = message;
    this.#parts.failed(entry.identity);
    const life = entry.svid === undefined ? Number.POSITIVE_INFINITY : entry.svid.notAfterMs - entry.svid.issuedAtMs;
    // A short-lived SVID leaves no time for long pauses: at least ten tries fit into what remains after 50 %.
    const pause = Math.min(entry.backoff.nextMs(), life / 20);
    log.warn("svid_fetch_failed", { identity: entry.identity, message, failures: entry.failures, retryMs: pause });
    this.#schedule(entry, clock.now() + pause);
    const { svid } = entry;
    if (svid !== undefined && clock.now() > svid.notAfterMs + this.#parts.settings().graceMs) {
      entry.svid = undefined;
      log.error("svid_lost", { identity: entry.identity, notAfterMs: svid.notAfterMs, message });
      void this.#parts.withdraw(entry.identity, "lost");
    }
  }

  #schedule(entry: Entry, atMs: number): void {
    entry.cancel();
    entry.renewAtMs = atMs;
    entry.cancel = this.#parts.clock.after(Math.max(0, atMs - this.#parts.clock.now()), () => this.#enqueue(entry));
  }

  #holds = (entry: Entry): boolean => entry.svid !== undefined && entry.svid.notAfterMs > this.#parts.clock.now();

  #status(entry: Entry): SvidStatus {
    const { svid, identity, failures, lastError } = entry;
    const trouble = { failures, ...(lastError === undefined ? {} : { lastError }) };
    if (svid === undefined) return { identity, state: "missing", ...trouble };
    const now = this.#parts.clock.now();
    const latest = svid.issuedAtMs + (svid.notAfterMs - svid.issuedAtMs) * latestRenewal;
    const state = now >= svid.notAfterMs ? "expired" : now > latest ? "overdue" : "current";
    const { notAfterMs, trustGeneration } = svid;
    return { identity, state, notAfterMs, renewAtMs: entry.renewAtMs, trustGeneration, ...trouble };
  }
}
