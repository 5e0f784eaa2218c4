// What can go wrong with a request to the API server, as a value.

export type ApiFault =
  /** The server answered with an error; fields of its Status object. */
  | {
      readonly kind: "status";
      readonly code: number;
      readonly reason: string;
      readonly message: string;
      /** What the server asks for, in ms. */
      readonly retryAfterMs: number | undefined;
    }
  /** No whole answer. `credentials`: a token, certificate or plugin could not be read; `too_large`: an answer over the limit. */
  | {
      readonly kind: "network" | "timeout" | "garbage" | "credentials" | "too_large" | "aborted";
      readonly message: string;
    };

export const faultOf = (kind: Exclude<ApiFault["kind"], "status">, message: string): ApiFault => ({
  kind,
  message: message.slice(0, 300),
});

export const isGone = (fault: ApiFault): boolean => fault.kind === "status" && fault.code === 410;
export const isMissing = (fault: ApiFault): boolean => fault.kind === "status" && fault.code === 404;
export const isConflict = (fault: ApiFault): boolean => fault.kind === "status" && fault.code === 409;
export const isThrottled = (fault: ApiFault): boolean => fault.kind === "status" && fault.code === 429;

/** A few words that metrics may carry: which sort of failure it is. */
export function faultLabel(fault: ApiFault): string {
  if (fault.kind !== "status") return fault.kind;
  switch (fault.code) {
    case 401:
      return "unauthorized";
    case 403:
      return "forbidden";
    case 404:
      return "missing";
    case 409:
      return "conflict";
    case 410:
      return "expired";
    case 429:
      return "throttled";
    default:
      return fault.code >= 500 ? "server" : "refused";
  }
}

/** One line for people. */
export const showFault = (fault: ApiFault): string =>
  fault.kind === "status"
    ? `the API server answered ${fault.code}${fault.message === "" ? "" : `: ${fault.message}`}`
    : fault.message;

/** The Status object in an error's body, as far as it can be read. `retryAfter` is the header: seconds, or a date (RFC 9110 §10.2.3). */
export function faultOfAnswer(code: number, body: string, retryAfter: string | undefined, nowMs: number): ApiFault {
  let parsed: unknown;
  try {
    parsed = JSON.parse(body);
  } catch {
    // A proxy in between may answer with anything.
  }
  const status = statusOf(parsed);
  return {
    kind: "status",
    code,
    reason: status.reason,
    message: status.message || body.trim().split("\n")[0]?.slice(0, 300) || "",
    retryAfterMs: parseRetryAfter(retryAfter, nowMs) ?? status.retryAfterMs,
  };
}

/** The fault that an ERROR event of a watch carries. */
export function faultOfEvent(object: unknown): ApiFault {
  const { code, reason, message, retryAfterMs } = statusOf(object);
  return { kind: "status", code, reason, message, retryAfterMs };
}

interface Status {
  readonly code: number;
  readonly reason: string;
  readonly message: string;
  readonly retryAfterMs: number | undefined;
}
function statusOf(value: unknown): Status {
  const fields = (typeof value === "object" && value !== null ? value : {}) as Record<string, unknown>;
  const details = (fields.details ?? {}) as { readonly retryAfterSeconds?: unknown };
  const seconds = details.retryAfterSeconds;
  return {
    code: typeof fields.code === "number" && Number.isInteger(fields.code) ? fields.code : 500,
    reason: typeof fields.reason === "string" ? fields.reason.slice(0, 80) : "",
    message: typeof fields.message === "string" ? fields.message.slice(0, 300) : "",
    retryAfterMs: typeof seconds === "number" && seconds >= 0 ? bounded(seconds * 1000) : undefined,
  };
}

/** Nobody is kept waiting longer than this by a header. */
const longestRetryMs = 300_000;
const bounded = (ms: number): number => Math.min(longestRetryMs, ms);

function parseRetryAfter(text: string | undefined, nowMs: number): number | undefined {
  if (text === undefined) return undefined;
  if (/^[0-9]{1,9}$/.test(text.trim())) return bounded(Number(text) * 1000);
  const at = Date.parse(text);
  return Number.isNaN(at) ? undefined : bounded(Math.max(0, at - nowMs));
}
