// One replica of several writes: who holds a Lease. Times of others are never compared with our clock: a lease is over when it has not
// changed for its duration since we first saw it so. The holder stops by its own clock, well before anybody else may begin.
//
//   renewed ───────────── renewMs ──▶ the holder stops ── durationMs ──▶ others may take it
import type { Clock } from "../../agent/base/clock.ts";
import type { Logger } from "../../agent/base/log.ts";
import type { Random } from "../../agent/base/random.ts";
import type { ApiClient } from "../../agent/kubernetes/client.ts";
import { type ApiFault, faultLabel, isConflict, isMissing, showFault } from "../../agent/kubernetes/fault.ts";
import { type LeaseRecord, readLease, writeLease } from "./record.ts";

export interface ElectionOptions {
  readonly namespace: string;
  readonly name: string;
  /** Of this replica; no two have the same, not even one after the other. */
  readonly identity: string;
  /** Others wait so long after the last renewal that they saw. Whole seconds. */
  readonly durationMs: number;
  /** Without a renewal for so long the holder stops; below `durationMs`. */
  readonly renewMs: number;
  /** Between two tries; spread by a fifth. */
  readonly retryMs: number;
}
export interface ElectionMeter {
  leading(isLeading: boolean): void;
  /** acquired, lost, released */
  changed(what: "acquired" | "lost" | "released"): void;
  failed(reason: string): void;
}
export interface ElectionParts {
  readonly api: ApiClient;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly meter: ElectionMeter;
}
/** Told when leading begins; the signal aborts when it is over, for whatever reason. */
export type Lead = (signal: AbortSignal) => void;

export class Election {
  readonly #options: ElectionOptions;
  readonly #parts: ElectionParts;
  readonly #path: string;
  readonly #stop = new AbortController();
  readonly #leads = new Set<Lead>();
  #seen: { readonly record: LeaseRecord; readonly atMs: number } | undefined;
  #leading: { readonly over: AbortController; renewedMs: number; cancelEnd: () => void } | undefined;
  #running: Promise<void> | undefined;
  #failure = "";

  constructor(options: ElectionOptions, parts: ElectionParts) {
    this.#options = options;
    this.#parts = parts;
    this.#path = `/apis/coordination.k8s.io/v1/namespaces/${options.namespace}/leases`;
  }

  /** To be asked before every write: true only while nobody else can hold the lease. */
  get isLeading(): boolean {
    const { clock } = this.#parts;
    return this.#leading !== undefined && clock.monotonicMs() - this.#leading.renewedMs < this.#options.renewMs;
  }
  /** Who held it when it was seen last; "" for nobody. */
  get holder(): string {
    return this.#seen?.record.holder ?? "";
  }
  /** What stands against taking part at present, in words. */
  get fault(): string | undefined {
    return this.#failure === "" ? undefined : this.#failure;
  }
  /** Calls `lead` each time that this replica begins to lead, at once if it does. */
  onLead(lead: Lead): void {
    this.#leads.add(lead);
    if (this.#leading !== undefined) lead(this.#leading.over.signal);
  }

  start(): void {
    this.#parts.meter.leading(false);
    this.#running ??= this.#run();
  }
  /** Gives the lease up if it is held, so that another replica has it at once. */
  async stop(): Promise<void> {
    this.#stop.abort();
    await this.#running;
    const seen = this.#seen;
    const wasLeading = this.#leading !== undefined;
    this.#end(wasLeading ? "released" : undefined);
    if (!wasLeading || seen === undefined) return;
    const given = await this.#write("", seen.record);
    if (!given.ok) this.#failed(given.fault);
  }

  async #run(): Promise<void> {
    const { clock, random } = this.#parts;
    while (!this.#stop.signal.aborted) {
      await this.#turn();
      if (this.#stop.signal.aborted) return;
      await clock.sleep(this.#options.retryMs * (0.9 + 0.2 * random.next()), this.#stop.signal);
    }
  }

  /** Looks, and takes, renews or leaves it. */
  async #turn(): Promise<void> {
    const { api, clock } = this.#parts;
    const startedMs = clock.monotonicMs();
    const seen = this.#seen;
    // The holder writes on what it wrote last: one request, and a conflict tells that somebody else was there.
    if (this.isLeading && seen !== undefined) {
      await this.#claim(seen.record, startedMs);
      return;
    }
    const { signal } = this.#stop;
    const answer = await api.send({
      path: `${this.#path}/${this.#options.name}`,
      signal,
      deadlineMs: this.#deadlineMs,
    });
    if (signal.aborted) return;
    if (!answer.ok && !isMissing(answer.error)) {
      this.#failed(answer.error);
      return;
    }
    if (!answer.ok) {
      await this.#claim(undefined, startedMs);
      return;
    }
    const found = readLease(answer.value);
    if (found === undefined) {
      this.#failed({ kind: "garbage", message: "the answer is not a Lease" });
      return;
    }
    this.#failure = "";
    this.#see(found);
    const { identity } = this.#options;
    const isFree = found.holder === "" || (this.#seen !== undefined && this.#isOver(this.#seen));
    if (isFree || found.holder === identity) await this.#claim(found, startedMs);
  }
  get #deadlineMs(): number {
    return Math.max(1000, this.#options.renewMs / 2);
  }
  #isOver({ record, atMs }: { readonly record: LeaseRecord; readonly atMs: number }): boolean {
    return this.#parts.clock.monotonicMs() - atMs >= record.durationMs;
  }
  #see(record: LeaseRecord): void {
    const before = this.#seen?.record;
    const isSame =
      before?.holder === record.holder &&
      before.renewTime === record.renewTime &&
      before.resourceVersion === record.resourceVersion;
    if (!isSame) this.#seen = { record, atMs: this.#parts.clock.monotonicMs() };
    if (before?.holder !== record.holder)
      this.#parts.log.info("lease_holder", { holder: record.holder, isOurs: record.holder === this.#options.identity });
  }

  /** `startedMs` is from before the request: the lease runs from then at the latest. */
  async #claim(before: LeaseRecord | undefined, startedMs: number): Promise<void> {
    // Not given up half way when stopping: what the server has must be known to be given back.
    const written = await this.#write(this.#options.identity, before);
    if (written.ok) {
      this.#failure = "";
      this.#see(written.record);
      this.#renewed(startedMs);
      return;
    }
    // Somebody else wrote or removed it: who holds it is read in the next turn, and until it is known we do not.
    const isTaken = isConflict(written.fault) || (before !== undefined && isMissing(written.fault));
    if (isTaken) this.#end("lost");
    else this.#failed(written.fault);
  }
  async #write(
    holder: string,
    before: LeaseRecord | undefined,
  ): Promise<{ readonly ok: true; readonly record: LeaseRecord } | { readonly ok: false; readonly fault: ApiFault }> {
    const { api, clock } = this.#parts;
    const { namespace, name, durationMs } = this.#options;
    const answer = await api.send({
      method: before === undefined ? "POST" : "PUT",
      path: before === undefined ? this.#path : `${this.#path}/${name}`,
      body: writeLease({ namespace, name, holder, durationMs, nowMs: clock.now() }, before),
      deadlineMs: this.#deadlineMs,
    });
    if (!answer.ok) return { ok: false, fault: answer.error };
    const record = readLease(answer.value);
    return record === undefined
      ? { ok: false, fault: { kind: "garbage", message: "the answer is not a Lease" } }
      : { ok: true, record };
  }

  #renewed(atMs: number): void {
    const { clock, log, meter } = this.#parts;
    const isNew = this.#leading === undefined;
    const leftMs = atMs + this.#options.renewMs - clock.monotonicMs();
    if (leftMs <= 0) {
      // An answer that came too late is no renewal.
      this.#end("lost");
      return;
    }
    this.#leading?.cancelEnd();
    const leading = this.#leading ?? { over: new AbortController(), renewedMs: atMs, cancelEnd: () => {} };
    leading.renewedMs = atMs;
    leading.cancelEnd = clock.after(leftMs, () => this.#end("lost"));
    this.#leading = leading;
    if (!isNew) return;
    log.info("leading", { identity: this.#options.identity });
    meter.changed("acquired");
    meter.leading(true);
    for (const lead of this.#leads) lead(leading.over.signal);
  }
  #end(why: "lost" | "released" | undefined): void {
    const leading = this.#leading;
    if (leading === undefined || why === undefined) return;
    this.#leading = undefined;
    leading.cancelEnd();
    leading.over.abort();
    const { log, meter } = this.#parts;
    log[why === "lost" ? "warn" : "info"](`lease_${why}`, { identity: this.#options.identity, reason: this.#failure });
    meter.changed(why);
    meter.leading(false);
  }
  #failed(fault: ApiFault): void {
    const { log, meter } = this.#parts;
    meter.failed(faultLabel(fault));
    const failure = showFault(fault);
    if (this.#failure === "")
      log.warn("lease_failed", { reason: failure, effect: "nothing is written to the cluster" });
    this.#failure = failure;
  }
}
