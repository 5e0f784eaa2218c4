// Metrics of what is written to the cluster; only a controller on a cluster has them.
import type { Metrics } from "../../agent/base/metrics.ts";

export interface WriteMetrics {
  wrote(kind: string, outcome: string): void;
  reconciled(kind: string, seconds: number): void;
  waited(seconds: number): void;
  gaveUp(kind: string): void;
  told(outcome: string): void;
}

export function writeMetrics(metrics: Metrics, depth: () => number): WriteMetrics {
  const writes = metrics.counter({
    name: "fairlead_writes_total",
    help: "Objects looked at to be written, by kind of reconcile and outcome (written, unchanged, conflict, missing, throttled, forbidden, refused, failed, stood_down)",
    labels: ["kind", "outcome"],
  });
  const seconds = metrics.histogram(
    {
      name: "fairlead_reconcile_seconds",
      help: "Duration of one reconcile of one key, requests to the API server included",
      labels: ["kind"],
    },
    [0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 30],
  );
  const waits = metrics.histogram(
    {
      name: "fairlead_reconcile_wait_seconds",
      help: "Time that a key was due before it had its turn",
      labels: [],
    },
    [0.005, 0.05, 0.25, 1, 5, 30, 120],
  );
  const givenUp = metrics.counter({
    name: "fairlead_reconciles_given_up_total",
    help: "Keys left alone after too many failures on end, until they change",
    labels: ["kind"],
  });
  const events = metrics.counter({
    name: "fairlead_events_total",
    help: "Events about objects, by outcome (created, counted in a series, dropped by the rate limit, failed)",
    labels: ["outcome"],
  });
  metrics.gaugeOf(
    {
      name: "fairlead_write_queue_depth",
      help: "Keys that wait for their time or turn to be written, or are at work",
      labels: [],
    },
    (gauge) => gauge.set({}, depth()),
  );
  return {
    wrote: (kind, outcome) => writes.add({ kind, outcome }),
    reconciled: (kind, took) => seconds.observe({ kind }, took),
    waited: (took) => waits.observe({}, took),
    gaveUp: (kind) => givenUp.add({ kind }),
    told: (outcome) => events.add({ outcome }),
  };
}
