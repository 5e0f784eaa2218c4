// Metrics of the mirror of a Kubernetes API server, by kind; only a controller with that source has them.
import type { Clock } from "../../agent/base/clock.ts";
import type { Metrics } from "../../agent/base/metrics.ts";

/** What one kind's mirror tells. */
interface KindMeter {
  listed(reason: string): void;
  watchEnded(reason: string): void;
  event(): void;
  failed(label: string): void;
  synced(isSynced: boolean): void;
  contact(): void;
}
export interface KubernetesMetrics {
  of(kind: string): KindMeter;
  objects(kind: string, accepted: number, refused: number): void;
  applied(seconds: number): void;
  forget(kind: string): void;
}

export function kubernetesMetrics(metrics: Metrics, clock: Clock): KubernetesMetrics {
  const kinds = ["kind"] as const;
  const objects = metrics.gauge({
    name: "fairlead_kubernetes_objects",
    help: "Objects of the API server as they are mirrored, by kind and state (accepted, refused)",
    labels: ["kind", "state"],
  });
  const synced = metrics.gauge({
    name: "fairlead_kubernetes_synced",
    help: "1 for each kind that has been listed whole",
    labels: kinds,
  });
  const lists = metrics.counter({
    name: "fairlead_kubernetes_lists_total",
    help: "Whole lists that took effect, by reason (start, expired, garbage, failures, resync, asked)",
    labels: ["kind", "reason"],
  });
  const ends = metrics.counter({
    name: "fairlead_kubernetes_watch_ends_total",
    help: "Watches that ended, by reason (closed, idle, broken, expired, throttled, refused, garbage, stopped)",
    labels: ["kind", "reason"],
  });
  const events = metrics.counter({
    name: "fairlead_kubernetes_events_total",
    help: "Events of watches, bookmarks not counted",
    labels: kinds,
  });
  const failures = metrics.counter({
    name: "fairlead_kubernetes_request_failures_total",
    help: "Requests for lists and watches that failed, by what went wrong",
    labels: ["kind", "reason"],
  });
  const applySeconds = metrics.histogram(
    {
      name: "fairlead_kubernetes_apply_seconds",
      help: "Time from the first event of a batch to the snapshot that has it",
      labels: [],
    },
    [0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5],
  );
  const contacts = new Map<string, number>();
  metrics.gaugeOf(
    {
      name: "fairlead_kubernetes_contact_age_seconds",
      help: "Time since a kind's last sign of life from the API server: an answer, an event or a bookmark",
      labels: kinds,
    },
    (gauge) => {
      gauge.clear();
      for (const [kind, atMs] of contacts) gauge.set({ kind }, (clock.monotonicMs() - atMs) / 1000);
    },
  );
  return {
    of: (kind) => ({
      listed: (reason) => lists.add({ kind, reason }),
      watchEnded: (reason) => ends.add({ kind, reason }),
      event: () => events.add({ kind }),
      failed: (reason) => failures.add({ kind, reason }),
      synced: (isSynced) => synced.set({ kind }, isSynced ? 1 : 0),
      contact: () => void contacts.set(kind, clock.monotonicMs()),
    }),
    objects(kind, accepted, refused) {
      objects.set({ kind, state: "accepted" }, accepted);
      objects.set({ kind, state: "refused" }, refused);
    },
    applied: (seconds) => applySeconds.observe({}, seconds),
    forget(kind) {
      for (const state of ["accepted", "refused"]) objects.remove({ kind, state });
      synced.remove({ kind });
      contacts.delete(kind);
    },
  };
}
