// Which replica writes to the cluster. All of them serve agents; only what is written needs one.
import { randomUUID } from "node:crypto";
import type { Clock } from "../../agent/base/clock.ts";
import type { Logger } from "../../agent/base/log.ts";
import type { Metrics } from "../../agent/base/metrics.ts";
import { systemRandom } from "../../agent/base/random.ts";
import { type Config, machineName } from "../config.ts";
import { Election } from "../lease/election.ts";
import { leaseMetrics } from "../report/lease-metrics.ts";
import { type OpenedApi, ownNamespace } from "./open-source.ts";

/** Not started. The lease is in the namespace that is set, else in that of the kubeconfig or of our own pod. */
export function openElection(config: Config, opened: OpenedApi, metrics: Metrics, clock: Clock, log: Logger): Election {
  return new Election(
    {
      namespace: ownNamespace(config, opened),
      name: config.leaseName,
      // A replica that starts again under its old name must not take its former life's lease for its own.
      identity: `${machineName()}_${randomUUID()}`,
      durationMs: config.leaseMs,
      renewMs: config.leaseRenewMs,
      retryMs: config.leaseRetryMs,
    },
    { api: opened.api, clock, random: systemRandom, log, meter: leaseMetrics(metrics) },
  );
}
