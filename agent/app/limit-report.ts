// What namespaces were refused because they met a limit of a data thread: a counter, and a line now and then that names the setting.
import type { Clock } from "../base/clock.ts";
import type { Logger } from "../base/log.ts";
import type { Metrics } from "../base/metrics.ts";
import type { TenantLimit, TenantRefusals } from "../forward/tenants.ts";
import { metricNames } from "../report/metric-names.ts";

/** At least so long between two lines about one limit of one namespace. */
const quietMs = 10_000;
/** Namespaces remembered for that. */
const mostRemembered = 1_000;

const settings: Readonly<Record<TenantLimit, string>> = {
  connections: "FAIRLEAD_NAMESPACE_CONNECTIONS",
  requests: "FAIRLEAD_NAMESPACE_REQUESTS",
  bytes: "FAIRLEAD_NAMESPACE_BUFFER_MB",
};

export class LimitReport {
  readonly #clock: Clock;
  readonly #log: Logger;
  readonly #counter;
  readonly #lines = new Map<string, { atMs: number; unsaid: number }>();

  constructor({ clock, log, metrics }: { readonly clock: Clock; readonly log: Logger; readonly metrics: Metrics }) {
    this.#clock = clock;
    this.#log = log;
    this.#counter = metrics.counter(metricNames.namespaceLimited);
  }

  take(refusals: readonly TenantRefusals[]): void {
    for (const { namespace, limit, count } of refusals) {
      this.#counter.add({ namespace, limit }, count);
      const key = `${namespace} ${limit}`;
      const now = this.#clock.monotonicMs();
      const line = this.#lines.get(key) ?? { atMs: Number.NEGATIVE_INFINITY, unsaid: 0 };
      line.unsaid += count;
      if (now - line.atMs >= quietMs) {
        this.#log.warn("namespace_limited", { namespace, limit, refused: line.unsaid, setting: settings[limit] });
        line.atMs = now;
        line.unsaid = 0;
      }
      if (this.#lines.size >= mostRemembered && !this.#lines.has(key)) this.#lines.clear();
      this.#lines.set(key, line);
    }
  }
}
