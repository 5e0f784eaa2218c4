// The decision about one request: answered here, or sent on to a backend with changes. Pure; chance and time are arguments.
import type { Mirror, PathEdit, Redirect, Selection } from "../../api/http-filters.ts";
import type { Random } from "../../base/random.ts";
import type { HeaderEdits, HeaderList, RequestHead } from "../../http.ts";
import { corsEdits, isPreflight, preflightHeaders } from "./cors.ts";
import { type AnswerReason, type HttpDecision, type LocalAnswer, noMirrors, type RouteHit } from "./decision.ts";
import { composeEdits, type FilterPlan, type Selecting } from "./filter-plan.ts";
import { pathLength, portOf } from "./request-target.ts";
import type { RouteTable } from "./route-table.ts";
import { type CompiledBackend, pickBackend } from "./rule.ts";

export interface DecideContext {
  readonly random: Random;
  /** Unix ms, for the expiry of faults, tarpits and diverts. */
  readonly nowMs: number;
  /** The global switch of faults, tarpits and diverts (TRF-4). */
  readonly faults: boolean;
}

export function decideRequest(table: RouteTable, head: RequestHead, context: DecideContext): HttpDecision {
  const hit = table.find(head);
  if (hit === undefined) return answer(404, "no_route", undefined);
  if (hit.kind === "forward") return hit;
  if (hit.fixed !== undefined) return hit.fixed;
  const { rule } = hit;
  let delayMs = 0;
  if (rule.plan.hasActions) {
    const acted = actOn(rule.plan, hit, head, context);
    if (typeof acted !== "number") return acted;
    delayMs = acted;
  }
  let chosen: CompiledBackend | undefined;
  let isDiverted = false;
  const divert = rule.plan.divert;
  if (divert !== undefined && isMeant(divert, head, context) && isHit(divert.value.percent, context.random)) {
    chosen = { backend: divert.value.backend, plan: rule.plan };
    isDiverted = true;
  } else {
    chosen = pickBackend(rule, context.random);
  }
  if (chosen === undefined) return answer(500, "no_backend", hit);
  if (chosen.backend.invalid !== "") return answer(500, "invalid_backend", hit);
  const plan = chosen.plan;
  if (plan !== rule.plan && plan.redirect !== undefined) return redirect(plan.redirect, hit, head);
  return {
    kind: "forward",
    hit,
    backend: chosen.backend,
    plan,
    path: plan.rewrite?.path === undefined ? undefined : editPath(plan.rewrite.path, hit.prefix, head.path),
    authority: plan.rewrite === undefined || plan.rewrite.hostname === "" ? undefined : plan.rewrite.hostname,
    requestEdits: plan.requestEdits,
    responseEdits: plan.cors === undefined ? plan.responseEdits : corsResponse(plan, head),
    mirrors: plan.mirrors.length === 0 ? noMirrors : chosenMirrors(plan.mirrors, context.random),
    delayMs,
    isDiverted,
  };
}

/** The answer that a filter gives, or the delay before the request goes on. */
function actOn(plan: FilterPlan, hit: RouteHit, head: RequestHead, context: DecideContext): LocalAnswer | number {
  if (plan.cors !== undefined && isPreflight(head)) {
    return answer(204, "cors_preflight", hit, preflightHeaders(plan.cors, head));
  }
  let delayMs = 0;
  for (const faulty of plan.faults) {
    if (!isMeant(faulty, head, context)) continue;
    const fault = faulty.value;
    if (fault.delayMs > 0 && isHit(fault.delayPercent, context.random)) delayMs += fault.delayMs;
    const aborts = fault.abortStatus !== 0 || fault.abortGrpc !== undefined;
    if (aborts && isHit(fault.abortPercent, context.random)) {
      const status = fault.abortStatus === 0 ? 200 : fault.abortStatus;
      return { ...answer(status, "fault_abort", hit), grpcStatus: fault.abortGrpc, delayMs };
    }
  }
  const { tarpit } = plan;
  if (tarpit !== undefined && isMeant(tarpit, head, context) && isHit(tarpit.value.percent, context.random)) {
    return { ...answer(tarpit.value.status, "tarpit", hit), delayMs: delayMs + tarpit.value.holdMs };
  }
  if (plan.redirect !== undefined) return { ...redirect(plan.redirect, hit, head), delayMs };
  if (plan.direct === undefined) return delayMs;
  const { status, body, contentType } = plan.direct;
  return { ...answer(status, "direct_response", hit, body === "" ? [] : ["content-type", contentType], body), delayMs };
}

/** Whether an action holds for this request now; its share is chance's. */
const isMeant = (
  { value: { expiresMs }, matches }: Selecting<Selection>,
  head: RequestHead,
  { faults, nowMs }: DecideContext,
): boolean => faults && (expiresMs === 0 || nowMs < expiresMs) && matches(head);

const isHit = (percent: number, random: Random): boolean =>
  percent >= 100 || (percent > 0 && random.next() * 100 < percent);

function answer(
  status: number,
  reason: AnswerReason,
  hit: RouteHit | undefined,
  headers: HeaderList = [],
  body = "",
): LocalAnswer {
  return { kind: "answer", status, grpcStatus: undefined, headers, body, delayMs: 0, reason, hit };
}

function corsResponse(plan: FilterPlan, head: RequestHead): HeaderEdits | undefined {
  const edits = plan.cors && corsEdits(plan.cors, head.header("origin"));
  if (edits === undefined) return plan.responseEdits;
  return plan.responseEdits === undefined ? edits : composeEdits(edits, plan.responseEdits);
}

function chosenMirrors(mirrors: readonly Mirror[], random: Random): readonly Mirror[] {
  return mirrors.filter(({ backend, numerator, denominator }) => {
    const isTaken = numerator >= denominator || random.next() * denominator < numerator;
    return isTaken && backend.invalid === "";
  });
}

/** The path with its query after an edit (Gateway API HTTPPathModifier). `prefix`: what matched, without a trailing slash. */
export function editPath(edit: PathEdit, prefix: string, target: string): string {
  if (!target.startsWith("/")) return target;
  const length = pathLength(target);
  const query = target.slice(length);
  if (edit.kind === "full") return (edit.value === "" ? "/" : edit.value) + query;
  const rest = target.slice(prefix.length, length);
  const base = edit.value.endsWith("/") ? edit.value.slice(0, -1) : edit.value;
  // "/foo" -> "/": "/foo" becomes "/", "/foo/bar" becomes "/bar".
  const path = rest === "" ? edit.value : rest.startsWith("/") ? base + rest : `${base}/${rest}`;
  return (path === "" ? "/" : path) + query;
}

function redirect(to: Redirect, hit: RouteHit, head: RequestHead): LocalAnswer {
  return answer(to.status, "redirect", hit, ["location", redirectLocation(to, hit.prefix, head)]);
}

/** Where a redirect leads (Gateway API HTTPRequestRedirectFilter): well-known ports are left out. */
export function redirectLocation(to: Redirect, prefix: string, head: RequestHead): string {
  const scheme = to.scheme === "" ? head.scheme : to.scheme;
  const asked = portOf(head.authority);
  const bare = asked === "" ? head.authority : head.authority.slice(0, -asked.length - 1);
  const host = to.hostname === "" ? bare : to.hostname;
  // The scheme's own port if a scheme is given, else the one that was asked for.
  const port = to.port !== 0 ? String(to.port) : to.scheme === "" ? asked : "";
  const isKnown = port === "" || (scheme === "http" && port === "80") || (scheme === "https" && port === "443");
  const path = to.path === undefined ? head.path : editPath(to.path, prefix, head.path);
  return `${scheme}://${host}${isKnown ? "" : `:${port}`}${path.startsWith("/") ? path : ""}`;
}
