// Gathers outgoing frames in few buffers, so that all frames of one turn leave in one write. Short content is copied beside its
// frame's header, long content goes by reference.
import { frameHeaderBytes, frameType, referenceBytes } from "./codes.ts";

const gatherBytes = 16 * 1024;
/** Buffers that were written and are free again, of all connections of the thread. */
const spare: Buffer[] = [];
const maxSpare = 64;

export class FrameWriter {
  /** What `at` counts in; `sealed` bytes of it are in `parts` already. */
  bytes: Buffer = empty;
  at = 0;
  private sealed = 0;
  private parts: Buffer[] = [];
  /** Bytes gathered and not taken. */
  private sealedBytes = 0;

  get pending(): number {
    return this.sealedBytes + this.at - this.sealed;
  }

  /** Makes room for `length` bytes in one piece from `at` on. */
  reserve(length: number): void {
    if (this.bytes.length - this.at >= length) return;
    this.seal();
    this.bytes =
      length <= gatherBytes ? (spare.pop() ?? Buffer.allocUnsafeSlow(gatherBytes)) : Buffer.allocUnsafeSlow(length);
    this.at = 0;
    this.sealed = 0;
  }

  private seal(): void {
    if (this.at === this.sealed) return;
    this.parts.push(this.bytes.subarray(this.sealed, this.at));
    this.sealedBytes += this.at - this.sealed;
    this.sealed = this.at;
  }

  /** Header of a frame at `at`; there is room. */
  header(length: number, type: number, flags: number, id: number): void {
    this.headerAt(this.at, length, type, flags, id);
    this.at += frameHeaderBytes;
  }

  headerAt(place: number, length: number, type: number, flags: number, id: number): void {
    const b = this.bytes;
    b[place] = length >>> 16;
    b[place + 1] = length >>> 8;
    b[place + 2] = length;
    b[place + 3] = type;
    b[place + 4] = flags;
    b[place + 5] = id >>> 24;
    b[place + 6] = id >>> 16;
    b[place + 7] = id >>> 8;
    b[place + 8] = id;
  }

  uint32(value: number): void {
    const b = this.bytes;
    const at = this.at;
    b[at] = value >>> 24;
    b[at + 1] = value >>> 16;
    b[at + 2] = value >>> 8;
    b[at + 3] = value;
    this.at = at + 4;
  }

  /** RST_STREAM, WINDOW_UPDATE: a frame of one number. */
  number(type: number, id: number, value: number): void {
    this.reserve(frameHeaderBytes + 4);
    this.header(4, type, 0, id);
    this.uint32(value);
  }

  /** `start` to `end` of `chunk` as one DATA frame; `own`: the chunk may be kept. */
  data(id: number, chunk: Buffer, start: number, end: number, flags: number, own: boolean): void {
    const length = end - start;
    if (own && length >= referenceBytes) {
      this.reserve(frameHeaderBytes);
      this.header(length, frameType.data, flags, id);
      this.seal();
      this.parts.push(start === 0 && end === chunk.length ? chunk : chunk.subarray(start, end));
      this.sealedBytes += length;
      return;
    }
    this.reserve(frameHeaderBytes + length);
    this.header(length, frameType.data, flags, id);
    chunk.copy(this.bytes, this.at, start, end);
    this.at += length;
  }

  /** What is to be written, in order. The memory is the caller's; `release` gives it back where it can be used again. */
  take(): readonly Buffer[] {
    this.seal();
    const parts = this.parts;
    this.parts = [];
    this.sealedBytes = 0;
    return parts;
  }

  /** After a take: `written` says that the bytes have left, so that the buffer starts over; else the writer gets another. */
  release(written: boolean): void {
    if (written && this.bytes.length === gatherBytes && spare.length < maxSpare) spare.push(this.bytes);
    this.bytes = empty;
    this.at = 0;
    this.sealed = 0;
  }
}

const empty: Buffer = Buffer.alloc(0);
