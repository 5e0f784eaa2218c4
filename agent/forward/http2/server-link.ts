// A stream to an HTTP/2 server that looks to an exchange of HTTP/1.1 like a connection of its own. Heads are translated by way of bytes, so
// that everything passes the checks of both versions; bodies are copied once, for chunk framing needs room around them.
import { BodyReader, TrailerParser } from "../http1/body.ts";
import { DONE, REFUSED } from "../http1/fields.ts";
import type { CodecLimits } from "../http1/limits.ts";
import type { Answered, PoolLink, RequestWriter, ServerLink } from "../http1/links.ts";
import { OutBuffer, ROOM } from "../http1/out-buffer.ts";
import { RequestParser } from "../http1/request.ts";
import { ResponseParser } from "../http1/response.ts";
import { isKey, keyMissing, unsupported, websocket } from "../websocket.ts";
import { errorCode, referenceBytes } from "./codes.ts";
import type { RequestLine } from "./head.ts";
import { clientEndedFrame } from "./session-frames.ts";
import type { Http2Stream } from "./stream.ts";
import { notBegun, type StreamConnection, type UpHead, type UpOwner } from "./stream-links.ts";
import { http1Fields, writeHttp1Response, writeTrailerLines } from "./translate.ts";
import { asksWebSocket, connectFields, writeSwitching } from "./upgrade.ts";

/** The pool, as its links see it. */
export interface LinkPool extends PoolLink {
  readonly exchangeLimits: CodecLimits;
  /** The server is another agent's data thread. */
  readonly isBetween: boolean;
}

const nothing: Buffer = Buffer.alloc(0);

export class StreamServerLink implements ServerLink, RequestWriter, UpOwner {
  readonly pool: LinkPool;
  readonly parser: ResponseParser;
  used = 0;
  hasAnswered = false;
  idleSinceMs = 0;
  readonly serverIdleMs = Number.POSITIVE_INFINITY;
  private readonly limits: CodecLimits;
  private upstream: StreamConnection;
  private exchange: Answered | undefined;
  private stream: Http2Stream | undefined;
  private readonly head = new OutBuffer(1024);
  private readonly requestHead: RequestParser;
  private readonly requestBody: BodyReader;
  /** Where content lies between its frame and its chunk; undefined while an earlier one is still being written out. */
  private area: Buffer | undefined;
  private isLent = false;
  private trailers: TrailerParser | undefined;
  private hasEnded = false;
  /** Of the answer, bytes that were not consumed. */
  private held = 0;
  private waitsForServer = false;
  private flushed: (() => void) | undefined;
  /** Of a client that asks for WebSocket, else ""; the server has agreed; the client has ended its side. */
  private key = "";
  private isTunnel = false;
  private hasClientEnded = false;
  /** It ended early: whoever had it may still look at it. */
  private isGone = false;

  constructor(pool: LinkPool, upstream: StreamConnection) {
    this.pool = pool;
    this.upstream = upstream;
    // What a head may gain by edits on its way is no reason to refuse it.
    const { exchangeLimits } = pool;
    this.limits = {
      ...exchangeLimits,
      maxHeadBytes: exchangeLimits.maxHeadBytes * 2,
      maxFields: exchangeLimits.maxFields * 2,
    };
    this.parser = new ResponseParser(this.limits);
    this.requestHead = new RequestParser(this.limits);
    this.requestBody = new BodyReader(this.limits);
    this.start(upstream);
  }

  /** For one exchange; a link that was released may serve another. */
  start(upstream: StreamConnection): void {
    this.upstream = upstream;
    // That an agent's connection breaks says nothing of the server, not even on its first stream: what may be sent twice is.
    this.used = this.pool.isBetween ? upstream.used + 1 : upstream.used;
    this.hasAnswered = this.hasEnded = this.waitsForServer = this.isTunnel = this.hasClientEnded = false;
    this.key = "";
    this.held = 0;
    this.trailers = this.flushed = undefined;
  }

  get writer(): RequestWriter {
    return this;
  }
  get isUsable(): boolean {
    return this.upstream.canOpen;
  }
  get isPending(): boolean {
    return this.waitsForServer;
  }

  begin(exchange: Answered, method: string): void {
    this.exchange = exchange;
    this.parser.method = method;
  }

  /** The bytes are a head of HTTP/1.1 as it would go to a server, with what there is of its body. */
  request(bytes: Buffer): void {
    const head = this.requestHead;
    head.reset();
    if (head.run(bytes, 0, bytes.length) !== DONE) {
      this.failLater(`refused:${head.refused?.refused}`);
      return;
    }
    const body = this.requestBody;
    body.start(head.body, head.contentLength);
    const fields = http1Fields(head, true);
    if (head.teTrailers) fields.push("te", "trailers");
    const { method, authority, path } = head;
    const line = { method, scheme: "http", authority, path };
    if (asksWebSocket(head)) {
      this.askTunnel(line, fields, head.header("sec-websocket-key") ?? "");
      return;
    }
    // The exchange keeps its bytes for another try, and taking chunks apart moves them.
    const rest = head.at < bytes.length ? Buffer.from(bytes.subarray(head.at)) : nothing;
    body.decode(rest, 0, rest.length);
    const end = body.done && body.from === body.to && body.trailers === undefined;
    const stream = this.upstream.connection.request(line, fields, end, this);
    if (stream === null) {
      this.failLater(notBegun);
      return;
    }
    this.stream = stream;
    if (!end && rest.length > 0)
      this.payload(rest, body.from, body.to, body.done, body.done ? body.trailers : undefined);
  }

  /** By extended CONNECT (RFC 8441), once the server's settings say that it takes such. */
  private askTunnel(line: RequestLine, fields: string[], key: string): void {
    if (!isKey(key)) {
      this.failLater(keyMissing);
      return;
    }
    this.key = key;
    const { exchange, upstream } = this;
    const { connection } = upstream;
    const ask = (): void => {
      // It was given up meanwhile.
      if (this.exchange !== exchange || this.isGone) return;
      const connect = { ...line, method: "CONNECT" };
      const takes = connection.peerExtendedConnect || connection.done;
      const stream = takes ? connection.request(connect, connectFields(fields), false, this, null, websocket) : null;
      if (stream === null) {
        this.failLater(takes ? notBegun : unsupported);
        return;
      }
      this.stream = stream;
      if (this.hasClientEnded) stream.end();
    };
    if (upstream.whenGreeted(ask)) ask();
  }

  private failLater(why: string): void {
    queueMicrotask(() => this.upReset(why));
  }

  whenFlushed(fn: () => void): void {
    if (this.waitsForServer) this.flushed = fn;
    else queueMicrotask(fn);
  }

  payload(buf: Buffer, from: number, to: number, done: boolean, trailers: TrailerParser | undefined): boolean {
    const { stream } = this;
    if (stream === undefined) return false;
    const size = to - from;
    if (size > 0 || (done && trailers === undefined)) {
      const chunk = buf.subarray(from, to);
      const own = size >= referenceBytes ? Buffer.from(chunk) : chunk;
      if (!stream.sendData(own, done && trailers === undefined)) this.waitsForServer = true;
    }
    if (done && trailers !== undefined) stream.sendTrailers(http1Fields(trailers, false));
    return this.waitsForServer;
  }

  write(bytes: Buffer): void {
    this.payload(bytes, 0, bytes.length, false, undefined);
  }

  upDrain(): void {
    this.waitsForServer = false;
    const { flushed } = this;
    this.flushed = undefined;
    flushed?.();
  }

  upHead(head: UpHead, end: boolean): void {
    const { exchange, parser } = this;
    if (exchange === undefined) return;
    this.hasAnswered = true;
    exchange.touch();
    this.head.clear();
    parser.reset();
    if (this.key !== "" && head.status >= 200 && head.status < 300) writeSwitching(head, this.head, this.key);
    else writeHttp1Response(head, this.head, end, parser.method === "HEAD");
    const bytes = this.head.view();
    if (parser.run(bytes, 0, bytes.length) === REFUSED) {
      this.fail(`refused:${parser.refused?.refused}`);
      return;
    }
    try {
      if (parser.isInterim) exchange.interim(parser);
      else if (!exchange.answer(this)) return;
      this.isTunnel = parser.isTunnel;
      if (!end) exchange.flush();
    } catch (error) {
      this.destroy();
      exchange.threw(error);
    }
  }

  upData(chunk: Buffer, end: boolean): void {
    const { exchange } = this;
    const size = chunk.length;
    if (exchange === undefined) {
      this.stream?.consume(size);
      return;
    }
    exchange.touch();
    if (this.isTunnel) {
      const own = size >= referenceBytes ? chunk : Buffer.from(chunk);
      if (exchange.tunnelled(own, 0, size)) this.stream?.consume(size);
      else this.held += size;
      return;
    }
    let area = this.area;
    this.area = undefined;
    if (area === undefined || area.length < size + 2 * ROOM)
      area = Buffer.allocUnsafeSlow(Math.max(4096, size + 2 * ROOM));
    chunk.copy(area, ROOM);
    this.hasEnded = end;
    this.isLent = false;
    if (exchange.payload(area, ROOM, ROOM + size, end, undefined)) {
      this.stream?.consume(size);
      if (!this.isLent) this.area = area;
    } else this.held += size;
  }

  upTrailers(fields: readonly string[]): void {
    this.head.clear();
    writeTrailerLines(fields, this.head);
    const trailers = new TrailerParser(this.limits);
    const bytes = this.head.view();
    if (trailers.run(bytes, 0, bytes.length) === DONE && trailers.count > 0) this.trailers = trailers;
  }

  upEnd(): void {
    const { exchange } = this;
    if (exchange === undefined) return;
    if (this.isTunnel) {
      exchange.tunnelEnded();
      return;
    }
    if (!this.hasEnded) {
      this.hasEnded = true;
      const area = this.area ?? Buffer.allocUnsafeSlow(2 * ROOM);
      this.area = undefined;
      this.isLent = false;
      exchange.payload(area, ROOM, ROOM, true, this.trailers);
      if (!this.isLent) this.area = area;
    }
    this.exchange = undefined;
    exchange.answerEnded(this);
  }

  upReset(why: string): void {
    this.stream = undefined;
    const { exchange } = this;
    this.exchange = undefined;
    exchange?.upstreamFailed(this, why);
  }

  upClosed(): void {
    this.stream = undefined;
  }

  resume(): void {
    const { held } = this;
    this.held = 0;
    this.stream?.consume(held);
  }

  lend(): void {
    this.isLent = true;
  }

  /** A stream has an end of its own, which goes with the message or the tunnel; between agents more can be said. */
  endWriting(): void {
    const { stream } = this;
    const { connection } = this.upstream;
    this.hasClientEnded = true;
    if (this.key !== "") stream?.end();
    if (!this.pool.isBetween || stream?.live !== true || connection.done) return;
    clientEndedFrame(connection.sender.out, stream.id);
    connection.wake();
  }
  noteKeepAlive(): void {}

  private fail(why: string): void {
    const { exchange } = this;
    this.destroy();
    exchange?.upstreamFailed(this, why);
  }

  /** What is left of the request still goes out; what comes is let go. True: nobody knows this any more. */
  release(): boolean {
    if (this.isGone) return false;
    this.exchange = undefined;
    const { stream } = this;
    this.stream = undefined;
    if (stream === undefined) return true;
    stream.consume(this.held);
    if (stream.owner === this) stream.owner = null;
    return true;
  }

  destroy(): void {
    this.isGone = true;
    this.exchange = undefined;
    const { stream } = this;
    this.stream = undefined;
    if (stream === undefined || stream.owner !== this) return;
    stream.owner = null;
    stream.reset(errorCode.cancel);
  }
}
