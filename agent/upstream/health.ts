// Active health checks of a cluster's endpoints (RES-9): probes run side by side and hold nobody up; whoever fails several in a row is not
// picked until as many succeed as the policy asks, and is asked less and less often meanwhile.
import type { HealthCheck } from "../api/http-policy.ts";
import type { Random } from "../base/random.ts";
import { type EndpointStats, gateBits } from "../decide/balance/endpoint-stats.ts";
import type { DecisionCounts } from "../report/decisions.ts";
import type { Member } from "./member.ts";

export interface ProbeResult {
  readonly isGood: boolean;
  readonly ms: number;
  /** A word: "status_503", "connect_refused", "timeout". */
  readonly why: string;
}
/** Asks one endpoint, within the check's timeout; undefined: nobody could ask just now, which says nothing. */
export type Probe = (member: Member, check: HealthCheck) => Promise<ProbeResult | undefined>;

export interface HealthParts {
  readonly stats: EndpointStats;
  readonly random: Random;
  readonly probe: Probe;
  readonly nowMs: () => number;
  readonly decisions: Pick<DecisionCounts, "probe">;
  readonly told: (member: Member, isHealthy: boolean, why: string) => void;
}

/** An endpoint that stays unhealthy is asked at most this many intervals apart. */
const mostBackoff = 8;

class Checked {
  readonly member: Member;
  /** Monotonic ms of the next probe; infinite while one is under way. */
  dueMs: number;
  /** Results in a row that speak against what it is taken for. */
  row = 0;
  isHealthy = true;
  /** Intervals between probes. */
  backoff = 1;
  constructor(member: Member, dueMs: number) {
    this.member = member;
    this.dueMs = dueMs;
  }
}

export class HealthChecks {
  readonly #parts: HealthParts;
  #check: HealthCheck;
  #checked = new Map<Member, Checked>();

  constructor(check: HealthCheck, parts: HealthParts) {
    this.#check = check;
    this.#parts = parts;
  }

  /** New endpoints are taken for healthy until probes say otherwise: their readiness has been checked already. */
  set(check: HealthCheck, members: readonly Member[]): void {
    const before = this.#checked;
    this.#check = check;
    const { random, nowMs } = this.#parts;
    // Spread over an interval, so that an agent that starts does not ask all at once.
    const due = (): number => nowMs() + random.next() * check.intervalMs;
    this.#checked = new Map(members.map((member) => [member, before.get(member) ?? new Checked(member, due())]));
    for (const [member, { isHealthy }] of before)
      if (!isHealthy && !this.#checked.has(member)) this.#parts.stats.open(member.slot, gateBits.health);
  }

  /** Nothing is checked any more; whoever was kept away is let back. */
  stop(): void {
    this.set(this.#check, []);
  }

  /** Called several times a second. */
  sweep(now: number): void {
    for (const checked of this.#checked.values()) {
      if (now < checked.dueMs) continue;
      checked.dueMs = Number.POSITIVE_INFINITY;
      const check = this.#check;
      void this.#parts.probe(checked.member, check).then(
        (result) => this.#note(checked, check, result),
        () => this.#note(checked, check, undefined),
      );
    }
  }

  #note(checked: Checked, check: HealthCheck, result: ProbeResult | undefined): void {
    const { member } = checked;
    if (this.#checked.get(member) !== checked) return;
    const { stats, nowMs, random } = this.#parts;
    const now = nowMs();
    if (result !== undefined) {
      this.#parts.decisions.probe(result.isGood, result.ms);
      if (result.isGood) stats.seed(member.slot, result.ms, now);
      checked.row = result.isGood === checked.isHealthy ? 0 : checked.row + 1;
      if (checked.row >= (checked.isHealthy ? check.unhealthy : check.healthy)) this.#turn(checked, result);
      // One that answers again is soon asked again.
      if (checked.isHealthy || result.isGood) checked.backoff = 1;
      else checked.backoff = Math.min(mostBackoff, checked.backoff * 2);
    }
    checked.dueMs = now + check.intervalMs * checked.backoff * (0.9 + 0.2 * random.next());
  }

  #turn(checked: Checked, { isGood, why }: ProbeResult): void {
    const { stats, told } = this.#parts;
    checked.row = 0;
    checked.isHealthy = isGood;
    if (isGood) stats.open(checked.member.slot, gateBits.health);
    else stats.close(checked.member.slot, gateBits.health);
    told(checked.member, isGood, why);
  }
}
