// What befell endpoints that requests go to, as data threads tell it: a breaker that opened or closed, an ejection. Counted and logged.
import type { ServiceName } from "../api/names.ts";
import type { Logger } from "../base/log.ts";
import type { CounterMetric, Metrics } from "../base/metrics.ts";
import { metricNames } from "./metric-names.ts";

export type EndpointChange = {
  readonly service: ServiceName;
  /** Whose clients saw it (DP-26). */
  readonly namespace: string;
} & (
  | OfEndpoint
  /** All are used, healthy or not, since so few are (upstream/panic.ts); or no longer. */
  | { readonly kind: "panic"; readonly isOn: boolean; readonly healthy: number; readonly endpoints: number }
);
type OfEndpoint = {
  /** "<address>:<port>". */
  readonly endpoint: string;
} /** States of decide/resilience/breaker.ts. */ & (
  | { readonly kind: "breaker"; readonly from: string; readonly to: string }
  | { readonly kind: "ejected"; readonly reason: string; readonly forMs: number }
  | { readonly kind: "health"; readonly isHealthy: boolean; readonly why: string }
);

export class EndpointChanges {
  readonly #log: Logger;
  readonly #breakers: CounterMetric<"to">;
  readonly #ejections: CounterMetric<"reason">;
  readonly #health: CounterMetric<"to">;
  readonly #panics: CounterMetric<never>;
  /** Breakers that opened, under the name that earlier routers have. */
  readonly #opened: CounterMetric<never>;

  constructor(metrics: Metrics, log: Logger) {
    this.#log = log;
    this.#opened = metrics.counter(metricNames.breakersOpened);
    this.#breakers = metrics.counter(metricNames.breakerChanges);
    this.#ejections = metrics.counter(metricNames.ejections);
    this.#health = metrics.counter(metricNames.healthChanges);
    this.#panics = metrics.counter(metricNames.panics);
  }

  take(change: EndpointChange): void {
    const { service, namespace } = change;
    if (change.kind === "panic") {
      const { isOn, healthy, endpoints } = change;
      if (isOn) this.#panics.add({});
      const facts = { service, clients: namespace, healthy, endpoints };
      if (isOn) this.#log.warn("panic_began", facts);
      else this.#log.info("panic_ended", facts);
      return;
    }
    const { endpoint } = change;
    if (change.kind === "breaker") {
      const { from, to } = change;
      this.#breakers.add({ to });
      if (to === "open") {
        this.#opened.add({});
        this.#log.warn("breaker_opened", { service, endpoint, clients: namespace });
      } else if (to === "closed") this.#log.info("breaker_closed", { service, endpoint, clients: namespace, from });
      return;
    }
    if (change.kind === "health") {
      const { isHealthy, why } = change;
      this.#health.add({ to: isHealthy ? "healthy" : "unhealthy" });
      if (isHealthy) this.#log.info("endpoint_healthy", { service, endpoint, clients: namespace });
      else this.#log.warn("endpoint_unhealthy", { service, endpoint, clients: namespace, why });
      return;
    }
    const { reason, forMs } = change;
    this.#ejections.add({ reason });
    this.#log.warn("endpoint_ejected", { service, endpoint, clients: namespace, reason, forMs });
  }
}
