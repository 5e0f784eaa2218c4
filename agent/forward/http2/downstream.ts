// An HTTP/2 client's connection: each of its streams is an exchange of its own. Ends in order: drained, idle, or with the client.
import type { OnReadOpts, Socket } from "node:net";
import type { HeaderList } from "../../http.ts";
import type { DownstreamParts, ExchangeLimits, Handler } from "../http1/exchange.ts";
import type { Sweep, Swept } from "../http1/sweep.ts";
import type { Tenant } from "../tenants.ts";
import { errorCode } from "./codes.ts";
import type { Http2Handler } from "./events.ts";
import { StreamExchange } from "./exchange.ts";
import type { Http2Request } from "./head.ts";
import { defaultLimits, type Http2Limits } from "./limits.ts";
import type { ExchangeParts, RoutedExchange } from "./routed-exchange.ts";
import { Http2Socket, type Turn } from "./socket.ts";
import type { Http2Stream } from "./stream.ts";
import { TurnGate } from "./turn-gate.ts";

const overflow = "memory_overflow";
/** Exchanges of streams that are over, of all connections of the thread. */
const spare: StreamExchange[] = [];
const mostSpare = 256;

export interface Http2DownstreamParts extends Omit<DownstreamParts, "handler"> {
  /** Makes one for each exchange that is under way beside others; they are used again. */
  readonly handler: () => Handler;
  readonly turn: Turn;
  readonly http2Limits?: Http2Limits;
  /** See ExchangeParts. */
  readonly isHttp1?: boolean;
}

export class Http2Downstream implements Http2Handler<Http2Request>, ExchangeParts, Swept {
  readonly limits: ExchangeLimits;
  readonly times: Sweep;
  readonly isHttp1: boolean;
  private readonly makeHandler: () => Handler;
  private readonly handlers: Handler[] = [];
  private readonly io: Http2Socket<Http2Request>;
  private readonly socket: Socket;
  private readonly tellClosed: (() => void) | undefined;
  private idleSinceMs: number;
  private isDraining = false;
  private drainedMs = 0;
  private readonly gate = new TurnGate(() => this.io.resume());

  /** `open` makes the socket, with `onread` and half-close allowed. */
  constructor(parts: Http2DownstreamParts, open: (onread: OnReadOpts) => Socket) {
    this.makeHandler = parts.handler;
    this.limits = parts.limits;
    this.times = parts.sweep;
    this.isHttp1 = parts.isHttp1 === true;
    this.tellClosed = parts.closed;
    this.idleSinceMs = parts.sweep.now;
    const limits = parts.http2Limits ?? defaultLimits;
    // What asks for another protocol has a connection of its own between agents, so nothing of it comes where isHttp1 is.
    const options = { role: "server", handler: this, limits, extendedConnect: !this.isHttp1 } as const;
    this.io = new Http2Socket<Http2Request>(options, parts.turn, parts.sweep.clock);
    this.io.gate = this.gate;
    this.socket = open(this.io.onread() as OnReadOpts);
    this.socket.once("close", () => {
      parts.sweep.remove(this);
      this.tellClosed?.();
    });
    this.io.attach(this.socket, false);
    parts.sweep.add(this);
  }

  get streamCount(): number {
    return this.io.connection.streams.size;
  }

  /** Whose share of the thread it uses. */
  get tenant(): Tenant | undefined {
    return this.gate.tenant;
  }
  set tenant(tenant: Tenant | undefined) {
    this.gate.tenant = tenant;
  }

  /** Of answers, bytes that wait for the client's windows. */
  get queuedBytes(): number {
    let bytes = 0;
    for (const stream of this.io.connection.streams.values()) bytes += stream.queuedBytes;
    return bytes;
  }

  take(): Handler {
    return this.handlers.pop() ?? this.makeHandler();
  }

  give(handler: Handler): void {
    this.handlers.push(handler);
  }

  free(exchange: RoutedExchange): void {
    this.idleSinceMs = this.times.now;
    if (spare.length < mostSpare) spare.push(exchange as StreamExchange);
  }

  onHead(stream: Http2Stream, head: Http2Request, end: boolean): void {
    (spare.pop() ?? new StreamExchange(this)).begin(this, stream, head, end);
  }
  onData(stream: Http2Stream, chunk: Buffer, end: boolean): void {
    const exchange = stream.owner as StreamExchange | null;
    if (exchange === null) stream.consume(chunk.length);
    else exchange.data(chunk, end);
  }
  onTrailers(stream: Http2Stream, fields: HeaderList): void {
    (stream.owner as StreamExchange | null)?.trailers(fields);
  }
  onEnd(stream: Http2Stream): void {
    (stream.owner as StreamExchange | null)?.requestEnd();
  }
  onDrain(stream: Http2Stream): void {
    (stream.owner as StreamExchange | null)?.drain();
  }
  onReset(stream: Http2Stream, code: number, reason: string): void {
    const exchange = stream.owner as StreamExchange | null;
    stream.owner = null;
    exchange?.over(reason === overflow ? reason : isClientsWish(code, reason) ? "client_gone" : `refused:${reason}`);
  }
  onClose(stream: Http2Stream): void {
    const exchange = stream.owner as StreamExchange | null;
    stream.owner = null;
    exchange?.over(undefined);
  }

  onRefused(refused: string, code: number): void {
    const handler = this.take();
    this.give(handler);
    handler.refused?.({ refused, status: refused === "head_too_large" ? 431 : 400, h2Code: code });
  }
  onClientEnded(stream: Http2Stream): void {
    if (this.isHttp1) (stream.owner as StreamExchange | null)?.clientEnded();
  }
  onGoaway(): void {}
  onPong(): void {}
  onSettings(): void {}
  onDone(): void {}

  sweep(now: number): void {
    const { connection } = this.io;
    const { streams } = connection;
    // Its namespace holds too much of this thread's memory, and it more than its part: it is let go.
    if (this.tenant?.holds(this.queuedBytes + this.io.unsent) === true) {
      if (this.isHttp1) this.shed();
      else connection.fail(errorCode.enhanceYourCalm, overflow);
    }
    if (streams.size > 0) {
      this.idleSinceMs = now;
      for (const stream of streams.values()) (stream.owner as StreamExchange | null)?.sweep(now);
    } else if (this.isDraining) {
      // A client that answers nothing learns of the end by it.
      if (now - Math.max(this.drainedMs, this.idleSinceMs) >= this.limits.drainIdleMs + this.limits.lingerMs)
        this.socket.destroy();
    } else if (now - this.idleSinceMs >= this.limits.idleTimeoutMs) this.drain();
  }

  private shed(): void {
    const streams = [...this.io.connection.streams.values()];
    for (const stream of heaviest(streams, this.queuedBytes + this.io.unsent)) {
      const exchange = stream.owner as StreamExchange | null;
      stream.owner = null;
      stream.reset(errorCode.enhanceYourCalm);
      exchange?.over(overflow);
    }
  }

  /** Streams under way are served to their end, and those that the client began before it heard of this (RFC 9113 §6.8). */
  drain(): void {
    if (this.isDraining) return;
    this.isDraining = true;
    this.drainedMs = this.times.now;
    this.io.connection.drain();
  }

  /** Ends it now. */
  destroy(): void {
    this.io.connection.lost("stopped");
    this.socket.destroy();
  }
}

/**
 * Of many clients' requests on a connection that holds `bytes`, those whose clients take least of their answers. Who only waits for the
 * others to be written out has little, but may be the only one with anything.
 */
export function heaviest<S extends { readonly queuedBytes: number }>(
  streams: readonly S[],
  bytes: number,
): readonly S[] {
  const mean = bytes / Math.max(1, streams.length);
  return streams.filter(({ queuedBytes }) => queuedBytes > 0 && queuedBytes >= mean);
}

/** Reset by the client or with its connection; else for a rule that it broke. */
const isClientsWish = (code: number, reason: string): boolean =>
  code === errorCode.cancel || reason === "peer_reset" || reason === "stopped" || reason.startsWith("transport_");
