// Whether a try that failed is tried again, when, and whether the budget allows it (RES-5, DP-29). Pure.
import { noRetry, type RetryCause, type RetryPolicy } from "../../api/http-policy.ts";
import type { Random } from "../../base/random.ts";

/** What is known of a try that failed. */
export interface FailedTry {
  /** `refused`: the peer said that it did not begin (tunnel REFUSE, GOAWAY beyond the last stream, REFUSED_STREAM). */
  readonly cause: RetryCause | "status" | "grpc_status";
  /** Of the answer's head; 0 without one. */
  readonly status: number;
  /** -1 without one. */
  readonly grpcStatus: number;
  /** Tries made so far, this one included. */
  readonly tries: number;
  /** Since the request began, ms. */
  readonly elapsedMs: number;
  /** There is an endpoint that it has not met. */
  readonly hasOther: boolean;
  readonly method: string;
  /** The client has been sent part of an answer. */
  readonly answerStarted: boolean;
  /** All of the request's body that was sent is still kept, so that it can be sent again. */
  readonly bodyKept: boolean;
}
export type RetryVerdict =
  | "retry"
  | "not_configured"
  | "exhausted"
  | "answer_started"
  | "body_gone"
  | "may_have_effect";

/** Close reasons (native/src/reason.rs) with which a dial ends before a server has it, beside those of connections and tunnels. */
const notDialled: ReadonlySet<string> = new Set([
  "pod_gone",
  "l7_unavailable",
  "worker_died",
  "handover_failed",
  "agent_stopping",
  "resource_limit",
  "drain_deadline",
  "question_timeout",
  "question_failed",
  "not_intercepted",
  "unknown_destination",
]);

/**
 * What a failure without an answer was, from the word of the dialler or the codec (forward/http1/exchange.ts); undefined: a limit of our
 * own, a refusal, or an answer that is none. Everything before a connection stands reached nobody.
 */
export function causeOf(why: string): RetryCause | undefined {
  if (/^(connect|tunnel|tls)_/.test(why) || notDialled.has(why)) return "connect_failure";
  if (why === "try_timeout" || why === "response_timeout") return "timeout";
  if (why === "upstream_refused" || why === "pool_draining") return "refused";
  return why === "upstream_closed" || why === "upstream_reset" ? "reset" : undefined;
}

/** RFC 9110 §9.2.2. */
const idempotent = new Set(["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"]);
// Tries beyond the first whatever is configured, for a rollout must not show (DP-29).
/** After failures that reached nobody. */
const harmlessAttempts = 2;
/** The same while the request is not older than `quickMs` and endpoints are left: several of them may be going at a time. */
const quickAttempts = 5;
const quickMs = 1_000;
/**
 * After a connection that was lost before its answer: a server that ends resets those that it has not accepted. Only one, since a request
 * that kills its server is not to kill them all; none under a policy with 0 attempts.
 */
const lostAttempts = 1;

export function judgeRetry(policy: RetryPolicy | undefined, failed: FailedTry): RetryVerdict {
  const { attempts, on, codes, grpcCodes, anyMethod } = policy ?? noRetry;
  // A connection that failed, or a request that was refused before it began, had no effect.
  const isHarmless = failed.cause === "connect_failure" || failed.cause === "refused";
  const isNamed =
    failed.cause === "status"
      ? codes.includes(failed.status)
      : failed.cause === "grpc_status"
        ? grpcCodes.includes(failed.grpcStatus)
        : on.includes(failed.cause);
  const isLost = failed.cause === "reset" && failed.hasOther && policy?.attempts !== 0;
  if (!isNamed && !isHarmless && !isLost) return "not_configured";
  if (failed.answerStarted) return "answer_started";
  if (!failed.bodyKept) return "body_gone";
  if (!isHarmless && !anyMethod && !idempotent.has(failed.method)) return "may_have_effect";
  const isQuick = failed.hasOther && failed.elapsedMs < quickMs;
  const always = isHarmless ? (isQuick ? quickAttempts : harmlessAttempts) : isLost ? lostAttempts : 0;
  return failed.tries > Math.max(attempts, always) ? "exhausted" : "retry";
}

/** Wait before the next try, ms: full jitter over a time that doubles; none where nobody was reached. */
export function retryDelayMs(policy: RetryPolicy | undefined, failed: FailedTry, random: Random): number {
  if (failed.cause === "connect_failure" || failed.cause === "refused") return 0;
  const { backoffMs, maxBackoffMs } = policy ?? noRetry;
  return random.next() * Math.min(maxBackoffMs, backoffMs * 2 ** Math.min(30, failed.tries - 1));
}

const budgetMs = 10_000;
const bucketCount = 10;

/**
 * Retries a service may have: a share of the requests of the last 10 s, and so many per second whatever the load. Keeps an outage from
 * multiplying itself.
 */
export class RetryBudget {
  static readonly words = 2 * bucketCount + 1;
  /** Requests, then retries, by bucket; then the number of the bucket in use since the clock began. */
  readonly #words: Int32Array;

  /** `memory`: RetryBudget.words words, zeroed, shared by all data threads. */
  constructor(memory: Int32Array = new Int32Array(RetryBudget.words)) {
    this.#words = memory;
  }

  countRequest(nowMs: number): void {
    Atomics.add(this.#words, this.#advance(nowMs) % bucketCount, 1);
  }

  /** Takes one retry from the budget, or says that there is none. */
  take(policy: RetryPolicy | undefined, nowMs: number): boolean {
    const { budgetPercent, budgetMinPerS } = policy ?? noRetry;
    const at = bucketCount + (this.#advance(nowMs) % bucketCount);
    const allowed = (this.#sum(0) * budgetPercent) / 100 + (budgetMinPerS * budgetMs) / 1000;
    Atomics.add(this.#words, at, 1);
    if (this.#sum(bucketCount) <= allowed) return true;
    Atomics.sub(this.#words, at, 1);
    return false;
  }

  #sum(from: number): number {
    let sum = 0;
    for (let i = 0; i < bucketCount; i++) sum += this.#words[from + i] as number;
    return sum;
  }

  /** The bucket of now. Whoever comes first to a new one empties those that time has passed. */
  #advance(nowMs: number): number {
    const now = Math.floor(nowMs / (budgetMs / bucketCount));
    const before = Atomics.load(this.#words, 2 * bucketCount);
    if (before >= now || Atomics.compareExchange(this.#words, 2 * bucketCount, before, now) !== before) return now;
    const passed = Math.min(bucketCount, now - before);
    for (let i = 0; i < passed; i++) {
      const at = (now - i) % bucketCount;
      Atomics.store(this.#words, at, 0);
      Atomics.store(this.#words, bucketCount + at, 0);
    }
    return now;
  }
}
