// What goes out on one socket: heads and small payloads gathered into one write, large payloads framed where they were read.
import type { Socket } from "node:net";
import type { HeaderEdits, HeaderList } from "../../http.ts";
import type { TrailerParser } from "./body.ts";
import { frameInPlace, lastChunk, OutBuffer } from "./out-buffer.ts";
import { CHUNKED, UNTIL_CLOSE } from "./request.ts";
import type { ResponseParser } from "./response.ts";
import { writeLocal, writeResponse, writeTrailers } from "./write.ts";

// Beyond this a payload is not copied behind its head but written beside it in one system call.
const mostCopied = 16 * 1024;
const nothing = Buffer.alloc(0);
// One for the thread, and whose bytes lie in it: they are gone before anybody else's come.
const scratch = new OutBuffer(32 * 1024);
let holder: MessageWriter | undefined;
let isFlushing = false;
const flushHeld = (): void => {
  isFlushing = false;
  holder?.flush();
};

export class MessageWriter {
  private readonly socket: Socket;
  private framing = UNTIL_CLOSE;

  constructor(socket: Socket) {
    this.socket = socket;
  }

  /** What is gathered from here on is this one's. */
  private claim(): void {
    if (holder === this) return;
    holder?.flush();
    holder = this;
  }

  get isPending(): boolean {
    return this.socket.writableLength > 0;
  }

  get pendingBytes(): number {
    return this.socket.writableLength;
  }

  /** Calls `fn` when all that was written is with the kernel. */
  whenFlushed(fn: () => void): void {
    this.socket.write(nothing, fn);
  }

  /** A whole request, or its head with the beginning of a body that goes on in `framing`. */
  request(bytes: Buffer, framing: number): void {
    this.framing = framing;
    this.socket.write(bytes);
  }

  interim(head: ResponseParser): void {
    this.claim();
    writeResponse(head, scratch, undefined, { minor: 1, body: head.body, close: false });
  }

  /** Held back until the first payload, `flush`, or the end of this turn of work after `flushSoon`. */
  response(head: ResponseParser, edits: HeaderEdits | undefined, minor: number, close: boolean): void {
    this.framing = head.body;
    if (head.body === UNTIL_CLOSE || head.body === CHUNKED) this.framing = minor > 0 ? CHUNKED : UNTIL_CLOSE;
    this.claim();
    writeResponse(head, scratch, edits, { minor, body: this.framing, close });
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
    this.claim();
    writeLocal(scratch, status, reason, headers, body, { isHead, minor, close });
    this.flush();
  }

  /** The payload `buf[from..to)`; true if `buf` is still being written out afterwards. */
  payload(buf: Buffer, from: number, to: number, done: boolean, trailers: TrailerParser | undefined): boolean {
    const size = to - from;
    const chunked = this.framing === CHUNKED;
    if (size === 0 || (holder === this && size <= mostCopied)) {
      this.claim();
      if (chunked) {
        if (size > 0) scratch.chunk(buf, from, to);
        if (done) writeTrailers(trailers, scratch);
      } else if (size > 0) scratch.bytes(buf, from, to);
      this.flush();
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
      this.claim();
      writeTrailers(trailers, scratch);
      this.flush();
    }
    return pending;
  }

  /** Bytes as they are, behind what is held back. */
  write(bytes: Buffer): void {
    const { socket } = this;
    if (holder !== this || scratch.len === 0) {
      socket.write(bytes);
      return;
    }
    socket.cork();
    socket.write(scratch.view());
    socket.write(bytes);
    socket.uncork();
    this.emptied();
  }

  flush(): void {
    if (holder !== this) return;
    if (scratch.len > 0) this.socket.write(scratch.view());
    this.emptied();
  }

  /** Unless a payload takes it along before what is being read now is worked off. */
  flushSoon(): void {
    if (holder !== this || isFlushing) return;
    isFlushing = true;
    queueMicrotask(flushHeld);
  }

  private emptied(): void {
    holder = undefined;
    if (this.socket.writableLength > 0) scratch.replace();
    else scratch.clear();
  }

  /** The connection is cut, maybe in the middle of a message: nothing of it may reach another socket. */
  discard(): void {
    if (holder !== this) return;
    holder = undefined;
    scratch.clear();
  }
}
