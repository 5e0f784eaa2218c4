// Writes to the cluster while this replica leads: reconcilers say what is wanted for a key, the queue when it is its turn, and here one run
// reads each object, compares, and writes what differs. Before each write it is asked whether we still lead.
import type { Clock } from "../../agent/base/clock.ts";
import { every } from "../../agent/base/clock.ts";
import { type Logger, messageOf } from "../../agent/base/log.ts";
import type { Random } from "../../agent/base/random.ts";
import type { ApiClient, ApiRequest } from "../../agent/kubernetes/client.ts";
import { type ApiFault, faultLabel, isMissing, showFault } from "../../agent/kubernetes/fault.ts";
import {
  type Address,
  apiVersionOf,
  type Change,
  type Desired,
  fieldManager,
  type Present,
  pathOf,
  type Reconciler,
  showAddress,
} from "./desired.ts";
import type { EventWriter } from "./events.ts";
import { Pace, type PaceOptions } from "./pace.ts";
import { KeyQueue, type QueueOptions, type Verdict } from "./queue.ts";

export interface WritersOptions extends QueueOptions {
  /** Requests of all kinds together, reading ones included. */
  readonly pace: PaceOptions;
  /** Every key is looked at again after so long, whatever others did to its objects meanwhile. */
  readonly reviewMs: number;
}
/** `stood_down`: this replica does not lead any more, so it was left to the next one. */
export type Outcome =
  | "written"
  | "unchanged"
  | "conflict"
  | "missing"
  | "throttled"
  | "forbidden"
  | "refused"
  | "failed"
  | "stood_down";
export interface WriteMeter {
  wrote(kind: string, outcome: Outcome): void;
  /** One run for one key. */
  reconciled(kind: string, seconds: number): void;
  waited(seconds: number): void;
  gaveUp(kind: string): void;
}
export interface WritersParts {
  readonly api: ApiClient;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly meter: WriteMeter;
  readonly events: EventWriter;
  /** Which replica writes. `onLead` tells a signal that aborts when leading is over. */
  readonly lead: { readonly isLeading: boolean; onLead(lead: (signal: AbortSignal) => void): void };
  /** Correlation ids: hexadecimal, never twice. */
  readonly newId: () => string;
}
interface Written {
  readonly outcome: Outcome;
  readonly fault?: ApiFault;
}

export class Writers {
  readonly #parts: WritersParts;
  readonly #reconcilers = new Map<string, Reconciler>();
  readonly #queue: KeyQueue;
  readonly #pace: Pace;
  readonly #reviewMs: number;
  #leading: AbortSignal | undefined;

  constructor(options: WritersOptions, parts: WritersParts) {
    this.#parts = parts;
    this.#pace = new Pace(options.pace, parts.clock);
    this.#reviewMs = options.reviewMs;
    this.#queue = new KeyQueue(options, {
      clock: parts.clock,
      random: parts.random,
      run: (id, attempt) => this.#run(id, attempt),
      spacingMs: (id) => this.#split(id).reconciler.spacingMs,
      waited: (seconds) => parts.meter.waited(seconds),
      gaveUp: (id, attempts) => {
        const { reconciler, key } = this.#split(id);
        parts.meter.gaveUp(reconciler.kind);
        parts.log.error("reconcile_given_up", { kind: reconciler.kind, key, attempts, again: "when it changes" });
      },
    });
  }

  get depth(): number {
    return this.#queue.depth;
  }
  /** Adds a reconciler. @returns has a key looked at soon; on a replica that does not lead it does nothing */
  register(reconciler: Reconciler): (key: string) => void {
    this.#reconcilers.set(reconciler.kind, reconciler);
    return (key) => this.#queue.add(`${reconciler.kind}/${key}`);
  }
  /** Begins to write whenever this replica leads. */
  start(): void {
    this.#parts.lead.onLead((signal) => {
      this.#leading = signal;
      this.#queue.open();
      const stopReviews = every(this.#parts.clock, this.#reviewMs, () => this.#addAll());
      signal.addEventListener(
        "abort",
        () => {
          stopReviews();
          this.#queue.close();
          this.#parts.events.close();
        },
        { once: true },
      );
      if (!signal.aborted) this.#addAll();
    });
  }

  #addAll(): void {
    for (const reconciler of this.#reconcilers.values())
      for (const key of reconciler.keys()) this.#queue.add(`${reconciler.kind}/${key}`);
  }
  #split(id: string): { readonly reconciler: Reconciler; readonly key: string } {
    const at = id.indexOf("/");
    const reconciler = this.#reconcilers.get(id.slice(0, at));
    if (reconciler === undefined) throw new Error(`nothing reconciles ${id}`);
    return { reconciler, key: id.slice(at + 1) };
  }

  /** One run for one key. Every line of the log and every event of it carries its id. */
  async #run(id: string, attempt: number): Promise<Verdict> {
    const { clock, meter, newId } = this.#parts;
    const { reconciler, key } = this.#split(id);
    const { kind } = reconciler;
    const startedMs = clock.monotonicMs();
    const reconcile = newId();
    const log = this.#parts.log.with({ reconcile, kind, key, attempt });
    const signal = this.#leading;
    if (signal === undefined || signal.aborted) return { kind: "done" };
    let verdict: Verdict = { kind: "done" };
    try {
      for (const desired of await reconciler.desired(key)) {
        if (verdict.kind === "again" && desired.isAlways !== true) continue;
        const { outcome, fault } = await this.#write(desired, reconcile, signal);
        if (signal.aborted) return { kind: "done" };
        meter.wrote(kind, outcome);
        if (outcome === "written") log.info("written", { object: showAddress(desired.at) });
        const next = verdictOf(outcome, fault);
        if (fault !== undefined && next.kind === "again")
          log[attempt === 1 && outcome !== "conflict" ? "warn" : "debug"]("write_failed", {
            object: showAddress(desired.at),
            outcome,
            reason: showFault(fault),
          });
        if (fault !== undefined) desired.failed?.(showFault(fault), outcome === "forbidden" || outcome === "refused");
        if (verdict.kind === "done") verdict = next;
      }
    } catch (error) {
      // Whatever it is: it is this key's trouble and no other's.
      log.error("reconcile_failed", { reason: messageOf(error), error });
      meter.wrote(kind, "failed");
      verdict = { kind: "again" };
    }
    meter.reconciled(kind, (clock.monotonicMs() - startedMs) / 1000);
    return verdict;
  }

  async #write(desired: Desired, reconcile: string, signal: AbortSignal): Promise<Written> {
    const { api, clock, events } = this.#parts;
    const { at } = desired;
    await this.#turn(signal);
    const found = await api.send({ path: pathOf(at), signal, deadlineMs: 30_000 });
    if (!found.ok && !isMissing(found.error)) return failed(found.error);
    const present = found.ok ? (found.value as Present) : undefined;
    const change = desired.change(present, clock.now());
    if (change === undefined) return { outcome: "unchanged" };
    await this.#turn(signal);
    // A process that stood still finds out here, before any timer has run.
    if (signal.aborted || !this.#parts.lead.isLeading) return { outcome: "stood_down" };
    const answer = await api.send({ ...requestOf(at, change, present), signal, deadlineMs: 30_000 });
    if (!answer.ok) {
      const written = failed(answer.error);
      // Nothing was there to be gone: the place for it is missing, its namespace or its kind, and may come.
      return present === undefined && written.outcome === "missing" ? { ...written, outcome: "failed" } : written;
    }
    if (change.event !== undefined) {
      const uid = present?.metadata.uid ?? (answer.value as Partial<Present> | null)?.metadata?.uid ?? "";
      await events.tell({ at, uid, reconcile }, change.event);
    }
    return { outcome: "written" };
  }
  async #turn(signal: AbortSignal): Promise<void> {
    const waitMs = this.#pace.takeMs();
    if (waitMs > 0) await this.#parts.clock.sleep(waitMs, signal);
  }
}

/** Writes hold for the version that they were made from: what changed meanwhile is a conflict, and is looked at anew. */
function requestOf(at: Address, change: Change, present: Present | undefined): ApiRequest {
  const { uid, resourceVersion } = present?.metadata ?? {};
  const preconditions = {
    ...(uid === undefined ? {} : { uid }),
    ...(resourceVersion === undefined ? {} : { resourceVersion }),
  };
  if (change.kind === "delete")
    return {
      method: "DELETE",
      path: pathOf(at),
      body: { apiVersion: "v1", kind: "DeleteOptions", preconditions, propagationPolicy: "Background" },
    };
  const path = `${pathOf(at)}${change.isStatus ? "/status" : ""}`;
  const own = change.fields.metadata as Readonly<Record<string, unknown>> | undefined;
  if (change.kind === "merge")
    return {
      method: "PATCH",
      path,
      query: { fieldManager },
      contentType: "application/merge-patch+json",
      body: { ...change.fields, metadata: { ...own, ...preconditions } },
    };
  const place = at.namespace === "" ? {} : { namespace: at.namespace };
  return {
    method: "PATCH",
    path,
    query: { fieldManager: change.manager ?? fieldManager, force: "true" },
    contentType: "application/apply-patch+yaml",
    body: {
      ...change.fields,
      apiVersion: apiVersionOf(at),
      kind: at.kind,
      metadata: { ...own, ...preconditions, name: at.name, ...place },
    },
  };
}

function failed(fault: ApiFault): Written {
  const label = faultLabel(fault);
  switch (label) {
    case "conflict":
    case "missing":
    case "throttled":
    case "refused":
      return { outcome: label, fault };
    case "forbidden":
    case "unauthorized":
      return { outcome: "forbidden", fault };
    default:
      return { outcome: "failed", fault };
  }
}

/** An object that is gone wants nothing; everything else that failed may succeed later. */
function verdictOf(outcome: Outcome, fault: ApiFault | undefined): Verdict {
  if (fault === undefined || outcome === "missing") return { kind: "done" };
  return { kind: "again", afterMs: fault.kind === "status" ? fault.retryAfterMs : undefined };
}
