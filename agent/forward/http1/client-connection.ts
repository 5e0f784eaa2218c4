// A client's connection: reads its requests one by one from any cut of its bytes, keeps what must wait, and ends in order. What is done with
// a request is its subclass's matter (downstream.ts). Owns the client's socket.
import { STATUS_CODES } from "node:http";
import type { OnReadOpts, Socket } from "node:net";
import type { Malformed } from "../../http.ts";
import { ExchangeCore } from "../exchange-core.ts";
import type { Tenant, Waiting } from "../tenants.ts";
import { BodyReader } from "./body.ts";
import type { ExchangeLimits } from "./exchange.ts";
import { MORE, REFUSED } from "./fields.ts";
import { MessageWriter } from "./message-writer.ts";
import { ROOM } from "./out-buffer.ts";
import { Carry, ReadArea } from "./read-area.ts";
import { malformed } from "./refusals.ts";
import { RequestParser } from "./request.ts";
import type { Sweep, Swept } from "./sweep.ts";

export const READING = 0;
/** An exchange is under way. */
export const BUSY = 1;
/** Answered; the rest of the request is read over. */
export const DISCARD = 2;
/** Another protocol is spoken. */
export const TUNNEL = 3;
/** Nothing more is said; what comes is read over until the client ends too. */
export const LINGER = 4;
export const CLOSED = 5;

const nothing = Buffer.alloc(0);
/** A body whose bytes cost so much, chunk by tiny chunk, is read in small pieces: others wait for no more than one of them. */
const dearUs = 60;
const dearLargeUs = 150;

export abstract class ClientConnection extends ExchangeCore implements Swept, Waiting {
  /** Whose share of the thread it uses. */
  tenant: Tenant | undefined;
  protected readonly limits: ExchangeLimits;
  protected override readonly times: Sweep;
  protected readonly socket: Socket;
  protected readonly writer: MessageWriter;
  protected readonly parser: RequestParser;
  protected readonly body: BodyReader;
  protected readonly area = new ReadArea();
  protected readonly rest = new Carry();
  protected state = READING;
  protected isDraining = false;
  protected hasClientEnded = false;
  protected keepsAlive = true;
  protected isConsuming = false;
  private isPaused = false;
  /** Its bytes are read by somebody else for now (joined-connection.ts). */
  protected isMoved = false;
  /** Its namespace has used up its turn. */
  private isHeld = false;
  private discarded = 0;
  private headSinceMs = 0;
  private sweptMs: number;
  private readonly answersTaken = (): void => this.resumeReading();

  constructor(limits: ExchangeLimits, times: Sweep, open: (onread: OnReadOpts) => Socket) {
    super("http1");
    this.limits = limits;
    this.times = times;
    this.parser = new RequestParser(limits);
    this.body = new BodyReader(limits);
    this.activeMs = times.now;
    this.sweptMs = times.now;
    this.stallMs = limits.stallTimeoutMs;
    this.socket = open({ buffer: () => this.area.next(), callback: (n) => this.read(n) });
    this.socket.setNoDelay(true);
    this.writer = new MessageWriter(this.socket);
    this.socket.on("error", () => {});
    this.socket.on("end", () => this.clientEnded());
    this.socket.on("close", () => {
      this.state = CLOSED;
      times.remove(this);
      this.clientGone();
      this.area.free();
    });
    times.add(this);
  }

  /** A head is there and `buf[from..to)` is what came behind it. Gives where unread bytes begin. */
  protected abstract begin(buf: Buffer, from: number, to: number): number;
  /** Bytes of the body under way, up to `body.next`. False: no more for now. */
  protected abstract sendBody(buf: Buffer, from: number, to: number): boolean;
  protected abstract sendTunnel(buf: Buffer, from: number, to: number): boolean;
  /** The client's side ended during an exchange or in a tunnel. */
  protected abstract halfClosed(): void;
  protected abstract refused(why: Malformed): void;
  /** The socket is closed. */
  protected abstract clientGone(): void;

  /** A byte went by, in either direction. */
  touch(): void {
    this.activeMs = this.times.now;
  }

  private read(n: number): boolean {
    this.activeMs = this.times.now;
    const startUs = this.tenant?.startUs(n) ?? 0;
    // Many may have sent something at once.
    if (startUs > 0 && this.tenant?.isOut === true && !this.isHeld) return this.putOff(n);
    let going: boolean;
    try {
      if (this.rest.isEmpty) going = this.consume(this.area.raw, ROOM, ROOM + n);
      else {
        this.rest.append(this.area.raw, ROOM, ROOM + n);
        going = this.consume(this.rest.buf as Buffer, this.rest.from, this.rest.to);
      }
    } catch (error) {
      this.threw(error);
      return false;
    }
    const isDear = startUs > 0 && (this.tenant?.sinceUs(startUs) ?? 0) > (this.area.wantsLarge ? dearLargeUs : dearUs);
    this.area.wantsLarge =
      this.state === TUNNEL || (!this.isRequestDone && !isDear && (this.area.wantsLarge || this.area.isFull(n)));
    if (this.isHeld) going = false;
    else if (!going) this.tenant?.noteRead(startUs);
    else if (this.tenant?.spend(startUs, this) === false) {
      this.isHeld = true;
      going = false;
    }
    if (!going) this.isPaused = true;
    return going;
  }

  /** What was read is kept until its namespace's turn comes. */
  private putOff(n: number): false {
    if (this.rest.isEmpty) this.rest.set(this.area.raw, ROOM, ROOM + n);
    else this.rest.append(this.area.raw, ROOM, ROOM + n);
    this.isHeld = this.tenant?.admit(this) === false;
    this.isPaused = true;
    return false;
  }

  /** Its namespace's turn has come. */
  goOn(): void {
    this.isHeld = false;
    if (this.isConsuming || this.state === CLOSED) return;
    const startUs = this.rest.isEmpty ? 0 : (this.tenant?.startUs(this.rest.to - this.rest.from) ?? 0);
    try {
      this.readOn();
    } catch (error) {
      this.threw(error);
    }
    this.tenant?.noteRead(startUs);
  }

  /** Uses `buf[from..to)`, or keeps what has to wait. False: no more is to be read for now. */
  private consume(buf: Buffer, from: number, to: number): boolean {
    this.isConsuming = true;
    let p = from;
    let going = true;
    while (p < to && going) {
      switch (this.state) {
        case READING: {
          if (this.parser.isBlank) {
            if (this.hasUnread()) {
              going = false;
              break;
            }
            this.headSinceMs = this.times.now;
          }
          const outcome = this.parser.run(buf, p, to);
          if (outcome === MORE) {
            this.rest.set(buf, p, to);
            this.isConsuming = false;
            return true;
          }
          if (outcome === REFUSED) this.refuse(this.parser.refused as Malformed);
          else p = this.begin(buf, p + this.parser.at, to);
          break;
        }
        case BUSY:
          if (this.isRequestDone) going = false;
          else {
            this.body.next = p;
            going = this.sendBody(buf, p, to);
            p = this.body.next;
          }
          break;
        case DISCARD:
          this.body.decode(buf, p, to);
          this.discarded += this.body.next - p;
          p = this.body.next;
          if (this.body.refused !== undefined || this.discarded > this.limits.maxDiscardBytes) this.close();
          else if (this.body.done) this.next();
          break;
        case TUNNEL:
          going = this.sendTunnel(buf, p, to);
          p = to;
          break;
        default:
          // It was told of the end; whoever pours on is not worth the time.
          this.discarded += to - p;
          p = to;
          if (this.discarded > this.limits.maxDiscardBytes) this.socket.destroy();
      }
    }
    if (p < to) this.rest.set(buf, p, to);
    else this.rest.clear(!this.isRequestDone);
    this.isConsuming = false;
    return going;
  }

  /** A client that asks and asks and reads no answer would fill our memory with them. */
  private hasUnread(): boolean {
    if (this.writer.pendingBytes <= this.limits.maxUnread) return false;
    this.writer.whenFlushed(this.answersTaken);
    return true;
  }

  /** There is room again: what was kept, then the socket, when it is its namespace's turn. */
  protected resumeReading(): void {
    if (this.isConsuming || this.isHeld || this.state === CLOSED) return;
    if ((this.isPaused || !this.rest.isEmpty) && this.tenant?.admit(this) === false) this.isHeld = true;
    else this.readOn();
  }

  private readOn(): void {
    if (this.isMoved) return;
    if (!this.rest.isEmpty && !this.consume(this.rest.buf as Buffer, this.rest.from, this.rest.to)) return;
    if (!this.isPaused) return;
    this.isPaused = false;
    this.socket.resume();
  }

  /** `buf` is still being written out, and the next read will not wait for it. */
  protected lend(buf: Buffer): void {
    if (buf === this.area.raw) this.area.lent = true;
    else this.rest.lend();
  }

  /** The bytes are no request, or none in time. */
  private refuse(why: Malformed): void {
    this.refused(why);
    this.writer.local(why.status, STATUS_CODES[why.status] ?? "", [], nothing, 1, false, true);
    this.close();
  }

  /** The exchange is over: the rest of its request, then the next. */
  protected next(): void {
    if (this.isRequestDone || this.state === DISCARD) {
      if (!this.keepsAlive || this.hasClientEnded) {
        this.close();
        return;
      }
      this.state = READING;
      this.isRequestDone = true;
      this.deadlineMs = 0;
      this.parser.reset();
      // Requests that came in one read cost as much as those that come one by one.
      if (!this.rest.isEmpty) this.tenant?.charge(this.tenant.meanUs);
    } else if (!this.keepsAlive) {
      this.close();
      return;
    } else {
      this.state = DISCARD;
      this.discarded = 0;
      this.deadlineMs = this.times.now + this.limits.lingerMs;
    }
    this.resumeReading();
  }

  /** Orderly: what was written arrives, and what the client still sends does not reset it (RFC 9112 §9.6). */
  protected close(): void {
    this.state = LINGER;
    this.discarded = 0;
    this.deadlineMs = this.times.now + this.limits.lingerMs;
    this.rest.clear();
    this.writer.end();
    this.resumeReading();
  }

  /** At once, so that the client sees that something is missing. */
  protected cut(): void {
    this.state = CLOSED;
    this.writer.discard();
    // libuv refuses to reset a stream that is shutting down, and a socket pair knows no reset at all.
    if (!this.socket.writableEnded && this.socket.remoteAddress !== undefined) this.socket.resetAndDestroy();
    else this.socket.destroy();
  }

  /** Bytes kept for this client in either direction. */
  private get heldBytes(): number {
    return (this.rest.isEmpty ? 0 : this.rest.to - this.rest.from) + this.writer.pendingBytes;
  }

  /** Its namespace holds too much of this thread's memory, and it more than its part: it is let go. */
  private shed(): void {
    if (this.state === READING) this.refuse(malformed("memory_overflow"));
    else if (this.state === BUSY) this.expired("memory_overflow");
    else this.cut();
  }

  private clientEnded(): void {
    this.hasClientEnded = true;
    if (this.state === BUSY || this.state === TUNNEL) this.halfClosed();
    else if (this.state === READING) this.close();
    else this.writer.end();
  }

  sweep(now: number): void {
    if (this.tenant?.holds(this.heldBytes) === true) this.shed();
    // While its bytes wait for a turn here, it is not the client that is slow.
    if (this.isHeld) {
      this.headSinceMs += now - this.sweptMs;
      this.activeMs += now - this.sweptMs;
    }
    this.sweptMs = now;
    const quiet = now - this.activeMs;
    switch (this.state) {
      case READING:
        if (!this.parser.isBlank) {
          if (now - this.headSinceMs >= this.limits.headTimeoutMs) this.refuse(malformed("head_timeout"));
        } else if (quiet >= this.limits.idleTimeoutMs || (this.isDraining && quiet >= this.limits.drainIdleMs))
          this.close();
        break;
      case BUSY:
        this.checkDeadlines(now);
        break;
      case TUNNEL:
        if (quiet >= this.limits.tunnelIdleTimeoutMs) this.expired("tunnel_idle");
        break;
      case DISCARD:
        if (now >= this.deadlineMs) this.close();
        break;
      case LINGER:
        if (now >= this.deadlineMs) this.socket.destroy();
        break;
      default:
    }
  }

  /**
   * Answers what is under way and what comes next with `Connection: close`; one that asks for nothing is closed after `drainIdleMs`. An
   * answer whose head has gone out without that word is followed by one more: its client may be asking already.
   */
  drain(): void {
    if (this.isDraining) return;
    this.isDraining = true;
    this.activeMs = this.times.now;
  }
}
