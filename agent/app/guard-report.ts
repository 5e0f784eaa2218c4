// What all data threads tell of their guards, counted and logged; and the memory that these share.
import { randomInt } from "node:crypto";
import type { Logger } from "../base/log.ts";
import type { Metrics } from "../base/metrics.ts";
import { SharedBuckets } from "../base/shared-buckets.ts";
import { createLimitMemory } from "../decide/limit/shared.ts";
import { metricNames } from "../report/metric-names.ts";
import { RateLimitReport } from "../report/rate-limit-report.ts";
import type { GuardMemory, GuardTold } from "../upstream/guard.ts";

export interface GuardReportParts {
  readonly metrics: Metrics;
  readonly log: Logger;
  readonly config: { readonly limitKeys: number };
}

export class GuardReport {
  readonly memory: GuardMemory;
  readonly #limited: RateLimitReport;

  constructor({ metrics, log, config }: GuardReportParts) {
    this.memory = createGuardMemory(config.limitKeys);
    this.#limited = new RateLimitReport(metrics, log);
    const { keys, buckets } = this.memory.limits;
    const shared = new SharedBuckets(keys, buckets);
    metrics.counterOf(metricNames.limitsCrowded, (set) => set({}, shared.crowded));
  }

  take({ limited }: GuardTold): void {
    if (limited !== undefined) this.#limited.take(limited);
  }
}

/** @param limitKeys rounded up to a power of two */
export const createGuardMemory = (limitKeys: number): GuardMemory => ({
  limits: createLimitMemory(2 ** Math.ceil(Math.log2(limitKeys)), [randomInt(2 ** 32), randomInt(2 ** 32)]),
});
