// WebSocket of an HTTP/2 client on a connection to an HTTP/1.1 server: asked for by GET with Upgrade; from the server's 101 on, bytes go
// as they are, each side's end for itself. Owns the server's connection, which serves nothing after it.
import type { PoolLink, ServerLink } from "../http1/links.ts";
import type { RequestRewrite } from "../http1/write.ts";
import { declined, newKey } from "../websocket.ts";
import { errorCode, referenceBytes } from "./codes.ts";
import type { Http2Request } from "./head.ts";
import { Http1Stream, type Http1StreamOwner } from "./http1-stream.ts";
import { isSwitched, SwitchedAnswer, writeUpgradeRequest } from "./upgrade.ts";

/** The exchange, as this sees it. */
export interface UpgradeOwner extends Http1StreamOwner {
  /** The server is there and spoke, but will not: a word of websocket.ts. */
  upgradeRefused(why: string): void;
  /** Both ends have ended theirs: `fn` is called when what was sent has had time to arrive. */
  linger(fn: () => void): void;
}

export class UpgradeStream extends Http1Stream {
  private readonly exchange: UpgradeOwner;
  private readonly key = newKey();
  private isTunnel = false;
  /** What the client said before it was let in, and whether that was all. */
  private early: Buffer[] = [];
  private clientDone = false;
  private serverDone = false;

  constructor(owner: UpgradeOwner, pool: PoolLink, head: Http2Request, rewrite: RequestRewrite) {
    super(owner, pool, head, rewrite, true);
    this.exchange = owner;
  }

  protected override writeHead(): void {
    writeUpgradeRequest(this.head, this.out, this.rewrite, this.key);
  }

  override answer(server: ServerLink): boolean {
    const { parser } = server;
    if (!parser.isTunnel && (parser.status < 200 || parser.status >= 300)) return super.answer(server);
    this.hasAnswered = true;
    if (parser.isTunnel && isSwitched(parser, this.key)) {
      this.isTunnel = true;
      this.owner.upHead(new SwitchedAnswer(parser), false);
      if (!this.isOver) this.sendEarly(server);
      return !this.isOver;
    }
    const isPage = !parser.isTunnel;
    server.destroy();
    if (!isPage) this.upstreamFailed(server, "refused:websocket_accept");
    else {
      this.isOver = true;
      this.server = undefined;
      this.exchange.upgradeRefused(declined);
    }
    return false;
  }

  private sendEarly(server: ServerLink): void {
    const { early } = this;
    this.early = [];
    for (const chunk of early) server.writer.write(chunk);
    if (!this.clientDone && server.writer.isPending) {
      server.writer.whenFlushed(this.serverFlushed);
      return;
    }
    if (this.clientDone) server.endWriting();
    queueMicrotask(this.serverFlushed);
  }

  /** What comes before the 101 waits, and with it the client's window. */
  override sendData(chunk: Buffer, end: boolean): boolean {
    const { server } = this;
    if (this.isOver || server === undefined || this.clientDone) return true;
    const own = chunk.length < referenceBytes ? Buffer.from(chunk) : chunk;
    if (!this.isTunnel) {
      if (own.length > 0) this.early.push(own);
      this.clientDone = end;
      return false;
    }
    if (own.length > 0) server.writer.write(own);
    if (end) this.end();
    if (end || !server.writer.isPending) return true;
    server.writer.whenFlushed(this.serverFlushed);
    return false;
  }

  override sendTrailers(): void {
    this.end();
  }

  override end(): void {
    if (this.clientDone) return;
    this.clientDone = true;
    if (!this.isOver && this.isTunnel) this.server?.endWriting();
  }

  override tunnelled(buf: Buffer, from: number, to: number): boolean {
    const size = to - from;
    const { server } = this;
    if (this.isOver || server === undefined || size === 0) return true;
    if (size >= referenceBytes) server.lend(buf);
    this.unconsumed += size;
    this.owner.upData(buf.subarray(from, to), false);
    return this.isOver || this.unconsumed === 0;
  }

  override tunnelEnded(): void {
    if (this.isOver || this.serverDone) return;
    this.serverDone = true;
    this.owner.upEnd();
  }

  /** The server's reset is one of the tunnel (RFC 9113 §8.5). */
  override upstreamFailed(server: ServerLink, why: string): void {
    if (this.isOver || !this.isTunnel) {
      super.upstreamFailed(server, why);
      return;
    }
    this.isOver = true;
    this.server = undefined;
    if (this.clientDone && this.serverDone) this.owner.upClosed();
    else this.owner.upReset(why, this.serverDone ? errorCode.noError : errorCode.connectError, false);
  }

  override reset(code: number): void {
    const { server } = this;
    const socket = this.isTunnel && !this.isOver ? server?.socket : undefined;
    // A socket pair, which a tunnel to another node is here, knows no reset.
    if (server === undefined || socket?.remoteAddress === undefined) super.reset(code);
    else if (!socket.writableEnded || socket.writableFinished) {
      socket.resetAndDestroy();
      super.reset(code);
    } else {
      // libuv refuses to reset a stream that is shutting down: soon it is shut down.
      this.isOver = true;
      this.server = undefined;
      socket.once("finish", () => socket.resetAndDestroy());
      this.exchange.linger(() => server.destroy());
    }
  }

  /** Both have ended, and the server may still be reading. */
  override detach(): void {
    const { server } = this;
    if (this.isOver || server === undefined) return;
    this.isOver = true;
    this.server = undefined;
    this.exchange.linger(() => server.destroy());
  }
}
