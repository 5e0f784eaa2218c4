// The pools of one data thread, one per key of rule DP-27: source workload, destination workload and port, protocol, and on the server's
// side the client's address. A pool that is not used is forgotten.
import type { OnReadOpts, Socket } from "node:net";
import type { Result } from "../base/result.ts";
import type { Endpoint } from "../flow.ts";
import type { DialParams } from "../native-calls.ts";
import type { ExchangeLimits } from "./http1/exchange.ts";
import { defaultPoolLimits, UpstreamPool } from "./http1/pool.ts";
import type { Sweep } from "./http1/sweep.ts";

/** Whose connection it is and where it goes, as native is asked to dial it. */
export type Target = DialParams;
/** Opens a connection to a target; bytes go to `onread`, half-close is allowed. The error is a word for records. */
export type TargetDialer = (target: Target, onread: OnReadOpts) => Promise<Result<Socket, string>>;

export interface PoolsParts {
  readonly dial: TargetDialer;
  readonly sweep: Sweep;
  readonly limits: ExchangeLimits;
  /** Without a request for so long a pool is forgotten, ms. */
  readonly forgetMs: number;
}

interface Kept {
  readonly pool: UpstreamPool;
  usedMs: number;
}

export class Pools {
  readonly #parts: PoolsParts;
  readonly #pools = new Map<string, Kept>();

  constructor(parts: PoolsParts) {
    this.#parts = parts;
    parts.sweep.add(this);
  }

  get size(): number {
    return this.#pools.size;
  }

  /** `key` stands for all of `target` but the client's port. */
  pool(key: string, target: Target): UpstreamPool {
    const known = this.#pools.get(key);
    if (known !== undefined) {
      known.usedMs = this.#parts.sweep.now;
      return known.pool;
    }
    const { dial, sweep, limits } = this.#parts;
    const { ip, port } = target.endpoint;
    const to: Endpoint = { ip, port };
    const pool = new UpstreamPool(to, (_, onread) => dial(target, onread), sweep, limits, defaultPoolLimits);
    this.#pools.set(key, { pool, usedMs: sweep.now });
    return pool;
  }

  sweep(now: number): void {
    for (const [key, { pool, usedMs }] of this.#pools) {
      if (now - usedMs < this.#parts.forgetMs || pool.open > 0 || pool.waitingCount > 0) continue;
      pool.drain();
      this.#pools.delete(key);
    }
  }

  /** Nothing new begins on any of them. */
  drain(): void {
    for (const { pool } of this.#pools.values()) pool.drain();
    this.#pools.clear();
    this.#parts.sweep.remove(this);
  }
}
