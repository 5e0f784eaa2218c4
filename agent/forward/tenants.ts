// What one namespace may have of a data thread, so that its flood is its own trouble: open connections, requests under way, bytes held, and
// turns of the loop. Counts and queues alone; who refuses, and with which words, is the caller's matter.

/** Of each namespace on each thread. */
export interface TenantLimits {
  readonly connections: number;
  readonly requests: number;
  /** Bytes of heads that are not whole, of requests that wait, and of answers that clients do not take. */
  readonly bytes: number;
  /** Reads of sockets per turn of the loop, while others have connections here too. */
  readonly turn: number;
}
export const tenantLimitNames = ["connections", "requests", "bytes"] as const;
export type TenantLimit = (typeof tenantLimitNames)[number];

/** Somebody who waits for its namespace's next turn. */
export interface Waiting {
  goOn(): void;
}

/** What `refused` counts, since the last look. */
export interface TenantRefusals {
  readonly namespace: string;
  readonly limit: TenantLimit;
  readonly count: number;
}

/** Bytes of one read that cost as much as another read would. */
const unitBytes = 16 * 1024;

export class Tenant {
  readonly namespace: string;
  readonly limits: TenantLimits;
  readonly #owner: Tenants;
  connections = 0;
  requests = 0;
  /** As of the last sweep. */
  bytes = 0;
  held = 0;
  used = 0;
  readonly queue: Waiting[] = [];
  readonly refused: Record<TenantLimit, number> = { connections: 0, requests: 0, bytes: 0 };

  constructor(owner: Tenants, namespace: string, limits: TenantLimits) {
    this.#owner = owner;
    this.namespace = namespace;
    this.limits = limits;
  }

  /** One more connection; false: there are too many, and it is not counted. */
  open(): boolean {
    if (this.connections >= this.limits.connections) return this.#refuse("connections");
    if (this.connections++ === 0) this.#owner.busy++;
    return true;
  }
  /** Once for each `open` that was granted. */
  close(): void {
    if (--this.connections === 0) this.#owner.busy--;
  }

  /** One more request; false: there are too many under way, and it is not counted. */
  begin(): boolean {
    if (this.requests >= this.limits.requests) return this.#refuse("requests");
    this.requests++;
    return true;
  }
  /** Once for each `begin` that was granted. */
  end(): void {
    this.requests--;
  }

  /** Called by each connection with each sweep. True: all together hold too much, and this one more than its part of it. */
  holds(bytes: number): boolean {
    this.held += bytes;
    if (this.bytes <= this.limits.bytes || bytes * this.connections <= this.limits.bytes) return false;
    this.#refuse("bytes");
    return true;
  }

  /**
   * A read of so many bytes has been worked off. False: this turn is used up, and `who` goes on in a later one. Whoever is alone has no
   * turns to keep.
   */
  spend(bytes: number, who: Waiting): boolean {
    const owner = this.#owner;
    if (owner.busy < 2) return true;
    owner.startTurn(this);
    this.used += 1 + Math.floor(bytes / unitBytes);
    if (this.used <= this.limits.turn && this.queue.length === 0) return true;
    this.queue.push(who);
    return false;
  }

  #refuse(limit: TenantLimit): false {
    this.refused[limit]++;
    return false;
  }
}

export class Tenants {
  readonly #limits: TenantLimits;
  readonly #afterTurn: (fn: () => void) => void;
  readonly #tenants = new Map<string, Tenant>();
  /** Those that did something in this turn, or have somebody waiting. */
  readonly #active = new Set<Tenant>();
  readonly #end = (): void => this.#endTurn();
  #isTurn = false;
  /** How many have connections. */
  busy = 0;

  /** `afterTurn`: calls back when all that is ready now has been read, before more is looked for (setImmediate). */
  constructor(limits: TenantLimits, afterTurn: (fn: () => void) => void) {
    this.#limits = limits;
    this.#afterTurn = afterTurn;
  }

  of(namespace: string): Tenant {
    let tenant = this.#tenants.get(namespace);
    if (tenant === undefined) {
      tenant = new Tenant(this, namespace, this.#limits);
      this.#tenants.set(namespace, tenant);
    }
    return tenant;
  }

  get size(): number {
    return this.#tenants.size;
  }

  startTurn(tenant: Tenant): void {
    this.#active.add(tenant);
    if (this.#isTurn) return;
    this.#isTurn = true;
    this.#afterTurn(this.#end);
  }

  /** Each goes on with as many as it may have in one turn; what they then read is counted against the next. */
  #endTurn(): void {
    this.#isTurn = false;
    for (const tenant of this.#active) {
      tenant.used = 0;
      const going = tenant.queue.splice(0, tenant.limits.turn);
      for (const who of going) who.goOn();
      if (tenant.queue.length > 0) this.startTurn(tenant);
      else if (tenant.used === 0) this.#active.delete(tenant);
    }
  }

  /** Before the connections of a sweep say what they hold. */
  sweep(): void {
    for (const tenant of this.#tenants.values()) {
      tenant.bytes = tenant.held;
      tenant.held = 0;
    }
  }

  /** What was refused since the last call; namespaces without anything are forgotten. */
  takeRefusals(): readonly TenantRefusals[] {
    const all: TenantRefusals[] = [];
    for (const [namespace, tenant] of this.#tenants) {
      for (const limit of tenantLimitNames) {
        const count = tenant.refused[limit];
        if (count > 0) all.push({ namespace, limit, count });
        tenant.refused[limit] = 0;
      }
      if (tenant.connections === 0 && tenant.requests === 0 && tenant.queue.length === 0)
        this.#tenants.delete(namespace);
    }
    return all;
  }
}
