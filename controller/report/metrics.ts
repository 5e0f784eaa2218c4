// Every metric of the controller: name, unit, labels, help. One table, so that the documentation can be compared with it.
import type { CounterMetric, GaugeMetric, HistogramMetric, Metrics } from "../../agent/base/metrics.ts";

export interface ControllerMetrics {
  readonly objects: GaugeMetric<"kind" | "state">;
  readonly problems: GaugeMetric<never>;
  readonly resources: GaugeMetric<"type">;
  readonly agents: GaugeMetric<never>;
  readonly translateSeconds: HistogramMetric<never>;
  readonly sentResources: CounterMetric<"type">;
  readonly sentBytes: CounterMetric<"type">;
  readonly acks: CounterMetric<"type">;
  readonly nacks: CounterMetric<"type">;
  readonly streams: CounterMetric<"outcome">;
  readonly joins: CounterMetric<"outcome">;
  readonly certificates: CounterMetric<"kind" | "outcome">;
  readonly issueSeconds: HistogramMetric<never>;
  readonly ztunnels: GaugeMetric<never>;
  readonly tokenReviews: CounterMetric<"outcome">;
  readonly callersRefused: CounterMetric<"reason">;
  readonly rotationFailures: CounterMetric<"what">;
}

export function controllerMetrics(metrics: Metrics): ControllerMetrics {
  const type = ["type"] as const;
  return {
    objects: metrics.gauge({
      name: "fairlead_controller_objects",
      help: "Objects read, by kind and state (accepted, refused)",
      labels: ["kind", "state"],
    }),
    problems: metrics.gauge({
      name: "fairlead_controller_problems",
      help: "Problems in manifests at present",
      labels: [],
    }),
    resources: metrics.gauge({
      name: "fairlead_controller_resources",
      help: "Resources offered to agents",
      labels: type,
    }),
    agents: metrics.gauge({
      name: "fairlead_controller_agents_connected",
      help: "Nodes with an open discovery stream",
      labels: [],
    }),
    translateSeconds: metrics.histogram(
      {
        name: "fairlead_controller_translate_seconds",
        help: "Time from a settled change to the new snapshot",
        labels: [],
      },
      [0.001, 0.005, 0.02, 0.1, 0.5, 2],
    ),
    sentResources: metrics.counter({
      name: "fairlead_discovery_resources_sent_total",
      help: "Resources sent or removed",
      labels: type,
    }),
    sentBytes: metrics.counter({
      name: "fairlead_discovery_sent_bytes_total",
      help: "Bytes of responses sent",
      labels: type,
    }),
    acks: metrics.counter({
      name: "fairlead_discovery_acks_total",
      help: "Responses accepted by agents",
      labels: type,
    }),
    nacks: metrics.counter({
      name: "fairlead_discovery_nacks_total",
      help: "Responses refused by agents",
      labels: type,
    }),
    streams: metrics.counter({
      name: "fairlead_discovery_streams_total",
      help: "Streams by outcome: accepted, refused, behind (ended because the agent did not answer while too much changed)",
      labels: ["outcome"],
    }),
    joins: metrics.counter({ name: "fairlead_joins_total", help: "Join attempts by outcome", labels: ["outcome"] }),
    certificates: metrics.counter({
      name: "fairlead_certificates_total",
      help: "Certificate requests by kind (workload, node, jwt) and outcome",
      labels: ["kind", "outcome"],
    }),
    issueSeconds: metrics.histogram(
      { name: "fairlead_certificate_issue_seconds", help: "Time to answer a certificate request", labels: [] },
      [0.001, 0.005, 0.02, 0.1, 0.5, 2],
    ),
    ztunnels: metrics.gauge({
      name: "fairlead_controller_ztunnels_connected",
      help: "Open discovery streams of ztunnels",
      labels: [],
    }),
    tokenReviews: metrics.counter({
      name: "fairlead_token_reviews_total",
      help: "Service account tokens looked at (authenticated, refused, failed: the API server could not say; cached)",
      labels: ["outcome"],
    }),
    callersRefused: metrics.counter({
      name: "fairlead_callers_refused_total",
      help: "Calls refused for their token, by reason",
      labels: ["reason"],
    }),
    rotationFailures: metrics.counter({
      name: "fairlead_rotation_failures_total",
      help: "Renewals of the controller's own certificates that failed",
      labels: ["what"],
    }),
  };
}
