// Keeps one collection of the API server mirrored: list, watch from there, and again whatever happens. It ends only when told to.
//
//   list (in pages) ──▶ whole content at a version ──▶ watch from that version ──▶ events, bookmarks
//    ▲                                                   │  closed, broken, silent, throttled: watch again from the last version
//    └── 410 Gone, an unreadable line, resync, or several failures on end ──┘
//
// Why not the informers of the client library (1.4.0): after an error they stay silent for good, they take a connection for proof of
// life, drop lines that they cannot read without a word, ask for no bookmarks, know nothing of Retry-After or pages, and try again at once.
import { type Backoff, type BackoffOptions, createBackoff } from "../base/backoff.ts";
import type { Clock } from "../base/clock.ts";
import type { Logger } from "../base/log.ts";
import type { Random } from "../base/random.ts";
import { err, ok, type Result } from "../base/result.ts";
import type { ApiClient, WatchEnd } from "./client.ts";
import { type ApiFault, faultLabel, faultOf, isGone, isThrottled, showFault } from "./fault.ts";
import type { ListReason, ReflectorMeter, WatchEndReason } from "./meter.ts";
import { type RawObject, readEvent, readPage } from "./wire.ts";

/** Where a reflector puts what it learns. A list is staged page by page and takes effect as a whole. */
export interface Mirror {
  stage(items: readonly RawObject[]): void;
  /** What was staged is the whole content now. */
  commit(): void;
  discard(): void;
  put(object: RawObject): void;
  remove(object: RawObject): void;
}
export interface ReflectorOptions {
  /** In logs and metrics. */
  readonly name: string;
  readonly path: string;
  /** Of every list and watch: selectors. */
  readonly query?: Readonly<Record<string, string>>;
  readonly acceptList?: string;
  readonly acceptWatch?: string;
  readonly pageSize: number;
  readonly watchIdleMs: number;
  /** How long the server is asked to keep a watch; spread by a half. */
  readonly watchMs: number;
  /** 0 for never; spread by a tenth. */
  readonly resyncMs: number;
  readonly backoff: BackoffOptions;
}
export interface ReflectorParts {
  readonly api: ApiClient;
  readonly mirror: Mirror;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly meter: ReflectorMeter;
}

/** So many failures on end, and the content is listed again: then the version itself may be what is wrong. */
const maxFailures = 5;
/** A watch that was open for so long did work, whatever came. */
const workingMs = 10_000;

export class Reflector {
  readonly #options: ReflectorOptions;
  readonly #parts: ReflectorParts;
  readonly #stop = new AbortController();
  readonly #first = Promise.withResolvers<void>();
  readonly #waiting = new Set<() => void>();
  #endWatch = new AbortController();
  #asked: ListReason | undefined;
  #version = "";
  #isSynced = false;
  #fault: ApiFault | undefined;
  #contactMs: number | undefined;
  #running: Promise<void> | undefined;

  constructor(options: ReflectorOptions, parts: ReflectorParts) {
    this.#options = options;
    this.#parts = parts;
  }

  /** Resolves after the first list that took effect, or when stopped before. */
  get first(): Promise<void> {
    return this.#first.promise;
  }
  get isSynced(): boolean {
    return this.#isSynced;
  }
  /** What stands against being up to date at present, in words. */
  get fault(): string | undefined {
    return this.#fault === undefined ? undefined : showFault(this.#fault);
  }
  /** Monotonic time of the last sign of life: an answer, an event or a bookmark. */
  get contactMs(): number | undefined {
    return this.#contactMs;
  }

  start(): void {
    this.#running ??= this.#run();
  }
  async stop(): Promise<void> {
    this.#stop.abort();
    this.#endWatch.abort();
    this.#first.resolve();
    this.#listed();
    await this.#running;
  }
  /** Lists again; resolves when that took effect, or when stopped. */
  relist(reason: ListReason): Promise<void> {
    if (this.#stop.signal.aborted) return Promise.resolve();
    this.#asked ??= reason;
    this.#endWatch.abort();
    return new Promise((resolve) => this.#waiting.add(resolve));
  }

  async #run(): Promise<void> {
    const { log, random } = this.#parts;
    const backoff = createBackoff(this.#options.backoff, random);
    let reason: ListReason = "start";
    while (!this.#stop.signal.aborted) {
      try {
        reason = await this.#round(reason, backoff);
      } catch (error) {
        // A fault of ours. Mirroring must go on whatever it was.
        log.error("kubernetes_mirror_failed", { kind: this.#options.name, error });
        await this.#pause(backoff.nextMs(), undefined);
        reason = "failures";
      }
      if (!this.#stop.signal.aborted) log.debug("kubernetes_list_again", { kind: this.#options.name, reason });
    }
  }

  /** Lists, and follows from there; answers why it must be listed again. */
  async #round(reason: ListReason, backoff: Backoff): Promise<ListReason> {
    const { log, meter } = this.#parts;
    // Who asks from now on asks for a later list.
    this.#asked = undefined;
    this.#endWatch = new AbortController();
    const waiting = [...this.#waiting];
    const listed = await this.#list(reason);
    if (this.#stop.signal.aborted) return "stopped";
    if (!listed.ok) {
      this.#failed("list", listed.error);
      await this.#pause(backoff.nextMs(), listed.error);
      // A version that the server has never heard of (it was restored from a backup) must not be asked for on end.
      return reason === "start" ? "start" : "failures";
    }
    meter.listed(reason);
    if (this.#fault !== undefined) log.info("kubernetes_reached", { kind: this.#options.name });
    this.#fault = undefined;
    this.#isSynced = true;
    meter.synced(true);
    this.#first.resolve();
    for (const resolve of waiting) {
      this.#waiting.delete(resolve);
      resolve();
    }
    return this.#follow(backoff);
  }

  /** Stages all pages and commits them. A page whose continuation has expired starts the list over, in one piece. */
  async #list(reason: ListReason): Promise<Result<void, ApiFault>> {
    const { mirror } = this.#parts;
    // After a resync the server may answer from its cache, but never with less than is known here; otherwise the answer is the newest.
    const isFresh = this.#version === "" || (reason !== "resync" && reason !== "asked");
    const from = isFresh ? {} : { resourceVersion: this.#version, resourceVersionMatch: "NotOlderThan" };
    let pageSize = this.#options.pageSize;
    for (;;) {
      const pages = await this.#pages(from, pageSize);
      if (pages.ok) {
        this.#version = pages.value;
        mirror.commit();
        return ok(undefined);
      }
      // A reflector that was stopped may have a successor, whose pages these are by now.
      if (this.#stop.signal.aborted) return pages;
      mirror.discard();
      if (isGone(pages.error) && pageSize > 0) pageSize = 0;
      else if (pages.error.kind === "too_large" && pageSize !== 1) pageSize = pageSize === 0 ? 1 : pageSize >> 1 || 1;
      else return pages;
    }
  }
  /** The version that the list is of. `pageSize` 0: all at once. */
  async #pages(from: Readonly<Record<string, string>>, pageSize: number): Promise<Result<string, ApiFault>> {
    const { api, mirror } = this.#parts;
    let token = "";
    for (;;) {
      const limit: Readonly<Record<string, string>> = pageSize === 0 ? {} : { limit: `${pageSize}` };
      const answer = await api.send({
        path: this.#options.path,
        query: { ...this.#options.query, ...limit, ...(token === "" ? from : { continue: token }) },
        ...(this.#options.acceptList === undefined ? {} : { accept: this.#options.acceptList }),
        signal: this.#stop.signal,
        deadlineMs: 300_000,
      });
      if (!answer.ok) return answer;
      if (this.#stop.signal.aborted) return err(faultOf("aborted", "stopped"));
      const page = readPage(answer.value);
      if (page === undefined) return err(faultOf("garbage", "the answer is not a list"));
      this.#contact();
      mirror.stage(page.items);
      if (page.next === "") return ok(page.version);
      token = page.next;
    }
  }

  /** Watches from the last version for as long as that goes well; answers why the content must be listed again. */
  async #follow(backoff: Backoff): Promise<ListReason> {
    const { clock, random, meter } = this.#parts;
    const { resyncMs } = this.#options;
    const cancelResync =
      resyncMs === 0 ? () => {} : clock.after(resyncMs * (0.9 + 0.2 * random.next()), () => void this.relist("resync"));
    let failures = 0;
    try {
      while (!this.#stop.signal.aborted) {
        if (this.#asked !== undefined) return this.#asked;
        const startedMs = clock.monotonicMs();
        const watched = await this.#watch();
        const { end } = watched;
        if (this.#stop.signal.aborted) return "stopped";
        const reason = endReason(watched);
        meter.watchEnded(reason);
        if (this.#asked !== undefined) return this.#asked;
        const didWork = watched.events > 0 || clock.monotonicMs() - startedMs >= workingMs;
        if (didWork) {
          failures = 0;
          backoff.reset();
        }
        if (reason === "expired") {
          // Straight away: whoever waits here does so with old knowledge. Only a server that says so again and again is given time.
          const isFirst = backoff.attempts === 0;
          const waitMs = backoff.nextMs();
          if (!isFirst) await this.#pause(waitMs, undefined);
          return "expired";
        }
        const fault = end.kind === "fault" ? end.fault : watched.fault;
        if (reason === "garbage") {
          this.#failed("watch", fault ?? faultOf("garbage", "unreadable"));
          await this.#pause(backoff.nextMs(), undefined);
          return "garbage";
        }
        if (fault !== undefined) this.#failed("watch", fault);
        if ((reason === "closed" || reason === "idle") && didWork) continue;
        failures += 1;
        await this.#pause(backoff.nextMs(), fault);
        if (failures >= maxFailures) return "failures";
      }
      return "stopped";
    } finally {
      cancelResync();
    }
  }

  async #watch(): Promise<Watched> {
    const { api, random, mirror, meter } = this.#parts;
    const { path, query, acceptWatch, watchIdleMs, watchMs } = this.#options;
    let events = 0;
    let fault: ApiFault | undefined;
    const { signal } = this.#endWatch;
    const line = (text: string): boolean => {
      // What was under way when we were told to end belongs to nobody.
      if (signal.aborted) return false;
      this.#contact();
      const event = readEvent(text);
      if ("fault" in event) {
        fault = event.fault;
        return false;
      }
      events += 1;
      if (event.version !== "") this.#version = event.version;
      if (event.kind === "put") mirror.put(event.object);
      if (event.kind === "remove") mirror.remove(event.object);
      if (event.kind !== "bookmark") meter.event();
      return true;
    };
    const seconds = Math.max(1, Math.round((watchMs * (1 + 0.5 * random.next())) / 1000));
    const end = await api.watch({
      path,
      query: {
        ...query,
        watch: "true",
        allowWatchBookmarks: "true",
        resourceVersion: this.#version,
        timeoutSeconds: `${seconds}`,
      },
      ...(acceptWatch === undefined ? {} : { accept: acceptWatch }),
      signal,
      idleMs: watchIdleMs,
      line,
      opened: () => {
        // The server knows the version and has begun to answer: what was wrong is over.
        if (this.#fault !== undefined) this.#parts.log.info("kubernetes_reached", { kind: this.#options.name });
        this.#fault = undefined;
        this.#contact();
      },
    });
    return { end, events, fault };
  }

  #contact(): void {
    this.#contactMs = this.#parts.clock.monotonicMs();
    this.#parts.meter.contact();
  }
  #failed(what: "list" | "watch", fault: ApiFault): void {
    const { log, meter } = this.#parts;
    meter.failed(faultLabel(fault));
    const { name } = this.#options;
    // One line when it begins or changes, not one for each try.
    const isNew = this.#fault === undefined || faultLabel(this.#fault) !== faultLabel(fault);
    this.#fault = fault;
    const fields = { kind: name, reason: showFault(fault), effect: "what is known stays in force" };
    if (!isNew) log.debug(`kubernetes_${what}_failed`, fields);
    else if (isThrottled(fault) || what === "watch") log.warn(`kubernetes_${what}_failed`, fields);
    else log.error(`kubernetes_${what}_failed`, fields);
  }

  /** Waits, at least as long as the server asked for (and then up to a tenth longer, so that not all come back at once). */
  async #pause(ms: number, fault: ApiFault | undefined): Promise<void> {
    const { clock, random } = this.#parts;
    const asked = fault?.kind === "status" && fault.retryAfterMs !== undefined ? fault.retryAfterMs : 0;
    const wait = Math.max(ms, asked * (1 + 0.1 * random.next()));
    if (wait > 0) await clock.sleep(wait, this.#stop.signal);
  }
  #listed(): void {
    for (const resolve of this.#waiting) resolve();
    this.#waiting.clear();
  }
}

interface Watched {
  readonly end: WatchEnd;
  /** Events and bookmarks that were read. */
  readonly events: number;
  /** What an ERROR event said, or what was wrong with a line. */
  readonly fault: ApiFault | undefined;
}
function endReason({ end, fault }: Watched): WatchEndReason {
  const why = end.kind === "fault" ? end.fault : fault;
  if (why === undefined) return end.kind === "closed" || end.kind === "idle" ? end.kind : "stopped";
  if (isGone(why)) return "expired";
  if (isThrottled(why)) return "throttled";
  if (why.kind === "garbage") return "garbage";
  return why.kind === "status" ? "refused" : "broken";
}
