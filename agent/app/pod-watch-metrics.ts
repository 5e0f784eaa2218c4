// What the watch of this node's pods counts, under the names that the controller's mirrors have.
import type { Clock } from "../base/clock.ts";
import type { Metrics } from "../base/metrics.ts";
import type { ReflectorMeter } from "../kubernetes/meter.ts";
import { metricNames } from "../report/metric-names.ts";

export function podWatchMeter(metrics: Metrics, clock: Clock): (kind: string) => ReflectorMeter {
  const lists = metrics.counter(metricNames.apiLists);
  const ends = metrics.counter(metricNames.apiWatchEnds);
  const failures = metrics.counter(metricNames.apiFailures);
  const contacts = new Map<string, number>();
  metrics.gaugeOf(metricNames.apiContactAge, (gauge) => {
    for (const [kind, atMs] of contacts) gauge.set({ kind }, (clock.monotonicMs() - atMs) / 1000);
  });
  return (kind) => ({
    listed: (reason) => lists.add({ kind, reason }),
    watchEnded: (reason) => ends.add({ kind, reason }),
    failed: (reason) => failures.add({ kind, reason }),
    event: () => {},
    synced: () => {},
    contact: () => void contacts.set(kind, clock.monotonicMs()),
  });
}
