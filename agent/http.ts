// What codecs, decisions and reports of the HTTP lane say to each other about a message. Types and constants alone: no bytes, no sockets.

/** Name and value in turn, names in lower case: `["accept", "*\/*", "host", "a"]`. One array, so that a head costs no object per field. */
export type HeaderList = readonly string[];

/** Of answers in words that no server gave. */
export const plainText: HeaderList = ["content-type", "text/plain; charset=utf-8"];

/** A request's head as decisions see it. Codecs may read values lazily; nothing here may be kept after the call it is given to. */
export interface RequestHead {
  readonly method: string;
  readonly scheme: "http" | "https";
  /** Host and port as the client named them (`Host` or `:authority`), "" if none. */
  readonly authority: string;
  /** Origin form with the query, beginning with "/"; "*" for OPTIONS *; "" for CONNECT. */
  readonly path: string;
  /** `name` in lower case. Several fields of that name are joined by ", " (cookie by "; "). */
  header(name: string): string | undefined;
  /** All fields but pseudo-headers, in their order. */
  headers(): HeaderList;
}

export interface ResponseHead {
  readonly status: number;
  header(name: string): string | undefined;
  headers(): HeaderList;
}

/**
 * In an answer of the agent on the server's node to the agent on the client's: no server answered, for the reason given, which also says
 * whether one may have got the request. Taken out of answers of servers there, and of all answers here.
 */
export const unansweredField = "x-fairlead-unanswered";

/** In a request: its client wants to know why it is denied, should it be; and in the answer, who denied it. */
export const explainField = "x-fairlead-explain";
export const deniedField = "x-fairlead-denied";

/**
 * Why a message is not understood, with what is answered. `refused` is what the metric and the log line carry; HTTP/2 answers with
 * RST_STREAM or GOAWAY of `h2Code` (RFC 9113 §7) where a status would come too late.
 */
export interface Malformed {
  readonly refused: string;
  readonly status: 400 | 408 | 413 | 414 | 417 | 431 | 501 | 505;
  readonly h2Code?: number;
}

/** Changes of a head on its way, in the order remove, set, add (Gateway API HTTPHeaderFilter). Names in lower case. */
export interface HeaderEdits {
  readonly remove: readonly string[];
  readonly set: HeaderList;
  readonly add: HeaderList;
  /** Added too; absent: none. */
  readonly made?: MadeFields | undefined;
}

/** Fields that were made here and are valid, in two forms, each made when it is asked for. Good until the next request is decided about. */
export interface MadeFields {
  readonly list: HeaderList;
  /** As lines of HTTP/1, each with its end: to be copied at once. */
  readonly lines: Buffer;
}
