// What is decided about a request, and the decisions that are the same for every request under a match. Pure.
import type { Backend, Mirror } from "../../api/http-filters.ts";
import type { HeaderEdits, HeaderList } from "../../http.ts";
import type { FilterPlan } from "./filter-plan.ts";
import type { CompiledRule } from "./rule.ts";

/** What a request came under. Made once per match when routes are compiled, so it may be kept. */
export interface RouteHit {
  readonly rule: CompiledRule;
  /** Index of the match in the rule; 0 where the rule has none. */
  readonly match: number;
  /** The prefix that matched, without a trailing slash; "" where the match is no prefix, or is "/". */
  readonly prefix: string;
  /** The decision, where it depends on nothing more of the request. */
  readonly fixed: Forward | undefined;
}

export type AnswerReason =
  | "no_route"
  | "no_backend"
  | "invalid_backend"
  | "cors_preflight"
  | "redirect"
  | "direct_response"
  | "fault_abort"
  | "tarpit";

export interface LocalAnswer {
  readonly kind: "answer";
  readonly status: number;
  /** Set where a gRPC client must be answered with a status of its own (HTTP 200 and trailers alone). */
  readonly grpcStatus: number | undefined;
  readonly headers: HeaderList;
  readonly body: string;
  /** How long the answer is to be kept back. */
  readonly delayMs: number;
  readonly reason: AnswerReason;
  readonly hit: RouteHit | undefined;
}
export interface Forward {
  readonly kind: "forward";
  readonly hit: RouteHit;
  readonly backend: Backend;
  readonly plan: FilterPlan;
  /** Changed path with the query, undefined: as it came. */
  readonly path: string | undefined;
  /** Changed authority, undefined: as it came. */
  readonly authority: string | undefined;
  readonly requestEdits: HeaderEdits | undefined;
  readonly responseEdits: HeaderEdits | undefined;
  /** Those whose share this request fell into. */
  readonly mirrors: readonly Mirror[];
  /** How long the request is to be kept back (fault injection). */
  readonly delayMs: number;
  readonly isDiverted: boolean;
}
export type HttpDecision = LocalAnswer | Forward;

export const noMirrors: readonly Mirror[] = [];

/** The decision of a match with one backend and no filter but changes of heads: made once, so that most requests cost no object. */
export function fixedForward(hit: RouteHit): Forward | undefined {
  const { rule } = hit;
  const [only] = rule.backends;
  if (only === undefined || rule.backends.length > 1 || rule.totalWeight === 0 || only.backend.invalid !== "")
    return undefined;
  const { plan } = only;
  if (plan.hasActions || plan.rewrite?.path !== undefined || plan.mirrors.length > 0) return undefined;
  const hostname = plan.rewrite?.hostname ?? "";
  return {
    kind: "forward",
    hit,
    backend: only.backend,
    plan,
    path: undefined,
    authority: hostname === "" ? undefined : hostname,
    requestEdits: plan.requestEdits,
    responseEdits: plan.responseEdits,
    mirrors: noMirrors,
    delayMs: 0,
    isDiverted: false,
  };
}
