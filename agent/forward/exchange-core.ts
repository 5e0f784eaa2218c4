// What exchanges of both HTTP versions have in common: facts for records and for those who decide, deadlines, and what is done about a
// decision or when no answer comes. The object is used again for the next exchange of its connection.
import type { HeaderList } from "../http.ts";
import { type Due, nearMs } from "./http1/deadlines.ts";
import type { Decision, Exchange, Forward, Handler, Outcome, Respond } from "./http1/exchange.ts";
import { statusOf } from "./http1/exchange.ts";
import type { Sweep } from "./http1/sweep.ts";
import type { HttpProtocol } from "./sniff.ts";

const nothing = Buffer.alloc(0);

export abstract class ExchangeCore implements Exchange, Due {
  clientProtocol: HttpProtocol;
  decision: Decision | undefined;
  method = "";
  startedMs = 0;
  answeredMs = 0;
  status = 0;
  requestBytes = 0;
  responseBytes = 0;
  resent = 0;
  outcome: Outcome = "";
  isGrpc = false;
  grpcStatus = "";
  protected isRequestDone = true;
  protected isUnderWay = false;
  /** The client has got something of its answer. */
  protected hasStarted = false;
  /** When the last byte went by, in either direction; deadlines, 0: none. Monotonic, ms. */
  protected activeMs = 0;
  protected deadlineMs = 0;
  protected tryDeadlineMs = 0;
  protected answerDeadlineMs = 0;
  /** Without a byte for so long it is over. */
  protected stallMs = 0;
  private cancelDelay: (() => void) | undefined;
  /** Where it stands among near deadlines, 0: nowhere; and for when, which may be another request's. */
  private dueSlot = 0;
  private dueMs = 0;

  constructor(clientProtocol: HttpProtocol) {
    this.clientProtocol = clientProtocol;
  }

  protected abstract readonly handler: Handler;
  protected abstract readonly times: Sweep;
  abstract get canResend(): boolean;
  /** Deadlines count. */
  protected abstract get awaitsServer(): boolean;
  /** Sets the deadlines of a try that begins now; of the whole exchange with its first. */
  protected abstract startTry(decision: Forward): void;
  /** Looks for a way to the server. */
  protected abstract look(decision: Forward, fresh: boolean): void;
  /** Sends an answer of our own. */
  protected abstract respond(
    status: number,
    headers: HeaderList,
    body: Buffer,
    outcome: Outcome,
    grpcStatus?: number,
  ): void;
  /** Cuts it: the client must see that it has no answer, or not all of it. */
  protected abstract fail(why: Outcome): void;
  /** A deadline has passed. */
  protected abstract expired(why: Outcome): void;
  /** A decision or hook threw: this exchange is over, nobody else's. */
  abstract threw(error: unknown): void;

  protected clearFacts(method: string): void {
    this.decision = undefined;
    this.method = method;
    this.startedMs = this.times.exactMs();
    this.answeredMs = 0;
    this.status = 0;
    this.requestBytes = 0;
    this.responseBytes = 0;
    this.resent = 0;
    this.outcome = "";
    this.isGrpc = false;
    this.grpcStatus = "";
    this.deadlineMs = 0;
    this.tryDeadlineMs = 0;
    this.answerDeadlineMs = 0;
  }

  protected follow(decision: Decision): void {
    this.decision = decision;
    if (decision.kind === "reset") {
      this.fail("reset_by_decision");
      return;
    }
    if (decision.kind === "forward") {
      this.startTry(decision);
      this.watchDeadlines();
    }
    if ((decision.delayMs ?? 0) <= 0) this.proceed(decision);
    else
      this.cancelDelay = this.times.after(decision.delayMs as number, () => {
        this.cancelDelay = undefined;
        this.proceed(decision);
      });
  }

  private proceed(decision: Forward | Respond): void {
    if (decision.kind === "forward") this.look(decision, false);
    else this.respond(decision.status, decision.headers, decision.body, "finished", decision.grpcStatus);
  }

  /** What was decided and not yet begun is not to begin. */
  protected endDelay(): void {
    this.cancelDelay?.();
    this.cancelDelay = undefined;
  }

  /** There is no answer: somebody may know what to do, or the client is told why. */
  protected giveUp(why: Outcome): void {
    let decision: Decision | undefined;
    try {
      decision = this.handler.failed?.(why, this);
    } catch (error) {
      this.threw(error);
      return;
    }
    if (decision === undefined || (decision.kind === "forward" && !this.canResend)) {
      this.respond(statusOf(why), [], nothing, why);
      return;
    }
    if (decision.kind === "forward") this.resent++;
    this.follow(decision);
  }

  /** The request is whole, and at the server. */
  protected awaitAnswer(): void {
    if (this.status !== 0 || this.decision?.kind !== "forward") return;
    const { responseTimeoutMs = 0 } = this.decision;
    if (responseTimeoutMs === 0) return;
    this.answerDeadlineMs = this.times.exactMs() + responseTimeoutMs;
    this.watchDeadlines();
  }

  /** When a try that begins now began: at its first, with the exchange. Monotonic, ms. */
  protected triesSinceMs(): number {
    return this.resent === 0 ? this.startedMs : this.times.exactMs();
  }

  /** The nearest deadline is too near for the sweep: it is looked at in time. */
  private watchDeadlines(): void {
    const at = nearestOf(nearestOf(this.deadlineMs, this.tryDeadlineMs), this.answerDeadlineMs);
    if (at === 0 || (this.dueSlot !== 0 && this.dueMs <= at) || at - this.times.now > nearMs) return;
    this.dueSlot = this.times.near.put(this, at);
    this.dueMs = at;
  }

  due(nowMs: number, slot: number): void {
    // It stands for an earlier time by now.
    if (slot !== this.dueSlot) return;
    this.dueSlot = 0;
    if (!this.awaitsServer) return;
    this.checkDeadlines(nowMs);
    if (this.awaitsServer) this.watchDeadlines();
  }

  protected checkDeadlines(now: number): void {
    if (this.deadlineMs > 0 && now >= this.deadlineMs) this.expired("request_timeout");
    else if (this.tryDeadlineMs > 0 && now >= this.tryDeadlineMs) this.expired("try_timeout");
    else if (this.answerDeadlineMs > 0 && now >= this.answerDeadlineMs) this.expired("response_timeout");
    else if (now - this.activeMs >= this.stallMs) this.expired(this.stalled);
  }

  /** What is waited for in vain, where no byte goes by. */
  protected get stalled(): Outcome {
    return this.isRequestDone ? "response_stalled" : "request_stalled";
  }
}

/** Of two times, where 0 is none. */
const nearestOf = (a: number, b: number): number => (a === 0 || (b !== 0 && b < a) ? b : a);
