// A connection to an HTTP/1.1 server that looks to an exchange of HTTP/2 like a stream: head and body are written in the other version,
// the answer's events come as those of a stream.
import type { HeaderList } from "../../http.ts";
import type { TrailerParser } from "../http1/body.ts";
import { isIdempotent } from "../http1/exchange.ts";
import { KEEP_ALIVE } from "../http1/fields.ts";
import type { Answered, PoolLink, ServerLink } from "../http1/links.ts";
import { OutBuffer } from "../http1/out-buffer.ts";
import { CHUNKED, NO_BODY } from "../http1/request.ts";
import type { ResponseParser } from "../http1/response.ts";
import type { RequestRewrite } from "../http1/write.ts";
import type { Tenant } from "../tenants.ts";
import { errorCode, referenceBytes } from "./codes.ts";
import { type Http2Request, joined } from "./head.ts";
import type { UpHead, UpOwner, UpStream } from "./stream-links.ts";
import { framingOf, http1Fields, writeHttp1Request, writeTrailerLines } from "./translate.ts";

/** The exchange, as this sees it. */
export interface Http1StreamOwner extends UpOwner {
  readonly tenant?: Tenant | undefined;
  /** A connection is there; what is sent during the call goes out in one write. */
  joined(stream: Http1Stream): void;
  failedToJoin(stream: Http1Stream, why: string): void;
  touch(): void;
  threw(error: unknown): void;
}

/** Heads of requests that are over. */
const spare: OutBuffer[] = [];
const mostSpare = 256;

class Http1Answer implements UpHead {
  readonly status: number;
  readonly sensitive = null;
  readonly contentLength: number;
  private readonly fields: string[];

  constructor(head: ResponseParser) {
    this.status = head.status;
    const hasLength = head.status >= 200 && head.status !== 204;
    this.contentLength = hasLength ? head.contentLength : -1;
    this.fields = http1Fields(head, hasLength);
  }
  header(name: string): string | undefined {
    return joined(this.fields, name);
  }
  headers(): HeaderList {
    return this.fields;
  }
}

export class Http1Stream implements UpStream, Answered {
  readonly turn = 0;
  protected readonly owner: Http1StreamOwner;
  private readonly pool: PoolLink;
  protected readonly head: Http2Request;
  protected readonly rewrite: RequestRewrite;
  private readonly framing: number;
  protected readonly out = spare.pop() ?? new OutBuffer(1024);
  protected server: ServerLink | undefined;
  protected isOver = false;
  /** The head is not written yet. */
  private isGathering = true;
  private requestEnded: boolean;
  private hasClientEnded = false;
  /** Of the answer, bytes that the exchange holds back. */
  protected unconsumed = 0;
  protected hasAnswered = false;
  protected readonly serverFlushed = (): void => {
    if (!this.isOver && this.server !== undefined) this.owner.upDrain();
  };

  /** `end`: the request has no body. */
  constructor(owner: Http1StreamOwner, pool: PoolLink, head: Http2Request, rewrite: RequestRewrite, end: boolean) {
    this.owner = owner;
    this.pool = pool;
    this.head = head;
    this.rewrite = rewrite;
    this.framing = framingOf(head, end);
    this.requestEnded = end;
  }

  /** Whose share of the thread the answer uses. */
  get tenant(): Tenant | undefined {
    return this.owner.tenant;
  }

  /** Looks for a connection. `safe`: the request may be sent twice. */
  open(canResend: boolean, fresh: boolean): void {
    const server = this.pool.take(this, canResend && isIdempotent(this.head.method), fresh);
    if (server !== undefined) this.connected(server);
  }

  connected(server: ServerLink): void {
    if (this.isOver) {
      server.pool.put(server, 0);
      return;
    }
    this.server = server;
    server.begin(this, this.head.method);
    this.writeHead();
    this.owner.joined(this);
    if (this.isGathering && this.server !== undefined) this.begin();
  }

  protected writeHead(): void {
    writeHttp1Request(this.head, this.out, this.rewrite, this.framing);
  }

  private begin(): void {
    this.isGathering = false;
    this.server?.writer.request(this.out.view(), this.framing, this.requestEnded);
    if (this.hasClientEnded) this.endWriting();
  }

  endWriting(): void {
    this.hasClientEnded = true;
    if (!this.isOver && !this.isGathering && this.requestEnded) this.server?.endWriting();
  }

  notConnected(why: string): void {
    if (this.isOver) return;
    this.isOver = true;
    this.owner.failedToJoin(this, why);
  }

  sendData(chunk: Buffer, end: boolean): boolean {
    const { server } = this;
    if (this.isOver || server === undefined || this.requestEnded) return true;
    const size = chunk.length;
    if (this.isGathering && size < referenceBytes) {
      if (this.framing === CHUNKED) {
        if (size > 0) this.out.chunk(chunk, 0, size);
      } else if (this.framing !== NO_BODY) this.out.bytes(chunk, 0, size);
    } else if (size > 0 && this.framing !== NO_BODY) {
      if (this.isGathering) this.begin();
      server.writer.write(this.framed(chunk));
    }
    if (end) this.finishRequest(undefined);
    if (this.isGathering || !server.writer.isPending) return true;
    server.writer.whenFlushed(this.serverFlushed);
    return false;
  }

  /** In memory that may be kept. */
  private framed(chunk: Buffer): Buffer {
    if (this.framing !== CHUNKED) return chunk.length < referenceBytes ? Buffer.from(chunk) : chunk;
    const size = Buffer.from(`${chunk.length.toString(16)}\r\n`);
    const framed = Buffer.allocUnsafe(size.length + chunk.length + 2);
    size.copy(framed);
    chunk.copy(framed, size.length);
    framed[framed.length - 2] = 13;
    framed[framed.length - 1] = 10;
    return framed;
  }

  sendTrailers(fields: HeaderList): void {
    this.finishRequest(fields);
  }

  end(): void {
    this.finishRequest(undefined);
  }

  private finishRequest(trailers: HeaderList | undefined): void {
    if (this.isOver || this.requestEnded) return;
    this.requestEnded = true;
    if (this.framing !== CHUNKED) return;
    const end = this.isGathering ? this.out : new OutBuffer(64);
    end.text("0\r\n");
    writeTrailerLines(trailers ?? [], end);
    if (!this.isGathering) this.server?.writer.write(end.view());
  }

  reset(_code: number): void {
    if (this.isOver) return;
    this.isOver = true;
    const { server } = this;
    this.server = undefined;
    if (server === undefined) this.pool.cancel(this);
    else server.destroy();
  }

  detach(): void {}

  consume(bytes: number): void {
    if (this.unconsumed === 0) return;
    this.unconsumed = Math.max(0, this.unconsumed - bytes);
    if (this.unconsumed === 0) this.server?.resume();
  }

  touch(): void {
    this.owner.touch();
  }
  threw(error: unknown): void {
    this.isOver = true;
    this.server = undefined;
    this.owner.threw(error);
  }
  flush(): void {}

  interim(head: ResponseParser): void {
    this.owner.upHead(new Http1Answer(head), false);
  }

  answer(server: ServerLink): boolean {
    const { parser } = server;
    this.hasAnswered = true;
    if ((parser.connection & KEEP_ALIVE) !== 0) server.noteKeepAlive();
    if (parser.isTunnel) {
      server.destroy();
      this.upstreamFailed(server, "refused:upgrade_not_asked");
      return false;
    }
    this.owner.upHead(new Http1Answer(parser), parser.body === NO_BODY);
    return !this.isOver;
  }

  payload(buf: Buffer, from: number, to: number, done: boolean, trailers: TrailerParser | undefined): boolean {
    const { server } = this;
    if (this.isOver || server === undefined) return true;
    const size = to - from;
    if (size > 0) {
      if (size >= referenceBytes) server.lend(buf);
      this.unconsumed += size;
      this.owner.upData(buf.subarray(from, to), done && trailers === undefined);
    }
    if (done && trailers !== undefined && !this.isOver) this.owner.upTrailers(http1Fields(trailers, false), null);
    return this.isOver || this.unconsumed === 0;
  }

  answerEnded(server: ServerLink): void {
    this.isOver = true;
    if (!this.isGathering && !server.writer.isPending && spare.length < mostSpare) {
      this.out.clear();
      spare.push(this.out);
    }
    this.server = undefined;
    if (this.requestEnded && !this.hasClientEnded && server.parser.keepsAlive) server.pool.put(server, 0);
    else server.destroy();
    this.owner.upEnd();
    this.owner.upClosed();
  }

  upstreamFailed(server: ServerLink, why: string): void {
    if (this.isOver) return;
    this.isOver = true;
    this.server = undefined;
    const maybeStale = server.used > 1 && !server.hasAnswered && !this.hasAnswered;
    this.owner.upReset(why, errorCode.internalError, maybeStale);
  }

  tunnelled(_buf: Buffer, _from: number, _to: number): boolean {
    return true;
  }
  tunnelEnded(): void {}
}
