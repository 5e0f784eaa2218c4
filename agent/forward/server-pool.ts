// What pools of connections to one endpoint have in common, whatever is spoken there: limits that count together with those of other
// pools, who waits for a connection, connections being opened, and the end of it all.
import type { OnReadOpts, Socket } from "node:net";
import type { Endpoint } from "../flow.ts";
import type { Dialer, ExchangeLimits } from "./http1/exchange.ts";
import type { Sweep, Swept } from "./http1/sweep.ts";

export interface PoolLimits {
  readonly maxConnections: number;
  /** Exchanges that wait for a connection, or for a stream of one. */
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

/** `connectTimeoutMs` of an endpoint that leaves is no longer than this: it may be gone without a word, while others could serve. */
const leavingConnectMs = 500;

export interface ServerPoolParts {
  readonly endpoint: Endpoint;
  readonly dial: Dialer;
  readonly sweep: Sweep;
  readonly exchangeLimits: ExchangeLimits;
  readonly limits?: PoolLimits;
  readonly counts?: PoolCounts;
  /** Told of each exchange of HTTP/1.1 that ended well: bytes of its bodies. */
  readonly sized?: (bytes: number) => void;
}

/** Who waits for a connection. */
interface Waiter {
  readonly turn: number;
  notConnected(why: string, turn: number): void;
}
/** A connection, as it is opened. */
interface Opening {
  readonly openedMs: number;
  opened(socket: Socket): void;
}

export abstract class ServerPool<Who extends Waiter, Connection extends Opening> implements Swept {
  readonly endpoint: Endpoint;
  limits: PoolLimits;
  /** All pools under the same limits, this one included. */
  readonly counts: PoolCounts;
  readonly exchangeLimits: ExchangeLimits;
  readonly sweepOf: Sweep;
  private readonly dial: Dialer;
  protected readonly sized: ((bytes: number) => void) | undefined;
  protected readonly dialling = new Set<Connection>();
  protected readonly waiting: Who[] = [];
  protected isDraining = false;
  protected isRetired = false;
  /** Of those that wait, how many one new connection serves at once. */
  protected expected = 1;
  /** Connections that are open, ending or being opened. */
  open = 0;
  /** When it was last asked for a connection. */
  usedMs: number;

  constructor({ endpoint, dial, sweep, exchangeLimits, limits, counts, sized }: ServerPoolParts) {
    this.endpoint = endpoint;
    this.dial = dial;
    this.sweepOf = sweep;
    this.exchangeLimits = exchangeLimits;
    this.limits = limits ?? defaultPoolLimits;
    this.counts = counts ?? { open: 0, waiting: 0 };
    this.sized = sized;
    this.usedMs = sweep.now;
    sweep.add(this);
  }

  /** Opens as many connections as those that wait need, or as limits allow. */
  protected abstract dialMore(): void;
  /** It is open. */
  protected abstract connected(connection: Connection): void;
  /** Ends what is idle for too long. */
  protected abstract sweepOpen(now: number): void;
  /** Ends what is open as soon as nothing is under way on it. */
  protected abstract endOpen(): void;
  /** Nothing idle is kept. */
  abstract closeIdle(): void;

  get waitingCount(): number {
    return this.waiting.length;
  }

  /** It was forgotten: nothing begins here any more. */
  get isGone(): boolean {
    return this.isDraining;
  }

  /** An endpoint without any connection may always have one, or it would wait for those to others that nobody closes. */
  protected mayOpen(): boolean {
    return this.open === 0 || this.counts.open < this.limits.maxConnections;
  }

  protected count(opened: number): void {
    this.open += opened;
    this.counts.open += opened;
  }

  /** False: it was refused. */
  protected wait(who: Who): boolean {
    if (this.isDraining) this.refuse(who, "pool_draining");
    else if (this.counts.waiting >= this.limits.maxWaiting && !this.mayOpen()) this.refuse(who, "pool_overflow");
    else {
      this.waiting.push(who);
      this.counts.waiting++;
      return true;
    }
    return false;
  }

  /** Not at once: the caller is in the middle of its own work. */
  private refuse(who: Who, why: string): void {
    const { turn } = who;
    queueMicrotask(() => who.notConnected(why, turn));
  }

  protected nextWaiting(): Who | undefined {
    const who = this.waiting.shift();
    if (who !== undefined) this.counts.waiting--;
    return who;
  }

  /** It waits no longer. -1: it did not. */
  protected forget(at: number): void {
    if (at < 0) return;
    this.waiting.splice(at, 1);
    this.counts.waiting--;
  }

  protected startDial(connection: Connection, onread: OnReadOpts): void {
    this.count(1);
    this.dialling.add(connection);
    void this.dial(this.endpoint, onread).then(
      (result) => {
        if (!this.dialling.delete(connection)) {
          // Given up by then.
          if (result.ok) result.value.destroy();
        } else if (result.ok) {
          connection.opened(result.value);
          this.connected(connection);
        } else this.dialFailed(result.error);
      },
      () => {
        if (this.dialling.delete(connection)) this.dialFailed("connect_failed");
      },
    );
  }

  /** All that this connection was to carry hear of it: each may have another idea. */
  private dialFailed(why: string): void {
    this.count(-1);
    const failed = this.waiting.splice(0, this.expected);
    this.counts.waiting -= failed.length;
    for (const who of failed) who.notConnected(why, who.turn);
    this.dialMore();
  }

  sweep(now: number): void {
    this.sweepOpen(now);
    const { connectTimeoutMs } = this.limits;
    const patienceMs = this.isRetired ? Math.min(connectTimeoutMs, leavingConnectMs) : connectTimeoutMs;
    for (const connection of this.dialling) {
      if (now - connection.openedMs < patienceMs) continue;
      this.dialling.delete(connection);
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

  /** The endpoint goes away: what is under way ends in peace, nothing new begins. */
  drain(): void {
    this.isDraining = true;
    this.endOpen();
    for (let next = this.nextWaiting(); next !== undefined; next = this.nextWaiting())
      this.refuse(next, "pool_draining");
    this.sweepOf.remove(this);
  }
}
