// What is noted of one stream's exchange, for records and for those who decide. Numbers and words alone, used again for later streams.
import type { Decision, Exchange, Outcome } from "../http1/exchange.ts";

export abstract class ExchangeFacts implements Exchange {
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

  abstract get canResend(): boolean;

  protected clearFacts(method: string, nowMs: number): void {
    this.decision = undefined;
    this.method = method;
    this.startedMs = nowMs;
    this.answeredMs = 0;
    this.status = 0;
    this.requestBytes = 0;
    this.responseBytes = 0;
    this.resent = 0;
    this.outcome = "";
    this.isGrpc = false;
    this.grpcStatus = "";
  }
}
