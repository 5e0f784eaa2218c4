// Events of native -> where they belong: drained, listening ports, refusals before a plan, native's own log.
import type { PodName } from "../api/names.ts";
import type { Logger } from "../base/log.ts";
import type { Metrics } from "../base/metrics.ts";
import type { Enrolment } from "../intercept/enrol.ts";
import type { WireEvent } from "../native.ts";
import { metricNames } from "../report/metric-names.ts";

export interface EventParts {
  readonly log: Logger;
  readonly metrics: Metrics;
  /** Not there yet while native starts. */
  readonly pods: () => Enrolment;
  readonly drained: () => void;
}

export function routeEvents({ log, metrics, pods, drained }: EventParts): (event: WireEvent) => void {
  const refused = metrics.counter(metricNames.refused);
  const workersDied = metrics.counter(metricNames.workersDied);
  return (event) => {
    switch (event.event) {
      case "drained":
        drained();
        break;
      case "listening":
        pods().listening(event.pod as PodName, event.port as number, event.open === true);
        break;
      case "refused":
        refused.add({ direction: String(event.direction), reason: String(event.reason) });
        log.warn("connection_refused", { ...event });
        break;
      case "log":
        log[levelOf(event.level)]("native", { message: event.message, ...(event.fields as object) });
        break;
      case "worker_died":
        workersDied.add({});
        log.error("native_worker_died", { ...event });
        break;
      default:
        log.info(`native_${event.event}`, { ...event });
    }
  };
}

const levelOf = (level: unknown): "debug" | "info" | "warn" | "error" =>
  level === "debug" || level === "warn" || level === "error" ? level : "info";
