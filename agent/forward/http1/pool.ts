// Connections to one endpoint for one class of callers (DP-27: the caller makes a pool per key): kept alive, limited, waited for in turn.
import type { Socket } from "node:net";
import { ServerPool } from "../server-pool.ts";
import type { Answered, PoolLink, ServerLink } from "./links.ts";
import { Upstream } from "./upstream.ts";

export class UpstreamPool extends ServerPool<Answered, Upstream> implements PoolLink {
  /** The last used is taken first, so that those not needed grow old. */
  private readonly idle: ServerLink[] = [];

  get idleCount(): number {
    return this.idle.length;
  }

  take(exchange: Answered, safe: boolean, fresh: boolean): ServerLink | undefined {
    this.usedMs = this.sweepOf.now;
    if (!fresh) {
      // By the clock itself: when this thread stood still, so did the sweep's, while servers counted on.
      const sinceMs = safe || this.idle.length === 0 ? 0 : this.sweepOf.exactMs() - this.limits.unsafeIdleMs;
      for (let i = this.idle.length - 1; i >= 0; i--) {
        const up = this.idle[i] as ServerLink;
        if (!safe && up.idleSinceMs < sinceMs) break;
        this.idle.splice(i, 1);
        if (up.isUsable) return up;
      }
    }
    if (this.wait(exchange) && this.dialling.size < this.waiting.length) this.dialOne();
    return undefined;
  }

  private dialOne(): void {
    if (!this.mayOpen()) {
      // One that no waiting request may use makes room.
      const oldest = this.idle.shift();
      if (oldest === undefined) return;
      oldest.destroy();
    }
    const up = new Upstream(this);
    this.startDial(up, up.onread);
  }

  protected override dialMore(): void {
    if (this.dialling.size < this.waiting.length && this.mayOpen()) this.dialOne();
  }

  protected override connected(up: Upstream): void {
    this.put(up);
  }

  /** Takes in a connection that was opened for somebody else and carried nothing yet. */
  adopt(up: Upstream, socket: Socket): void {
    this.count(1);
    up.opened(socket);
    this.put(up);
  }

  put(up: ServerLink, bytes = 0): void {
    if (up.used > 0) this.sized?.(bytes);
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
    this.forget(this.waiting.indexOf(exchange));
  }

  protected override sweepOpen(now: number): void {
    for (let i = this.idle.length - 1; i >= 0; i--) {
      const up = this.idle[i] as ServerLink;
      if (now - up.idleSinceMs >= Math.min(this.limits.idleTimeoutMs, up.serverIdleMs)) {
        this.idle.splice(i, 1);
        up.destroy();
      }
    }
  }

  override closeIdle(): void {
    for (const up of this.idle.splice(0)) up.destroy();
  }

  protected override endOpen(): void {
    this.closeIdle();
  }
}
