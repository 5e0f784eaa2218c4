// The pools of one data thread, one per key of rule DP-27: source workload, destination workload and port, protocol, and on the server's
// side the client's address. A pool that is not used is forgotten.
import type { OnReadOpts } from "node:net";
import type { Result } from "../base/result.ts";
import type { Endpoint } from "../flow.ts";
import type { DialParams } from "../native-calls.ts";
import { type AgentSocket, BetweenPool, type OfferDialer } from "./between.ts";
import type { ExchangeLimits } from "./http1/exchange.ts";
import { UpstreamPool } from "./http1/pool.ts";
import type { Sweep } from "./http1/sweep.ts";
import { Http2Pool } from "./http2/pool.ts";
import { Turn } from "./http2/socket.ts";
import { defaultPoolLimits, type PoolCounts, type PoolLimits } from "./server-pool.ts";
import type { HttpProtocol } from "./sniff.ts";

/** Whose connection it is and where it goes, as native is asked to dial it. */
export type Target = DialParams;
/** Opens a connection to a target; bytes go to `onread`, half-close is allowed. The error is a word for records. */
export type TargetDialer = (
  target: Target,
  onread: OnReadOpts,
  /** Where bytes go if the other node's agent reads requests, which it is then asked. */
  requests?: OnReadOpts,
) => Promise<Result<AgentSocket, string>>;

/** What is known of the workload at an address: it takes requests, it is going or not ready, or there is none. */
export type Standing = "serves" | "leaves" | "unknown";

export type Pool = UpstreamPool | Http2Pool | BetweenPool;

export interface PoolsParts {
  readonly dial: TargetDialer;
  readonly sweep: Sweep;
  readonly limits: ExchangeLimits;
  /** Without a request for so long a pool is forgotten, ms. */
  readonly forgetMs: number;
  /** Of an endpoint's address. */
  readonly standing: (ip: string) => Standing;
  /** Of the thread, so that all its connections write together. */
  readonly turn?: Turn;
}

interface Kept {
  readonly pool: Pool;
  readonly ip: string;
  /** It belonged to a workload when the pool was made. */
  readonly wasKnown: boolean;
}

export class Pools {
  readonly #parts: PoolsParts;
  readonly #pools = new Map<string, Kept>();
  /** Forgotten, and not empty yet. */
  readonly #leaving = new Set<Pool>();
  readonly #turn: Turn;

  constructor(parts: PoolsParts) {
    this.#parts = parts;
    this.#turn = parts.turn ?? new Turn();
    parts.sweep.add(this);
  }

  get size(): number {
    return this.#pools.size;
  }

  /**
   * `key` stands for all of `target` but the client's port, for `counts`, which are those of the service, and for the protocol that the
   * endpoint is spoken to in. Good until its isGone.
   */
  pool(
    key: string,
    target: Target,
    limits = defaultPoolLimits,
    counts: PoolCounts = { open: 0, waiting: 0 },
    protocol: HttpProtocol = "http1",
  ): Pool {
    const known = this.#pools.get(key);
    if (known !== undefined) {
      known.pool.limits = limits;
      return known.pool;
    }
    const { ip } = target.endpoint;
    const pool = this.#make(target, limits, counts, protocol);
    const standing = this.#parts.standing(ip);
    if (standing === "leaves") pool.retire();
    this.#pools.set(key, { pool, ip, wasKnown: standing !== "unknown" });
    return pool;
  }

  #make(target: Target, limits: PoolLimits, counts: PoolCounts, protocol: HttpProtocol): Pool {
    const { sweep, limits: exchangeLimits } = this.#parts;
    const { ip, port } = target.endpoint;
    const endpoint: Endpoint = { ip, port };
    const dial = (_: Endpoint, onread: OnReadOpts) => this.#parts.dial(target, onread);
    const parts = { endpoint, dial, sweep, exchangeLimits, limits, counts };
    const turn = this.#turn;
    if (protocol === "http2") return new Http2Pool({ ...parts, turn });
    if (target.endpoint.mode !== "fairlead/1") return new UpstreamPool(parts);
    const offer: OfferDialer = (onread, requests) => this.#parts.dial(target, onread, requests);
    return new BetweenPool({ ...parts, turn, offer });
  }

  /**
   * What is known of endpoints has changed: of those that leave, idle connections are closed and none is kept any more. One whose
   * workload is gone is forgotten, so that nothing that was known of it passes on to the next at its address.
   */
  review(): void {
    for (const [key, { pool, ip, wasKnown }] of this.#pools) {
      const standing = this.#parts.standing(ip);
      if (standing === "serves") pool.revive();
      else if (standing === "leaves" || wasKnown) pool.retire();
      if (standing !== "unknown" || !wasKnown) continue;
      this.#pools.delete(key);
      this.#leaving.add(pool);
    }
  }

  /** Nothing idle is kept open. */
  closeIdle(): void {
    for (const { pool } of this.#pools.values()) pool.closeIdle();
  }

  sweep(now: number): void {
    for (const [key, { pool }] of this.#pools) {
      if (now - pool.usedMs < this.#parts.forgetMs || pool.open > 0 || pool.waitingCount > 0) continue;
      pool.drain();
      this.#pools.delete(key);
    }
    for (const pool of this.#leaving) {
      if (pool.open > 0 || pool.waitingCount > 0) continue;
      pool.drain();
      this.#leaving.delete(pool);
    }
  }

  /** Nothing new begins on any of them. */
  drain(): void {
    for (const { pool } of this.#pools.values()) pool.drain();
    for (const pool of this.#leaving) pool.drain();
    this.#pools.clear();
    this.#leaving.clear();
    this.#parts.sweep.remove(this);
  }
}
