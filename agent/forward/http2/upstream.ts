// One HTTP/2 connection to a server: its streams' events go to the exchanges that own them, its own to its pool.
import type { OnReadOpts, Socket } from "node:net";
import type { HeaderList } from "../../http.ts";
import { errorCode } from "./codes.ts";
import type { Http2Connection } from "./connection.ts";
import type { Http2Handler } from "./events.ts";
import type { Http2Response } from "./head.ts";
import type { Http2Limits } from "./limits.ts";
import { Http2Socket, type SocketClock, type Turn } from "./socket.ts";
import type { Http2Stream } from "./stream.ts";
import { notBegun, type StreamConnection, type UpOwner } from "./stream-links.ts";
import { TurnGate } from "./turn-gate.ts";

/** The pool, as its connections see it. */
export interface UpstreamOwner {
  readonly turn: Turn;
  readonly clock: SocketClock;
  readonly http2Limits: Http2Limits;
  /** A stream is over, or the server may take more of them. */
  freed(upstream: Http2Upstream): void;
  /** The server said how many streams it takes at once. */
  told(maxStreams: number): void;
  /** No new stream may begin on it. */
  closing(upstream: Http2Upstream): void;
  gone(upstream: Http2Upstream): void;
}

export class Http2Upstream implements Http2Handler<Http2Response>, StreamConnection {
  readonly io: Http2Socket<Http2Response>;
  readonly connection: Http2Connection<Http2Response>;
  readonly openedMs: number;
  /** Streams begun on it. */
  used = 0;
  idleSinceMs: number;
  /** Answers cost the time of whoever asked; a pool's callers are of one namespace. */
  readonly gate = new TurnGate(() => this.io.resume());
  private readonly pool: UpstreamOwner;
  private socket: Socket | undefined;
  /** Wait for the server's settings; undefined once they are there. */
  private greeting: (() => void)[] | undefined = [];

  constructor(pool: UpstreamOwner, nowMs: number) {
    this.pool = pool;
    this.openedMs = nowMs;
    this.idleSinceMs = nowMs;
    this.io = new Http2Socket<Http2Response>(
      { role: "client", handler: this, limits: pool.http2Limits },
      pool.turn,
      pool.clock,
    );
    this.io.gate = this.gate;
    this.connection = this.io.connection;
  }

  onread(): OnReadOpts {
    return this.io.onread() as OnReadOpts;
  }

  opened(socket: Socket): void {
    this.socket = socket;
    this.io.attach(socket, false);
  }

  get canOpen(): boolean {
    return this.connection.canOpen && this.socket?.destroyed === false;
  }

  /** Takes no new stream; ends when those under way are over. */
  drain(): void {
    this.connection.drain();
  }

  destroy(): void {
    this.socket?.destroy();
  }

  onHead(stream: Http2Stream, head: Http2Response, end: boolean): void {
    (stream.owner as UpOwner | null)?.upHead(head, end);
  }
  onData(stream: Http2Stream, chunk: Buffer, end: boolean): void {
    const owner = stream.owner as UpOwner | null;
    if (owner === null) stream.consume(chunk.length);
    else owner.upData(chunk, end);
  }
  onTrailers(stream: Http2Stream, fields: HeaderList, sensitive: readonly string[] | null): void {
    (stream.owner as UpOwner | null)?.upTrailers(fields, sensitive);
  }
  onEnd(stream: Http2Stream): void {
    (stream.owner as UpOwner | null)?.upEnd();
  }
  onDrain(stream: Http2Stream): void {
    (stream.owner as UpOwner | null)?.upDrain();
  }

  onReset(stream: Http2Stream, code: number, reason: string): void {
    const owner = stream.owner as UpOwner | null;
    stream.owner = null;
    const why = whyOf(code, reason);
    owner?.upReset(why, code, reason !== "peer_reset" && this.used > 1 && !stream.headReceived);
    this.pool.freed(this);
  }
  onClose(stream: Http2Stream): void {
    const owner = stream.owner as UpOwner | null;
    stream.owner = null;
    owner?.upClosed();
    this.pool.freed(this);
  }

  onRefused(): void {}
  onPong(): void {}
  onGoaway(): void {
    this.pool.closing(this);
  }
  onSettings(): void {
    this.pool.told(this.connection.peerMaxStreams);
    this.greeted();
    this.pool.freed(this);
  }
  onDone(): void {
    this.pool.gone(this);
    this.greeted();
  }

  whenGreeted(fn: () => void): boolean {
    this.greeting?.push(fn);
    return this.greeting === undefined;
  }

  private greeted(): void {
    const { greeting } = this;
    this.greeting = undefined;
    for (const fn of greeting ?? []) fn();
  }
}

/** The word for records. */
function whyOf(code: number, reason: string): string {
  if (code === errorCode.refusedStream) return notBegun;
  if (reason === "transport_end") return "upstream_closed";
  if (reason === "peer_reset" || reason === "drained" || /^(?:transport_|E[A-Z]+$)/.test(reason))
    return "upstream_reset";
  return `refused:${reason}`;
}
