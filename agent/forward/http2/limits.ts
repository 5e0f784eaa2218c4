// What one HTTP/2 connection may cost: sizes that are announced, and budgets whose excess ends the connection with ENHANCE_YOUR_CALM.

export interface Http2Limits {
  /** Streams that the peer may have open at once; one more is refused with REFUSED_STREAM. */
  readonly maxConcurrentStreams: number;
  /** Bytes that may be under way to us and not consumed, per stream and in all. They bound the memory of a connection. */
  readonly streamWindow: number;
  readonly connectionWindow: number;
  /** Size of one field section by RFC 9113 §6.5.2 (32 bytes a field added). A request above it is answered 431. */
  readonly maxHeaderListSize: number;
  /** Compressed size of one field section, all CONTINUATION frames together, and how many frames it may come in. */
  readonly maxHeaderBlock: number;
  readonly maxHeaderFrames: number;
  /** Of our decoder and of our encoder, bytes. */
  readonly headerTableSize: number;
  /** Interim (1xx) answers of one stream. */
  readonly maxInterim: number;
  /** Streams that the peer resets, or makes us reset, before they were answered: so many at once, and so many a second. */
  readonly resets: Budget;
  /** Frames that move nothing: SETTINGS, PING, PRIORITY, WINDOW_UPDATE, empty DATA, unknown ones. Frames that move something give back. */
  readonly control: Budget;
  /** Bytes of one stream that wait for its window, at which its writer is told to wait. */
  readonly highWater: number;
  /** Written bytes that the peer has not taken, at which the connection is given up. */
  readonly maxUnsent: number;
}

export interface Budget {
  readonly burst: number;
  readonly perSecond: number;
}

export const defaultLimits: Http2Limits = {
  maxConcurrentStreams: 128,
  streamWindow: 256 * 1024,
  connectionWindow: 1024 * 1024,
  maxHeaderListSize: 64 * 1024,
  maxHeaderBlock: 64 * 1024,
  maxHeaderFrames: 64,
  headerTableSize: 4_096,
  maxInterim: 16,
  resets: { burst: 500, perSecond: 50 },
  control: { burst: 1_000, perSecond: 200 },
  highWater: 64 * 1024,
  maxUnsent: 16 * 1024 * 1024,
};

/** A leaky bucket: `take` is false when too much came too fast. Time is asked for only when the bucket seems empty. */
export class Allowance {
  private readonly budget: Budget;
  private readonly nowMs: () => number;
  private left: number;
  private since: number;

  constructor(budget: Budget, nowMs: () => number) {
    this.budget = budget;
    this.nowMs = nowMs;
    this.left = budget.burst;
    this.since = nowMs();
  }

  take(): boolean {
    if (this.left < 1) {
      const now = this.nowMs();
      this.left = Math.min(this.budget.burst, this.left + ((now - this.since) / 1_000) * this.budget.perSecond);
      this.since = now;
      if (this.left < 1) return false;
    }
    this.left -= 1;
    return true;
  }

  give(): void {
    if (this.left < this.budget.burst) this.left += 1;
  }
}

/** The last 128 stream ids that were added; what is older than all of them counts as added too, once there were so many. */
export class RecentIds {
  private readonly ids = new Int32Array(128);
  private at = 0;
  private full = false;

  add(id: number): void {
    this.ids[this.at] = id;
    this.at = (this.at + 1) % this.ids.length;
    if (this.at === 0) this.full = true;
  }
  has(id: number): boolean {
    return this.ids.includes(id) || (this.full && this.ids.every((each) => id < each));
  }
}
