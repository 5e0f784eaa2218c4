// Connections to one HTTP/2 endpoint for one class of callers (DP-27): few, with many streams each. A connection that takes no more
// streams (full, GOAWAY) is joined by another; what waits gets its stream in turn.
import type { Answered, PoolLink, ServerLink } from "../http1/links.ts";
import { ServerPool, type ServerPoolParts } from "../server-pool.ts";
import type { Tenant } from "../tenants.ts";
import { defaultLimits, type Http2Limits } from "./limits.ts";
import { StreamServerLink } from "./server-link.ts";
import type { SocketClock, Turn } from "./socket.ts";
import type { StreamConnection, StreamPool, StreamTaker } from "./stream-links.ts";
import { Http2Upstream, type UpstreamOwner } from "./upstream.ts";

/** How many streams at once a server is believed to take before it has said so; usual servers take 100 or more. */
const mostExpected = 100;
/** Links kept for later exchanges. */
const mostSpare = 128;

export interface Http2PoolParts extends ServerPoolParts {
  readonly turn: Turn;
  readonly http2Limits?: Http2Limits;
  /** The server is another agent's data thread, which gives the requests to HTTP/1.1 servers. */
  readonly isBetween?: boolean;
  /** After which a connection takes no new stream. */
  readonly maxAgeMs?: number;
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
  get tenant(): Tenant | undefined {
    return this.exchange.tenant;
  }
  opened(upstream: StreamConnection): void {
    this.exchange.connected(this.pool.link(upstream));
  }
  notConnected(why: string, turn: number): void {
    this.exchange.notConnected(why, turn);
  }
}

export class Http2Pool extends ServerPool<StreamTaker, Http2Upstream> implements PoolLink, StreamPool, UpstreamOwner {
  readonly streams: StreamPool = this;
  readonly http2Limits: Http2Limits;
  readonly turn: Turn;
  readonly clock: SocketClock;
  readonly isBetween: boolean;
  /** Those that may take streams. */
  private readonly ready: Http2Upstream[] = [];
  /** All that are open, those that take no more streams too. */
  private readonly live = new Set<Http2Upstream>();
  private readonly spare: StreamServerLink[] = [];
  private readonly maxAgeMs: number;

  constructor(parts: Http2PoolParts) {
    super(parts);
    this.clock = parts.sweep.clock;
    this.turn = parts.turn;
    this.http2Limits = parts.http2Limits ?? defaultLimits;
    this.isBetween = parts.isBetween === true;
    this.maxAgeMs = parts.maxAgeMs ?? Number.POSITIVE_INFINITY;
    this.expected = mostExpected;
  }

  connection(taker: StreamTaker, fresh: boolean): Http2Upstream | undefined {
    const { ready } = this;
    this.usedMs = this.sweepOf.now;
    if (this.waiting.length === 0) {
      for (let i = 0; i < ready.length; i++) {
        const each = ready[i] as Http2Upstream;
        if (each.canOpen && (!fresh || each.used === 0)) {
          this.use(each, taker);
          return each;
        }
      }
    }
    if (this.wait(taker)) this.dialMore();
    return undefined;
  }

  /** One more stream of it; its last one ends it. */
  private use(upstream: Http2Upstream, { tenant }: StreamTaker): void {
    upstream.used++;
    upstream.gate.tenant = tenant;
    const { maxRequests } = this.limits;
    if (maxRequests > 0 && upstream.used >= maxRequests) this.closing(upstream);
  }

  giveUp(taker: StreamTaker): void {
    this.forget(this.waiting.indexOf(taker));
  }

  take(exchange: Answered, _safe: boolean, fresh: boolean): ServerLink | undefined {
    const upstream = this.connection(new LinkTaker(this, exchange), fresh);
    return upstream === undefined ? undefined : this.link(upstream);
  }

  /** A stream's way to look like a connection; those whose exchanges are over serve others. */
  link(upstream: StreamConnection): StreamServerLink {
    const spare = this.spare.pop();
    if (spare === undefined) return new StreamServerLink(this, upstream);
    spare.start(upstream);
    return spare;
  }

  /** Its exchange is over. A stream is not used again. */
  put(server: ServerLink, bytes: number): void {
    this.sized?.(bytes);
    if (server instanceof StreamServerLink && server.release() && this.spare.length < mostSpare)
      this.spare.push(server);
  }

  /** Exchanges of HTTP/1.1 that wait; they are another pool's from here on. */
  surrender(): readonly Answered[] {
    const exchanges = this.waiting.flatMap((each) => (each instanceof LinkTaker ? [each.exchange] : []));
    for (const exchange of exchanges) this.cancel(exchange);
    return exchanges;
  }

  cancel(exchange: Answered): void {
    this.forget(this.waiting.findIndex((each) => each instanceof LinkTaker && each.exchange === exchange));
  }

  protected override dialMore(): void {
    while (this.dialling.size * this.expected < this.waiting.length && this.mayOpen() && !this.isDraining) {
      const up = new Http2Upstream(this, this.sweepOf.now);
      // More than that would be refused before the server's settings come.
      up.connection.peerMaxStreams = this.expected;
      this.startDial(up, up.onread());
    }
  }

  protected override connected(up: Http2Upstream): void {
    this.live.add(up);
    if (this.isDraining) up.drain();
    else this.ready.push(up);
    this.serve();
  }

  /** Gives streams to those that wait, as far as they go. */
  private serve(): void {
    const { ready, waiting } = this;
    for (let i = 0; i < ready.length && waiting.length > 0; i++) {
      const each = ready[i] as Http2Upstream;
      while (waiting.length > 0 && each.canOpen && ready[i] === each) {
        this.use(each, waiting[0] as StreamTaker);
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

  /** What the server said on its last connection is expected of the next. */
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

  protected override sweepOpen(now: number): void {
    // A stream that its owner gave up made room without a word.
    if (this.waiting.length > 0) this.serve();
    for (const up of [...this.ready]) if (now - up.openedMs >= this.maxAgeMs) this.end(up);
    this.endIdle(this.isRetired ? now : now - this.limits.idleTimeoutMs);
  }

  /** Of connections without streams, those that have been so since `sinceMs` or longer, or take no more anyway. */
  private endIdle(sinceMs: number): void {
    for (const up of this.live) {
      if (up.connection.streams.size > 0 || (up.idleSinceMs > sinceMs && this.ready.includes(up))) continue;
      this.end(up);
    }
  }

  private end(up: Http2Upstream): void {
    this.closing(up);
    up.drain();
  }

  override closeIdle(): void {
    this.endIdle(Number.POSITIVE_INFINITY);
  }

  protected override endOpen(): void {
    for (const up of this.ready.splice(0)) up.drain();
  }

  /** Ends everything now; streams under way are lost. */
  destroy(): void {
    for (const up of this.live) up.destroy();
  }
}
