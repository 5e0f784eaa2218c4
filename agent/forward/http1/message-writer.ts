// What goes out on one socket: heads and small payloads gathered into one write, large payloads framed where they were read. Messages
// that are whole wait for the end of the turn (write-turn.ts).
import type { Socket } from "node:net";
import type { HeaderEdits, HeaderList } from "../../http.ts";
import type { Tenant } from "../tenants.ts";
import type { TrailerParser } from "./body.ts";
import { frameInPlace, lastChunk, OutBuffer } from "./out-buffer.ts";
import { CHUNKED, UNTIL_CLOSE } from "./request.ts";
import type { ResponseParser } from "./response.ts";
import { writeLocal, writeResponse, writeTrailers } from "./write.ts";
import { type Waiter, writeTurn } from "./write-turn.ts";

// Beyond this a payload is not copied behind its head but written beside it in one system call.
const mostCopied = 16 * 1024;
const nothing = Buffer.alloc(0);
// Memory to gather in, of whoever gathers nothing now.
const spare: OutBuffer[] = [];
const mostSpare = 64;
const gatherBytes = 4 * 1024;

export class MessageWriter implements Waiter {
  /** Whose time writing costs. */
  payer: Tenant | undefined;
  private readonly socket: Socket;
  private framing = UNTIL_CLOSE;
  /** A whole request, in memory of its sender. */
  private late: Buffer | undefined;
  /** What is gathered; its first `whole` bytes are whole messages. */
  private out: OutBuffer | undefined;
  private whole = 0;
  private isWaiting = false;

  constructor(socket: Socket) {
    this.socket = socket;
  }

  private gather(): OutBuffer {
    this.out ??= spare.pop() ?? new OutBuffer(gatherBytes);
    return this.out;
  }

  get isPending(): boolean {
    return this.late !== undefined || this.out !== undefined || this.socket.writableLength > 0;
  }

  get pendingBytes(): number {
    return (this.late?.length ?? 0) + (this.out?.len ?? 0) + this.socket.writableLength;
  }

  /** Calls `fn` when all that was written is with the kernel. */
  whenFlushed(fn: () => void): void {
    this.flush();
    this.socket.write(nothing, fn);
  }

  /** A whole request, or its head with the beginning of a body that goes on in `framing`. Its memory is lent for as long as `isPending`. */
  request(bytes: Buffer, framing: number, isWhole: boolean): void {
    this.framing = framing;
    this.flush();
    if (!isWhole) {
      this.socket.write(bytes);
      return;
    }
    this.late = bytes;
    if (!this.wait(true)) this.flush();
  }

  interim(head: ResponseParser): void {
    writeResponse(head, this.gather(), undefined, { minor: 1, body: head.body, close: false });
  }

  /** Held back until the first payload, `flush`, or the end of this turn of work after `flushSoon`. */
  response(head: ResponseParser, edits: HeaderEdits | undefined, minor: number, close: boolean): void {
    this.framing = head.body;
    if (head.body === UNTIL_CLOSE || head.body === CHUNKED) this.framing = minor > 0 ? CHUNKED : UNTIL_CLOSE;
    writeResponse(head, this.gather(), edits, { minor, body: this.framing, close });
  }

  local(
    status: number,
    reason: string,
    headers: HeaderList,
    body: Buffer,
    minor: number,
    isHead: boolean,
    close: boolean,
  ): void {
    writeLocal(this.gather(), status, reason, headers, body, { isHead, minor, close });
    this.flush();
  }

  /** The payload `buf[from..to)`; true if `buf` is still being written out afterwards. */
  payload(buf: Buffer, from: number, to: number, done: boolean, trailers: TrailerParser | undefined): boolean {
    const size = to - from;
    const chunked = this.framing === CHUNKED;
    if (size === 0 && !chunked && this.out === undefined) return false;
    if (size === 0 || (this.out !== undefined && size <= mostCopied)) {
      const out = this.gather();
      if (chunked) {
        if (size > 0) out.chunk(buf, from, to);
        if (done) writeTrailers(trailers, out);
      } else if (size > 0) out.bytes(buf, from, to);
      if (done) this.whole = out.len;
      if (!done || !this.wait(false)) this.flush();
      return false;
    }
    let start = from;
    let end = to;
    if (chunked) {
      start = frameInPlace(buf, from, to);
      end = to + 2;
      if (done && trailers === undefined) {
        // Where the last chunk itself stood, or in the room that every read leaves behind it.
        buf.set(lastChunk, end);
        end += lastChunk.length;
      }
    }
    this.write(buf.subarray(start, end));
    const pending = this.socket.writableLength > 0;
    if (chunked && done && trailers !== undefined) {
      writeTrailers(trailers, this.gather());
      this.flush();
    }
    return pending;
  }

  /** Bytes as they are, behind what is held back. */
  write(bytes: Buffer): void {
    const { socket, late, out } = this;
    if (!this.isHolding) {
      socket.write(bytes);
      return;
    }
    this.isWaiting = false;
    socket.cork();
    if (late !== undefined) socket.write(late);
    if (out !== undefined) socket.write(out.view());
    socket.write(bytes);
    socket.uncork();
    this.late = undefined;
    if (out !== undefined) this.release(out);
  }

  private get isHolding(): boolean {
    return this.late !== undefined || this.out !== undefined;
  }

  /** What waits or is held back. */
  flush(): void {
    this.isWaiting = false;
    const { socket, late, out } = this;
    if (late !== undefined) {
      this.late = undefined;
      if (!socket.destroyed) socket.write(late);
    }
    if (out === undefined) return;
    if (out.len > 0 && !socket.destroyed) socket.write(out.view());
    this.release(out);
  }

  /** Unless a payload takes it along before what is being read now is worked off. */
  flushSoon(): void {
    if (this.isHolding && !this.wait(false)) queueMicrotask(() => this.flush());
  }

  /** Whether what is held goes out at the end of the turn, or has gone already. Where namespaces contend for the thread, what a write costs is to be seen at once. */
  private wait(isRequest: boolean): boolean {
    if (this.isWaiting) return true;
    if (this.payer?.isMeasured === true) return false;
    this.isWaiting = true;
    writeTurn.add(this, isRequest);
    return true;
  }

  private release(out: OutBuffer): void {
    this.out = undefined;
    this.whole = 0;
    // What is still being written out cannot be used again.
    if (this.socket.writableLength > 0 || spare.length >= mostSpare) return;
    out.clear();
    spare.push(out);
  }

  /** Ends the writing side behind what waits. */
  end(): void {
    this.flush();
    this.socket.end();
  }

  /** The connection is cut, maybe in the middle of a message: messages that are whole go out, nothing else does. */
  discard(): void {
    if (this.out !== undefined) this.out.len = this.whole;
    this.flush();
  }
}
