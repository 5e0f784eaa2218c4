// Connections to one endpoint for one class of callers (DP-27: the caller makes a pool per key): kept alive, limited, waited for in turn.
import type { Endpoint } from "../../flow.ts";
import type { Dialer, ExchangeLimits } from "./exchange.ts";
import type { Answered, PoolLink, ServerLink } from "./links.ts";
import type { Sweep } from "./sweep.ts";
import { Upstream } from "./upstream.ts";

export interface PoolLimits {
  readonly maxConnections: number;
  /** Exchanges that wait for a connection. */
  readonly maxWaiting: number;
  readonly idleTimeoutMs: number;
  /** An idle connection older than this carries no request that may not be sent twice: its server may just be closing it. */
  readonly unsafeIdleMs: number;
  readonly connectTimeoutMs: number;
  /** Requests that one connection carries; 0: as many as come. */
  readonly maxRequests: number;
}
/** What pools hold whose limits count together. */
export interface PoolCounts {
  /** Connections that are open or being opened. */
  open: number;
  waiting: number;
}

export const defaultPoolLimits: PoolLimits = {
  maxConnections: 1024,
  maxWaiting: 1024,
  // Below the 60 s and more of usual servers; those that say less in Keep-Alive are believed (Node: 5 s).
  idleTimeoutMs: 45_000,
  unsafeIdleMs: 2_000,
  connectTimeoutMs: 5_000,
  maxRequests: 0,
};

export class UpstreamPool implements PoolLink {
  readonly endpoint: Endpoint;
  limits: PoolLimits;
  /** All pools under the same limits, this one included. */
  readonly counts: PoolCounts;
  readonly exchangeLimits: ExchangeLimits;
  readonly sweepOf: Sweep;
  private readonly dial: Dialer;
  /** The last used is taken first, so that those not needed grow old. */
  private readonly idle: ServerLink[] = [];
  private readonly dialling = new Set<Upstream>();
  private readonly waiting: Answered[] = [];
  private isDraining = false;
  private isRetired = false;
  /** Connections that are open or being opened. */
  open = 0;
  /** When it was last asked for a connection. */
  usedMs: number;

  constructor(
    endpoint: Endpoint,
    dial: Dialer,
    sweep: Sweep,
    exchangeLimits: ExchangeLimits,
    limits = defaultPoolLimits,
    counts: PoolCounts = { open: 0, waiting: 0 },
  ) {
    this.endpoint = endpoint;
    this.dial = dial;
    this.sweepOf = sweep;
    this.exchangeLimits = exchangeLimits;
    this.limits = limits;
    this.counts = counts;
    this.usedMs = sweep.now;
    sweep.add(this);
  }

  get idleCount(): number {
    return this.idle.length;
  }

  get waitingCount(): number {
    return this.waiting.length;
  }

  /** It was forgotten: nothing begins here any more. */
  get isGone(): boolean {
    return this.isDraining;
  }

  take(exchange: Answered, safe: boolean, fresh: boolean): ServerLink | undefined {
    this.usedMs = this.sweepOf.now;
    if (!fresh) {
      for (let i = this.idle.length - 1; i >= 0; i--) {
        const up = this.idle[i] as ServerLink;
        if (!safe && this.sweepOf.now - up.idleSinceMs > this.limits.unsafeIdleMs) break;
        this.idle.splice(i, 1);
        if (up.isUsable) return up;
      }
    }
    if (this.isDraining) this.refuse(exchange, "pool_draining");
    else if (this.counts.waiting >= this.limits.maxWaiting && !this.mayOpen()) this.refuse(exchange, "pool_overflow");
    else {
      this.waiting.push(exchange);
      this.counts.waiting++;
      if (this.dialling.size < this.waiting.length) this.dialOne();
    }
    return undefined;
  }

  /** Not at once: the caller is in the middle of its own work. */
  private refuse(exchange: Answered, why: string): void {
    const turn = exchange.turn;
    queueMicrotask(() => exchange.notConnected(why, turn));
  }

  /** An endpoint without any connection may always have one, or it would wait for those to others that nobody closes. */
  private mayOpen(): boolean {
    return this.open === 0 || this.counts.open < this.limits.maxConnections;
  }

  private count(opened: number): void {
    this.open += opened;
    this.counts.open += opened;
  }

  private nextWaiting(): Answered | undefined {
    const exchange = this.waiting.shift();
    if (exchange !== undefined) this.counts.waiting--;
    return exchange;
  }

  private dialOne(): void {
    if (!this.mayOpen()) {
      // One that no waiting request may use makes room.
      const oldest = this.idle.shift();
      if (oldest === undefined) return;
      oldest.destroy();
    }
    this.count(1);
    const up = new Upstream(this);
    this.dialling.add(up);
    void this.dial(this.endpoint, up.onread).then(
      (result) => {
        if (!this.dialling.delete(up)) {
          // Given up by then.
          if (result.ok) result.value.destroy();
          return;
        }
        if (result.ok) {
          up.opened(result.value);
          this.put(up);
        } else this.dialFailed(result.error);
      },
      () => {
        if (this.dialling.delete(up)) this.dialFailed("connect_failed");
      },
    );
  }

  private dialFailed(why: string): void {
    this.count(-1);
    const exchange = this.nextWaiting();
    exchange?.notConnected(why, exchange.turn);
    this.dialMore();
  }

  private dialMore(): void {
    if (this.dialling.size < this.waiting.length && this.mayOpen()) this.dialOne();
  }

  put(up: ServerLink): void {
    up.idleSinceMs = this.sweepOf.now;
    const { maxRequests } = this.limits;
    if (!up.isUsable || (maxRequests > 0 && up.used >= maxRequests)) {
      up.destroy();
      return;
    }
    const exchange = this.nextWaiting();
    if (exchange !== undefined) exchange.connected(up);
    else if (this.isDraining || this.isRetired) up.destroy();
    else this.idle.push(up);
  }

  /** The connection is gone. */
  gone(up: ServerLink): void {
    this.count(-1);
    const at = this.idle.indexOf(up);
    if (at >= 0) this.idle.splice(at, 1);
    this.dialMore();
  }

  cancel(exchange: Answered): void {
    const at = this.waiting.indexOf(exchange);
    if (at < 0) return;
    this.waiting.splice(at, 1);
    this.counts.waiting--;
  }

  sweep(now: number): void {
    for (let i = this.idle.length - 1; i >= 0; i--) {
      const up = this.idle[i] as ServerLink;
      if (now - up.idleSinceMs >= Math.min(this.limits.idleTimeoutMs, up.serverIdleMs)) {
        this.idle.splice(i, 1);
        up.destroy();
      }
    }
    for (const up of this.dialling) {
      if (now - up.openedMs < this.limits.connectTimeoutMs) continue;
      this.dialling.delete(up);
      this.dialFailed("connect_timeout");
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
    for (const up of this.idle.splice(0)) up.destroy();
  }

  /** The endpoint goes away: exchanges under way end in peace, no new one begins. */
  drain(): void {
    this.isDraining = true;
    this.closeIdle();
    for (let next = this.nextWaiting(); next !== undefined; next = this.nextWaiting())
      this.refuse(next, "pool_draining");
    this.sweepOf.remove(this);
  }
}
