// One request of an HTTP/2 client and its answer: decided about, carried to a server of either version, answered. A stream's events come in
// from both sides; what one side cannot take yet is not consumed on the other, so memory stays within the windows.

import { grpcTimeoutMs } from "../../base/grpc-timeout.ts";
import type { HeaderEdits, HeaderList, Malformed } from "../../http.ts";
import { isGrpcType, knownStatus } from "../grpc.ts";
import type { Decision, Forward, Outcome, RequestCopies } from "../http1/exchange.ts";
import { isIdempotent, statusOf } from "../http1/exchange.ts";
import { declined, websocket } from "../websocket.ts";
import { errorCode } from "./codes.ts";
import type { Http2Request } from "./head.ts";
import { answerGrpc, answerPlainly, endGrpc } from "./local-answer.ts";
import { type ExchangeParts, RoutedExchange } from "./routed-exchange.ts";
import type { Http2Stream } from "./stream.ts";
import { notBegun, type UpHead } from "./stream-links.ts";
import { editedFields } from "./translate.ts";
import { tunnelFields, UpgradeRequest } from "./upgrade.ts";

const mostResent = 3;
const nothing = Buffer.alloc(0);
const connectRefused: Malformed = { refused: "connect_unsupported", status: 501 };

export class StreamExchange extends RoutedExchange {
  private discarded = 0;
  /** Of the server's content, not consumed. */
  private heldAnswer = 0;
  private resendings = 0;
  private copies: RequestCopies | undefined;

  /** All that was sent to a server is here, and the client has seen nothing. */
  override get canResend(): boolean {
    return this.kept.isWhole && !this.hasStarted;
  }

  /** A request of the client. */
  begin(parts: ExchangeParts, stream: Http2Stream, head: Http2Request, end: boolean): void {
    this.parts = parts;
    this.handler = parts.take();
    this.stream = stream;
    this.head = head;
    stream.owner = this;
    this.kept.clear();
    this.turn++;
    this.requestTrailers = undefined;
    this.copies = undefined;
    this.hasStarted = this.isAnswerDone = this.isDiscarding = false;
    this.isRequestDone = end;
    this.heldRequest = this.heldAnswer = this.resendings = this.discarded = 0;
    this.clearTimes();
    this.isUnderWay = true;
    this.clientProtocol = parts.isHttp1 ? "http1" : "http2";
    this.clearFacts(head.method);
    if (!parts.isHttp1 && head.method === "POST" && isGrpcType(head.header("content-type"))) {
      this.isGrpc = true;
      const timeout = grpcTimeoutMs(head.header("grpc-timeout"));
      if (timeout !== undefined) this.deadlineMs = this.startedMs + timeout;
    }
    this.isUpgrade = head.method === "CONNECT" && head.protocol === websocket;
    this.isTunnel = false;
    if (this.isUpgrade) {
      this.head = new UpgradeRequest(head);
      this.method = this.head.method;
    } else if (head.method === "CONNECT") {
      // No decision is asked for, so none is told of its end.
      this.isUnderWay = false;
      this.handler.refused?.(connectRefused);
      parts.give(this.handler);
      this.respond(501, [], nothing, connectRefused.refused);
      return;
    }
    try {
      this.follow(this.handler.decide(this.head, this));
    } catch (error) {
      this.threw(error);
    }
  }

  protected override startTry(decision: Forward): void {
    super.startTry(decision);
    if (this.copies !== undefined || decision.copies === undefined) return;
    this.copies = decision.copies;
    this.copies.begin(this.isRequestDone || this.isUpgrade);
  }

  // The client's side.

  data(chunk: Buffer, end: boolean): void {
    const size = chunk.length;
    const { up } = this;
    this.activeMs = this.parts.times.now;
    if (this.isDiscarding) {
      this.discarded += size;
      if (this.discarded <= this.parts.limits.maxDiscardBytes) this.stream?.consume(size);
      else if (this.stream?.localEnded === true) this.endStream();
      return;
    }
    this.requestBytes += size;
    if (!this.isUpgrade) this.copies?.data(chunk);
    if (up === undefined) {
      this.kept.append(chunk);
      this.heldRequest += size;
      return;
    }
    if (!this.isTunnel) this.kept.keep(chunk, this.replayBytes());
    if (up.sendData(chunk, end)) this.stream?.consume(size);
    else this.heldRequest += size;
  }

  trailers(fields: HeaderList): void {
    // Bytes of another protocol have none.
    if (this.isUpgrade) return;
    this.requestTrailers = fields;
    if (!this.isDiscarding) this.up?.sendTrailers(fields);
  }

  requestEnd(): void {
    this.isRequestDone = true;
    this.copies?.end();
    if (this.isDiscarding) return;
    if (this.up !== undefined) {
      this.awaitAnswer();
      this.up.end();
    }
    if (this.isAnswerDone) this.ended("finished");
  }

  /** The client takes more. */
  drain(): void {
    const held = this.heldAnswer;
    this.heldAnswer = 0;
    this.activeMs = this.parts.times.now;
    if (held > 0) this.up?.consume(held);
  }

  /** The client's stream is over; `why` undefined: in order. This object is free after it. */
  over(why: Outcome | undefined): void {
    this.stream = undefined;
    this.ended(why ?? "finished");
    this.release(errorCode.cancel);
    this.free();
  }

  // The server's side.

  upHead(head: UpHead, end: boolean): void {
    const { stream, parts } = this;
    this.activeMs = parts.times.now;
    if (stream === undefined) return;
    if (head.status < 200) {
      stream.respond(head.status, head.headers(), false, head.sensitive);
      return;
    }
    this.answeredMs = parts.times.exactMs();
    let edits: HeaderEdits | Decision | undefined;
    try {
      edits = this.handler.answered?.(head, this);
    } catch (error) {
      this.threw(error);
      return;
    }
    if (edits !== undefined && "kind" in edits && edits.kind === "forward" && !this.canResend) edits = undefined;
    if (edits !== undefined && "kind" in edits) {
      this.release(errorCode.cancel);
      if (edits.kind === "forward") this.resent++;
      this.follow(edits);
      return;
    }
    this.tryDeadlineMs = this.answerDeadlineMs = 0;
    this.status = head.status;
    this.hasStarted = true;
    if (this.isGrpc) {
      const status = head.header("grpc-status");
      if (status !== undefined) this.grpcStatus = knownStatus(status);
    }
    const fields = editedFields(head.headers(), edits);
    if (this.isUpgrade && head.status < 300) this.openTunnel();
    stream.respond(head.status, this.isTunnel ? tunnelFields(fields) : fields, end, head.sensitive);
  }

  /** What was said of the request's time does not hold for what follows it. */
  private openTunnel(): void {
    this.isTunnel = true;
    this.deadlineMs = 0;
    this.stallMs = this.parts.limits.tunnelIdleTimeoutMs;
  }

  upData(chunk: Buffer, end: boolean): void {
    const size = chunk.length;
    const { stream, up } = this;
    this.activeMs = this.parts.times.now;
    this.responseBytes += size;
    if (stream === undefined || stream.sendData(chunk, end)) up?.consume(size);
    else this.heldAnswer += size;
  }

  upTrailers(fields: HeaderList, sensitive: readonly string[] | null): void {
    if (this.isGrpc)
      for (let i = 0; i < fields.length; i += 2)
        if (fields[i] === "grpc-status") this.grpcStatus = knownStatus(fields[i + 1] as string);
    this.stream?.sendTrailers(fields, sensitive);
  }

  upEnd(): void {
    this.stream?.end();
    this.isAnswerDone = true;
    if (this.isRequestDone) this.ended("finished");
  }

  upClosed(): void {
    this.up = undefined;
    // Whatever still comes of the request has nowhere to go.
    if (this.isAnswerDone && !this.isRequestDone) this.discard("finished");
  }

  upReset(why: string, code: number, maybeStale: boolean): void {
    this.up = undefined;
    if (!this.isUnderWay) return;
    if (this.isAnswerDone && !(this.isTunnel && code !== errorCode.noError)) {
      this.discard("finished");
      return;
    }
    if (this.hasStarted) {
      // Without an error a client may take what it has for the whole, or wait for the rest.
      this.fail(why, code === errorCode.noError ? errorCode.internalError : code);
      return;
    }
    const { decision } = this;
    const isSafe = why === notBegun || (maybeStale && isIdempotent(this.method));
    if (isSafe && this.canResend && this.resendings < mostResent && decision?.kind === "forward") {
      this.resendings++;
      this.resent++;
      // Where one kept connection is stale, the others are too; a stream's connection tells of that by itself.
      this.look(decision, maybeStale && decision.upstream.streams === undefined);
    } else this.giveUp(why);
  }

  /** A gRPC client gets it as gRPC. */
  protected override respond(
    status: number,
    headers: HeaderList,
    body: Buffer,
    outcome: Outcome,
    grpcStatus?: number,
  ): void {
    if (this.isUpgrade && status >= 200 && status < 300) {
      // It would let the client in, to nobody.
      this.upgradeRefused(declined);
      return;
    }
    const { stream } = this;
    this.release(errorCode.cancel);
    this.hasStarted = true;
    this.isAnswerDone = true;
    this.answeredMs = this.parts.times.exactMs();
    this.status = status;
    if (stream !== undefined) {
      const answer = { status, headers, body, outcome, grpcStatus };
      if (this.isGrpc) {
        this.status = 200;
        this.grpcStatus = String(answerGrpc(stream, answer));
      } else this.responseBytes = answerPlainly(stream, this.method, answer);
    }
    if (this.isRequestDone) this.ended(outcome);
    else this.discard(outcome);
  }

  /** The exchange is over but for what the client still sends: that is read over for a while. */
  private discard(outcome: Outcome): void {
    this.ended(outcome);
    if (this.isDiscarding) return;
    this.isDiscarding = true;
    this.lingerUntilMs = this.parts.times.now + this.parts.limits.lingerMs;
    this.takeMore();
  }

  /** Enough was read over: the client is asked to stop (RFC 9113 §8.1). */
  protected endStream(): void {
    const { stream } = this;
    if (stream !== undefined) this.resetStream(stream, errorCode.noError);
  }

  private resetStream(stream: Http2Stream, code: number): void {
    this.stream = undefined;
    stream.owner = null;
    stream.reset(code);
    this.free();
  }

  private free(): void {
    this.head = undefined;
    this.parts.free(this);
  }

  protected override fail(why: Outcome, code: number = errorCode.internalError): void {
    const { stream } = this;
    this.release(errorCode.cancel);
    const status = this.isGrpc && this.hasStarted && stream !== undefined ? endGrpc(stream, why) : undefined;
    if (status !== undefined) {
      this.grpcStatus = String(status);
      this.isAnswerDone = true;
      if (!this.isRequestDone) {
        this.discard(why);
        return;
      }
    }
    this.ended(why);
    if (status === undefined && stream !== undefined && this.stream === stream) this.resetStream(stream, code);
  }

  private ended(outcome: Outcome): void {
    if (!this.isUnderWay) return;
    this.isUnderWay = false;
    this.outcome = outcome;
    this.copies?.cut();
    const { handler } = this;
    try {
      handler.ended?.(this);
    } catch (error) {
      this.threw(error);
    }
    this.parts.give(handler);
  }

  override threw(error: unknown): void {
    this.fail("internal_error");
    if (this.handler.threw === undefined) throw error;
    this.handler.threw(error);
  }

  protected override expired(why: Outcome): void {
    if (this.hasStarted) this.fail(why, errorCode.cancel);
    else {
      this.release(errorCode.cancel);
      if (why === "request_stalled") this.respond(408, [], nothing, why);
      else if (why === "request_timeout") this.respond(statusOf(why), [], nothing, why);
      else this.giveUp(why);
    }
  }
}
