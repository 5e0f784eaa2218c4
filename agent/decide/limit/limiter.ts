// May this request be served now? Every limit of every RateLimit over its pod is asked, then how much the pod has at once. Compiled once
// per set of policies and bound once per connection and pod, so that a request that is let through allocates next to nothing.
import type { PolicyName, SpiffeId } from "../../api/names.ts";
import { policyNameOf } from "../../api/policy.ts";
import type { ConcurrencyLimit, LimitRule, RateLimit } from "../../api/rate-limit.ts";
import { serviceBeforePort, type Workload } from "../../api/workload.ts";
import { formatIp, type IpBytes, parseIp } from "../../base/ip.ts";
import { type BucketRate, bucketKey, bucketRate, type SharedBuckets } from "../../base/shared-buckets.ts";
import { addText, type TextHash } from "../../base/text-hash.ts";
import type { HeaderList, RequestHead } from "../../http.ts";
import type { MeshState } from "../../state/mesh-state.ts";
import { PathList, TextList } from "../patterns.ts";
import { noHead, RequestView } from "../request-view.ts";
import { isFarAbove } from "./baseline.ts";
import { enter, leave } from "./concurrency.ts";
import { addKey, isFixedKey, type KeyFacts, shownKey } from "./key.ts";
import type { SharedLimits } from "./shared.ts";

export interface LimitConnection {
  /** The pod that serves. */
  readonly destination: Workload;
  readonly port: number;
  /** As proven; null: nothing was. */
  readonly identity: SpiffeId | null;
  readonly sourceIp: string;
}

/** A limit that a request went over. */
export interface Limited {
  readonly policy: PolicyName;
  /** Name of the limit, "concurrency" for how much there is at once. */
  readonly limit: string;
  /** Who it was, as may stand in a log. */
  readonly key: string;
  readonly dryRun: boolean;
  /** The key found no room in the table and shared a bucket with others. */
  readonly overflow: boolean;
  readonly retryAfterS: number;
  /** What the client gets, unless it is a dry run. */
  readonly status: 429 | 503;
  readonly headers: HeaderList;
}

/** Places of a request that is under way, in pods with a limit of how many there are at once. */
export type Places = { readonly at: number; readonly config: ConcurrencyLimit }[];

interface CompiledRule {
  readonly policy: RateLimit;
  readonly name: PolicyName;
  readonly rule: LimitRule;
  readonly rate: BucketRate;
  /** Of a key that is far above what is usual for it. */
  readonly lowered: BucketRate;
  readonly methods: TextList;
  readonly paths: PathList;
}
interface Compiled {
  readonly settings: MeshState["settings"];
  readonly rules: readonly CompiledRule[];
  readonly concurrent: readonly { readonly policy: RateLimit; readonly config: ConcurrencyLimit }[];
  readonly view: RequestView;
  /** Some policy wants its headers on every answer. */
  readonly isTelling: boolean;
}
const compiledSets = new WeakMap<readonly RateLimit[], Compiled>();

function compiledFor(state: MeshState, policies: readonly RateLimit[]): Compiled {
  const known = compiledSets.get(policies);
  if (known !== undefined && known.settings === state.settings) return known;
  const compiled: Compiled = {
    settings: state.settings,
    rules: policies.flatMap((policy) =>
      policy.limits.map((rule) => ({
        policy,
        name: policyNameOf(policy),
        rule,
        rate: rateOf(rule, 100),
        lowered: rateOf(rule, rule.baseline?.limitPercent ?? 100),
        methods: new TextList(rule.methods),
        paths: new PathList(rule.paths),
      })),
    ),
    concurrent: policies.flatMap((policy) =>
      policy.concurrency === undefined ? [] : [{ policy, config: policy.concurrency }],
    ),
    view: new RequestView(state.settings),
    isTelling: policies.some((policy) => policy.responseHeaders === "always" && !policy.dryRun),
  };
  compiledSets.set(policies, compiled);
  return compiled;
}

/**
 * The limits for one connection's requests to a pod; undefined: there are none. Asked again before a request it gives back `kept` for as
 * long as neither policies nor settings changed.
 */
export function limiterFor(
  state: MeshState,
  shared: SharedLimits,
  connection: LimitConnection,
  kept?: RequestLimiter,
): RequestLimiter | undefined {
  const policies = state.rateLimits.inForce(connection.destination);
  if (policies.length === 0) return undefined;
  const compiled = compiledFor(state, policies);
  return kept?.isFor(compiled, connection) === true ? kept : new RequestLimiter(compiled, shared, connection);
}

interface RuleKey {
  /** What every key of the rule begins with: the limit and what it protects. */
  readonly start: TextHash;
  /** The whole key, where all requests of the connection have the same one; and its bucket's name. */
  readonly fixed: TextHash | undefined;
  readonly bucket: number;
}

export class RequestLimiter implements KeyFacts {
  readonly #compiled: Compiled;
  readonly #shared: SharedLimits;
  readonly #connection: LimitConnection;
  readonly #sourceIp: IpBytes | undefined;
  readonly #keys: readonly RuleKey[];
  readonly #pods: readonly TextHash[];
  readonly #hash: TextHash = { high: 0, low: 0 };
  /** Tokens taken for the request that is asked about. */
  readonly #taken: { readonly buckets: SharedBuckets; readonly place: number; readonly rate: BucketRate }[] = [];
  #head: RequestHead | undefined;
  /** Of the tightest limit that the last request passed. */
  #told: { readonly rule: LimitRule; readonly remaining: number; readonly resetS: number } | undefined;

  constructor(compiled: Compiled, shared: SharedLimits, connection: LimitConnection) {
    this.#compiled = compiled;
    this.#shared = shared;
    this.#connection = connection;
    this.#sourceIp = parseIp(connection.sourceIp);
    const { destination, port } = connection;
    // Whose buckets count: the service before the pod's port; of a port that none serves, the pod's own.
    const owner = serviceBeforePort(destination, port) ?? destination.uid;
    const isProxied = compiled.settings.trustedProxies > 0;
    compiled.view.start(noHead, this.#sourceIp, undefined);
    this.#keys = compiled.rules.map(({ name, rule }) => {
      const start = shared.startHash();
      for (const part of [name, rule.name, `${rule.requests} ${rule.windowMs} ${rule.burst} ${rule.key}`, owner])
        addText(start, part);
      if (!isFixedKey(rule, isProxied)) return { start, fixed: undefined, bucket: 0 };
      const fixed = { ...start };
      addKey(fixed, rule, this);
      return { start, fixed, bucket: bucketKey(fixed) };
    });
    compiled.view.end();
    this.#pods = compiled.concurrent.map(({ policy }) => {
      const hash = shared.startHash();
      addText(hash, policyNameOf(policy));
      addText(hash, destination.uid);
      return hash;
    });
  }

  isFor(compiled: Compiled, connection: LimitConnection): boolean {
    const own = this.#connection;
    return (
      this.#compiled === compiled &&
      own.destination === connection.destination &&
      own.identity === connection.identity &&
      own.sourceIp === connection.sourceIp &&
      own.port === connection.port
    );
  }

  get identity(): SpiffeId | null {
    return this.#connection.identity;
  }
  get clientIp(): IpBytes | undefined {
    return this.#compiled.view.remoteIp;
  }
  header(name: string): string | undefined {
    return this.#head?.header(name);
  }

  /**
   * Counts the request. The first limit that refuses it, or undefined: it is let through, and its places are in `places` until `release`.
   * `note` hears of every limit that was gone over, also of those in dry run. `nowMs`: of a clock that all threads share.
   */
  ask(head: RequestHead, nowMs: number, places: Places, note: (limited: Limited) => void): Limited | undefined {
    const { view } = this.#compiled;
    view.start(head, this.#sourceIp, undefined);
    this.#head = head;
    this.#told = undefined;
    this.#taken.length = 0;
    const refused = this.#askRules(nowMs, note) ?? this.#askPods(places, note);
    if (refused !== undefined) {
      for (const { buckets, place, rate } of this.#taken) buckets.giveBack(place, rate);
      this.release(places, nowMs, undefined);
    }
    this.#head = undefined;
    view.end();
    return refused;
  }

  /** `RateLimit-*` of the answer to the request that was just let through; undefined: nobody asked for them. */
  answerHeaders(): HeaderList | undefined {
    const told = this.#told;
    if (told === undefined || !this.#compiled.isTelling) return undefined;
    return limitFields(told.rule, told.remaining, told.resetS);
  }

  /** The request is over. `latencyMs`: from its head to the answer's; undefined: there was none. */
  release(places: Places, nowMs: number, latencyMs: number | undefined): void {
    const { pods, thread } = this.#shared;
    for (const { at, config } of places) leave(pods.words, at, thread, nowMs, latencyMs, config);
    places.length = 0;
  }

  #askRules(nowMs: number, note: (limited: Limited) => void): Limited | undefined {
    const { rules, view } = this.#compiled;
    for (let i = 0; i < rules.length; i++) {
      const compiled = rules[i] as CompiledRule;
      const { methods, paths } = compiled;
      if (!methods.isEmpty && !methods.has(view.method)) continue;
      if (!paths.isEmpty && !paths.has(view, true)) continue;
      const limited = this.#askRule(compiled, i, nowMs);
      if (limited === undefined) continue;
      note(limited);
      if (!limited.dryRun) return limited;
    }
    return undefined;
  }

  #askRule(compiled: CompiledRule, index: number, nowMs: number): Limited | undefined {
    const { rule, policy } = compiled;
    const { start, fixed, bucket } = this.#keys[index] as RuleKey;
    const hash = fixed ?? this.#hashOf(start, rule);
    const own = this.#shared.buckets.find(fixed === undefined ? bucketKey(hash) : bucket, nowMs);
    const buckets = own < 0 ? this.#shared.overflow : this.#shared.buckets;
    const place = own < 0 ? buckets.find(bucketKey(start), nowMs) : own;
    // Neither its own nor the shared place: more limits than places, all in use at this moment.
    if (place < 0) return undefined;
    const rate = this.#isFarAbove(rule, hash, nowMs) ? compiled.lowered : compiled.rate;
    if (buckets.take(place, rate, 1, nowMs)) {
      this.#taken.push({ buckets, place, rate });
      this.#tell(policy, rule, buckets);
      return undefined;
    }
    const retryAfterS = Math.max(1, Math.ceil(buckets.retryMs / 1000));
    return this.#limited(compiled, hash, own < 0, retryAfterS, Math.ceil(buckets.fullMs / 1000));
  }

  #hashOf(start: TextHash, rule: LimitRule): TextHash {
    const hash = this.#hash;
    hash.high = start.high;
    hash.low = start.low;
    addKey(hash, rule, this);
    return hash;
  }

  #isFarAbove({ baseline }: LimitRule, hash: TextHash, nowMs: number): boolean {
    if (baseline === undefined) return false;
    const at = this.#shared.baseline(hash, nowMs);
    return at >= 0 && isFarAbove(this.#shared.baselines.words, at, nowMs, baseline);
  }

  #tell(policy: RateLimit, rule: LimitRule, { remaining, fullMs }: SharedBuckets): void {
    if (!this.#compiled.isTelling || policy.dryRun || policy.responseHeaders !== "always") return;
    if (remaining >= (this.#told?.remaining ?? Number.POSITIVE_INFINITY)) return;
    this.#told = { rule, remaining, resetS: Math.ceil(fullMs / 1000) };
  }

  #limited(
    { rule, policy, name }: CompiledRule,
    hash: TextHash,
    overflow: boolean,
    retryAfterS: number,
    resetS: number,
  ): Limited {
    const { clientIp } = this;
    const address = clientIp === undefined ? "no address" : formatIp(clientIp);
    const fields = policy.responseHeaders === "never" ? [] : limitFields(rule, 0, resetS);
    return {
      policy: name,
      limit: rule.name,
      key: shownKey(rule, this, address, hash),
      dryRun: policy.dryRun,
      overflow,
      retryAfterS,
      status: 429,
      headers: [...fields, "retry-after", String(retryAfterS)],
    };
  }

  #askPods(places: Places, note: (limited: Limited) => void): Limited | undefined {
    const { concurrent } = this.#compiled;
    const { pods, thread } = this.#shared;
    for (let i = 0; i < concurrent.length; i++) {
      const { policy, config } = concurrent[i] as Compiled["concurrent"][number];
      const at = this.#shared.pod(this.#pods[i] as TextHash);
      if (at < 0) continue;
      if (enter(pods.words, at, thread, config)) {
        places.push({ at, config });
        continue;
      }
      const limited: Limited = {
        policy: policyNameOf(policy),
        limit: "concurrency",
        key: this.#connection.destination.uid,
        dryRun: policy.dryRun,
        overflow: false,
        retryAfterS: 1,
        status: 503,
        headers: ["retry-after", "1"],
      };
      note(limited);
      if (!limited.dryRun) return limited;
    }
    return undefined;
  }
}

/** draft-ietf-httpapi-ratelimit-headers-06; `RateLimit-Limit` is the bucket's size, which `Remaining` counts down from. */
const limitFields = (rule: LimitRule, remaining: number, resetS: number): HeaderList => [
  "ratelimit-limit",
  String(rule.burst),
  "ratelimit-policy",
  `${rule.requests};w=${Math.max(1, Math.round(rule.windowMs / 1000))}`,
  "ratelimit-remaining",
  String(remaining),
  "ratelimit-reset",
  String(resetS),
];

function rateOf({ requests, windowMs, burst }: LimitRule, percent: number): BucketRate {
  const perS = (requests * 1000) / windowMs;
  return bucketRate((perS * percent) / 100, Math.max(1, Math.floor((burst * percent) / 100)));
}
