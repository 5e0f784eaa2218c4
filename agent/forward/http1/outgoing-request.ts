// A request as it goes to a server: its head and what came of its body with it, kept for as long as it may have to be sent again.
import type { BodyReader } from "./body.ts";
import type { RequestCopies } from "./exchange.ts";
import { OutBuffer } from "./out-buffer.ts";
import { CHUNKED, NO_BODY, type RequestParser } from "./request.ts";
import { type RequestRewrite, writeRequest, writeTrailers } from "./write.ts";

export class OutgoingRequest {
  private readonly out = new OutBuffer(1024);
  private payloadBytes = 0;
  private copies: RequestCopies | undefined;
  framing = NO_BODY;
  /** All of it that was ever sent is here. */
  isWhole = true;
  /** The memory may still be on its way out, so the next request takes other. */
  isLent = false;

  /** What comes of it goes to other servers too. */
  get isCopied(): boolean {
    return this.copies !== undefined;
  }

  /** Makes it from a head that is good for the time of the call. */
  begin(head: RequestParser, rewrite: RequestRewrite, copies?: RequestCopies): void {
    this.copies = copies;
    if (this.isLent) this.out.replace();
    else this.out.clear();
    this.isLent = false;
    this.isWhole = true;
    this.payloadBytes = 0;
    writeRequest(head, this.out, rewrite);
    copies?.begin(this.framing === NO_BODY);
  }

  /** The payload that `body` just found in `buf`. */
  append(buf: Buffer, body: BodyReader): void {
    if (this.copies !== undefined) this.copy(this.copies, buf, body);
    this.gather(buf, body);
  }

  private gather(buf: Buffer, body: BodyReader): void {
    const { out } = this;
    const { from, to } = body;
    this.payloadBytes += to - from;
    if (this.framing !== CHUNKED) out.bytes(buf, from, to);
    else {
      if (to > from) out.chunk(buf, from, to);
      if (body.done) writeTrailers(body.trailers, out);
    }
  }

  /** The same beside its being sent, if there is to be room for so much. */
  keep(buf: Buffer, body: BodyReader, mostBytes: number): void {
    if (this.copies !== undefined) this.copy(this.copies, buf, body);
    if (!this.isWhole) return;
    this.isWhole = this.payloadBytes + body.to - body.from <= mostBytes;
    if (this.isWhole) this.gather(buf, body);
  }

  private copy(copies: RequestCopies, buf: Buffer, body: BodyReader): void {
    copies.data(buf.subarray(body.from, body.to));
    if (body.done) copies.end();
  }

  /** The request is over, whole or not. */
  over(): void {
    this.copies?.cut();
    this.copies = undefined;
  }

  view(): Buffer {
    return this.out.view();
  }
}
