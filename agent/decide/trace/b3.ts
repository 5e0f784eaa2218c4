// B3 propagation (https://github.com/openzipkin/b3-propagation): the one header `b3`, and the several `X-B3-*`. Read strictly. Pure.
import type { RequestHead } from "../../http.ts";
import { hexIn } from "./w3c.ts";

/** What B3 headers said. */
export interface B3Place {
  /** 16 or 32 digits; "" where only a decision was sent. */
  traceId: string;
  spanId: string;
  /** undefined: left to whoever reads it. */
  sampled: boolean | undefined;
  debug: boolean;
}

const none: Readonly<B3Place> = { traceId: "", spanId: "", sampled: undefined, debug: false };

const isId = (text: string): boolean =>
  (text.length === 16 || text.length === 32) && hexIn(text, 0, text.length) === true;
const isSpanId = (text: string): boolean => text.length === 16 && hexIn(text, 0, 16) === true;

/** `{trace}-{span}[-{state}[-{parent}]]`, or a state alone; undefined where it is neither. */
export function parseB3(text: string): B3Place | undefined {
  if (text === "0") return { ...none, sampled: false };
  if (text === "1") return { ...none, sampled: true };
  if (text === "d") return { ...none, sampled: true, debug: true };
  const [traceId = "", spanId = "", state, parent, more] = text.split("-", 5);
  if (!isId(traceId) || !isSpanId(spanId) || more !== undefined) return undefined;
  if (state !== undefined && state !== "0" && state !== "1" && state !== "d") return undefined;
  if (parent !== undefined && !isSpanId(parent)) return undefined;
  return { traceId, spanId, sampled: state === undefined ? undefined : state !== "0", debug: state === "d" };
}

/** The `X-B3-*` headers; undefined where there are none, or ids that are none. */
export function readB3Headers(head: Pick<RequestHead, "header">): B3Place | undefined {
  const traceId = head.header("x-b3-traceid") ?? "";
  const spanId = head.header("x-b3-spanid") ?? "";
  const state = head.header("x-b3-sampled");
  const debug = head.header("x-b3-flags") === "1";
  // "true" and "false" were sent by early implementations.
  const decided = state === "1" || state === "true" ? true : state === "0" || state === "false" ? false : undefined;
  const sampled = debug ? true : decided;
  if (traceId === "" && spanId === "") return sampled === undefined ? undefined : { ...none, sampled, debug };
  return isId(traceId) && isSpanId(spanId) ? { traceId, spanId, sampled, debug } : undefined;
}

/** The one header. `parentId` "": the trace begins here. */
export const writeB3 = (traceId: string, spanId: string, sampled: boolean, debug: boolean, parentId: string): string =>
  `${traceId}-${spanId}-${debug ? "d" : sampled ? "1" : "0"}${parentId === "" ? "" : `-${parentId}`}`;
