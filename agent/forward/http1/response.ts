// Status line and framing of a response (RFC 9112 §4, §6.3). What is refused here comes from the server: the client gets 502. No sockets.
import type { ResponseHead } from "../../http.ts";
import * as b from "./bytes.ts";
import { CLOSE, DONE, FieldParser, KEEP_ALIVE, LINE } from "./fields.ts";
import type { CodecLimits } from "./limits.ts";
import { CHUNKED, LENGTH, NO_BODY, UNTIL_CLOSE } from "./request.ts";

const VERSION = 0;
const STATUS = 1;
const AFTER_STATUS = 2;
const REASON = 3;
const LINE_LF = 4;
const shape = "HTTP/1.1 ";

/** One per upstream connection. `method` of the request decides whether there can be a body. */
export class ResponseParser extends FieldParser implements ResponseHead {
  method = "GET";
  status = 0;
  minor = 1;
  body = NO_BODY;
  /** 2xx to CONNECT or 101: bytes behind the head are another protocol's. */
  isTunnel = false;
  reasonEnd = 0;

  constructor(limits: CodecLimits) {
    super(limits, limits.maxHeadBytes, "head_too_large");
    this.state = VERSION;
  }

  override reset(): void {
    super.reset();
    this.state = VERSION;
    this.status = 0;
    this.body = NO_BODY;
    this.isTunnel = false;
  }

  get isInterim(): boolean {
    return this.status < 200 && this.status !== 101;
  }

  get keepsAlive(): boolean {
    if ((this.connection & CLOSE) !== 0 || this.body === UNTIL_CLOSE || this.isTunnel) return false;
    return this.minor > 0 || (this.connection & KEEP_ALIVE) !== 0;
  }

  protected override read(stop: number): number {
    return this.state < LINE ? this.readLine(stop) : this.readFields(stop);
  }

  private readLine(stop: number): number {
    const { buf, base } = this;
    let p = base + this.at;
    let state = this.state;
    for (;;) {
      if (p >= stop) return this.stopAt(p, state);
      const c = buf[p] as number;
      if (state === VERSION) {
        const i = p - base;
        if (i === 7) {
          if (c !== 48 && c !== 49) return this.refuse("version_unsupported");
          this.minor = c - 48;
        } else if (c !== shape.charCodeAt(i)) return this.refuse(i === 5 ? "version_unsupported" : "status_line");
        if (i === 8) state = STATUS;
        p++;
      } else if (state === STATUS) {
        const digit = c - 48;
        if (digit < 0 || digit > 9) return this.refuse("status_line");
        this.status = this.status * 10 + digit;
        p++;
        if (p - base === 12) {
          if (this.status < 100 || this.status > 599) return this.refuse("status_line");
          this.reasonEnd = 12;
          state = AFTER_STATUS;
        }
      } else if (state === AFTER_STATUS) {
        // The space is due even before an empty reason; many servers leave it out, and nothing can be meant but that.
        if (c === b.SP) state = REASON;
        else if (c === b.CR) state = LINE_LF;
        else return this.refuse("status_line");
        p++;
      } else if (state === REASON) {
        while (p < stop && ((b.classOf[buf[p] as number] as number) & b.VALUE) !== 0) p++;
        if (p >= stop) continue;
        if (buf[p] !== b.CR) return this.refuse(buf[p] === b.LF ? "line_ending" : "status_line");
        this.reasonEnd = p - base;
        p++;
        state = LINE_LF;
      } else {
        if (c !== b.LF) return this.refuse("line_ending");
        this.at = p + 1 - base;
        this.state = LINE;
        return this.readFields(stop);
      }
    }
  }

  protected override finish(): number {
    this.markNamed();
    const { status, method } = this;
    if (this.codingCount > 0) {
      if (this.minor === 0) return this.refuse("transfer_encoding_in_1_0");
      if (this.contentLength >= 0) return this.refuse("content_length_and_transfer_encoding");
      if (this.codingCount > 1) return this.refuse("transfer_encoding_repeated");
      if (this.codings !== "chunked") return this.refuse("transfer_coding_unknown");
    }
    if (status === 101 || (method === "CONNECT" && status >= 200 && status < 300)) {
      this.isTunnel = true;
      this.body = NO_BODY;
    } else if (status < 200 || status === 204 || status === 304 || method === "HEAD") this.body = NO_BODY;
    else if (this.codingCount > 0) this.body = CHUNKED;
    else if (this.contentLength >= 0) this.body = this.contentLength > 0 ? LENGTH : NO_BODY;
    else this.body = UNTIL_CLOSE;
    return DONE;
  }
}
