// One client's exchanges with servers: each request is decided about, carried on and answered. The bytes of both sides pass here.
import { STATUS_CODES } from "node:http";
import type { OnReadOpts, Socket } from "node:net";
import { type HeaderList, type Malformed, plainText } from "../../http.ts";
import { notBegun } from "../http2/stream-links.ts";
import { upgradeRefusal } from "../websocket.ts";
import type { TrailerParser } from "./body.ts";
import { BUSY, CLOSED, LINGER, TUNNEL } from "./client-connection.ts";
import type { DownstreamParts, Forward, Handler, Outcome } from "./exchange.ts";
import { isIdempotent, statusOf } from "./exchange.ts";
import { KEEP_ALIVE, REFUSED } from "./fields.ts";
import { JoinedConnection } from "./joined-connection.ts";
import { longBodyBytes } from "./limits.ts";
import type { Answered, ServerLink } from "./links.ts";
import { CHUNKED, UNTIL_CLOSE } from "./request.ts";
import type { ResponseParser } from "./response.ts";

const mostStale = 3;
const nothing = Buffer.alloc(0);

export class Downstream extends JoinedConnection implements Answered {
  protected override readonly handler: Handler;
  private readonly tellClosed: (() => void) | undefined;
  private readonly serverFlushed = (): void => {
    if (this.upstream === undefined || !this.rest.isEmpty || !this.movesRequest(this.upstream)) this.resumeReading();
  };
  private readonly clientFlushed = (): void => this.upstream?.resume();
  private minor = 1;
  private asksUpgrade = false;
  private isSent = false;
  private stale = 0;
  turn = 0;
  isAlone = true;

  /** `open` makes the socket, with `onread` and half-close allowed: `(onread) => new Socket({ fd, onread, allowHalfOpen: true })`. */
  constructor(parts: DownstreamParts, open: (onread: OnReadOpts) => Socket) {
    super(parts, open);
    this.handler = parts.handler;
    this.tellClosed = parts.closed;
  }

  override get canResend(): boolean {
    return !this.isSent || (this.isRequestDone && this.out.isWhole);
  }

  /** A head is there: decides, writes it with what came of the body behind it, and looks for a server. Gives where unread bytes begin. */
  protected override begin(buf: Buffer, from: number, to: number): number {
    const { parser, body } = this;
    this.minor = parser.minor;
    this.keepsAlive = parser.keepsAlive && !this.isDraining;
    this.out.framing = parser.body;
    this.asksUpgrade = parser.upgrades;
    this.isAlone =
      parser.upgrades || parser.contentLength > longBodyBytes || parser.method === "CONNECT" || !parser.hasAuthority;
    body.start(parser.body, parser.contentLength);
    this.isRequestDone = body.done;
    this.isSent = false;
    this.hasStarted = false;
    this.isUnderWay = true;
    this.stale = 0;
    this.clearFacts(parser.method);
    this.clearJoins();
    this.state = BUSY;
    this.writer.payer = this.tenant;
    const decision = this.handler.decide(parser, this);
    this.decision = decision;
    if (decision.kind !== "forward") {
      this.follow(decision);
      return from;
    }
    this.out.begin(parser, decision, decision.copies);
    const next = body.done || from === to ? from : this.firstPiece(buf, from, to);
    if (body.refused === undefined) this.follow(decision);
    return next;
  }

  /** What of the body came with the head goes out with it in one write. */
  private firstPiece(buf: Buffer, from: number, to: number): number {
    const { body, out } = this;
    body.decode(buf, from, Math.min(to, from + this.limits.maxFirstBytes));
    if (body.refused !== undefined) {
      this.refuseBody();
      return to;
    }
    out.append(buf, body);
    this.requestBytes += body.to - body.from;
    this.isRequestDone = body.done;
    return body.next;
  }

  protected override get awaitsServer(): boolean {
    return this.state === BUSY;
  }

  protected override startTry({ timeoutMs = 0, tryTimeoutMs = 0, idleTimeoutMs }: Forward): void {
    if (timeoutMs > 0 && this.deadlineMs === 0) this.deadlineMs = this.startedMs + timeoutMs;
    this.tryDeadlineMs = tryTimeoutMs > 0 ? this.triesSinceMs() + tryTimeoutMs : 0;
    this.answerDeadlineMs = 0;
    this.stallMs = (idleTimeoutMs ?? this.limits.stallTimeoutMs) || Number.POSITIVE_INFINITY;
  }

  protected override look(decision: Forward, fresh: boolean): void {
    this.turn++;
    const upstream = decision.upstream.take(this, this.canResend && isIdempotent(this.method), fresh);
    if (upstream !== undefined) this.connected(upstream);
  }

  connected(upstream: ServerLink): void {
    this.turn++;
    this.upstream = upstream;
    upstream.begin(this, this.method);
    this.isSent = true;
    const writer = upstream.writer;
    writer.request(this.out.view(), this.out.framing, this.isRequestDone);
    if (this.hasClientEnded) upstream.endWriting();
    if (this.isRequestDone) {
      this.awaitAnswer();
      return;
    }
    if (writer.isPending) writer.whenFlushed(this.serverFlushed);
    else this.resumeReading();
  }

  notConnected(why: Outcome, turn: number): void {
    if (turn === this.turn && this.state === BUSY && this.upstream === undefined) this.giveUp(why);
  }

  protected override sendBody(buf: Buffer, from: number, to: number): boolean {
    const { body, upstream } = this;
    // Looked for, or its answer is being waited for again.
    if (upstream === undefined) return false;
    const outcome = body.decode(buf, from, to);
    if (outcome === REFUSED) {
      body.next = to;
      this.refuseBody();
      return true;
    }
    this.out.keep(buf, body, this.decision?.kind === "forward" ? (this.decision.replayBytes ?? 0) : 0);
    this.requestBytes += body.to - body.from;
    this.isRequestDone = body.done;
    if (body.done) this.awaitAnswer();
    const pending = upstream.writer.payload(buf, body.from, body.to, body.done, body.done ? body.trailers : undefined);
    if (!pending) return body.done || !this.movesRequest(upstream);
    if (body.done) {
      // The next request is read while this one is still going out.
      this.lend(buf);
      return true;
    }
    upstream.writer.whenFlushed(this.serverFlushed);
    return false;
  }

  private refuseBody(): void {
    const why = this.body.refused as Malformed;
    this.release();
    this.keepsAlive = false;
    this.isRequestDone = true;
    if (this.hasStarted) this.fail(`refused:${why.refused}`);
    else this.respond(why.status, [], nothing, `refused:${why.refused}`);
  }

  protected override respond(status: number, headers: HeaderList, body: Buffer, outcome: Outcome): void {
    this.hasStarted = true;
    this.status = status;
    this.answeredMs = this.times.exactMs();
    this.responseBytes = body.length;
    if (this.isDraining) this.keepsAlive = false;
    // A body that is long, or that a client holds back until it is asked for it, is not waited for.
    if (
      !this.isRequestDone &&
      (this.parser.expects || (this.body.remaining ?? Number.POSITIVE_INFINITY) > this.limits.maxDiscardBytes)
    )
      this.keepsAlive = false;
    const reason = STATUS_CODES[status] ?? "";
    this.writer.local(status, reason, headers, body, this.minor, this.method === "HEAD", !this.keepsAlive);
    this.finish(outcome);
  }

  interim(head: ResponseParser): void {
    if (this.minor > 0) this.writer.interim(head);
  }

  flush(): void {
    this.writer.flushSoon();
  }

  answer(upstream: ServerLink): boolean {
    const head = upstream.parser;
    if ((head.connection & KEEP_ALIVE) !== 0) upstream.noteKeepAlive();
    if (head.status === 101 && !this.asksUpgrade) {
      upstream.destroy();
      this.upstreamFailed(upstream, "refused:upgrade_not_asked");
      return false;
    }
    this.answeredMs = this.times.exactMs();
    const edits = this.handler.answered?.(head, this);
    if (edits !== undefined && "kind" in edits) {
      this.writer.flush();
      this.release();
      if (edits.kind === "forward") this.resent++;
      this.follow(edits);
      return false;
    }
    if (this.isDraining || (this.minor === 0 && (head.body === CHUNKED || head.body === UNTIL_CLOSE)))
      this.keepsAlive = false;
    this.tryDeadlineMs = this.answerDeadlineMs = 0;
    this.status = head.status;
    this.hasStarted = true;
    this.writer.response(head, edits, this.minor, !this.keepsAlive);
    if (!head.isTunnel) return true;
    this.keepsAlive = false;
    this.isRequestDone = true;
    this.writer.flush();
    this.state = TUNNEL;
    this.deadlineMs = 0;
    queueMicrotask(() => this.resumeReading());
    return true;
  }

  payload(buf: Buffer, from: number, to: number, done: boolean, trailers: TrailerParser | undefined): boolean {
    this.responseBytes += to - from;
    if (!this.writer.payload(buf, from, to, done, trailers)) return true;
    if (done) {
      this.upstream?.lend(buf);
      return true;
    }
    this.writer.whenFlushed(this.clientFlushed);
    return false;
  }

  answerEnded(upstream: ServerLink): void {
    if (this.stopsBodies(() => this.answerEnded(upstream))) return;
    this.upstream = undefined;
    this.out.isLent = upstream.writer.isPending;
    if (this.isRequestDone && !this.hasClientEnded && upstream.parser.keepsAlive)
      upstream.pool.put(upstream, this.requestBytes + this.responseBytes);
    else upstream.destroy();
    this.finish("finished");
  }

  upstreamFailed(upstream: ServerLink, why: Outcome): void {
    if (this.stopsBodies(() => this.upstreamFailed(upstream, this.isServerReset ? "upstream_reset" : why))) return;
    this.upstream = undefined;
    this.out.isLent = true;
    if (this.state === TUNNEL) {
      const inOrder = this.socket.writableEnded;
      this.endExchange(inOrder ? "finished" : why);
      if (inOrder) {
        this.state = LINGER;
        this.deadlineMs = this.times.now + this.limits.lingerMs;
      } else this.cut();
    } else if (this.hasStarted) this.fail(why);
    else if (
      (why === notBegun || (upstream.used > 1 && !upstream.hasAnswered && isIdempotent(this.method))) &&
      this.stale < mostStale &&
      this.canResend &&
      this.decision?.kind === "forward"
    ) {
      // It was closed while idle, and this request came too late to learn of it; or an HTTP/2 server did not begin.
      this.stale++;
      this.resent++;
      this.look(this.decision, true);
    } else {
      const refusal = upgradeRefusal(why);
      if (refusal === undefined) this.giveUp(why);
      else this.respond(refusal.status, plainText, refusal.body, why);
    }
  }

  protected override fail(why: Outcome): void {
    this.endExchange(why);
    this.cut();
  }

  private finish(outcome: Outcome): void {
    this.endExchange(outcome);
    if (this.state === BUSY) this.next();
  }

  private endExchange(outcome: Outcome): void {
    if (!this.isUnderWay) return;
    this.isUnderWay = false;
    this.outcome = outcome;
    this.out.over();
    this.release();
    try {
      this.handler.ended?.(this);
    } catch (error) {
      this.threw(error);
    }
  }

  /** Lets go of the server's side, whatever it was doing. */
  private release(): void {
    this.endDelay();
    this.dropBodies();
    const upstream = this.upstream;
    this.upstream = undefined;
    if (upstream !== undefined) {
      this.out.isLent = true;
      upstream.destroy();
    } else if (this.decision?.kind === "forward") this.decision.upstream.cancel(this);
  }

  protected override sendTunnel(buf: Buffer, from: number, to: number): boolean {
    const { upstream } = this;
    if (upstream === undefined) return true;
    this.requestBytes += to - from;
    upstream.writer.write(buf.subarray(from, to));
    if (!upstream.writer.isPending) return true;
    upstream.writer.whenFlushed(this.serverFlushed);
    return false;
  }

  tunnelled(buf: Buffer, from: number, to: number): boolean {
    if (from === to) return true;
    this.responseBytes += to - from;
    this.writer.write(buf.subarray(from, to));
    if (!this.writer.isPending) return true;
    this.writer.whenFlushed(this.clientFlushed);
    return false;
  }

  tunnelEnded(): void {
    this.writer.end();
  }

  protected override halfClosed(): void {
    // A half-closed client may still read. The server learns what it would have learnt without us.
    if (this.isRequestDone) this.upstream?.endWriting();
    else this.fail("client_gone");
  }

  protected override expired(why: Outcome): void {
    if (this.isStopping || this.stopsBodies(() => this.expired(why))) return;
    if (this.hasStarted) this.fail(why);
    else if (why === "request_stalled") {
      this.release();
      this.keepsAlive = false;
      this.respond(408, [], nothing, why);
    } else {
      this.release();
      if (why === "request_timeout") this.respond(statusOf(why), [], nothing, why);
      else this.giveUp(why);
    }
  }

  override threw(error: unknown): void {
    this.isConsuming = false;
    this.writer.discard();
    this.endExchange("internal_error");
    this.cut();
    if (this.handler.threw === undefined) throw error;
    this.handler.threw(error);
  }

  protected override refused(why: Malformed): void {
    this.handler.refused?.(why);
  }

  protected override clientGone(): void {
    if (this.stopsBodies(() => this.clientGone())) return;
    const { upstream } = this;
    if (this.hasClientEnded && this.socket.writableEnded && upstream !== undefined) {
      // Both ends of another protocol have ended theirs; what the client sent last may still be on its way.
      this.upstream = undefined;
      this.times.after(this.limits.lingerMs, () => upstream.destroy());
      this.endExchange("finished");
    } else this.endExchange("client_gone");
    this.tellClosed?.();
  }

  /** Ends it now. */
  destroy(): void {
    this.endExchange("stopped");
    this.state = CLOSED;
    this.writer.discard();
    this.socket.destroy();
  }
}
