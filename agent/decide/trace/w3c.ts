// Headers of W3C Trace Context (https://www.w3.org/TR/trace-context/, level 2): read strictly, written as version 00. Pure.

export const sampledFlag = 1;
/** The trace id was chosen at random (level 2): carried on with the id. */
const randomFlag = 2;

/** A place in a trace: ids in lower-case hexadecimal, never all zeros. */
export interface TracePlace {
  /** 32 digits. */
  traceId: string;
  /** 16 digits: the span that the sender is in. */
  parentId: string;
  flags: number;
}

const dash = 45;

/** The digits from `from` on are lower-case hexadecimal; says whether one of them is not 0, undefined where one is no digit. */
export function hexIn(text: string, from: number, to: number): boolean | undefined {
  let any = false;
  for (let i = from; i < to; i++) {
    const c = text.charCodeAt(i);
    if (c === 48) continue;
    if (!((c > 48 && c <= 57) || (c >= 97 && c <= 102))) return undefined;
    any = true;
  }
  return any;
}

/**
 * Reads `traceparent` into `into`; false (and `into` as it was) where it is not valid, and the trace begins anew (§3.2). A version that is
 * not known is read as 00 as far as that goes (§4.1).
 */
export function readTraceparent(text: string, into: TracePlace): boolean {
  const length = text.length;
  if (length < 55 || text.charCodeAt(2) !== dash || text.charCodeAt(35) !== dash || text.charCodeAt(52) !== dash)
    return false;
  if (hexIn(text, 0, 2) === undefined || text.startsWith("ff")) return false;
  if (length > 55 && (text.startsWith("00") || text.charCodeAt(55) !== dash)) return false;
  if (hexIn(text, 3, 35) !== true || hexIn(text, 36, 52) !== true || hexIn(text, 53, 55) === undefined) return false;
  into.traceId = text.slice(3, 35);
  into.parentId = text.slice(36, 52);
  into.flags = Number.parseInt(text.slice(53, 55), 16) & (sampledFlag | randomFlag);
  return true;
}

export const writeTraceparent = (traceId: string, spanId: string, flags: number): string =>
  `00-${traceId}-${spanId}-0${flags & (sampledFlag | randomFlag)}`;

/** At most so many members are carried (§3.3.1.1). */
const maxMembers = 32;
// key = simple, or tenant "@" system; value = printable without "," and "=", not ending in a space (§3.3.1.3).
const key = /^[a-z0-9][a-z0-9_\-*/]{0,255}$|^[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13}$/;
const value = /^[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]$/;

/** Whether `tracestate` can be carried on; what is not valid is left out (§3.3.1). */
export function isTracestate(text: string): boolean {
  const members = text.split(",");
  if (members.length > maxMembers) return false;
  const keys = new Set<string>();
  for (const member of members) {
    const own = member.replace(/^[ \t]+|[ \t]+$/g, "");
    if (own === "") continue;
    const at = own.indexOf("=");
    const name = own.slice(0, at);
    if (at < 1 || keys.has(name) || !key.test(name) || !value.test(own.slice(at + 1))) return false;
    keys.add(name);
  }
  return keys.size > 0;
}
