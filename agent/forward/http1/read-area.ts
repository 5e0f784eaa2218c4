// Memory that a socket reads into, and bytes kept from one read for the next. Both leave room around what was read, for chunk framing.
import { ROOM } from "./out-buffer.ts";

const smallBytes = 8 * 1024;
const largeBytes = 64 * 1024;
const allocate = (size: number): Buffer => Buffer.allocUnsafeSlow(size + 2 * ROOM);

// Large areas move between the connections that are in the middle of a body; this many are kept for the next.
const spare: Buffer[] = [];
const mostSpare = 64;
/** Small ones of connections that are gone: new memory for each of a flood of connections would be as much garbage. */
const spareSmall: Buffer[] = [];
const mostSpareSmall = 64;
const none = Buffer.alloc(0);

/**
 * One per socket: Node takes the next area right after each callback, so none can be shared. Small, until a body fills it.
 */
export class ReadArea {
  private small: Buffer | undefined;
  private area: Uint8Array | undefined;
  /** What is read lies in `raw[ROOM..ROOM + n)`. */
  raw: Buffer;
  /** Set by the owner: much is to come. */
  wantsLarge = false;
  /** Set by the owner: `raw` is still being written out, and is not waited for. */
  lent = false;

  constructor() {
    this.small = spareSmall.pop() ?? allocate(smallBytes);
    this.raw = this.small;
  }

  /** Whether a read of n bytes left no room. */
  isFull(n: number): boolean {
    return n === this.raw.length - 2 * ROOM;
  }

  /** Where Node is to put the next bytes. */
  next(): Uint8Array {
    const isSmall = this.raw === this.small;
    if (this.area !== undefined && !this.lent && isSmall !== this.wantsLarge) return this.area;
    if (this.lent) {
      if (isSmall) this.small = undefined;
    } else if (!isSmall && spare.length < mostSpare) spare.push(this.raw);
    this.lent = false;
    if (this.wantsLarge) this.raw = spare.pop() ?? allocate(largeBytes);
    else {
      this.small ??= spareSmall.pop() ?? allocate(smallBytes);
      this.raw = this.small;
    }
    this.area = this.raw.subarray(ROOM, this.raw.length - ROOM);
    return this.area;
  }

  /** Its socket is closed, and nothing is read any more. */
  free(): void {
    const { raw, small } = this;
    if (small !== undefined && !(this.lent && raw === small) && spareSmall.length < mostSpareSmall)
      spareSmall.push(small);
    if (raw !== small && !this.lent && spare.length < mostSpare) spare.push(raw);
    this.small = undefined;
    this.area = undefined;
    this.raw = none;
  }
}

/** Bytes that could not be used yet: a head that is not whole, a request that must wait for the one before. */
export class Carry {
  buf: Buffer | undefined;
  from = 0;
  to = 0;

  get isEmpty(): boolean {
    return this.from === this.to;
  }

  /** `keeps`: as much may come again soon, and memory that is made anew each time is dear. Else what once held much would stay with an idle connection. */
  clear(keeps = false): void {
    const most = keeps ? largeBytes + 2 * ROOM : smallBytes;
    if (this.buf !== undefined && this.buf.length > most) this.buf = undefined;
    this.from = ROOM;
    this.to = ROOM;
  }

  /** The memory is still being written out: what is left moves when next touched. */
  lend(): void {
    if (this.buf === undefined) return;
    const { buf, from, to } = this;
    this.buf = undefined;
    this.set(buf, from, to);
  }

  /** Keeps `src[from..to)` in place of what was kept. */
  set(src: Buffer, from: number, to: number): void {
    if (src === this.buf) {
      this.from = from;
      this.to = to;
      return;
    }
    this.from = ROOM;
    this.to = ROOM;
    this.append(src, from, to);
  }

  append(src: Buffer, from: number, to: number): void {
    const size = to - from;
    if (this.buf === undefined || this.to + size + ROOM > this.buf.length) {
      const kept = this.to - this.from;
      const needed = kept + size + 2 * ROOM;
      const room = Math.max(1024, kept > 0 ? needed * 2 : size);
      const target = this.buf !== undefined && needed <= this.buf.length / 2 ? this.buf : allocate(room);
      this.buf?.copy(target, ROOM, this.from, this.to);
      this.buf = target;
      this.from = ROOM;
      this.to = ROOM + kept;
    }
    src.copy(this.buf, this.to, from, to);
    this.to += size;
  }
}
