// Long bodies of an exchange that are moved without it (joiner.ts), the request's and the response's. Nothing ends the exchange before it
// is known how far they came, so that what is counted is what was moved.
import type { OnReadOpts, Socket } from "node:net";
import { BUSY, CLOSED, ClientConnection, DISCARD } from "./client-connection.ts";
import type { DownstreamParts } from "./exchange.ts";
import type { Join, JoinEnd, Joiner, JoinListener } from "./joiner.ts";
import type { ServerLink } from "./links.ts";
import { OutgoingRequest } from "./outgoing-request.ts";

/** How far a join is comes so seldom that shorter waits for a byte would end by mistake, ms. */
const leastStallMs = 1_000;

/** One body under way. */
class MovedBody implements JoinListener {
  private taken = 0;
  private sent = 0;
  private isCancelled = false;
  private readonly join: Join | undefined;
  private readonly count: (taken: number, moved: number) => void;
  readonly ended: (end: JoinEnd) => void;

  constructor(
    open: (listener: JoinListener) => Join | undefined,
    count: (taken: number, moved: number) => void,
    ended: (end: JoinEnd) => void,
  ) {
    this.count = count;
    this.ended = (end) => {
      this.moved(end.taken, end.moved);
      ended(end);
    };
    this.join = open(this);
  }

  get isOpen(): boolean {
    return this.join !== undefined;
  }

  moved(taken: number, moved: number): void {
    this.count(taken - this.taken, moved - this.sent);
    this.taken = taken;
    this.sent = moved;
  }

  cancel(): void {
    if (this.isCancelled) return;
    this.isCancelled = true;
    this.join?.cancel();
  }
}

export abstract class JoinedConnection extends ClientConnection {
  protected readonly out = new OutgoingRequest();
  protected upstream: ServerLink | undefined;
  private readonly joiner: Joiner | undefined;
  private request: MovedBody | undefined;
  private response: MovedBody | undefined;
  /** What is to be done once it is known how far they came. */
  private waiting: (() => void)[] = [];
  /** Not after a join that was refused or ended early: what is left is seen here. */
  private mayJoin = true;
  /** A join found the server's connection reset, which whoever reads it cannot see any more. */
  protected isServerReset = false;

  constructor(parts: DownstreamParts, open: (onread: OnReadOpts) => Socket) {
    super(parts.limits, parts.sweep, open);
    this.joiner = parts.joiner;
  }

  protected clearJoins(): void {
    this.mayJoin = true;
    this.isServerReset = false;
  }

  /** Whether it waits to know how far bodies came. */
  protected get isStopping(): boolean {
    return this.waiting.length > 0;
  }

  private joinerFor(left: number): Joiner | undefined {
    const { joiner } = this;
    const joins = joiner !== undefined && left >= joiner.leastBytes && this.mayJoin && this.stallMs >= leastStallMs;
    return joins && this.state === BUSY && !this.isStopping ? joiner : undefined;
  }

  /** Whether the rest of the request's body is moved without us from now on. Everything before it is with the kernel, or it is not. */
  protected movesRequest(upstream: ServerLink): boolean {
    const joiner = this.joinerFor(this.body.remaining ?? 0);
    const { socket, writer } = upstream;
    if (joiner === undefined || this.request !== undefined || socket === undefined || writer.isPending) return false;
    // What is kept for another try or copied has to be seen.
    if (this.isRequestDone || this.out.isWhole || this.out.isCopied || socket.destroyed) return false;
    const bytes = this.body.remaining as number;
    const request: MovedBody = new MovedBody(
      (listener) => joiner.join(this.socket, socket, bytes, listener),
      (taken) => {
        if (taken > 0) this.touch();
        this.requestBytes += taken;
      },
      (end) => this.requestMoved(upstream, end),
    );
    if (!request.isOpen) return false;
    this.request = request;
    this.isMoved = true;
    this.socket.pause();
    return true;
  }

  /** The same of the response's, of which `left` bytes are to come; the server's side stops reading. */
  movesAnswer(upstream: ServerLink, left: number): boolean {
    const joiner = this.joinerFor(left);
    const { socket } = upstream;
    if (joiner === undefined || this.response !== undefined || socket === undefined) return false;
    if (this.writer.isPending || upstream !== this.upstream || this.socket.destroyed) return false;
    const response: MovedBody = new MovedBody(
      (listener) => joiner.join(socket, this.socket, left, listener),
      (taken, moved) => {
        if (taken > 0 || moved > 0) this.touch();
        this.responseBytes += moved;
      },
      (end) => this.answerMoved(upstream, end),
    );
    if (!response.isOpen) return false;
    this.response = response;
    return true;
  }

  /** Whether bodies are under way without us: they are stopped, and `then` is called when it is known how far they came. */
  protected stopsBodies(then: () => void): boolean {
    if (this.request === undefined && this.response === undefined) return false;
    this.waiting.push(then);
    this.dropBodies();
    return true;
  }

  /** Stops them without waiting. */
  protected dropBodies(): void {
    this.request?.cancel();
    this.response?.cancel();
  }

  private requestMoved(upstream: ServerLink, { how, taken }: JoinEnd): void {
    this.request = undefined;
    this.isMoved = false;
    this.mayJoin = how === "done";
    this.body.skip(taken);
    if (how === "lost") this.keepsAlive = false;
    this.isServerReset = how === "sink_reset";
    if (this.hasRunWaiting() && this.state === BUSY) return;
    if (this.state === CLOSED) return;
    if (this.state === BUSY) {
      if (how === "source_reset") {
        this.socket.destroy();
        return;
      }
      if ((how === "sink_reset" || how === "lost") && upstream === this.upstream) {
        upstream.socket?.destroy();
        return;
      }
      this.isRequestDone = this.body.done;
      if (this.body.done) this.awaitAnswer();
    } else if (this.state === DISCARD && this.body.done) {
      this.next();
      return;
    }
    this.resumeReading();
  }

  private answerMoved(upstream: ServerLink, { how, taken }: JoinEnd): void {
    this.response = undefined;
    this.mayJoin = how === "done";
    if (this.hasRunWaiting() || upstream !== this.upstream) return;
    if (how === "sink_reset") this.socket.destroy();
    else if (how === "source_reset" || how === "lost") upstream.socket?.destroy();
    else upstream.skipped?.(taken);
  }

  /** Once both are back, in the order in which it came up. False: nothing waited. */
  private hasRunWaiting(): boolean {
    if (this.waiting.length === 0) return false;
    if (this.request !== undefined || this.response !== undefined) return true;
    for (const then of this.waiting.splice(0)) then();
    return true;
  }
}
