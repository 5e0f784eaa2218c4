// Request line and what only a request's head can tell: target, Host, framing, expectation (RFC 9112 §3, §6; RFC 9110 §7). No sockets.
import type { RequestHead } from "../../http.ts";
import * as b from "./bytes.ts";
import { CLOSE, DONE, FieldParser, KEEP_ALIVE, LINE, REFUSED, WANTS_UPGRADE } from "./fields.ts";
import type { CodecLimits } from "./limits.ts";

const START = 0;
const EMPTY_LF = 1;
const METHOD = 2;
const TARGET = 3;
const VERSION = 4;
const VERSION_LF = 5;

const maxMethodBytes = 32;
const versionShape = "HTTP/1.1";
const usualMethods = ["GET", "POST", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS", "CONNECT", "TRACE"] as const;

/** How the body is delimited. */
export const NO_BODY = 0;
export const LENGTH = 1;
export const CHUNKED = 2;
export const UNTIL_CLOSE = 3;

/** One per connection; `reset` before each request. Valid as a head only from DONE until the bytes behind it go away. */
export class RequestParser extends FieldParser implements RequestHead {
  private emptyLine = false;
  private methodStart = 0;
  private methodEnd = 0;
  targetStart = 0;
  targetEnd = 0;
  private versionStart = 0;
  /** 0 or 1; a higher one is served as 1 (RFC 9110 §2.5). */
  minor = 1;
  body = NO_BODY;
  method = "";
  scheme: "http" | "https" = "http";
  /** Origin form without a rewrite: the target's bytes can be copied as they are. */
  isOriginForm = true;
  private pathStart = 0;
  private pathText: string | undefined;
  private authorityStart = 0;
  private authorityEnd = 0;
  private authorityText: string | undefined;
  /** Asks for another protocol that may be let through: Upgrade with the option in Connection, no body, not HTTP/2 in the clear. */
  upgrades = false;

  constructor(limits: CodecLimits) {
    super(limits, limits.maxHeadBytes, "head_too_large");
    this.state = START;
  }

  override reset(): void {
    super.reset();
    this.state = START;
    this.emptyLine = false;
    this.minor = 1;
    this.body = NO_BODY;
    this.pathText = undefined;
    this.authorityText = undefined;
    this.authorityStart = 0;
    this.authorityEnd = 0;
    this.scheme = "http";
    this.isOriginForm = true;
    this.upgrades = false;
  }

  /** Whether nothing of a request has come yet. */
  get isBlank(): boolean {
    return this.state === START && this.at === 0;
  }

  /** Where the request line begins: behind an empty line, if there was one. */
  get lineStart(): number {
    return this.methodStart;
  }

  get path(): string {
    this.pathText ??= this.text(this.pathStart, this.targetEnd);
    return this.pathText;
  }

  get authority(): string {
    this.authorityText ??= this.text(this.authorityStart, this.authorityEnd);
    return this.authorityText;
  }

  get hasAuthority(): boolean {
    return this.authorityEnd > this.authorityStart;
  }

  /** Whether the client takes another request on this connection (RFC 9112 §9.3). */
  get keepsAlive(): boolean {
    if ((this.connection & CLOSE) !== 0) return false;
    return this.minor > 0 || (this.connection & KEEP_ALIVE) !== 0;
  }

  protected override read(stop: number): number {
    return this.state < LINE ? this.readLine(stop) : this.readFields(stop);
  }

  private readLine(stop: number): number {
    const { buf, base } = this;
    const classes = b.classOf;
    let p = base + this.at;
    let state = this.state;
    for (;;) {
      if (p >= stop) return this.stopAt(p, state);
      const c = buf[p] as number;
      switch (state) {
        case START:
          // One empty line before a request is passed over: old clients end a body with it (RFC 9112 §2.2).
          if (c === b.CR && !this.emptyLine) {
            this.emptyLine = true;
            state = EMPTY_LF;
            p++;
            break;
          }
          if (((classes[c] as number) & b.TOKEN) === 0) return this.refuse("request_line");
          this.methodStart = p - base;
          state = METHOD;
          break;
        case EMPTY_LF:
          if (c !== b.LF) return this.refuse("line_ending");
          p++;
          state = START;
          break;
        case METHOD: {
          const most = base + this.methodStart + maxMethodBytes + 1;
          const end = Math.min(stop, most);
          while (p < end && ((classes[buf[p] as number] as number) & b.TOKEN) !== 0) p++;
          if (p === most) return this.refuse("method_too_long");
          if (p >= stop) break;
          if (buf[p] !== b.SP) return this.refuse("request_line");
          this.methodEnd = p - base;
          p++;
          this.targetStart = p - base;
          state = TARGET;
          break;
        }
        case TARGET: {
          const most = base + this.targetStart + this.limits.maxTargetBytes + 1;
          const end = Math.min(stop, most);
          while (p < end && ((classes[buf[p] as number] as number) & b.TARGET) !== 0) p++;
          if (p === most) return this.refuse("target_too_long");
          if (p >= stop) break;
          if (p - base === this.targetStart) return this.refuse("request_line");
          if (buf[p] !== b.SP) return this.refuse(buf[p] === b.CR || buf[p] === b.LF ? "version" : "target");
          this.targetEnd = p - base;
          p++;
          this.versionStart = p - base;
          state = VERSION;
          break;
        }
        case VERSION: {
          const i = p - base - this.versionStart;
          if (i === versionShape.length) {
            if (c !== b.CR) return this.refuse(c === b.LF ? "line_ending" : "version");
            state = VERSION_LF;
          } else if (i === 5 || i === 7) {
            if (((classes[c] as number) & b.DIGIT) === 0) return this.refuse("version");
          } else if (c !== versionShape.charCodeAt(i)) return this.refuse("version");
          p++;
          break;
        }
        default:
          if (c !== b.LF) return this.refuse("line_ending");
          if (buf[base + this.versionStart + 5] !== 49) return this.refuse("version_unsupported");
          this.minor = buf[base + this.versionStart + 7] === 48 ? 0 : 1;
          this.at = p + 1 - base;
          this.state = LINE;
          return this.readFields(stop);
      }
    }
  }

  protected override finish(): number {
    this.method = this.readMethod();
    if (this.hostCount > 1) return this.refuse("host_repeated");
    if (this.hostCount === 0 && this.minor > 0) return this.refuse("host_missing");
    if (this.hostCount === 1) {
      this.authorityStart = this.spans[this.hostField * 4 + 2] as number;
      this.authorityEnd = this.spans[this.hostField * 4 + 3] as number;
      if (!this.isAuthority(this.authorityStart, this.authorityEnd, true)) return this.refuse("host_malformed");
    }
    if (this.readTarget() === REFUSED) return REFUSED;
    this.markNamed();
    return this.frame();
  }

  private readMethod(): string {
    const { buf, base } = this;
    const length = this.methodEnd - this.methodStart;
    for (const usual of usualMethods) {
      if (usual.length !== length) continue;
      let i = 0;
      while (i < length && buf[base + this.methodStart + i] === usual.charCodeAt(i)) i++;
      if (i === length) return usual;
    }
    return this.text(this.methodStart, this.methodEnd);
  }

  private frame(): number {
    if (this.codingCount > 0) {
      if (this.minor === 0) return this.refuse("transfer_encoding_in_1_0");
      if (this.contentLength >= 0) return this.refuse("content_length_and_transfer_encoding");
      if (this.codingCount > 1) return this.refuse("transfer_encoding_repeated");
      if (this.codings !== "chunked") {
        const last = this.codings.slice(this.codings.lastIndexOf(",") + 1).trim();
        if (last !== "chunked") return this.refuse("transfer_encoding_order");
        return this.refuse(/chunked[ \t]*,/.test(this.codings) ? "transfer_encoding_order" : "transfer_coding_unknown");
      }
      this.body = CHUNKED;
    } else this.body = this.contentLength > 0 ? LENGTH : NO_BODY;
    if (this.method === "CONNECT" && this.body !== NO_BODY) return this.refuse("connect_with_body");
    if ((this.connection & WANTS_UPGRADE) !== 0 && this.upgradeField >= 0)
      // Bytes of HTTP/2 behind an upgrade would pass every decision unseen.
      this.upgrades =
        this.minor > 0 && this.body === NO_BODY && !/(?:^|,)[ \t]*(?:h2c|http)\b/i.test(this.value(this.upgradeField));
    return DONE;
  }

  /** RFC 9112 §3.2: origin form, absolute form (its authority replaces Host), authority form for CONNECT, "*" for OPTIONS. */
  private readTarget(): number {
    const { buf, base } = this;
    const start = this.targetStart;
    this.pathStart = start;
    if (this.method === "CONNECT") {
      if (!this.isAuthority(start, this.targetEnd, false)) return this.refuse("target");
      this.authorityStart = start;
      this.authorityEnd = this.targetEnd;
      this.pathText = "";
      this.isOriginForm = false;
      return /:\d{1,5}$/.test(this.authority) ? DONE : this.refuse("target");
    }
    const first = buf[base + start];
    if (first === 47) return DONE;
    if (first === 42 && this.targetEnd === start + 1) return this.method === "OPTIONS" ? DONE : this.refuse("target");
    const found = /^(https?):\/\/([^/?]*)(.*)$/is.exec(this.text(start, this.targetEnd));
    if (found === null) return this.refuse("target");
    const [, scheme = "", authority = "", rest = ""] = found;
    this.authorityStart = start + scheme.length + 3;
    this.authorityEnd = this.authorityStart + authority.length;
    if (!this.isAuthority(this.authorityStart, this.authorityEnd, false)) return this.refuse("target");
    this.scheme = scheme.toLowerCase() === "https" ? "https" : "http";
    this.isOriginForm = false;
    if (rest === "") this.pathText = this.method === "OPTIONS" ? "*" : "/";
    else this.pathText = rest.startsWith("/") ? rest : `/${rest}`;
    return DONE;
  }

  /** uri-host [":" port], by bytes. */
  private isAuthority(from: number, to: number, mayBeEmpty: boolean): boolean {
    const { buf, base } = this;
    if (from === to) return mayBeEmpty;
    let p = base + from;
    const end = base + to;
    if (buf[p] === 91) {
      p++;
      while (p < end && buf[p] !== 93) {
        const c = buf[p] as number;
        if (b.hexOf[c] === -1 && c !== b.COLON && c !== 46) return false;
        p++;
      }
      if (p >= end || p - base - from < 3) return false;
      p++;
    } else {
      const start = p;
      while (p < end && ((b.classOf[buf[p] as number] as number) & b.HOST) !== 0) p++;
      if (p === start) return false;
    }
    if (p === end) return true;
    return buf[p] === b.COLON && end - p <= 6 && b.allOf(buf, p + 1, end, b.DIGIT);
  }
}
