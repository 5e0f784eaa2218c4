// Connections to one HTTP/2 endpoint for one class of callers (DP-27): few, with many streams each. A connection that takes no more
// streams (full, GOAWAY) is joined by another; what waits gets its stream in turn.
import type { Endpoint } from "../../flow.ts";
import type { Dialer, ExchangeLimits } from "../http1/exchange.ts";
import type { Answered, PoolLink, ServerLink } from "../http1/links.ts";
import { defaultPoolLimits, type PoolCounts, type PoolLimits } from "../http1/pool.ts";
import type { Sweep } from "../http1/sweep.ts";
import { defaultLimits, type Http2Limits } from "./limits.ts";
import { StreamServerLink } from "./server-link.ts";
import type { SocketClock, Turn } from "./socket.ts";
import type { StreamConnection, StreamPool, StreamTaker } from "./stream-links.ts";
import { Http2Upstream, type UpstreamOwner } from "./upstream.ts";

/** How many streams at once a server is believed to take before it has said so; usual servers take 100 or more. */
const mostExpected = 100;

export interface Http2PoolParts {
  readonly endpoint: Endpoint;
  readonly dial: Dialer;
  readonly sweep: Sweep;
  readonly turn: Turn;
  readonly exchangeLimits: ExchangeLimits;
  /** `maxWaiting`: for a stream; `maxRequests`: streams that one connection carries in all. */
  readonly limits?: PoolLimits;
  readonly counts?: PoolCounts;
  readonly http2Limits?: Http2Limits;
}

/** An exchange of HTTP/1.1 that waits for a stream. */
class LinkTaker implements StreamTaker {
  readonly exchange: Answered;
  private readonly pool: Http2Pool;

  constructor(pool: Http2Pool, exchange: Answered) {
    this.pool = pool;
    this.exchange = exchange;
  }
  get turn(): number {
    return this.exchange.turn;
  }
  opened(upstream: StreamConnection): void {
    this.exchange.connected(new StreamServerLink(this.pool, upstream));
  }
  notConnected(why: string, turn: number): void {
    this.exchange.notConnected(why, turn);
  }
}

export class Http2Pool implements PoolLink, StreamPool, UpstreamOwner {
  readonly streams: StreamPool = this;
  readonly endpoint: Endpoint;
  limits: PoolLimits;
  /** All pools under the same limits, this one included. */
  readonly counts: PoolCounts;
  readonly http2Limits: Http2Limits;
  readonly exchangeLimits: ExchangeLimits;
  readonly turn: Turn;
  readonly clock: SocketClock;
  private readonly sweepOf: Sweep;
  private readonly dial: Dialer;
  private readonly ready: Http2Upstream[] = [];
  /** All that are open, those that take no more streams too. */
  private readonly live = new Set<Http2Upstream>();
  private readonly dialling = new Set<Http2Upstream>();
  private readonly waiting: StreamTaker[] = [];
  /** As the server said on its last connection: more on the next one would be refused before its settings come. */
  private expected = mostExpected;
  private isDraining = false;
  private isRetired = false;
  /** Connections that are open, ending or being opened. */
  open = 0;
  /** When it was last asked for a stream. */
  usedMs: number;

  constructor(parts: Http2PoolParts) {
    this.endpoint = parts.endpoint;
    this.dial = parts.dial;
    this.sweepOf = parts.sweep;
    this.clock = parts.sweep.clock;
    this.turn = parts.turn;
    this.exchangeLimits = parts.exchangeLimits;
    this.limits = parts.limits ?? defaultPoolLimits;
    this.counts = parts.counts ?? { open: 0, waiting: 0 };
    this.usedMs = parts.sweep.now;
    this.http2Limits = parts.http2Limits ?? defaultLimits;
    parts.sweep.add(this);
  }

  get waitingCount(): number {
    return this.waiting.length;
  }

  /** Connections that may take streams. */
  get readyCount(): number {
    return this.ready.length;
  }

  /** It was forgotten: nothing begins here any more. */
  get isGone(): boolean {
    return this.isDraining;
  }

  connection(taker: StreamTaker, fresh: boolean): Http2Upstream | undefined {
    const { ready } = this;
    this.usedMs = this.sweepOf.now;
    if (this.waiting.length === 0) {
      for (let i = 0; i < ready.length; i++) {
        const each = ready[i] as Http2Upstream;
        if (each.canOpen && (!fresh || each.used === 0)) {
          this.use(each);
          return each;
        }
      }
    }
    if (this.isDraining) this.refuse(taker, "pool_draining");
    else if (this.counts.waiting >= this.limits.maxWaiting && !this.mayOpen()) this.refuse(taker, "pool_overflow");
    else {
      this.waiting.push(taker);
      this.counts.waiting++;
      this.dialMore();
    }
    return undefined;
  }

  /** One more stream of it; its last one ends it. */
  private use(upstream: Http2Upstream): void {
    upstream.used++;
    const { maxRequests } = this.limits;
    if (maxRequests > 0 && upstream.used >= maxRequests) this.closing(upstream);
  }

  giveUp(taker: StreamTaker): void {
    this.forget(this.waiting.indexOf(taker));
  }

  private forget(at: number): void {
    if (at < 0) return;
    this.waiting.splice(at, 1);
    this.counts.waiting--;
  }

  private nextWaiting(): StreamTaker | undefined {
    const taker = this.waiting.shift();
    if (taker !== undefined) this.counts.waiting--;
    return taker;
  }

  /** An endpoint without any connection may always have one, or it would wait for those to others that nobody closes. */
  private mayOpen(): boolean {
    return this.open === 0 || this.counts.open < this.limits.maxConnections;
  }

  private count(opened: number): void {
    this.open += opened;
    this.counts.open += opened;
  }

  take(exchange: Answered, _safe: boolean, fresh: boolean): ServerLink | undefined {
    const upstream = this.connection(new LinkTaker(this, exchange), fresh);
    return upstream === undefined ? undefined : new StreamServerLink(this, upstream);
  }

  /** Its exchange is over. A stream is not used again. */
  put(server: ServerLink): void {
    if (server instanceof StreamServerLink) server.release();
  }

  cancel(exchange: Answered): void {
    this.forget(this.waiting.findIndex((each) => each instanceof LinkTaker && each.exchange === exchange));
  }

  /** Not at once: the caller is in the middle of its own work. */
  private refuse(taker: StreamTaker, why: string): void {
    const { turn } = taker;
    queueMicrotask(() => taker.notConnected(why, turn));
  }

  private dialMore(): void {
    while (this.dialling.size * this.expected < this.waiting.length && this.mayOpen() && !this.isDraining)
      this.dialOne();
  }

  private dialOne(): void {
    this.count(1);
    const up = new Http2Upstream(this, this.sweepOf.now);
    up.connection.peerMaxStreams = this.expected;
    this.dialling.add(up);
    void this.dial(this.endpoint, up.onread()).then(
      (result) => {
        if (!this.dialling.delete(up)) {
          // Given up by then.
          if (result.ok) result.value.destroy();
          return;
        }
        if (!result.ok) {
          this.dialFailed(result.error);
          return;
        }
        up.opened(result.value);
        this.live.add(up);
        if (this.isDraining) up.drain();
        else this.ready.push(up);
        this.serve();
      },
      () => {
        if (this.dialling.delete(up)) this.dialFailed("connect_failed");
      },
    );
  }

  /** All that this connection was to carry hear of it: each may have another idea. */
  private dialFailed(why: string): void {
    this.count(-1);
    const failed = this.waiting.splice(0, this.expected);
    this.counts.waiting -= failed.length;
    for (const taker of failed) taker.notConnected(why, taker.turn);
    this.dialMore();
  }

  /** Gives streams to those that wait, as far as they go. */
  private serve(): void {
    const { ready, waiting } = this;
    for (let i = 0; i < ready.length && waiting.length > 0; i++) {
      const each = ready[i] as Http2Upstream;
      while (waiting.length > 0 && each.canOpen && ready[i] === each) {
        this.use(each);
        this.nextWaiting()?.opened(each);
      }
    }
    if (waiting.length > 0) this.dialMore();
  }

  freed(upstream: Http2Upstream): void {
    upstream.idleSinceMs = this.sweepOf.now;
    if (this.waiting.length > 0) this.serve();
    else if (this.isRetired) this.closeIdle();
  }

  told(maxStreams: number): void {
    this.expected = Math.max(1, Math.min(maxStreams, mostExpected));
  }

  closing(upstream: Http2Upstream): void {
    const at = this.ready.indexOf(upstream);
    if (at >= 0) this.ready.splice(at, 1);
  }

  gone(upstream: Http2Upstream): void {
    this.closing(upstream);
    this.live.delete(upstream);
    this.count(-1);
    if (this.waiting.length > 0) this.serve();
  }

  sweep(now: number): void {
    // A stream that its owner gave up made room without a word.
    if (this.waiting.length > 0) this.serve();
    this.endIdle(this.isRetired ? now : now - this.limits.idleTimeoutMs);
    for (const up of this.dialling) {
      if (now - up.openedMs < this.limits.connectTimeoutMs) continue;
      this.dialling.delete(up);
      this.dialFailed("connect_timeout");
    }
  }

  /** Of connections without streams, those that have been so since `sinceMs` or longer, or take no more anyway. */
  private endIdle(sinceMs: number): void {
    for (const up of this.live) {
      if (up.connection.streams.size > 0 || (up.idleSinceMs > sinceMs && this.ready.includes(up))) continue;
      this.closing(up);
      up.drain();
    }
  }

  /** Whether connections are kept for later. One that was retired may be revived. */
  get keeps(): boolean {
    return !this.isRetired;
  }

  /** The endpoint leaves: nothing idle is kept. Whoever was sent here is still served. */
  retire(): void {
    this.isRetired = true;
    this.closeIdle();
  }

  revive(): void {
    this.isRetired = false;
  }

  closeIdle(): void {
    this.endIdle(Number.POSITIVE_INFINITY);
  }

  /** The endpoint goes away: streams under way end in peace, no new one begins. */
  drain(): void {
    this.isDraining = true;
    for (const up of this.ready.splice(0)) up.drain();
    for (let next = this.nextWaiting(); next !== undefined; next = this.nextWaiting())
      this.refuse(next, "pool_draining");
    this.sweepOf.remove(this);
  }

  /** Ends everything now; streams under way are lost. */
  destroy(): void {
    for (const up of this.live) up.destroy();
  }
}
