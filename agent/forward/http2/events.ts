// What an HTTP/2 connection is given, and what it tells its owner: one handler object for all streams of a connection, or of many.
import type { HeaderList } from "../../http.ts";
import type { Http2Request, Http2Response } from "./head.ts";
import type { Http2Limits } from "./limits.ts";
import type { Http2Stream } from "./stream.ts";

/**
 * `H` is Http2Request on the server's side, Http2Response on the client's. Callbacks run within `receive`, `flushed` and `lost`, never
 * within a call that the owner makes on a stream. Of a stream, either `onReset` or `onClose` is the last: the object is used again then.
 */
export interface Http2Handler<H extends Http2Request | Http2Response> {
  /** A request, an interim answer (status below 200) or an answer. `end`: nothing follows but onEnd. The head may be kept. */
  onHead(stream: Http2Stream, head: H, end: boolean): void;
  /**
   * Content. A chunk of `referenceBytes` or more may be kept, a shorter one is valid during the call. The peer may send as much again
   * once `stream.consume(bytes)` was called for it.
   */
  onData(stream: Http2Stream, chunk: Buffer, end: boolean): void;
  onTrailers(stream: Http2Stream, fields: HeaderList, sensitive: readonly string[] | null): void;
  /** The peer's message is complete; follows what had `end`, and trailers. */
  onEnd(stream: Http2Stream): void;
  /** The stream is gone: reset by the peer, by a violation (`reason` says which), or with the connection. */
  onReset(stream: Http2Stream, code: number, reason: string): void;
  /** After `sendData` returned false: write on. */
  onDrain(stream: Http2Stream): void;
  /** Both messages are complete and sent. */
  onClose(stream: Http2Stream): void;
  /** A message or frame was refused: for counters and the log. Streams concerned get onReset besides, if they were announced. */
  onRefused(reason: string, code: number): void;
  /** The peer takes no stream above `last`; those have been reset with REFUSED_STREAM, so they may be tried elsewhere. */
  onGoaway(last: number, code: number): void;
  /** Answer to `ping`. */
  onPong(): void;
  /** The peer's SETTINGS changed what it takes: streams at once, extended CONNECT. */
  onSettings(): void;
  /** Between agents, server: see frameType.clientEnded. */
  onClientEnded?(stream: Http2Stream): void;
  /** Nothing more will be read; what is gathered is to be written, then the transport ends. Comes once. */
  onDone(code: number, reason: string): void;
}

export interface Http2Options<H extends Http2Request | Http2Response> {
  readonly role: "server" | "client";
  readonly handler: Http2Handler<H>;
  /** Monotonic milliseconds, for the budgets. */
  readonly nowMs: () => number;
  /** Called when there is something to `take` after there was nothing. */
  readonly wake: () => void;
  readonly limits?: Http2Limits;
  /** Server: requests of RFC 8441 are taken. */
  readonly extendedConnect?: boolean;
  readonly huffman?: boolean;
}
