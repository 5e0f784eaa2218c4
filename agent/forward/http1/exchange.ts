// What connections, pools and whoever decides say to each other about one request and its response. Types, limits and words alone.
import type { OnReadOpts, Socket } from "node:net";
import type { Result } from "../../base/result.ts";
import type { Endpoint } from "../../flow.ts";
import type { HeaderEdits, HeaderList, Malformed, RequestHead, ResponseHead } from "../../http.ts";
import type { HttpProtocol } from "../sniff.ts";
import type { Joiner } from "./joiner.ts";
import { type CodecLimits, defaultCodecLimits } from "./limits.ts";
import type { PoolLink } from "./links.ts";
import type { Sweep } from "./sweep.ts";
import type { RequestRewrite } from "./write.ts";

/** Opens a connection whose bytes go to `onread`; the error is a word for records (`connect_refused`). Half-close must be allowed on it. */
export type Dialer = (endpoint: Endpoint, onread: OnReadOpts) => Promise<Result<Socket, string>>;

export interface Forward extends RequestRewrite {
  readonly kind: "forward";
  readonly upstream: PoolLink;
  /** From the request's head to the response's end; 0 or absent: none. */
  readonly timeoutMs?: number;
  /** From now to the response's head; `failed` is asked what to do after it. */
  readonly tryTimeoutMs?: number;
  /** From the request's end to the response's head; `failed` likewise. */
  readonly responseTimeoutMs?: number;
  /** Without a byte in either direction; 0: none, absent: ExchangeLimits.stallTimeoutMs. */
  readonly idleTimeoutMs?: number;
  /** Of the request's body, bytes kept so that it can be sent again. Absent: what came with its head. */
  readonly replayBytes?: number;
  /** Wait before the request goes on: injected delay, backoff of a retry. */
  readonly delayMs?: number;
  /** Goes beside the first try. */
  readonly copies?: RequestCopies;
}
/** What a codec tells of a request that is copied to other servers (mirror.ts). */
export interface RequestCopies {
  /** The request is decided about. `isBodiless`: it is whole. */
  begin(isBodiless: boolean): void;
  /** Payload; `chunk` is good for the time of the call. */
  data(chunk: Buffer): void;
  /** The body is whole. */
  end(): void;
  /** The request is over: copies whose body is not whole will never be. */
  cut(): void;
}
export interface Respond {
  readonly kind: "respond";
  readonly status: number;
  readonly headers: HeaderList;
  readonly body: Buffer;
  /** Of gRPC, where the call is one; absent: what `status` means there. */
  readonly grpcStatus?: number | undefined;
  /** Wait before the answer goes out: injected delay, tarpit. */
  readonly delayMs?: number;
}
/** The connection is reset without a word. */
export interface Reset {
  readonly kind: "reset";
}
export type Decision = Forward | Respond | Reset;

/**
 * How an exchange ended: "finished", or what cut it short. `connect_*` and `refused:*` words come from the dialler and the parser.
 */
export type Outcome = string;

/** Facts of the exchange under way; the object is the connection's and is used again for its next request. */
export interface Exchange {
  /** What was last decided. */
  readonly decision: Decision | undefined;
  readonly method: string;
  readonly startedMs: number;
  /** 0 until the response's head came. */
  readonly answeredMs: number;
  /** Of the final response; 0 if the client got none. */
  readonly status: number;
  /** Payload bytes from the client and to it. */
  readonly requestBytes: number;
  readonly responseBytes: number;
  /** How often the request was sent beyond the first time. */
  readonly resent: number;
  readonly outcome: Outcome;
  readonly clientProtocol: HttpProtocol;
  /** A gRPC call (over HTTP/2), and its status, "" if it has none. */
  readonly isGrpc: boolean;
  readonly grpcStatus: string;
  /** No server has seen it whole and answered, and all that was sent is still here: it may go to another server. */
  readonly canResend: boolean;
}

export interface Handler {
  /** Synchronous; the head is good for the time of the call. */
  decide(head: RequestHead, exchange: Exchange): Decision;
  /** The final response's head: edits of it, or another decision instead of it (a retry, if the exchange can be resent). */
  answered?(head: ResponseHead, exchange: Exchange): HeaderEdits | Decision | undefined;
  /** No response came, for the reason in `why`. Another decision, or undefined for the usual 502, 503 or 504. */
  failed?(why: Outcome, exchange: Exchange): Decision | undefined;
  /** Bytes of a client were no request. `ended` is not called for them. */
  refused?(malformed: Malformed): void;
  /** A decision or hook threw. That exchange is over ("internal_error"), all others go on. Absent: it is thrown on. */
  threw?(error: unknown): void;
  /** Each exchange that `decide` was asked about ends here, once. */
  ended?(exchange: Exchange): void;
}

export interface DownstreamParts {
  readonly handler: Handler;
  readonly limits: ExchangeLimits;
  readonly sweep: Sweep;
  /** The connection is over. */
  readonly closed?: () => void;
  /** Moves long bodies; absent: all are read and written here. */
  readonly joiner?: Joiner;
}

export interface ExchangeLimits extends CodecLimits {
  /** From the first byte of a head to its last. */
  readonly headTimeoutMs: number;
  /** Between requests. */
  readonly idleTimeoutMs: number;
  /** No byte in either direction during an exchange. */
  readonly stallTimeoutMs: number;
  /** The same once another protocol is spoken. */
  readonly tunnelIdleTimeoutMs: number;
  /** Time and bytes for which what a client still sends is read over after its answer. */
  readonly lingerMs: number;
  readonly maxDiscardBytes: number;
  /** Of a connection that is drained and without a request: time for one that is on its way. More than `unsafeIdleMs` of pools. */
  readonly drainIdleMs: number;
  /** Bytes of answers that a client has not taken; its next request waits for that. */
  readonly maxUnread: number;
  /** Of a body that came with the head, bytes that are sent in one piece with it. */
  readonly maxFirstBytes: number;
}

export const defaultExchangeLimits: ExchangeLimits = {
  ...defaultCodecLimits,
  headTimeoutMs: 10_000,
  // Longer than usual clients keep a connection (undici 4 s, Java 30 s, Go 90 s), so that mostly they close first.
  idleTimeoutMs: 120_000,
  stallTimeoutMs: 300_000,
  tunnelIdleTimeoutMs: 3_600_000,
  lingerMs: 2_000,
  maxDiscardBytes: 256 * 1024,
  drainIdleMs: 5_000,
  maxUnread: 64 * 1024,
  maxFirstBytes: 16 * 1024,
};

/** Sent twice it does what it does once (RFC 9110 §9.2.2). */
export function isIdempotent(method: string): boolean {
  switch (method) {
    case "GET":
    case "HEAD":
    case "PUT":
    case "DELETE":
    case "OPTIONS":
    case "TRACE":
      return true;
    default:
      return false;
  }
}

const timedOut = new Set(["request_timeout", "try_timeout", "response_timeout", "response_stalled", "connect_timeout"]);
/** The status that a client gets where the server gave none, by why. */
export function statusOf(why: Outcome): number {
  if (timedOut.has(why)) return 504;
  if (why === "upstream_refused" || /^(connect|tunnel|tls|pool|memory)_/.test(why)) return 503;
  return 502;
}
