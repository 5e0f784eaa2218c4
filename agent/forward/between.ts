// Requests of HTTP/1.1 clients to a server on another node. Where the agent there reads them, they share a few HTTP/2 connections between the
// two agents, so that many of them cost one read and one write; each other one has an HTTP/1.1 connection of its own.
import type { OnReadOpts, Socket } from "node:net";
import { err, type Result } from "../base/result.ts";
import type { Endpoint } from "../flow.ts";
import type { Dialer } from "./http1/exchange.ts";
import { longBodyBytes } from "./http1/limits.ts";
import type { Answered, PoolLink, ServerLink } from "./http1/links.ts";
import { UpstreamPool } from "./http1/pool.ts";
import { Upstream } from "./http1/upstream.ts";
import { defaultLimits, type Http2Limits } from "./http2/limits.ts";
import { Http2Pool } from "./http2/pool.ts";
import type { Turn } from "./http2/socket.ts";
import { defaultPoolLimits, type PoolCounts, type PoolLimits, type ServerPoolParts } from "./server-pool.ts";

/** Of an HTTP/2 connection between two agents: no smaller than what one HTTP/1.1 message may be, and no client waits for another's window. */
export const betweenLimits: Http2Limits = {
  ...defaultLimits,
  streamWindow: 128 * 1024,
  connectionWindow: 128 * 1024 * defaultLimits.maxConcurrentStreams,
  // 200 fields of 64 KiB together, and what edits add.
  maxHeaderListSize: 256 * 1024,
  maxHeaderBlock: 256 * 1024,
  maxInterim: 32,
  // Each client that goes away in the middle of an answer is a reset here.
  resets: { burst: 10_000, perSecond: 1_000 },
  control: { burst: 10_000, perSecond: 2_000 },
};

/** How long an agent that reads no requests is not asked again, and how long a connection takes new ones: keys and policies go with it. */
const askAgainMs = 60_000;
const maxAgeMs = 300_000;
/** Why requests that waited for a shared connection wait for one of their own; no client hears of it. */
const unread = "requests_unread";

/** A connection to the other node, and whether the agent there reads it as HTTP/2. */
export type AgentSocket = Socket & { readonly takesRequests?: boolean };
/** Bytes go to `requests` if the other agent reads what is offered, else to `onread`. */
export type OfferDialer = (onread: OnReadOpts, requests: OnReadOpts) => Promise<Result<AgentSocket, string>>;

export interface BetweenParts extends ServerPoolParts {
  /** Beside `dial`, which offers nothing. */
  readonly offer: OfferDialer;
  readonly turn: Turn;
}

export class BetweenPool implements PoolLink {
  readonly own: UpstreamPool;
  readonly shared: Http2Pool;
  private readonly parts: BetweenParts;
  /** Until then the other agent reads no requests. */
  private unreadUntilMs = 0;
  /** Of recent bodies, request and answer together. */
  private meanBytes = 0;

  constructor(parts: BetweenParts) {
    this.parts = parts;
    const both = {
      ...parts,
      counts: parts.counts ?? { open: 0, waiting: 0 },
      sized: (bytes: number): void => {
        this.meanBytes += (bytes - this.meanBytes) / 8;
      },
    };
    this.own = new UpstreamPool(both);
    const dial: Dialer = (_, onread) => this.dialShared(onread);
    this.shared = new Http2Pool({ ...both, dial, http2Limits: betweenLimits, maxAgeMs, isBetween: true });
  }

  get endpoint(): Endpoint {
    return this.parts.endpoint;
  }
  get limits(): PoolLimits {
    return this.own.limits;
  }
  set limits(limits: PoolLimits) {
    this.own.limits = limits;
    this.shared.limits = limits;
  }
  get counts(): PoolCounts {
    return this.own.counts;
  }
  get open(): number {
    return this.own.open + this.shared.open;
  }
  get waitingCount(): number {
    return this.own.waitingCount + this.shared.waitingCount;
  }
  get usedMs(): number {
    return Math.max(this.own.usedMs, this.shared.usedMs);
  }
  get isGone(): boolean {
    return this.own.isGone;
  }
  get keeps(): boolean {
    return this.own.keeps;
  }

  /** Whether the next request goes on a connection of its own. Limits of connections count those, so there they are what is used. */
  private isOwn(exchange: Answered): boolean {
    const { maxConnections, maxRequests } = this.limits;
    return (
      exchange.isAlone !== false ||
      this.meanBytes > longBodyBytes ||
      this.parts.sweep.now < this.unreadUntilMs ||
      maxConnections < defaultPoolLimits.maxConnections ||
      maxRequests > 0
    );
  }

  take(exchange: Answered, safe: boolean, fresh: boolean): ServerLink | undefined {
    return (this.isOwn(exchange) ? this.own : this.shared).take(exchange, safe, fresh);
  }

  put(server: ServerLink, bytes: number): void {
    server.pool.put(server, bytes);
  }

  cancel(exchange: Answered): void {
    this.own.cancel(exchange);
    this.shared.cancel(exchange);
  }

  /** What is not read as requests is a connection of its own for the first that waits; the others get theirs. */
  private async dialShared(requests: OnReadOpts): Promise<Result<Socket, string>> {
    const up = new Upstream(this.own);
    const dialled = await this.parts.offer(up.onread, requests);
    if (!dialled.ok || dialled.value.takesRequests === true) return dialled;
    this.unreadUntilMs = this.parts.sweep.now + askAgainMs;
    this.own.adopt(up, dialled.value);
    for (const exchange of this.shared.surrender()) {
      const link = this.own.take(exchange, true, false);
      if (link !== undefined) exchange.connected(link);
    }
    return err(unread);
  }

  retire(): void {
    this.own.retire();
    this.shared.retire();
  }
  revive(): void {
    this.own.revive();
    this.shared.revive();
  }
  closeIdle(): void {
    this.own.closeIdle();
    this.shared.closeIdle();
  }
  drain(): void {
    this.own.drain();
    this.shared.drain();
  }
}
