// Bodies as they come: by length, in chunks (RFC 9112 §7.1) or until the connection ends. Chunks are taken apart in place, so that a read
// yields one run of payload without a copy. Touches no socket.
import type { Malformed } from "../../http.ts";
import * as b from "./bytes.ts";
import { DONE, FieldParser, MORE, REFUSED } from "./fields.ts";
import type { CodecLimits } from "./limits.ts";
import { malformed, type Refusal } from "./refusals.ts";
import { CHUNKED, LENGTH, NO_BODY, UNTIL_CLOSE } from "./request.ts";

const SIZE_FIRST = 0;
const SIZE = 1;
const BEFORE_EXTENSION = 2;
const EXTENSION_FIRST = 3;
const EXTENSION = 4;
const SIZE_LF = 5;
const DATA = 6;
const DATA_CR = 7;
const DATA_LF = 8;
const TRAILER_FIRST = 9;
const END_LF = 10;
const TRAILERS = 11;

const maxSizeDigits = 16;

/** Fields behind the last chunk. What frames or routes a message may not stand there (RFC 9110 §6.5.1). */
export class TrailerParser extends FieldParser {
  constructor(limits: CodecLimits) {
    super(limits, limits.maxTrailerBytes, "trailers_too_large");
  }

  protected override finish(): number {
    for (let i = 0; i < this.count; i++) {
      const kind = this.kinds[i] as number;
      if (kind === b.HOST_FIELD || kind === b.CONTENT_LENGTH || kind === b.TRANSFER_ENCODING)
        return this.refuse("trailer_forbidden");
    }
    return DONE;
  }
}

/** One per direction of a connection; `start` before each message. */
export class BodyReader {
  private readonly limits: CodecLimits;
  private kind = NO_BODY;
  private state = SIZE_FIRST;
  /** Bytes of the body (LENGTH) or the chunk still to come. */
  private left = 0;
  private digits = 0;
  private extensionBytes = 0;
  private parser: TrailerParser | undefined;
  private carry: Buffer | undefined;
  private carried = 0;
  refused: Malformed | undefined;
  done = true;
  /** After `decode`: the payload lies in `buf[from..to)`, unread bytes begin at `next`. */
  from = 0;
  to = 0;
  next = 0;

  constructor(limits: CodecLimits) {
    this.limits = limits;
  }

  start(kind: number, length: number): void {
    this.kind = kind;
    this.left = kind === LENGTH ? length : 0;
    this.state = SIZE_FIRST;
    this.extensionBytes = 0;
    this.carried = 0;
    this.refused = undefined;
    this.done = kind === NO_BODY || (kind === LENGTH && length === 0);
    this.parser?.reset();
  }

  /** Trailer fields once done, if there were any. */
  get trailers(): TrailerParser | undefined {
    return this.parser !== undefined && this.parser.count > 0 ? this.parser : undefined;
  }

  /** What is still to come, if that is known. */
  get remaining(): number | undefined {
    return this.kind === LENGTH || this.done ? this.left : undefined;
  }

  /** So many bytes of a body by length were read elsewhere. */
  skip(size: number): void {
    this.left -= size;
    this.done = this.left === 0;
  }

  /** The connection's reading side ended. False: in the middle of the body. */
  end(): boolean {
    if (this.kind === UNTIL_CLOSE) this.done = true;
    return this.done;
  }

  /**
   * Reads `buf[from..to)`. DONE: the message ended at `next`. The payload is moved together where chunk sizes stood between its parts, so
   * bytes in front of `next` may change.
   */
  decode(buf: Buffer, from: number, to: number): number {
    this.from = from;
    this.to = from;
    this.next = from;
    if (this.refused !== undefined) return REFUSED;
    if (this.done) return DONE;
    if (this.kind === CHUNKED) return this.decodeChunks(buf, from, to);
    const available = to - from;
    const size = this.kind === LENGTH && this.left < available ? this.left : available;
    this.to = from + size;
    this.next = this.to;
    if (this.kind === UNTIL_CLOSE) return MORE;
    this.left -= size;
    this.done = this.left === 0;
    return this.done ? DONE : MORE;
  }

  private refuse(why: Refusal): number {
    this.refused = malformed(why);
    return REFUSED;
  }

  private take(buf: Buffer, p: number, size: number): void {
    if (this.to === this.from) {
      this.from = p;
      this.to = p + size;
      return;
    }
    buf.copyWithin(this.to, p, p + size);
    this.to += size;
  }

  /** Takes chunks of up to 255 bytes as long as each is there whole and in its plainest form. Gives where the first other byte stands. */
  private takeTiny(buf: Buffer, start: number, end: number): number {
    let p = start;
    let to = this.to;
    while (p + 6 < end) {
      let size = b.hexOf[buf[p] as number] as number;
      let data = p + 3;
      if (buf[p + 1] !== b.CR) {
        const digit = b.hexOf[buf[p + 1] as number] as number;
        if (digit < 0) break;
        size = size * 16 + digit;
        data = p + 4;
      }
      const after = data + size;
      if (size < 1 || after + 2 > end) break;
      if (buf[data - 2] !== b.CR || buf[data - 1] !== b.LF || buf[after] !== b.CR || buf[after + 1] !== b.LF) break;
      if (to === this.from) to = this.from = data;
      if (to === data) to = after;
      else if (size > 16) {
        buf.copyWithin(to, data, after);
        to += size;
      } else for (let i = data; i < after; i++) buf[to++] = buf[i] as number;
      p = after + 2;
    }
    this.to = to;
    return p;
  }

  private decodeChunks(buf: Buffer, start: number, end: number): number {
    let p = start;
    let state = this.state;
    while (p < end) {
      const c = buf[p] as number;
      switch (state) {
        case SIZE_FIRST:
          this.left = 0;
          this.digits = 0;
          // A body may consist of such chunks: what they cost is then all that it costs.
          if (p + 6 < end) {
            const next = this.takeTiny(buf, p, end);
            if (next > p) {
              p = next;
              break;
            }
          }
          if (b.hexOf[c] === -1) return this.refuse("chunk_size");
          state = SIZE;
          break;
        case SIZE: {
          const digit = b.hexOf[c] as number;
          if (digit >= 0) {
            this.left = this.left * 16 + digit;
            if (++this.digits > maxSizeDigits || this.left > Number.MAX_SAFE_INTEGER) return this.refuse("chunk_size");
          } else if (c === b.CR) state = SIZE_LF;
          else if (c === 59) state = EXTENSION_FIRST;
          else if (c === b.SP || c === b.HT) state = BEFORE_EXTENSION;
          else return this.refuse("chunk_size");
          p++;
          break;
        }
        case BEFORE_EXTENSION:
          if (c === 59) state = EXTENSION_FIRST;
          else if (c !== b.SP && c !== b.HT) return this.refuse("chunk_size");
          if (++this.extensionBytes > this.limits.maxChunkExtensionBytes)
            return this.refuse("chunk_extensions_too_long");
          p++;
          break;
        case EXTENSION_FIRST:
        case EXTENSION:
          if (state === EXTENSION && c === b.CR) state = SIZE_LF;
          else if (state === EXTENSION_FIRST && c !== b.SP && c !== b.HT) {
            if (((b.classOf[c] as number) & b.TOKEN) === 0) return this.refuse("chunk_extension");
            state = EXTENSION;
          } else if (((b.classOf[c] as number) & b.VALUE) === 0) return this.refuse("chunk_extension");
          if (++this.extensionBytes > this.limits.maxChunkExtensionBytes)
            return this.refuse("chunk_extensions_too_long");
          p++;
          break;
        case SIZE_LF:
          if (c !== b.LF) return this.refuse("chunk_size");
          p++;
          state = this.left === 0 ? TRAILER_FIRST : DATA;
          break;
        case DATA: {
          const size = Math.min(this.left, end - p);
          this.take(buf, p, size);
          p += size;
          this.left -= size;
          if (this.left === 0) state = DATA_CR;
          break;
        }
        case DATA_CR:
          if (c !== b.CR) return this.refuse("chunk_end");
          p++;
          state = DATA_LF;
          break;
        case DATA_LF:
          if (c !== b.LF) return this.refuse("chunk_end");
          p++;
          state = SIZE_FIRST;
          break;
        case TRAILER_FIRST:
          if (c === b.CR) {
            state = END_LF;
            p++;
          } else state = TRAILERS;
          break;
        case END_LF:
          if (c !== b.LF) return this.refuse("line_ending");
          this.done = true;
          this.next = p + 1;
          return DONE;
        default:
          return this.readTrailers(buf, p, end);
      }
    }
    this.state = state;
    this.next = p;
    return MORE;
  }

  /** Trailers are few and small: they are gathered in a buffer of their own and read there. */
  private readTrailers(buf: Buffer, p: number, end: number): number {
    this.state = TRAILERS;
    this.parser ??= new TrailerParser(this.limits);
    const before = this.carried;
    const size = Math.min(end - p, this.limits.maxTrailerBytes + 1 - before);
    if (this.carry === undefined || this.carry.length < before + size) {
      const grown = Buffer.allocUnsafeSlow(Math.max(512, (before + size) * 2));
      this.carry?.copy(grown, 0, 0, before);
      this.carry = grown;
    }
    buf.copy(this.carry, before, p, p + size);
    this.carried = before + size;
    const outcome = this.parser.run(this.carry, 0, this.carried);
    if (outcome === REFUSED) {
      this.refused = this.parser.refused;
      return REFUSED;
    }
    this.done = outcome === DONE;
    this.next = this.done ? p + this.parser.at - before : end;
    return outcome;
  }
}
