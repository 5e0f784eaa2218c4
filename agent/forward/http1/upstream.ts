// One connection to a server: reads responses and gives them to the exchange that it carries. Written to by that exchange.
import type { OnReadOpts, Socket } from "node:net";
import type { Tenant, Waiting } from "../tenants.ts";
import { BodyReader } from "./body.ts";
import type { ExchangeLimits } from "./exchange.ts";
import { DONE, MORE, REFUSED } from "./fields.ts";
import type { Answered, PoolLink, ServerLink } from "./links.ts";
import { MessageWriter } from "./message-writer.ts";
import { ROOM } from "./out-buffer.ts";
import { Carry, ReadArea } from "./read-area.ts";
import { ResponseParser } from "./response.ts";
import type { Sweep } from "./sweep.ts";

const HEAD = 0;
const BODY = 1;
const TUNNEL = 2;

// Nobody holds them back, so there may not be many.
const mostInterims = 32;

/** The pool, as its connections see it. */
export interface OwnPool extends PoolLink {
  readonly exchangeLimits: ExchangeLimits;
  readonly sweepOf: Sweep;
  gone(up: ServerLink): void;
}

export class Upstream implements ServerLink, Waiting {
  readonly pool: OwnPool;
  readonly parser: ResponseParser;
  readonly body: BodyReader;
  readonly area = new ReadArea();
  readonly onread: OnReadOpts;
  private readonly rest = new Carry();
  private state = HEAD;
  private exchange: Answered | undefined;
  socket: Socket | undefined;
  private output: MessageWriter | undefined;
  used = 0;
  hasAnswered = false;
  private isPaused = false;
  /** The namespace of its exchange has used up its turn. */
  private isHeld = false;
  private isClosed = false;
  private interims = 0;
  private isSpoilt = false;
  readonly openedMs: number;
  idleSinceMs = 0;
  serverIdleMs = Number.POSITIVE_INFINITY;

  constructor(pool: OwnPool) {
    this.pool = pool;
    this.parser = new ResponseParser(pool.exchangeLimits);
    this.body = new BodyReader(pool.exchangeLimits);
    this.openedMs = pool.sweepOf.now;
    this.onread = { buffer: () => this.area.next(), callback: (n) => this.read(n) };
  }

  opened(socket: Socket): void {
    this.socket = socket;
    this.output = new MessageWriter(socket);
    socket.on("error", () => {});
    socket.on("end", () => this.ended());
    socket.on("close", () => this.closed());
  }

  /** Of an open connection. */
  get writer(): MessageWriter {
    return this.output as MessageWriter;
  }

  get isUsable(): boolean {
    return !this.isClosed && !this.isSpoilt && this.socket !== undefined && this.socket.readyState === "open";
  }

  begin(exchange: Answered, method: string): void {
    this.exchange = exchange;
    this.used++;
    this.hasAnswered = false;
    this.interims = 0;
    this.state = HEAD;
    this.parser.reset();
    this.parser.method = method;
    this.writer.payer = exchange.tenant;
  }

  private read(n: number): boolean {
    const { exchange } = this;
    // Nobody asked: a server's 408 before it closes, or worse.
    if (exchange === undefined) {
      this.destroy();
      return false;
    }
    this.hasAnswered = true;
    exchange.touch();
    const { tenant } = exchange;
    const startUs = tenant?.startUs(n) ?? 0;
    let going = false;
    try {
      if (this.rest.isEmpty) going = this.consume(exchange, this.area.raw, ROOM, ROOM + n);
      else {
        this.rest.append(this.area.raw, ROOM, ROOM + n);
        going = this.consume(exchange, this.rest.buf as Buffer, this.rest.from, this.rest.to);
      }
    } catch (error) {
      this.destroy();
      exchange.threw(error);
    }
    going = this.mayGoOn(going, exchange, tenant, startUs);
    this.area.wantsLarge = this.state !== HEAD && (this.area.wantsLarge || this.area.isFull(n));
    if (!going) this.isPaused = true;
    return going;
  }

  /** In the middle of an answer; one that is whole goes back to its pool, and what comes then is nobody's. */
  private mayGoOn(going: boolean, exchange: Answered, tenant: Tenant | undefined, startUs: number): boolean {
    if (!going || this.exchange !== exchange || this.state === HEAD) {
      tenant?.noteRead(startUs);
      return going;
    }
    this.isHeld = tenant?.spend(startUs, this) === false;
    return !this.isHeld;
  }

  /** Its namespace's turn has come. */
  goOn(): void {
    this.isHeld = false;
    this.readOn();
  }

  /** Everything in `buf[from..to)` is used now, but a head that is not whole. */
  private consume(exchange: Answered, buf: Buffer, from: number, to: number): boolean {
    let p = from;
    while (this.state === HEAD) {
      const outcome = this.parser.run(buf, p, to);
      if (outcome === MORE) {
        this.rest.set(buf, p, to);
        exchange.flush();
        return true;
      }
      if (outcome === REFUSED) return this.fail(`refused:${this.parser.refused?.refused}`);
      p += this.parser.at;
      if (this.parser.isInterim) {
        if (++this.interims > mostInterims) return this.fail("refused:too_many_interim_responses");
        exchange.interim(this.parser);
        this.parser.reset();
        continue;
      }
      if (!exchange.answer(this)) return false;
      this.state = this.parser.isTunnel ? TUNNEL : BODY;
      this.body.start(this.parser.body, this.parser.contentLength);
    }
    if (this.state === TUNNEL) {
      this.rest.clear();
      return exchange.tunnelled(buf, p, to);
    }
    const outcome = this.body.decode(buf, p, to);
    if (outcome === REFUSED) return this.fail(`refused:${this.body.refused?.refused}`);
    const { done, next } = this.body;
    const going = exchange.payload(buf, this.body.from, this.body.to, done, done ? this.body.trailers : undefined);
    // Bytes that nobody asked for: whatever they are, the next exchange is not to take them for its answer.
    if (done && next < to) this.isSpoilt = true;
    this.rest.clear();
    if (outcome === DONE) this.finish();
    return done || (going && !this.isMoved());
  }

  /** Whether the rest of the body goes to the client without us. */
  private isMoved(): boolean {
    const { exchange, body } = this;
    const left = body.done || this.state !== BODY ? 0 : (body.remaining ?? 0);
    if (left === 0 || exchange?.movesAnswer?.(this, left) !== true) return false;
    this.socket?.pause();
    return true;
  }

  skipped(taken: number): void {
    const { exchange, body } = this;
    if (exchange === undefined) return;
    body.skip(taken);
    if (body.done) exchange.payload(this.area.raw, ROOM, ROOM, true, undefined);
    this.readOn();
    if (body.done) this.finish();
  }

  lend(buf: Buffer): void {
    if (buf === this.area.raw) this.area.lent = true;
    else this.rest.lend();
  }

  private finish(): void {
    const exchange = this.exchange;
    this.exchange = undefined;
    this.state = HEAD;
    exchange?.answerEnded(this);
  }

  /** Reads what Keep-Alive says, which few servers send and which is all there is against their closing first. */
  noteKeepAlive(): void {
    const said = this.parser.header("keep-alive");
    if (said === undefined) return;
    const timeout = /timeout=(\d{1,6})/.exec(said)?.[1];
    if (timeout !== undefined) this.serverIdleMs = Math.max(0, Number(timeout) * 1000 - 1000);
  }

  endWriting(): void {
    this.output?.end();
  }

  resume(): void {
    if (!this.isPaused || this.isHeld) return;
    if (this.exchange?.tenant?.admit(this) === false) this.isHeld = true;
    else this.readOn();
  }

  private readOn(): void {
    if (!this.isPaused || this.isClosed || this.isMoved()) return;
    this.isPaused = false;
    this.socket?.resume();
  }

  private fail(why: string): boolean {
    const exchange = this.exchange;
    this.exchange = undefined;
    this.destroy();
    exchange?.upstreamFailed(this, why);
    return false;
  }

  private ended(): void {
    const { exchange } = this;
    if (exchange === undefined) this.destroy();
    else if (this.state === TUNNEL) exchange.tunnelEnded();
    else if (this.state === BODY && this.body.end()) {
      exchange.payload(this.area.raw, ROOM, ROOM, true, undefined);
      this.finish();
    } else this.fail("upstream_closed");
  }

  private closed(): void {
    if (this.isClosed) return;
    this.isClosed = true;
    this.pool.gone(this);
    const exchange = this.exchange;
    this.exchange = undefined;
    exchange?.upstreamFailed(this, "upstream_reset");
    this.area.free();
  }

  destroy(): void {
    this.exchange = undefined;
    this.socket?.destroy();
  }
}
