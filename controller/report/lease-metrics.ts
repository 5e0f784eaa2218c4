// Metrics of the election among replicas; only a controller on a cluster has them.
import type { Metrics } from "../../agent/base/metrics.ts";

export interface LeaseMetrics {
  leading(isLeading: boolean): void;
  changed(what: string): void;
  failed(reason: string): void;
}

export function leaseMetrics(metrics: Metrics): LeaseMetrics {
  const leading = metrics.gauge({
    name: "fairlead_lease_leading",
    help: "1 while this replica holds the lease and may write to the cluster",
    labels: [],
  });
  const changes = metrics.counter({
    name: "fairlead_lease_changes_total",
    help: "Times that this replica got or left the lease (acquired, lost, released)",
    labels: ["what"],
  });
  const failures = metrics.counter({
    name: "fairlead_lease_failures_total",
    help: "Requests for the lease that failed, by what went wrong; a conflict with another replica is none",
    labels: ["reason"],
  });
  return {
    leading: (isLeading) => leading.set({}, isLeading ? 1 : 0),
    changed: (what) => changes.add({ what }),
    failed: (reason) => failures.add({ reason }),
  };
}
