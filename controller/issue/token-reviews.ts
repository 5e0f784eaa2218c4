// Whose a service account token is, by the API server's word (TokenReview, authentication.k8s.io/v1). Its word is remembered for a short
// time by the token's hash, never beyond the token's end; the token itself is kept nowhere.
import { createHash } from "node:crypto";
import type { Clock } from "../../agent/base/clock.ts";
import { err, ok, type Result } from "../../agent/base/result.ts";
import type { ApiClient } from "../../agent/kubernetes/client.ts";
import { showFault } from "../../agent/kubernetes/fault.ts";
import { readClaims } from "./token-claims.ts";

export interface ReviewedToken {
  readonly namespace: string;
  readonly serviceAccount: string;
  /** The pod that it is bound to; undefined for a token that is bound to none. */
  readonly pod: { readonly name: string; readonly uid: string } | undefined;
  /** The node of that pod, where the API server says it (Kubernetes 1.30 and later). */
  readonly node: string | undefined;
  /** Those of ours that it is for. */
  readonly audiences: readonly string[];
}
export type TokenRefusalReason = "malformed" | "audience" | "expired" | "not_authenticated" | "unavailable";
export interface TokenRefusal {
  readonly reason: TokenRefusalReason;
  readonly message: string;
}
export interface TokenReviewParts {
  readonly api: ApiClient;
  readonly clock: Clock;
  /** Ours; a token must be for one of them. */
  readonly audiences: readonly string[];
  readonly cacheMs: number;
  readonly reviewed: (outcome: "authenticated" | "refused" | "failed" | "cached") => void;
}
type Answer = Result<ReviewedToken, TokenRefusal>;

const path = "/apis/authentication.k8s.io/v1/tokenreviews";
const maxCached = 10_000;
/** More wait: whoever shows many tokens must not take the API server's time from the rest. */
const maxParallel = 16;
const maxWaiting = 1_000;
/** A refusal is remembered too, but not for long: the pod may just not be known there yet. */
const refusalMs = 1_000;
const deadlineMs = 5_000;
const refuse = (reason: TokenRefusalReason, message: string): Result<never, TokenRefusal> => err({ reason, message });

export class TokenReviews {
  readonly #parts: TokenReviewParts;
  readonly #known = new Map<string, { readonly answer: Answer; readonly untilMs: number }>();
  readonly #asking = new Map<string, Promise<Answer>>();
  readonly #waiting: (() => void)[] = [];
  #running = 0;

  constructor(parts: TokenReviewParts) {
    this.#parts = parts;
  }

  /** Never throws. What the token says of itself is looked at first: most of what is wrong costs no request. */
  async check(token: string): Promise<Answer> {
    const { clock, audiences, reviewed } = this.#parts;
    const claims = readClaims(token);
    if (!claims.ok) return refuse("malformed", `the token ${claims.error}`);
    const { expiresMs } = claims.value;
    if (!claims.value.audiences.some((one) => audiences.includes(one)))
      return refuse("audience", `the token is not for the audience ${audiences.join(" or ")}`);
    if (expiresMs <= clock.now()) return refuse("expired", "the token has expired");
    const hash = createHash("sha256").update(token).digest("base64url");
    const known = this.#known.get(hash);
    if (known !== undefined && known.untilMs > clock.now()) {
      reviewed("cached");
      return known.answer;
    }
    const asking = this.#asking.get(hash);
    if (asking !== undefined) return asking;
    const begun = this.#ask(hash, token, expiresMs).finally(() => this.#asking.delete(hash));
    this.#asking.set(hash, begun);
    return begun;
  }

  async #ask(hash: string, token: string, expiresMs: number): Promise<Answer> {
    const { clock, cacheMs, reviewed } = this.#parts;
    if (this.#waiting.length >= maxWaiting) return refuse("unavailable", "too many tokens wait for the API server");
    // Whoever ends hands its place on, so that nobody who comes later is before those who wait.
    if (this.#running < maxParallel) this.#running += 1;
    else await new Promise<void>((resolve) => this.#waiting.push(resolve));
    // From before the question: what the server knew then is what is remembered.
    const nowMs = clock.now();
    const answer = await this.#review(token);
    const next = this.#waiting.shift();
    if (next === undefined) this.#running -= 1;
    else next();
    const isFailure = !answer.ok && answer.error.reason === "unavailable";
    if (!isFailure)
      this.#keep(hash, answer, Math.min(expiresMs, nowMs + (answer.ok ? cacheMs : Math.min(refusalMs, cacheMs))));
    reviewed(answer.ok ? "authenticated" : isFailure ? "failed" : "refused");
    return answer;
  }

  async #review(token: string): Promise<Answer> {
    const { api, audiences } = this.#parts;
    const answer = await api.send({
      method: "POST",
      path,
      body: { apiVersion: "authentication.k8s.io/v1", kind: "TokenReview", spec: { token, audiences } },
      deadlineMs,
    });
    if (!answer.ok) return refuse("unavailable", `the token cannot be checked: ${showFault(answer.error)}`);
    return readReview(answer.value, audiences);
  }

  #keep(hash: string, answer: Answer, untilMs: number): void {
    const nowMs = this.#parts.clock.now();
    if (this.#known.size >= maxCached)
      for (const [key, { untilMs: end }] of this.#known) if (end <= nowMs) this.#known.delete(key);
    // Still full: the ones that were asked about first go.
    for (const key of this.#known.keys()) {
      if (this.#known.size < maxCached) break;
      this.#known.delete(key);
    }
    this.#known.set(hash, { answer, untilMs });
  }
}

interface Review {
  readonly status?: {
    readonly authenticated?: unknown;
    readonly error?: unknown;
    readonly audiences?: unknown;
    readonly user?: { readonly username?: unknown; readonly extra?: Readonly<Record<string, unknown>> };
  };
}

/** The status of a TokenReview. Only what says plainly whose the token is and that it is for us counts. */
export function readReview(value: unknown, ours: readonly string[]): Answer {
  const status = (value as Review | null)?.status;
  if (status?.authenticated !== true) {
    const why = typeof status?.error === "string" && status.error !== "" ? `: ${status.error.slice(0, 300)}` : "";
    return refuse("not_authenticated", `the API server does not accept the token${why}`);
  }
  // A server that knows no audiences says nothing of them, and would take a token for anybody.
  const said = Array.isArray(status.audiences) ? status.audiences : [];
  const audiences = ours.filter((one) => said.includes(one));
  if (audiences.length === 0)
    return refuse("audience", `the API server does not say that the token is for ${ours.join(" or ")}`);
  const name = typeof status.user?.username === "string" ? status.user.username : "";
  const [system, kind, namespace = "", serviceAccount = "", ...rest] = name.split(":");
  if (system !== "system" || kind !== "serviceaccount" || namespace === "" || serviceAccount === "" || rest.length > 0)
    return refuse("not_authenticated", `the token is of "${name.slice(0, 100)}", which is no service account`);
  const extra = (key: string): string | undefined => {
    const values = status.user?.extra?.[`authentication.kubernetes.io/${key}`];
    const [only] = Array.isArray(values) && values.length === 1 ? values : [];
    return typeof only === "string" && only !== "" ? only : undefined;
  };
  const pod = { name: extra("pod-name"), uid: extra("pod-uid") };
  return ok({
    namespace,
    serviceAccount,
    pod: pod.name === undefined || pod.uid === undefined ? undefined : { name: pod.name, uid: pod.uid },
    node: extra("node-name"),
    audiences,
  });
}
