// What an exchange, its stream to a server and the connections to that server ask of each other. Types alone.
import type { HeaderList, ResponseHead } from "../../http.ts";
import type { Tenant } from "../tenants.ts";
import type { Http2Connection } from "./connection.ts";
import type { Http2Response } from "./head.ts";

/** Reason of a stream that its server has certainly not begun (RFC 9113 §8.7). */
export const notBegun = "upstream_refused";

/** The way of one request to its server; an Http2Stream, or what looks like one. Methods as there. */
export interface UpStream {
  sendData(chunk: Buffer, end: boolean): boolean;
  sendTrailers(fields: HeaderList): void;
  end(): void;
  reset(code: number): void;
  consume(bytes: number): void;
  /** Its owner hears no more of it; what was sent still goes out. */
  detach(): void;
  /** Where it is a connection of HTTP/1.1: the client has ended its side, and the server learns of it. */
  endWriting?(): void;
}

/** Of an answer; what concerns one connection only is not among its fields. */
export interface UpHead extends ResponseHead {
  readonly sensitive: readonly string[] | null;
  /** By Content-Length, -1 if it has none. */
  readonly contentLength: number;
}

/** What hears of the answer (`Http2Stream.owner`). `upReset` or `upClosed` is the last that it hears of the stream. */
export interface UpOwner {
  /** An interim answer (status below 200) or the answer. */
  upHead(head: UpHead, end: boolean): void;
  /** To be consumed by the owner. A chunk below `referenceBytes` is good for the time of the call. */
  upData(chunk: Buffer, end: boolean): void;
  upTrailers(fields: HeaderList, sensitive: readonly string[] | null): void;
  /** The answer is complete. */
  upEnd(): void;
  /** After `sendData` said false: write on. */
  upDrain(): void;
  /** `why` as in records, `code` of RFC 9113 §7; `maybeStale`: a connection used before was lost before it answered. */
  upReset(why: string, code: number, maybeStale: boolean): void;
  upClosed(): void;
}

/** A connection that carries many streams. */
export interface StreamConnection {
  readonly connection: Http2Connection<Http2Response>;
  readonly canOpen: boolean;
  /** Streams begun on it. */
  readonly used: number;
  /** Whether the server's settings are there; if not, `fn` is called when they are, or when they will never be. */
  whenGreeted(fn: () => void): boolean;
}

/** Waits for a connection that takes one more stream. */
export interface StreamTaker {
  /** Whose time its answer costs. */
  readonly tenant?: Tenant | undefined;
  /** Grows with each wait, so that a late answer to an earlier one is known. */
  readonly turn: number;
  opened(upstream: StreamConnection): void;
  notConnected(why: string, turn: number): void;
}

/** A pool whose connections carry many streams. */
export interface StreamPool {
  /** A connection that takes one more stream, or undefined: then `opened` or `notConnected` is called later. */
  connection(taker: StreamTaker, fresh: boolean): StreamConnection | undefined;
  giveUp(taker: StreamTaker): void;
}
