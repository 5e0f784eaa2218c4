// Events about objects (events.k8s.io/v1): the first of its sort is made, what repeats it is counted in its series. Told once at most: an event
// that cannot be written is counted and forgotten, since the object's conditions have the truth.
import type { Clock } from "../../agent/base/clock.ts";
import type { Logger } from "../../agent/base/log.ts";
import type { ApiClient } from "../../agent/kubernetes/client.ts";
import { type ApiFault, isMissing, showFault } from "../../agent/kubernetes/fault.ts";
import { microTime } from "../../agent/kubernetes/wire.ts";
import { type Address, apiVersionOf, type EventNote, fieldManager } from "./desired.ts";
import { Pace } from "./pace.ts";

export interface EventOptions {
  /** "fairlead.dev/controller" */
  readonly controller: string;
  /** This replica. */
  readonly instance: string;
  readonly perSecond: number;
  readonly burst: number;
  /** Repetitions are gathered for so long before the series is written. */
  readonly gatherMs: number;
  /** A series ends when nothing repeated it for so long. */
  readonly seriesMs: number;
}
export interface EventParts {
  readonly api: ApiClient;
  readonly clock: Clock;
  readonly log: Logger;
  /** Asked before each request. */
  readonly mayWrite: () => boolean;
  /** Hexadecimal, never twice. */
  readonly newId: () => string;
  /** created, counted, dropped, failed */
  readonly told: (outcome: "created" | "counted" | "dropped" | "failed") => void;
}
export interface Regarded {
  readonly at: Address;
  /** "" when it is not known. */
  readonly uid: string;
  /** Correlation id of the reconcile that tells it. */
  readonly reconcile: string;
}
interface Series {
  readonly path: string;
  count: number;
  lastMs: number;
  cancelFlush: (() => void) | undefined;
  cancelEnd: () => void;
}
/** More sorts of events at a time are not kept apart from new ones. */
const maxSeries = 5000;

export class EventWriter {
  readonly #options: EventOptions;
  readonly #parts: EventParts;
  readonly #pace: Pace;
  readonly #series = new Map<string, Series>();

  constructor(options: EventOptions, parts: EventParts) {
    this.#options = options;
    this.#parts = parts;
    this.#pace = new Pace(options, parts.clock);
  }

  /** Resolves when it is written or given up. */
  async tell(regarded: Regarded, note: EventNote): Promise<void> {
    const { at, uid } = regarded;
    const key = [at.plural, at.namespace, at.name, uid, note.type, note.reason, note.action].join("/");
    const known = this.#series.get(key);
    if (known !== undefined) {
      this.#repeat(key, known);
      return;
    }
    if (!this.#pace.tryTake() || this.#series.size >= maxSeries) {
      this.#parts.told("dropped");
      return;
    }
    const { clock, newId } = this.#parts;
    const namespace = at.namespace === "" ? "default" : at.namespace;
    const collection = `/apis/events.k8s.io/v1/namespaces/${encodeURIComponent(namespace)}/events`;
    // A name has at most 253 characters.
    const name = `${at.name.slice(0, 200)}.${newId()}`;
    const series: Series = {
      path: `${collection}/${name}`,
      count: 1,
      lastMs: clock.now(),
      cancelFlush: undefined,
      cancelEnd: () => {},
    };
    this.#series.set(key, series);
    this.#endLater(key, series);
    const fault = await this.#send("POST", collection, this.#event(name, namespace, regarded, note, series.lastMs));
    this.#parts.told(fault === undefined ? "created" : "failed");
    if (fault !== undefined) this.#forget(key, series);
  }
  /** Forgets every series: whoever leads next begins its own. */
  close(): void {
    for (const [key, series] of [...this.#series]) this.#forget(key, series);
  }

  #event(name: string, namespace: string, regarded: Regarded, note: EventNote, nowMs: number): object {
    const { at, uid, reconcile } = regarded;
    return {
      apiVersion: "events.k8s.io/v1",
      kind: "Event",
      metadata: { name, namespace, annotations: { "fairlead.dev/reconcile": reconcile } },
      eventTime: microTime(nowMs),
      reportingController: this.#options.controller,
      // Limits of the API: 128 and 1024.
      reportingInstance: this.#options.instance.slice(0, 128),
      type: note.type,
      reason: note.reason.slice(0, 128),
      action: note.action.slice(0, 128),
      note: note.note.slice(0, 1000),
      regarding: {
        apiVersion: apiVersionOf(at),
        kind: at.kind,
        ...(at.namespace === "" ? {} : { namespace: at.namespace }),
        name: at.name,
        ...(uid === "" ? {} : { uid }),
      },
    };
  }
  #repeat(key: string, series: Series): void {
    const { clock } = this.#parts;
    series.count += 1;
    series.lastMs = clock.now();
    series.cancelEnd();
    this.#endLater(key, series);
    series.cancelFlush ??= clock.after(this.#options.gatherMs, () => void this.#flush(key, series));
  }
  async #flush(key: string, series: Series): Promise<void> {
    series.cancelFlush = undefined;
    const body = { series: { count: series.count, lastObservedTime: microTime(series.lastMs) } };
    const fault = await this.#send("PATCH", series.path, body);
    this.#parts.told(fault === undefined ? "counted" : "failed");
    // Events live for an hour: one that is gone begins anew.
    if (fault !== undefined && isMissing(fault)) this.#forget(key, series);
  }
  #endLater(key: string, series: Series): void {
    series.cancelEnd = this.#parts.clock.after(this.#options.seriesMs, () => this.#forget(key, series));
  }
  #forget(key: string, series: Series): void {
    series.cancelFlush?.();
    series.cancelEnd();
    if (this.#series.get(key) === series) this.#series.delete(key);
  }
  async #send(method: "POST" | "PATCH", path: string, body: object): Promise<ApiFault | undefined> {
    const { api, log, mayWrite } = this.#parts;
    if (!mayWrite()) return { kind: "aborted", message: "this replica does not lead any more" };
    const answer = await api.send({
      method,
      path,
      query: { fieldManager },
      body,
      ...(method === "PATCH" ? { contentType: "application/merge-patch+json" } : {}),
      deadlineMs: 10_000,
    });
    if (answer.ok) return undefined;
    log.debug("event_not_written", { path, reason: showFault(answer.error) });
    return answer.error;
  }
}
