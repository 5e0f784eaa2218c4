// Events of native -> where they belong: drained, listening ports, refusals before a plan, other programs, native's own log.
import { closeSync } from "node:fs";
import type { PodName } from "../api/names.ts";
import type { Clock } from "../base/clock.ts";
import type { Logger } from "../base/log.ts";
import type { Metrics } from "../base/metrics.ts";
import type { Enrolment } from "../intercept/enrol.ts";
import type { WireEvent } from "../native.ts";
import { metricNames } from "../report/metric-names.ts";

export interface EventParts {
  readonly clock: Clock;
  readonly log: Logger;
  readonly metrics: Metrics;
  /** Not there yet while native starts. */
  readonly pods: () => Enrolment;
  readonly drained: () => void;
  /** Another agent named a policy; records carry its number. */
  readonly policy: (number: number, name: string) => void;
  /** A native thread has died and none takes its place. */
  readonly gone: () => void;
}
export interface NativeEvents {
  take(event: WireEvent): void;
  /** An answer to a call that was given up: nobody waits for the descriptor that it hands over, which would stay open. */
  late(value: unknown): void;
  /** Connect hooks of others that were found beside ours (DP-13). */
  readonly foreignHooks: readonly unknown[];
}

/** Lines a second about refused connections: each is counted, but a flood of them must not flood the log. */
const refusalLines = 10;

export function createNativeEvents({ clock, log, metrics, pods, drained, policy, gone }: EventParts): NativeEvents {
  const refused = metrics.counter(metricNames.refused);
  const workersDied = metrics.counter(metricNames.workersDied);
  let foreignHooks: readonly unknown[] = [];
  metrics.gaugeOf(metricNames.foreignHooks, (gauge) => gauge.set({}, foreignHooks.length));
  let second = 0;
  let lines = 0;
  const logRefusal = (event: WireEvent): void => {
    const now = Math.floor(clock.monotonicMs() / 1000);
    if (now !== second) {
      if (lines > refusalLines) log.warn("connections_refused_unlogged", { count: lines - refusalLines });
      second = now;
      lines = 0;
    }
    if (++lines <= refusalLines) log.warn("connection_refused", { ...event });
  };
  return {
    get foreignHooks() {
      return foreignHooks;
    },
    late(value) {
      const { pidfd } = (value ?? {}) as { readonly pidfd?: unknown };
      if (typeof pidfd === "number") closeSync(pidfd);
    },
    take(event) {
      switch (event.event) {
        case "drained":
          drained();
          break;
        case "listening":
          pods().listening(event.pod as PodName, event.port as number, event.open === true);
          break;
        case "refused":
          refused.add({ direction: String(event.direction), reason: String(event.reason) });
          logRefusal(event);
          break;
        case "programs":
          foreignHooks = Array.isArray(event.foreign) ? event.foreign : [];
          if (foreignHooks.length > 0) log.warn("foreign_connect_hooks", { foreign: foreignHooks });
          break;
        case "log":
          log[levelOf(event.level)]("native", { message: event.message, ...(event.fields as object) });
          break;
        case "worker_died":
          workersDied.add({ worker: String(event.worker) });
          log.error("native_worker_died", {
            ...event,
            action: event.restarted === true ? "another takes its place" : "the agent ends, to be started again",
          });
          if (event.restarted !== true) gone();
          break;
        case "policy":
          policy(Number(event.number), String(event.name));
          break;
        default:
          log.info(`native_${event.event}`, { ...event });
      }
    },
  };
}

const levelOf = (level: unknown): "debug" | "info" | "warn" | "error" =>
  level === "debug" || level === "warn" || level === "error" ? level : "info";
