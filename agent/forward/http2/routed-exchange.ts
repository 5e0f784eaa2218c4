// The way of a stream's exchange to its server, of either version: looked for, waited for, what came of the body meanwhile sent after it, let
// go of. Deadlines are kept here too. What comes back is exchange.ts's matter.
import { grpcTimeoutField } from "../../base/grpc-timeout.ts";
import { type HeaderList, plainText } from "../../http.ts";
import { ExchangeCore } from "../exchange-core.ts";
import type { ExchangeLimits, Forward, Handler, Outcome } from "../http1/exchange.ts";
import type { Sweep } from "../http1/sweep.ts";
import type { Tenant } from "../tenants.ts";
import { unsupported, upgradeRefusal } from "../websocket.ts";
import type { Http2Request } from "./head.ts";
import { Http1Stream } from "./http1-stream.ts";
import { KeptBody } from "./kept-body.ts";
import type { Http2Stream } from "./stream.ts";
import type { StreamConnection, StreamTaker, UpHead, UpStream } from "./stream-links.ts";
import { editedFields } from "./translate.ts";
import { type UpgradeOwner, UpgradeStream } from "./upgrade-stream.ts";

const toHttp1 = Buffer.from(
  "gRPC does not go to a port that is declared HTTP/1: declare it with appProtocol grpc or kubernetes.io/h2c",
);

const noHandler: Handler = { decide: () => ({ kind: "reset" }) };

/** What all exchanges of a client's connection share. */
export interface ExchangeParts {
  /** Who decides about the next exchange; given back when it is over. */
  take(): Handler;
  give(handler: Handler): void;
  readonly limits: ExchangeLimits;
  readonly times: Sweep;
  /** Whose share of the thread it uses. */
  readonly tenant?: Tenant | undefined;
  /** The client's agent sends requests of HTTP/1.1 so: they are treated and told of as what they are. */
  readonly isHttp1: boolean;
  /** The exchange is over and may serve another stream. */
  free(exchange: RoutedExchange): void;
}

export abstract class RoutedExchange extends ExchangeCore implements UpgradeOwner, StreamTaker {
  turn = 0;
  protected parts: ExchangeParts;
  protected override handler: Handler;
  /** The client's; undefined when it is over. */
  protected stream: Http2Stream | undefined;
  protected head: Http2Request | undefined;
  protected up: UpStream | undefined;
  /** Looked for; undefined once it is `up`. */
  private joining: Http1Stream | undefined;
  protected readonly kept = new KeptBody();
  protected requestTrailers: HeaderList | undefined;
  protected isAnswerDone = false;
  /** The answer is out or on its way, and what still comes of the request is read over. */
  protected isDiscarding = false;
  /** Its head is an UpgradeRequest; and the server has agreed. */
  protected isUpgrade = false;
  protected isTunnel = false;
  /** Of the client's content, not consumed. */
  protected heldRequest = 0;
  /** The deadline is not the one that the client named. */
  private isShortened = false;
  protected lingerUntilMs = 0;

  constructor(parts: ExchangeParts) {
    super("http2");
    this.parts = parts;
    this.handler = noHandler;
  }

  /** Enough was read over: the client is asked to stop. */
  protected abstract endStream(): void;
  abstract upHead(head: UpHead, end: boolean): void;
  abstract upData(chunk: Buffer, end: boolean): void;
  abstract upTrailers(fields: HeaderList, sensitive: readonly string[] | null): void;
  abstract upEnd(): void;
  abstract upReset(why: string, code: number, maybeStale: boolean): void;
  abstract upClosed(): void;

  protected override get times(): Sweep {
    return this.parts.times;
  }

  protected override look(decision: Forward, fresh: boolean): void {
    const { head } = this;
    if (head === undefined) return;
    this.turn++;
    const { streams } = decision.upstream;
    if (streams !== undefined) {
      const upstream = streams.connection(this, fresh);
      if (upstream !== undefined) this.opened(upstream);
    } else if (this.isGrpc) {
      // It would lose its trailers there, and with them its status (DP-28).
      this.respond(502, [], toHttp1, "grpc_over_http1");
    } else {
      this.joining = this.isUpgrade
        ? new UpgradeStream(this, decision.upstream, head, decision)
        : new Http1Stream(this, decision.upstream, head, decision, this.isBodiless);
      this.joining.open(this.canResend, fresh);
    }
  }

  opened(upstream: StreamConnection): void {
    this.turn++;
    const { head, decision } = this;
    if (head === undefined || decision?.kind !== "forward") return;
    if (this.isUpgrade && !this.mayUpgrade(upstream, decision)) return;
    let fields = editedFields(head.headers(), decision.edits);
    if (this.isGrpc && this.deadlineMs > 0 && (this.isShortened || this.resent > 0)) {
      const leftMs = this.deadlineMs - this.parts.times.exactMs();
      fields = editedFields(fields, { remove: [], set: ["grpc-timeout", grpcTimeoutField(leftMs)], add: [] });
    }
    const { path, authority } = decision;
    const { isUpgrade } = this;
    const method = isUpgrade ? "CONNECT" : head.method;
    const line =
      path === undefined && authority === undefined && !isUpgrade
        ? head
        : { method, scheme: head.scheme, path: path ?? head.path, authority: authority ?? head.authority };
    const end = this.isBodiless;
    const protocol = isUpgrade ? head.protocol : "";
    const up = upstream.connection.request(line, fields, end, this, head.sensitive, protocol);
    if (up === null) this.giveUp("upstream_reset");
    else {
      this.up = up;
      if (this.isRequestDone || isUpgrade) this.awaitAnswer();
      if (!end) this.sendKept(up);
    }
  }

  /** Whether the server takes extended CONNECTs, which its settings say: if they are not there yet, they are waited for. */
  private mayUpgrade(upstream: StreamConnection, decision: Forward): boolean {
    const { turn } = this;
    const isKnown = upstream.whenGreeted(() => {
      if (turn !== this.turn || !this.isUnderWay || this.up !== undefined) return;
      const { done, peerGoaway } = upstream.connection;
      if (upstream.canOpen) this.opened(upstream);
      // Others took its streams meanwhile: there are more connections. One that is gone is no reason to dial on and on.
      else if (!done && !peerGoaway) this.look(decision, false);
      else this.giveUp("upstream_closed");
    });
    if (isKnown && !upstream.connection.peerExtendedConnect) this.upgradeRefused(unsupported);
    return isKnown && upstream.connection.peerExtendedConnect;
  }

  upgradeRefused(why: string): void {
    const { status, body } = upgradeRefusal(why) ?? { status: 502, body: Buffer.alloc(0) };
    this.respond(status, plainText, body, why);
  }

  linger(fn: () => void): void {
    this.parts.times.after(this.parts.limits.lingerMs, fn);
  }

  joined(stream: Http1Stream): void {
    this.joining = undefined;
    this.up = stream;
    if (this.isRequestDone || this.isUpgrade) this.awaitAnswer();
    this.sendKept(stream);
  }

  failedToJoin(_stream: Http1Stream, why: string): void {
    this.joining = undefined;
    this.giveUp(why);
  }

  notConnected(why: string, turn: number): void {
    if (turn === this.turn && this.isUnderWay && this.up === undefined) this.giveUp(why);
  }

  private get isBodiless(): boolean {
    return this.isRequestDone && this.kept.length === 0 && this.requestTrailers === undefined;
  }

  /** What came before there was a way to send it. */
  protected sendKept(up: UpStream): void {
    const { kept } = this;
    let going = true;
    if (kept.length > 0) {
      going = up.sendData(kept.take(), this.isRequestDone && this.requestTrailers === undefined);
      kept.trim(this.replayBytes());
    }
    if (this.requestTrailers !== undefined) up.sendTrailers(this.requestTrailers);
    else if (this.isRequestDone) up.end();
    if (going) this.takeMore();
  }

  protected replayBytes(): number {
    const { decision } = this;
    const most = this.parts.limits.maxFirstBytes;
    return decision?.kind === "forward" ? (decision.replayBytes ?? most) : most;
  }

  protected clearTimes(): void {
    this.isShortened = false;
    this.activeMs = this.parts.times.now;
    this.stallMs = this.parts.limits.stallTimeoutMs;
  }

  protected override get stalled(): Outcome {
    if (this.isTunnel) return "tunnel_idle";
    return this.isUpgrade ? "response_stalled" : super.stalled;
  }

  protected override get awaitsServer(): boolean {
    return this.isUnderWay && !this.isDiscarding;
  }

  /** The deadline of a gRPC call is not put off by anything. */
  protected override startTry({ timeoutMs = 0, tryTimeoutMs = 0, idleTimeoutMs }: Forward): void {
    const { limits } = this.parts;
    const until = this.startedMs + timeoutMs;
    if (timeoutMs > 0 && (this.deadlineMs === 0 || until < this.deadlineMs)) {
      this.deadlineMs = until;
      this.isShortened = true;
    }
    this.tryDeadlineMs = tryTimeoutMs > 0 ? this.triesSinceMs() + tryTimeoutMs : 0;
    this.answerDeadlineMs = 0;
    // Streams of gRPC are silent for long where nothing happens; their deadlines are their own.
    const usual = this.isGrpc ? limits.tunnelIdleTimeoutMs : limits.stallTimeoutMs;
    this.stallMs = (idleTimeoutMs ?? usual) || Number.POSITIVE_INFINITY;
  }

  protected takeMore(): void {
    const held = this.heldRequest;
    this.heldRequest = 0;
    if (held > 0) this.stream?.consume(held);
  }

  /** An HTTP/1.1 client has ended its side. It may still read. */
  clientEnded(): void {
    (this.up ?? this.joining)?.endWriting?.();
  }

  upDrain(): void {
    this.activeMs = this.parts.times.now;
    this.takeMore();
  }

  get tenant(): Tenant | undefined {
    return this.parts.tenant;
  }

  touch(): void {
    this.activeMs = this.parts.times.now;
  }

  /** Lets go of the server's side, whatever it was doing. */
  protected release(code: number): void {
    const { up, joining, decision } = this;
    this.endDelay();
    this.up = this.joining = undefined;
    if (up !== undefined) {
      // What was sent in whole and answered in whole is over by itself.
      if (this.isRequestDone && this.isAnswerDone && !this.isDiscarding) up.detach();
      else up.reset(code);
    } else if (joining !== undefined) joining.reset(code);
    else if (decision?.kind === "forward") decision.upstream.streams?.giveUp(this);
  }

  sweep(now: number): void {
    if (this.isDiscarding) {
      // An answer that is still on its way out is not cut for what its client sends meanwhile.
      const until =
        this.stream?.localEnded === true ? this.lingerUntilMs : this.activeMs + this.parts.limits.stallTimeoutMs;
      if (now >= until) this.endStream();
    } else if (this.isUnderWay) this.checkDeadlines(now);
  }
}
