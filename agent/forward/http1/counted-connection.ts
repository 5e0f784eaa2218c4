// What is noted of the exchange under way, for records and for those who decide, and its deadlines. Numbers alone, used again for each.
import { ClientConnection } from "./client-connection.ts";
import type { Decision, Exchange, Forward, Outcome } from "./exchange.ts";

export abstract class CountedConnection extends ClientConnection implements Exchange {
  decision: Decision | undefined;
  method = "";
  startedMs = 0;
  answeredMs = 0;
  status = 0;
  requestBytes = 0;
  responseBytes = 0;
  resent = 0;
  outcome: Outcome = "";

  abstract get canResend(): boolean;

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
    this.tryDeadlineMs = 0;
    this.answerDeadlineMs = 0;
  }
  /** Of a try that begins now; of the whole exchange with its first. */
  protected startTimes({ timeoutMs = 0, tryTimeoutMs = 0, idleTimeoutMs }: Forward): void {
    const { now } = this.times;
    if (timeoutMs > 0 && this.deadlineMs === 0) this.deadlineMs = now + timeoutMs;
    this.tryDeadlineMs = tryTimeoutMs > 0 ? now + tryTimeoutMs : 0;
    this.answerDeadlineMs = 0;
    this.stallMs = (idleTimeoutMs ?? this.limits.stallTimeoutMs) || Number.POSITIVE_INFINITY;
  }

  /** The request is whole. */
  protected awaitAnswer(): void {
    if (this.status !== 0 || this.decision?.kind !== "forward") return;
    const { responseTimeoutMs = 0 } = this.decision;
    if (responseTimeoutMs > 0) this.answerDeadlineMs = this.times.now + responseTimeoutMs;
  }
}
