// Bytes of a message being written: grows, is used again for the next. Only memory.

/** Room before and behind a run of payload in a read buffer, so that a chunk's size and ends are written around it in place. */
export const ROOM = 16;

const mostKept = 32 * 1024;
const leastSize = 1024;
const hex = Buffer.from("0123456789abcdef");
export const lastChunk = Buffer.from("0\r\n\r\n");

export class OutBuffer {
  buf: Buffer;
  len = 0;
  /** The last view made: messages of one connection are often equally long, and a view costs more than a look at it. */
  private viewed: Buffer | undefined;

  constructor(size: number) {
    this.buf = Buffer.allocUnsafeSlow(size);
  }

  /** Starts anew. The old memory must no longer be on its way out. */
  clear(): void {
    // What one large message needed would stay with an idle connection.
    if (this.buf.length > mostKept) this.take(Buffer.allocUnsafeSlow(leastSize));
    this.len = 0;
  }

  /** Starts anew in other memory: the old is still being written out. */
  replace(): void {
    this.take(Buffer.allocUnsafeSlow(this.buf.length > mostKept ? leastSize : this.buf.length));
    this.len = 0;
  }

  private take(buf: Buffer): void {
    this.buf = buf;
    this.viewed = undefined;
  }

  view(): Buffer {
    if (this.viewed?.length !== this.len) this.viewed = this.buf.subarray(0, this.len);
    return this.viewed as Buffer;
  }

  private room(more: number): void {
    if (this.len + more <= this.buf.length) return;
    const grown = Buffer.allocUnsafeSlow(Math.max(this.buf.length * 2, this.len + more));
    this.buf.copy(grown, 0, 0, this.len);
    this.take(grown);
  }

  /** Latin1. */
  text(text: string): void {
    this.room(text.length);
    this.buf.write(text, this.len, "latin1");
    this.len += text.length;
  }

  bytes(from: Buffer, start: number, end: number): void {
    const size = end - start;
    this.room(size);
    // For a field or two a loop is cheaper than a view.
    if (size <= 64) for (let i = 0; i < size; i++) this.buf[this.len + i] = from[start + i] as number;
    else from.copy(this.buf, this.len, start, end);
    this.len += size;
  }

  /** A field's line; both Latin1. Names are short: a call to Node's `write` costs more than their few characters do. */
  field(name: string, value: string): void {
    this.room(name.length + value.length + 4);
    const { buf } = this;
    let at = this.len;
    for (let i = 0; i < name.length; i++) buf[at++] = name.charCodeAt(i);
    buf[at++] = 58;
    buf[at++] = 32;
    buf.write(value, at, "latin1");
    at += value.length;
    buf[at++] = 13;
    buf[at++] = 10;
    this.len = at;
  }

  decimal(n: number): void {
    this.text(String(n));
  }

  /** A chunk of `size` bytes of payload. */
  chunk(from: Buffer, start: number, end: number): void {
    this.text((end - start).toString(16));
    this.crlf();
    this.bytes(from, start, end);
    this.crlf();
  }

  crlf(): void {
    this.room(2);
    this.buf[this.len++] = 13;
    this.buf[this.len++] = 10;
  }
}

/** Writes size and line ends around the payload `buf[from..to)`; gives where the chunk begins. It ends at `to + 2`. */
export function frameInPlace(buf: Buffer, from: number, to: number): number {
  let p = from;
  buf[--p] = 10;
  buf[--p] = 13;
  let size = to - from;
  do {
    buf[--p] = hex[size & 15] as number;
    size >>>= 4;
  } while (size > 0);
  buf[to] = 13;
  buf[to + 1] = 10;
  return p;
}
