// What the two sides of an exchange ask of each other: the client's connection, the server's connection, the pool. Types alone.
import type { Socket } from "node:net";
import type { StreamPool } from "../http2/stream-links.ts";
import type { Tenant } from "../tenants.ts";
import type { TrailerParser } from "./body.ts";
import type { ResponseParser } from "./response.ts";

/** The exchange, as the server's side sees it. */
export interface Answered {
  /** Whose time it costs; absent: whoever reads the client's bytes. */
  readonly tenant?: Tenant | undefined;
  /** Grows with each wait for a connection, so that a late answer to an earlier one is known. */
  readonly turn: number;
  /** False where its request may go beside others as HTTP/2: it asks for no other protocol, and no long body is announced. */
  readonly isAlone?: boolean;
  connected(server: ServerLink): void;
  notConnected(why: string, turn: number): void;
  /** What it was called for threw: it is over. */
  threw(error: unknown): void;
  /** A byte came. */
  touch(): void;
  /** A response with 1xx. */
  interim(head: ResponseParser): void;
  /** The final head. False: this response goes no further, and the connection is the exchange's no more. */
  answer(server: ServerLink): boolean;
  /** Payload `buf[from..to)`, framed in place. False: no more until `resume`. */
  payload(buf: Buffer, from: number, to: number, done: boolean, trailers: TrailerParser | undefined): boolean;
  /** Whether the rest of the payload, `left` bytes, reaches the client without these two from now on: until `skipped` nothing is read. */
  movesAnswer?(server: ServerLink, left: number): boolean;
  /** Nothing more of this answer is there for now: what is held back goes out, at the end of this turn of work at the latest. */
  flush(): void;
  /** The response is whole; the connection goes back to its pool or ends. */
  answerEnded(server: ServerLink): void;
  /** No (further) answer will come. */
  upstreamFailed(server: ServerLink, why: string): void;
  tunnelled(buf: Buffer, from: number, to: number): boolean;
  tunnelEnded(): void;
}

/** Where a request is written to. */
export interface RequestWriter {
  /** Something of what was written has not left. */
  readonly isPending: boolean;
  whenFlushed(fn: () => void): void;
  /** A request that is whole, or its head with the beginning of a body that goes on in `framing`. `bytes` are lent while `isPending`. */
  request(bytes: Buffer, framing: number, isWhole: boolean): void;
  /** The payload `buf[from..to)`, framed in place; true if `buf` is still being written out afterwards. */
  payload(buf: Buffer, from: number, to: number, done: boolean, trailers: TrailerParser | undefined): boolean;
  /** Bytes as they are. */
  write(bytes: Buffer): void;
}

/** A server's connection, as the exchange that it carries sees it. */
export interface ServerLink {
  readonly pool: PoolLink;
  readonly parser: ResponseParser;
  readonly writer: RequestWriter;
  /** Exchanges begun on it, this one included. */
  readonly used: number;
  /** Whether any byte of the present response came. */
  readonly hasAnswered: boolean;
  readonly isUsable: boolean;
  /** Absent where it is not this connection's alone. */
  readonly socket?: Socket | undefined;
  idleSinceMs: number;
  /** For how long the server says that it keeps an idle connection, with a second to spare. */
  readonly serverIdleMs: number;
  begin(exchange: Answered, method: string): void;
  /** Reads on after a `false`. */
  resume(): void;
  /** Memory that was read into is still being written out, and the next read will not wait for it. */
  lend(buf: Buffer): void;
  /** So many bytes of the payload went by without it; it reads on. */
  skipped?(taken: number): void;
  /** Ends the writing side. */
  endWriting(): void;
  noteKeepAlive(): void;
  /** Ends the connection; the exchange that it carried is not told. */
  destroy(): void;
}

export interface PoolLink {
  /**
   * A connection that is there, or undefined: then `connected` or `notConnected` is called later. `safe`: the request may be sent
   * twice. `fresh`: not one that was used before.
   */
  take(exchange: Answered, safe: boolean, fresh: boolean): ServerLink | undefined;
  /** Takes back a connection whose exchange is over; `bytes`: of both its bodies. */
  put(server: ServerLink, bytes: number): void;
  /** The exchange waits no longer. */
  cancel(exchange: Answered): void;
  /** Where the endpoint speaks HTTP/2: exchanges that do take streams of it as they are. */
  readonly streams?: StreamPool;
}
