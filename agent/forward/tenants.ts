// What one namespace may have of a data thread, so that its flood is its own trouble: open connections, requests under way, bytes held, and
// time. Counts and queues alone; who refuses, and with which words, is the caller's matter.

/** Of each namespace on each thread. */
export interface TenantLimits {
  readonly connections: number;
  readonly requests: number;
  /** Bytes of heads that are not whole, of requests that wait, and of answers that clients do not take. */
  readonly bytes: number;
  /** Share of the thread's time, 0 to 1, while another namespace has something to do here too. */
  readonly share: number;
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

/** The loop of the thread that is shared, and its clocks. */
export interface TurnLoop {
  /** Calls back when a turn is over, 1 ms after it began. */
  readonly afterTurn: (fn: () => void) => void;
  /** Calls back when the loop has looked for bytes. */
  readonly afterLook: (fn: () => void) => void;
  /** Monotonic. */
  readonly nowUs: () => number;
  /** What this thread has worked so far. */
  readonly cpuUs: () => number;
}

/** A second: who asked then may ask again, and is to find the thread free. */
const sweepsActive = 10;
/** Length of a turn; and the longest time that is made up for when one ended late. */
const turnUs = 1_000;
const longestUs = 5_000;
/** Of a turn's time, what a namespace may use at a stretch: then the loop looks for others' bytes, which so wait for no more than this. */
const stretchUs = 60;
/**
 * The same of a namespace that is alone, lest the first of another waits for all that a flood has sent meanwhile. Many connections that ask
 * and are answered stay below.
 */
const loneStretchUs = 4_000;
/** The clock is looked at after so many of its reads, no oftener; so many bytes count as one more. */
const freeReads = 16;
const readBits = 9;
/** What reading costs around the work that is measured: system calls, the loop. */
const overheadUs = 15;
/**
 * A read that takes longer than this and so many times the mean has met something that is not its own, such as a collection of the garbage
 * that others left: it is not charged with that. Who does so again and again raises its mean.
 */
const oddUs = 2_000;
const oddTimes = 8;

export class Tenant {
  readonly namespace: string;
  readonly limits: TenantLimits;
  readonly #owner: Tenants;
  connections = 0;
  requests = 0;
  /** As of the last sweep. */
  bytes = 0;
  held = 0;
  /** µs used beyond what its turns have granted. */
  used = 0;
  /** µs used since the loop last looked for bytes. */
  stretch = 0;
  /** µs charged in the turn under way. */
  charged = 0;
  /** Of a read. */
  meanUs = 50;
  /** Sweeps for which it still counts as one that has something to do. */
  activeFor = 0;
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
    this.connections++;
    return true;
  }
  /** Once for each `open` that was granted. */
  close(): void {
    this.connections--;
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

  /** Whether its time is measured: others want the thread too. */
  get isMeasured(): boolean {
    return this.#owner.isContended;
  }

  /** When a read of so many bytes begins: µs, or 0 while nobody's time is measured. */
  startUs(bytes = 0): number {
    if (this.activeFor === 0) this.#owner.wakes();
    this.activeFor = sweepsActive;
    return this.#owner.isContended || this.#owner.isLongLook(this, bytes) ? this.#owner.nowUs() : 0;
  }

  /**
   * A read that began at `startUs` has been worked off. False: this turn's time is used up, and `who` goes on in a later one. Whoever is
   * alone has no turns to keep, and waits at most until the loop has looked for bytes. With others there it may use only part of the thread,
   * so that these find it free, not just fair.
   */
  spend(startUs: number, who: Waiting): boolean {
    this.noteRead(startUs);
    return startUs === 0 || this.admit(who);
  }

  /** The same of a read behind which there is no room for more, so that nobody waits. */
  noteRead(startUs: number): void {
    if (startUs === 0) return;
    const cost = Math.min(this.sinceUs(startUs), Math.max(oddUs, this.meanUs * oddTimes));
    this.meanUs += (cost - this.meanUs) / 8;
    this.charge(cost);
  }

  /** Cost of a read that began then. */
  sinceUs(startUs: number): number {
    return this.#owner.nowUs() - startUs + overheadUs;
  }

  /** Whether work that began then may go on, where it can be cut. */
  hasTime(startUs: number): boolean {
    const cost = this.sinceUs(startUs);
    if (!this.#owner.isContended) return this.stretch + cost < loneStretchUs;
    return this.stretch + cost < stretchUs && this.used + cost <= this.limits.share * turnUs;
  }

  /** `who` goes on later, without being asked again. */
  wait(who: Waiting): void {
    this.#owner.startFor(this);
    this.queue.push(who);
  }

  /** Nothing more may be done for it now: what it sent is to be kept for later. */
  get isOut(): boolean {
    if (this.queue.length > 0) return true;
    if (!this.#owner.isContended) return this.stretch >= loneStretchUs;
    return this.used > this.limits.share * turnUs || this.stretch >= stretchUs;
  }

  /** Before `who` goes on. False: not now; it goes on later, without being asked again. */
  admit(who: Waiting): boolean {
    if (!this.isOut) return true;
    // Not queued alone: its turn may have ended before the loop looked again, and nobody would.
    this.wait(who);
    return false;
  }

  /** Work of `cost` µs done for it. */
  charge(cost: number): void {
    this.stretch += cost;
    this.#owner.startFor(this);
    if (!this.#owner.isContended) return;
    this.used += cost;
    this.charged += cost;
  }

  /** The loop has looked for bytes: as many go on as there is time for. True: there are more, and there is time for them in this turn. */
  endStretch(): boolean {
    this.stretch = 0;
    const isAlone = !this.#owner.isContended;
    const leftUs = isAlone ? loneStretchUs : Math.min(stretchUs, this.limits.share * turnUs - this.used);
    if (leftUs > 0 && this.queue.length > 0) {
      const count = Math.max(1, Math.floor(leftUs / Math.max(1, this.meanUs)));
      for (const who of this.queue.splice(0, count)) who.goOn();
    }
    return this.queue.length > 0 && (isAlone || this.used < this.limits.share * turnUs);
  }

  /** It has done nothing since the loop last looked for bytes, and nobody waits. */
  get isIdle(): boolean {
    return this.stretch === 0 && this.queue.length === 0;
  }

  /** After `elapsedUs` of turns; `worked`: the part of what was charged in this one that the thread really worked. True: there is more to be done in a next one. */
  endTurn(elapsedUs: number, worked: number): boolean {
    this.used = Math.max(0, this.used - this.charged * (1 - worked) - this.limits.share * elapsedUs);
    this.charged = 0;
    return this.used > 0 || this.queue.length > 0;
  }

  #refuse(limit: TenantLimit): false {
    this.refused[limit]++;
    return false;
  }
}

export class Tenants {
  readonly #limits: TenantLimits;
  readonly #loop: TurnLoop;
  readonly #tenants = new Map<string, Tenant>();
  /** Those that did something in this turn, or have somebody waiting. */
  readonly #active = new Set<Tenant>();
  readonly #end = (): void => this.#endTurn();
  readonly #look = (): void => this.#endStretch();
  #isTurn = false;
  #isStretch = false;
  /** Since the clock was last looked at; and when the stretch under way began. */
  #reads = 0;
  #lookUs = 0;
  #beganUs = 0;
  /** What the thread had worked at the end of the last turn, or at a sweep behind it: a turn begins behind its first work. */
  #seenCpuUs = 0;
  /** Namespaces that have something to do. */
  #awake = 0;
  /** More than one has. */
  isContended = false;
  readonly nowUs: () => number;

  constructor(limits: TenantLimits, loop: TurnLoop) {
    this.#limits = limits;
    this.#loop = loop;
    this.nowUs = loop.nowUs;
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

  /** Of a namespace that is alone: whether this read of it is one to be measured, or it has used up its stretch. */
  isLongLook(tenant: Tenant, bytes: number): boolean {
    if (tenant.stretch >= loneStretchUs) return true;
    this.#reads += 1 + (bytes >> readBits);
    if (this.#reads < freeReads) return false;
    this.#reads = 0;
    this.#active.add(tenant);
    if (this.#isStretch) tenant.stretch = Math.max(tenant.stretch, this.nowUs() - this.#lookUs);
    else this.#startStretch();
    return true;
  }

  /** It worked, or waits: there is an end to that. */
  startFor(tenant: Tenant): void {
    this.#active.add(tenant);
    this.#startStretch();
    if (this.isContended) this.#startTurn();
  }

  #startTurn(): void {
    if (this.#isTurn) return;
    this.#isTurn = true;
    this.#beganUs = this.nowUs();
    this.#loop.afterTurn(this.#end);
  }

  #startStretch(): void {
    if (this.#isStretch) return;
    this.#isStretch = true;
    this.#lookUs = this.nowUs();
    this.#loop.afterLook(this.#look);
  }

  #endStretch(): void {
    this.#isStretch = false;
    this.#reads = 0;
    for (const tenant of this.#active)
      if (tenant.endStretch()) this.#startStretch();
      else if (!this.#isTurn && tenant.isIdle) this.#active.delete(tenant);
  }

  #endTurn(): void {
    const elapsedUs = Math.min(longestUs, this.nowUs() - this.#beganUs);
    this.#isTurn = false;
    const cpuUs = this.#takeCpuUs();
    let charged = 0;
    for (const tenant of this.#active) charged += tenant.charged;
    // While another thread had its core, nobody used this one's time: a namespace is not to wait for that.
    const worked = charged > cpuUs ? cpuUs / charged : 1;
    for (const tenant of [...this.#active])
      if (tenant.endTurn(elapsedUs, worked)) {
        this.#startStretch();
        this.#startTurn();
      } else if (tenant.isIdle) this.#active.delete(tenant);
  }

  /** Worked since the last call. */
  #takeCpuUs(): number {
    const before = this.#seenCpuUs;
    this.#seenCpuUs = this.#loop.cpuUs();
    return this.#seenCpuUs - before;
  }

  /** One more has something to do. Whoever is alone until then is held from now on, not from the next sweep: all that asks meanwhile would wait. */
  wakes(): void {
    this.#awake++;
    if (this.isContended || this.#awake === 1) return;
    if (!this.#isTurn) this.#takeCpuUs();
    this.isContended = true;
  }

  /** Before the connections of a sweep say what they hold. */
  sweep(): void {
    if (!this.#isTurn) this.#takeCpuUs();
    let awake = 0;
    for (const tenant of this.#tenants.values()) {
      tenant.bytes = tenant.held;
      tenant.held = 0;
      if (tenant.activeFor > 0) {
        tenant.activeFor--;
        awake++;
      }
    }
    this.#awake = awake;
    this.isContended = awake > 1;
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
