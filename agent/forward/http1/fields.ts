// Field lines of a head or a trailer section as offsets into the buffer they came in: an incremental byte machine (any cut of the input
// gives the same result) that checks every byte once (RFC 9112 §5) and notes what frames the message. Touches no socket.
import type { HeaderList, Malformed } from "../../http.ts";
import * as b from "./bytes.ts";
import type { CodecLimits } from "./limits.ts";
import { malformed, type Refusal } from "./refusals.ts";

export const MORE = 0;
export const DONE = 1;
export const REFUSED = 2;

// States; the start lines of request and response have those below LINE.
export const LINE = 32;
const NAME = 33;
const OWS = 34;
const TEXT = 35;
const TEXT_LF = 36;
const LAST_LF = 37;
export const ENDED = 38;

// Options of Connection.
export const CLOSE = 1;
export const KEEP_ALIVE = 2;
export const WANTS_UPGRADE = 4;
/** Names fields beyond those that are dropped anyway. */
export const NAMES_FIELDS = 8;

const empty = Buffer.alloc(0);

/**
 * Reads fields until the empty line. `run` is given all bytes since the head began, in a buffer that may be another one each time as long
 * as the bytes are the same. Offsets count from `base`.
 */
export class FieldParser {
  protected readonly limits: CodecLimits;
  private readonly maxBytes: number;
  private readonly tooLarge: Refusal;
  buf: Buffer = empty;
  base = 0;
  /** Bytes read; after DONE the length of the whole head. */
  at = 0;
  state = LINE;
  refused: Malformed | undefined;
  count = 0;
  /** Per field: start of name, end of name, start of value, end of value (without white space around it). */
  spans = new Int32Array(32 * 4);
  kinds = new Uint8Array(32);
  /** Where the empty line begins. */
  fieldsEnd = 0;

  hostField = -1;
  hostCount = 0;
  /** -1 none. */
  contentLength = -1;
  lengthCount = 0;
  codings = "";
  codingCount = 0;
  connection = 0;
  upgradeField = -1;
  expects = false;
  teTrailers = false;
  private nameStart = 0;
  private nameEnd = 0;
  private valueStart = 0;
  private valueEnd = 0;

  constructor(limits: CodecLimits, maxBytes: number, tooLarge: Refusal) {
    this.limits = limits;
    this.maxBytes = maxBytes;
    this.tooLarge = tooLarge;
  }

  reset(): void {
    this.at = 0;
    this.state = LINE;
    this.refused = undefined;
    this.count = 0;
    this.hostField = -1;
    this.hostCount = 0;
    this.contentLength = -1;
    this.lengthCount = 0;
    this.codingCount = 0;
    this.connection = 0;
    this.upgradeField = -1;
    this.expects = false;
    this.teTrailers = false;
  }

  /** Reads on. DONE: `at` is the length of the head; REFUSED: `refused` says why, and so does every later call. */
  run(buf: Buffer, base: number, end: number): number {
    if (this.refused !== undefined) return REFUSED;
    this.buf = buf;
    this.base = base;
    const limit = base + this.maxBytes;
    const outcome = this.read(Math.min(end, limit));
    // Every byte that may belong to the head was read, and it has not ended.
    if (outcome === MORE && this.at === this.maxBytes) return this.refuse(this.tooLarge);
    return outcome;
  }

  protected read(stop: number): number {
    return this.readFields(stop);
  }

  protected refuse(why: Refusal): number {
    this.refused = malformed(why);
    return REFUSED;
  }

  protected stopAt(p: number, state: number): number {
    this.at = p - this.base;
    this.state = state;
    return MORE;
  }

  protected readFields(stop: number): number {
    const { buf, base } = this;
    const classes = b.classOf;
    let p = base + this.at;
    let state = this.state;
    for (;;) {
      if (p >= stop) return this.stopAt(p, state);
      const c = buf[p] as number;
      if (state === LINE) {
        if (c === b.CR) {
          this.fieldsEnd = p - base;
          state = LAST_LF;
          p++;
          continue;
        }
        if (c === b.SP || c === b.HT) return this.refuse("obs_fold");
        if (c === b.LF) return this.refuse("line_ending");
        if (this.count === this.limits.maxFields) return this.refuse("too_many_fields");
        this.nameStart = p - base;
        state = NAME;
      }
      if (state === NAME) {
        while (p < stop && ((classes[buf[p] as number] as number) & b.TOKEN) !== 0) p++;
        if (p >= stop) return this.stopAt(p, state);
        const after = buf[p] as number;
        if (after !== b.COLON || p - base === this.nameStart) {
          if (after === b.SP || after === b.HT) return this.refuse("space_before_colon");
          return this.refuse(after === b.CR || after === b.LF ? "line_ending" : "field_name");
        }
        this.nameEnd = p - base;
        p++;
        state = OWS;
      }
      if (state === OWS) {
        while (p < stop && (buf[p] === b.SP || buf[p] === b.HT)) p++;
        if (p >= stop) return this.stopAt(p, state);
        this.valueStart = p - base;
        state = TEXT;
      }
      if (state === TEXT) {
        while (p < stop && ((classes[buf[p] as number] as number) & b.VALUE) !== 0) p++;
        if (p >= stop) return this.stopAt(p, state);
        const after = buf[p] as number;
        if (after !== b.CR) return this.refuse(after === b.LF ? "line_ending" : "field_value");
        this.valueEnd = p - base;
        p++;
        state = TEXT_LF;
        if (p >= stop) return this.stopAt(p, state);
      }
      if (buf[p] !== b.LF) return this.refuse("line_ending");
      p++;
      if (state === LAST_LF) {
        this.at = p - base;
        this.state = ENDED;
        return this.finish();
      }
      if (this.takeField() === REFUSED) return REFUSED;
      state = LINE;
    }
  }

  /** All fields are there: what only the whole head can tell. */
  protected finish(): number {
    return DONE;
  }

  private takeField(): number {
    const { buf, base, count } = this;
    let end = this.valueEnd;
    while (end > this.valueStart && (buf[base + end - 1] === b.SP || buf[base + end - 1] === b.HT)) end--;
    if (count === this.kinds.length) this.grow();
    const i = count * 4;
    this.spans[i] = this.nameStart;
    this.spans[i + 1] = this.nameEnd;
    this.spans[i + 2] = this.valueStart;
    this.spans[i + 3] = end;
    const kind = b.fieldKind(buf, base + this.nameStart, base + this.nameEnd);
    this.kinds[count] = kind;
    this.count = count + 1;
    switch (kind) {
      case b.ORDINARY:
      case b.HOP:
        return DONE;
      case b.HOST_FIELD:
        this.hostField = count;
        this.hostCount++;
        return DONE;
      case b.CONTENT_LENGTH:
        return this.takeLength(base + this.valueStart, base + end);
      case b.TRANSFER_ENCODING:
        this.codings = buf.toString("latin1", base + this.valueStart, base + end).toLowerCase();
        this.codingCount++;
        return DONE;
      case b.CONNECTION:
        return this.takeConnection(base + this.valueStart, base + end);
      case b.UPGRADE:
        // Several Upgrade fields are one list; nobody upgrading sends them, so the request then goes on without.
        this.upgradeField = this.upgradeField === -1 ? count : -2;
        return DONE;
      case b.TE:
        if (/(?:^|,)[ \t]*trailers[ \t]*(?:$|,)/i.test(this.value(count))) this.teTrailers = true;
        return DONE;
      default:
        this.expects = true;
        return b.sameName(buf, base + this.valueStart, base + end, "100-continue") ? DONE : this.refuse("expectation");
    }
  }

  /** 1*DIGIT below 2^53; a list, a sign, an empty value and a second field are refused even where they agree (RFC 9112 §6.3). */
  private takeLength(from: number, to: number): number {
    const { buf } = this;
    if (++this.lengthCount > 1) return this.refuse("content_length_repeated");
    if (from === to || !b.allOf(buf, from, to, b.DIGIT)) return this.refuse("content_length");
    let length = 0;
    for (let p = from; p < to; p++) {
      length = length * 10 + (buf[p] as number) - 48;
      if (length > Number.MAX_SAFE_INTEGER) return this.refuse("content_length");
    }
    this.contentLength = length;
    return DONE;
  }

  /** #token. An option may not name what frames or routes the message: it would be gone behind this hop (RFC 9110 §7.6.1). */
  private takeConnection(from: number, to: number): number {
    const { buf } = this;
    let p = from;
    while (p < to) {
      let c = buf[p] as number;
      if (c === b.SP || c === b.HT || c === 44) {
        p++;
        continue;
      }
      const start = p;
      while (p < to && ((b.classOf[buf[p] as number] as number) & b.TOKEN) !== 0) p++;
      if (p === start) return this.refuse("connection_option");
      const end = p;
      while (p < to && (buf[p] === b.SP || buf[p] === b.HT)) p++;
      c = p < to ? (buf[p] as number) : 44;
      if (c !== 44) return this.refuse("connection_option");
      if (b.sameName(buf, start, end, "close")) this.connection |= CLOSE;
      else if (b.sameName(buf, start, end, "keep-alive")) this.connection |= KEEP_ALIVE;
      else if (b.sameName(buf, start, end, "upgrade")) this.connection |= WANTS_UPGRADE;
      else {
        const kind = b.fieldKind(buf, start, end);
        if (kind === b.HOST_FIELD || kind === b.CONTENT_LENGTH || kind === b.TRANSFER_ENCODING)
          return this.refuse("connection_names_framing");
        if (kind === b.ORDINARY || kind === b.EXPECT) this.connection |= NAMES_FIELDS;
      }
    }
    return DONE;
  }

  /** Marks fields that Connection names, wherever they stand. To be called once, at the end. */
  protected markNamed(): void {
    if ((this.connection & NAMES_FIELDS) === 0) return;
    const named = new Set<string>();
    for (let i = 0; i < this.count; i++) {
      if (this.kinds[i] !== b.CONNECTION) continue;
      for (const option of this.value(i).split(",")) named.add(option.trim().toLowerCase());
    }
    for (let i = 0; i < this.count; i++)
      if (named.has(this.name(i))) if (this.kinds[i] !== b.CONNECTION) this.kinds[i] = b.NAMED;
  }

  private grow(): void {
    const spans = new Int32Array(this.spans.length * 2);
    spans.set(this.spans);
    const kinds = new Uint8Array(this.kinds.length * 2);
    kinds.set(this.kinds);
    this.spans = spans;
    this.kinds = kinds;
  }

  text(from: number, to: number): string {
    return this.buf.toString("latin1", this.base + from, this.base + to);
  }

  name(i: number): string {
    return this.text(this.spans[i * 4] as number, this.spans[i * 4 + 1] as number).toLowerCase();
  }

  value(i: number): string {
    return this.text(this.spans[i * 4 + 2] as number, this.spans[i * 4 + 3] as number);
  }

  isField(i: number, name: string): boolean {
    const start = this.spans[i * 4] as number;
    const end = this.spans[i * 4 + 1] as number;
    return end - start === name.length && b.sameName(this.buf, this.base + start, this.base + end, name);
  }

  header(name: string): string | undefined {
    let found: string | undefined;
    for (let i = 0; i < this.count; i++) {
      if (!this.isField(i, name)) continue;
      found = found === undefined ? this.value(i) : `${found}${name === "cookie" ? "; " : ", "}${this.value(i)}`;
    }
    return found;
  }

  headers(): HeaderList {
    const list: string[] = [];
    for (let i = 0; i < this.count; i++) list.push(this.name(i), this.value(i));
    return list;
  }
}
