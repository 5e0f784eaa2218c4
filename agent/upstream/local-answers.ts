// Answers that no server gave: what a client is told where its request goes nowhere, and the response flags that say why. Pure.
import type { LocalAnswer } from "../decide/http/decision.ts";
import type { Limited } from "../decide/limit/limiter.ts";
import type { MeshLimited } from "../enrich/enricher.ts";
import type { Verdict } from "../flow.ts";
import type { Respond } from "../forward/http1/exchange.ts";
import type { Tenant } from "../forward/tenants.ts";
import { deniedField, plainText, unansweredField } from "../http.ts";
import { refusedFlags } from "../report/response-flags.ts";
import type { Cluster } from "./cluster.ts";

export interface OwnAnswer {
  /** Envoy's response flags, "-" for none. */
  readonly flags: string;
  readonly answer: Respond;
  /** As the access log has it. */
  readonly reason: string;
  /** The policy that refused it, where one did. */
  readonly policy?: string | undefined;
}

/** RESOURCE_EXHAUSTED: what a client of gRPC is told of a rate limit. */
const exhausted = 8;

export const respond = (status: number, body: string): Respond => ({
  kind: "respond",
  status,
  headers: plainText,
  body: Buffer.from(body),
});
/** For the client's own agent, which may know another server (agent/http.ts). `why`: how this one was not reached, or was lost. */
export function unanswered(cause: "connect_failure" | "reset", why: string): Respond {
  const answer = cause === "reset" ? respond(502, "") : respond(503, `no way to the server: ${why}\n`);
  return { ...answer, headers: [...answer.headers, unansweredField, why] };
}

const flagsByReason: Readonly<Partial<Record<LocalAnswer["reason"], string>>> = {
  no_route: "NR",
  fault_abort: "FI",
  tarpit: "FI",
  no_backend: "UH",
  invalid_backend: "UH",
};
/** What a route answers by itself. */
export const routeAnswer = ({ status, headers, body, reason, delayMs, grpcStatus }: LocalAnswer): OwnAnswer => ({
  flags: flagsByReason[reason] ?? "-",
  reason,
  answer: { kind: "respond", status, headers, body: Buffer.from(body), delayMs, grpcStatus },
});

/** `isAsked`: its client may know, and wants to, which policy denied it, by which rule and what of the request (SEC-10). */
export function refusal(refused: Pick<Verdict, "reason" | "policy" | "rule" | "input">, isAsked: boolean): OwnAnswer {
  const { reason, policy } = refused;
  const flags = refusedFlags(reason);
  if (flags !== "UAEX") return { flags, reason, policy, answer: respond(503, `no way to the service: ${reason}\n`) };
  const answer = respond(403, "RBAC: access denied\n");
  const headers = isAsked ? [...answer.headers, deniedField, denialText(refused)] : answer.headers;
  return { flags, reason, policy, answer: { ...answer, headers } };
}

/** A list member with parameters (RFC 8941 §3.1.2); what its strings cannot hold is percent-encoded. */
function denialText({ reason, policy, rule, input }: Pick<Verdict, "reason" | "policy" | "rule" | "input">): string {
  const by = policy === undefined ? `reason=${reason}` : `policy="${policy}"`;
  const index = rule === undefined ? "" : `; rule=${rule}`;
  const decided = input === undefined ? "" : `; input="${stringItem(input)}"`;
  return `denied; ${by}${index}${decided}`;
}

const mostInput = 512;
const stringItem = (text: string): string =>
  text
    .slice(0, mostInput)
    .toWellFormed()
    .replace(/[^\x20-\x7e]/gu, (char) => encodeURIComponent(char))
    .replace(/["\\]/g, "\\$&");

export function overMeshLimit({ by, action, retryAfterS }: MeshLimited): OwnAnswer {
  const isBlocked = action === "block";
  const answer = respond(isBlocked ? 403 : 429, `too many calls of this ${by}: try again in ${retryAfterS} s\n`);
  const headers = [...answer.headers, "retry-after", String(retryAfterS)];
  const reason = "mesh_limit";
  return isBlocked
    ? { flags: "UAEX", reason, answer: { ...answer, headers } }
    : { flags: "RL", reason, answer: { ...answer, headers, grpcStatus: exhausted } };
}

export function overLimit({ status, headers, retryAfterS, policy }: Limited): OwnAnswer {
  const isRate = status === 429;
  const why = isRate ? "too many requests" : "too many requests at once";
  const answer = respond(status, `${why}: try again in ${retryAfterS} s\n`);
  return {
    flags: isRate ? "RL" : "UO",
    reason: "rate_limit",
    policy,
    answer: { ...answer, headers: [...answer.headers, ...headers], ...(isRate ? { grpcStatus: exhausted } : {}) },
  };
}

export const heldBack = ({ name, members }: Cluster): OwnAnswer => ({
  flags: "UH",
  reason: "held_back",
  answer: respond(503, `no endpoint of ${name.service} may be used now: ${members.length} are held back\n`),
});

export const overloaded = ({ namespace, requests }: Tenant): OwnAnswer => ({
  flags: "UO",
  reason: "namespace_requests",
  answer: respond(
    503,
    `namespace ${namespace} has ${requests} requests under way here, its limit (FAIRLEAD_NAMESPACE_REQUESTS)\n`,
  ),
});

export const full = ({ name, policy }: Cluster): OwnAnswer => ({
  flags: "UO",
  reason: "max_requests",
  answer: respond(
    503,
    `${name.service} is at its limit of ${policy.limits.maxRequests} requests (limits.maxRequests)\n`,
  ),
});
