// What is noted of the exchange under way, for records and for those who decide. Numbers alone, used again for each exchange.
import { ClientConnection } from "./client-connection.ts";
import type { Decision, Exchange, Outcome } from "./exchange.ts";

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
  }
}
