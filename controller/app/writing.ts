// What writes to the cluster, made but not started: statuses, events and rendered objects go through it, on the replica that leads.
import { randomBytes } from "node:crypto";
import type { Clock } from "../../agent/base/clock.ts";
import type { Logger } from "../../agent/base/log.ts";
import type { Metrics } from "../../agent/base/metrics.ts";
import { systemRandom } from "../../agent/base/random.ts";
import { type Config, machineName } from "../config.ts";
import type { Election } from "../lease/election.ts";
import { writeMetrics } from "../report/write-metrics.ts";
import { EventWriter } from "../write/events.ts";
import { Writers } from "../write/writers.ts";
import type { OpenedApi } from "./open-source.ts";

export function openWriters(
  config: Config,
  { api }: OpenedApi,
  election: Election,
  metrics: Metrics,
  clock: Clock,
  log: Logger,
): Writers {
  const newId = (): string => randomBytes(8).toString("hex");
  const meter = writeMetrics(metrics, () => writers.depth);
  const events = new EventWriter(
    {
      controller: "fairlead.dev/controller",
      instance: machineName(),
      perSecond: 5,
      burst: 100,
      gatherMs: 15_000,
      // As long as the API server's own components keep a series open.
      seriesMs: 360_000,
    },
    { api, clock, log, mayWrite: () => election.isLeading, newId, told: (outcome) => meter.told(outcome) },
  );
  const writers = new Writers(
    {
      concurrency: config.writeConcurrency,
      backoff: { baseMs: config.writeBackoffMs, maxMs: config.writeBackoffMaxMs },
      attempts: config.writeAttempts,
      pace: { perSecond: config.writeRequestsPerSecond, burst: config.writeRequestsPerSecond * 2 },
      reviewMs: config.writeReviewMs,
    },
    { api, clock, random: systemRandom, log, meter, events, lead: election, newId },
  );
  return writers;
}
