// What all data threads tell of their guards, counted and logged; and the memory that these share.
import { randomInt } from "node:crypto";
import type { MeshSettings } from "../api/settings.ts";
import type { Clock } from "../base/clock.ts";
import type { Logger } from "../base/log.ts";
import type { Metrics } from "../base/metrics.ts";
import { SharedBuckets } from "../base/shared-buckets.ts";
import { createLimitMemory } from "../decide/limit/shared.ts";
import { createPairMemory } from "../enrich/pairs.ts";
import { EnrichReport } from "../report/enrich-report.ts";
import { metricNames } from "../report/metric-names.ts";
import { RateLimitReport } from "../report/rate-limit-report.ts";
import type { GuardMemory, GuardTold } from "../upstream/guard.ts";

export interface GuardReportParts {
  readonly metrics: Metrics;
  readonly log: Logger;
  readonly config: { readonly limitKeys: number };
  readonly state: { readonly settings: Pick<MeshSettings, "enricher"> };
  readonly clock: Clock;
}

export class GuardReport {
  readonly memory: GuardMemory;
  readonly #limited: RateLimitReport;
  readonly #enriched: EnrichReport;

  constructor({ metrics, log, config, state, clock }: GuardReportParts) {
    this.memory = createGuardMemory(config.limitKeys);
    this.#limited = new RateLimitReport(metrics, log);
    this.#enriched = new EnrichReport(
      metrics,
      log,
      () => state.settings.enricher,
      () => clock.monotonicMs(),
    );
    const { keys, buckets } = this.memory.limits;
    const shared = new SharedBuckets(keys, buckets);
    metrics.counterOf(metricNames.limitsCrowded, (set) => set({}, shared.crowded));
  }

  take({ limited, enriched }: GuardTold): void {
    if (limited !== undefined) this.#limited.take(limited);
    if (enriched !== undefined) this.#enriched.take(enriched);
  }
}

/** @param limitKeys rounded up to a power of two */
export const createGuardMemory = (limitKeys: number): GuardMemory => ({
  limits: createLimitMemory(2 ** Math.ceil(Math.log2(limitKeys)), seed()),
  pairs: createPairMemory(seed()),
});

/** Drawn anew with each agent, so that nobody can look for keys that collide. */
const seed = (): readonly [number, number] => [randomInt(2 ** 32), randomInt(2 ** 32)];
