// Discovery as one part: what is on disk first, then the stream; freshness, refused resources, and what the controller is told back.
import { Metadata } from "@grpc/grpc-js";
import type { Enforcement, PodState } from "../api/mesh.gen.ts";
import type { PodName } from "../api/names.ts";
import { policyNameOf } from "../api/policy.ts";
import { codecs, type ResourceKind, resourceKinds } from "../api/resources.ts";
import { type Clock, every } from "../base/clock.ts";
import { type Logger, messageOf } from "../base/log.ts";
import type { Random } from "../base/random.ts";
import type { Config } from "../config.ts";
import { needsL7 } from "../decide/rules.ts";
import { DiscoveryCache } from "../discover/cache.ts";
import { ControllerSource, newVersions, type Refused } from "../discover/controller-source.ts";
import { ageMs, type Freshness, isExpired, isStale } from "../discover/freshness.ts";
import type { Knowledge } from "../flow.ts";
import type { PodStatus } from "../intercept/enrol.ts";
import type { Changes, MeshState, MeshUpdate } from "../state/mesh-state.ts";
import type { ControllerLink } from "./controller-link.ts";

export interface DiscoveryParts {
  readonly config: Config;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly state: MeshState;
  readonly link: ControllerLink;
  readonly agentVersion: string;
  readonly interception: () => string;
  readonly pods: () => readonly PodStatus[];
  readonly changed: (changes: Changes, update: MeshUpdate) => void;
  readonly connected: () => void;
  /** First heard of, too old for STRICT workloads, or fresh again. */
  readonly knowledgeChanged: (knowledge: Knowledge) => void;
  readonly cacheFailed: () => void;
}

/** How often age is looked at, and how often the file's time is set while connected. */
const tickMs = 500;
const touchMs = 10_000;

export class Discovery {
  readonly #parts: DiscoveryParts;
  readonly #versions = newVersions();
  readonly #freshness: Freshness = { connected: false, lastContactMs: 0 };
  readonly #cache: DiscoveryCache;
  readonly #source: ControllerSource;
  readonly #stop = new AbortController();
  #knowledge: Knowledge = "none";
  /** Kinds that were heard of at least once: what is absent is then known to be absent. */
  readonly #heardKinds = new Set<ResourceKind>();
  readonly #synced = new AbortController();
  /** The controller has told everything since this process began, or a connection to it has failed. */
  readonly #toldAll = new AbortController();
  #touchedMs = 0;
  #reported = "";
  #reporting: (() => void) | undefined;
  /** The report that is on its way: the next one waits for it, since calls of one connection may overtake each other. */
  #onItsWay: object | undefined;
  /** Pods that the controller may take to be in the mesh: of the last report that it confirmed, and of those since. */
  #claimed: ReadonlySet<PodName> = new Set();
  /** Before it knows its pods an agent would tell that the node has none in the mesh, and peers would speak plainly to them (DP-9). */
  #isReporter = false;

  constructor(parts: DiscoveryParts) {
    this.#parts = parts;
    const { clock, log, random, config, state, link } = parts;
    this.#cache = new DiscoveryCache({
      folder: config.cacheDir,
      clock,
      log,
      delayMs: config.cacheDelayMs,
      snapshot: () => state.snapshot(),
      versions: this.#versions,
      failed: parts.cacheFailed,
    });
    this.#source = new ControllerSource({
      node: config.node,
      open: () => link.openStream(),
      clock,
      random,
      log,
      backoff: { baseMs: 100, maxMs: config.reconnectMaxMs },
      versions: this.#versions,
      apply: (update) => this.#apply(update),
      connected: (connected) => this.#connected(connected),
      lost: () => this.#toldAll.abort(),
      heard: (kind) => this.#heard(kind),
      refusedChanged: () => this.reportSoon(),
    });
  }

  get status() {
    const { clock, config, state } = this.#parts;
    const age = ageMs(this.#freshness, clock);
    return {
      ...this.#source.status,
      ageMs: this.#freshness.lastContactMs === 0 ? null : age,
      stale: isStale(this.#freshness, clock, config.cacheTtlMs),
      knowledge: this.#knowledge,
      entries: state.counts(),
      cache: this.#cache.status,
    };
  }
  get knowledge(): Knowledge {
    return this.#knowledge;
  }

  /** Resolves when everything was heard of once, or after `ms`. */
  async synced(ms: number): Promise<void> {
    if (!this.#synced.signal.aborted) await this.#parts.clock.sleep(ms, this.#synced.signal);
  }

  /**
   * Resolves when the controller has told everything that changed since what is on disk was written (an agent that was killed had the last
   * of it in memory only), when it cannot be reached, or after `ms`.
   */
  async caughtUp(ms: number): Promise<void> {
    if (!this.#toldAll.signal.aborted) await this.#parts.clock.sleep(ms, this.#toldAll.signal);
  }

  /** From now on this agent speaks for the node: its pods are known. */
  speak(): void {
    this.#isReporter = true;
    this.reportSoon();
  }

  /** Applies what an earlier agent left on disk; false if there was nothing. */
  async load(): Promise<boolean> {
    const loaded = await this.#cache.load();
    if (loaded === undefined) return false;
    for (const [kind, names] of loaded.versions)
      for (const [name, version] of names) this.#versions.get(kind)?.set(name, version);
    this.#freshness.lastContactMs = loaded.lastContactMs;
    this.#parts.state.apply({ changed: loaded.resources, removed: [] });
    const ageSeconds = Math.round(ageMs(this.#freshness, this.#parts.clock) / 1000);
    this.#parts.log.info("cache_loaded", { entries: loaded.resources.length, skipped: loaded.skipped, ageSeconds });
    this.#synced.abort();
    this.#tick();
    return true;
  }

  /** Runs until `stop`. */
  start(): void {
    const cancel = every(this.#parts.clock, tickMs, () => this.#tick());
    this.#stop.signal.addEventListener("abort", cancel);
    void this.#source.run(this.#stop.signal);
  }

  /** The successor owns the cache file and speaks for the node; the stream goes on for the connections that still drain. */
  async yieldFiles(): Promise<void> {
    this.#isReporter = false;
    await this.#cache.disown();
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    await this.#cache.flush();
  }

  /** Tells the controller what is not enforced and which pods are in, if that changed. */
  reportSoon(): void {
    this.#reporting ??= this.#parts.clock.after(20, () => {
      this.#reporting = undefined;
      this.#report();
    });
  }

  /** Whether the controller may still go by a report that had this pod in the mesh. */
  claims(pod: PodName): boolean {
    return this.#claimed.has(pod);
  }

  #apply(update: MeshUpdate): void {
    const changes = this.#parts.state.apply(update);
    if (!changes.any) return;
    this.#cache.changed();
    this.#parts.changed(changes, update);
    this.reportSoon();
  }

  #connected(connected: boolean): void {
    this.#freshness.connected = connected;
    this.#freshness.lastContactMs = this.#parts.clock.now();
    this.#tick();
    if (!connected) return;
    this.#reported = ""; // a controller that restarted knows nothing of us
    this.#onItsWay = undefined;
    this.reportSoon();
    this.#parts.connected();
  }

  #heard(kind: ResourceKind | undefined): void {
    this.#freshness.lastContactMs = this.#parts.clock.now();
    if (kind === undefined || this.#heardKinds.size === resourceKinds.length) return;
    this.#heardKinds.add(kind);
    if (this.#heardKinds.size < resourceKinds.length) return;
    this.#synced.abort();
    this.#toldAll.abort();
    this.#tick();
  }

  #tick(): void {
    const { clock, state } = this.#parts;
    if (this.#freshness.connected && clock.now() - this.#touchedMs >= touchMs) {
      this.#touchedMs = clock.now();
      void this.#cache.touch();
    }
    const expired = isExpired(this.#freshness, clock, state.settings.maxStaleMs);
    const knowledge = !this.#synced.signal.aborted ? "none" : expired ? "expired" : "fresh";
    if (knowledge === this.#knowledge) return;
    this.#knowledge = knowledge;
    this.#parts.log[expired ? "error" : "info"]("policies", { knowledge });
    this.#parts.knowledgeChanged(knowledge);
  }

  #report(): void {
    const { link, config, agentVersion, interception, log } = this.#parts;
    if (!this.#freshness.connected || !this.#isReporter || this.#onItsWay !== undefined) return;
    const pods: PodState[] = this.#parts.pods().map(({ pod, enrolled, reason }) => ({ pod, enrolled, reason }));
    const enforcements = this.#unenforced(this.#source.status.refused);
    const request = { node: config.node, agentVersion, enforcements, interception: interception(), pods };
    const text = JSON.stringify(request);
    if (text === this.#reported) return;
    const node = link.node();
    if (!node.ok) return;
    this.#reported = text;
    const said = pods.filter((pod) => pod.enrolled).map((pod) => pod.pod as PodName);
    this.#claimed = new Set([...this.#claimed, ...said]);
    this.#onItsWay = request;
    const deadline = this.#parts.clock.now() + config.callMs;
    node.value.report(request, new Metadata(), { deadline }, (error) => {
      if (this.#onItsWay !== request) return; // to a controller before this one
      this.#onItsWay = undefined;
      if (error === null) {
        this.#claimed = new Set(said);
        return this.#report();
      }
      log.warn("report_failed", { message: messageOf(error) });
      this.#reported = "";
      this.#parts.clock.after(1_000, () => this.reportSoon());
    });
  }

  #unenforced(refused: readonly Refused[]): Enforcement[] {
    const found: Enforcement[] = refused.map(({ typeUrl, name, reason }) => ({
      typeUrl,
      resource: name,
      enforced: false,
      reason,
    }));
    const reads = this.#parts.config.dataThreads > 0;
    for (const policy of this.#parts.state.authorizations.all())
      if (policy.action === "custom" || (needsL7(policy) && !reads))
        found.push({
          typeUrl: codecs.Authorization.typeUrl,
          resource: policyNameOf(policy),
          enforced: false,
          reason:
            policy.action === "custom"
              ? "CUSTOM needs the HTTP lane: what it covers is refused"
              : "has rules about requests, which need the HTTP lane: they fail closed",
        });
    if (reads) return found;
    for (const policy of this.#parts.state.rateLimits.all())
      found.push({
        typeUrl: codecs.RateLimit.typeUrl,
        resource: policyNameOf(policy),
        enforced: false,
        reason: "needs the HTTP lane: no request is counted or limited",
      });
    for (const name of this.#parts.state.routings.keys())
      found.push({
        typeUrl: codecs.HttpRouting.typeUrl,
        resource: name,
        enforced: false,
        reason: "needs the HTTP lane: requests go to the service's own endpoints as they are",
      });
    return found;
  }
}
