// Every metric of the agent in one table: name, help, labels. The istio_* names and labels are those that existing dashboards use.
import type { MetricSpec } from "../base/metrics.ts";

export const tcpLabels = [
  "reporter",
  "source_workload",
  "source_workload_namespace",
  "source_principal",
  "source_app",
  "source_version",
  "source_canonical_service",
  "source_cluster",
  "destination_workload",
  "destination_workload_namespace",
  "destination_principal",
  "destination_app",
  "destination_version",
  "destination_canonical_service",
  "destination_service",
  "destination_service_name",
  "destination_service_namespace",
  "destination_cluster",
  "request_protocol",
  "response_flags",
  "connection_security_policy",
] as const;
export type TcpLabel = (typeof tcpLabels)[number];
/** Labels of requests: those of connections, and how it was answered. */
export const requestLabels = [...tcpLabels, "response_code", "grpc_response_status"] as const;
export type RequestLabel = (typeof requestLabels)[number];

const spec = <L extends string>(name: string, help: string, labels: readonly L[] = []): MetricSpec<L> => ({
  name,
  help,
  labels,
});

export const metricNames = {
  opened: spec("istio_tcp_connections_opened_total", "Connections opened", tcpLabels),
  closed: spec("istio_tcp_connections_closed_total", "Connections closed", tcpLabels),
  sent: spec("istio_tcp_sent_bytes_total", "Bytes sent to the client (Istio: response bytes)", tcpLabels),
  received: spec("istio_tcp_received_bytes_total", "Bytes received from the client (Istio: request bytes)", tcpLabels),
  requests: spec("istio_requests_total", "Requests ended, by how they were answered", requestLabels),
  requestMs: spec("istio_request_duration_milliseconds", "From a request's head to its answer's end", requestLabels),
  requestBytes: spec("istio_request_bytes", "Bytes of request bodies", requestLabels),
  responseBytes: spec("istio_response_bytes", "Bytes of response bodies", requestLabels),
  requestsDropped: spec("fairlead_request_series_overflow_total", "Requests counted under other: too many label sets"),
  workloadApi: spec("fairlead_workload_api_answers_total", "Answers of the SPIFFE Workload API (ok, denied, failed)", [
    "method",
    "outcome",
  ]),
  malformed: spec("fairlead_malformed_requests_total", "Bytes of clients that were no request, by why", ["refused"]),
  threats: spec("fairlead_threats_total", "Requests denied, over a limit or malformed, each with a threat record", [
    "kind",
  ]),
  threatsDropped: spec(
    "fairlead_threat_records_dropped_total",
    "Threats that have no record: too many at once, or no writer",
  ),
  breakerChanges: spec("fairlead_breaker_changes_total", "Changes of endpoints' circuit breakers, by new state", [
    "to",
  ]),
  routes: spec(
    "orchestrator_route_total",
    "Requests that this agent decided about: a request between two nodes is decided by both",
  ),
  routesDenied: spec("orchestrator_route_denied_total", "Of these, denied by a policy"),
  routeErrors: spec(
    "orchestrator_route_error_total",
    "Of these, without a way to a server: no route, no endpoint, no connection, no room",
  ),
  picks: spec(
    "orchestrator_lb_pick_total",
    "Tries by the pool they went to (namespace/service:port), its algorithm, and whether nothing spoke against the endpoint",
    ["pool", "algo", "healthy"],
  ),
  healthOk: spec("orchestrator_health_ok_total", "Health probes that an endpoint passed"),
  healthBad: spec("orchestrator_health_bad_total", "Health probes that an endpoint failed"),
  probeSeconds: spec("orchestrator_health_probe_seconds", "How long health probes took"),
  breakersOpened: spec("orchestrator_cb_open_total", "Circuit breakers that opened"),
  certExpiry: spec("ratls_cert_expiry_seconds", "Time until the first SVID of this node ends; absent without any"),
  mirrored: spec("fairlead_mirrored_requests_total", "Copies of requests to mirrors, by how they ended", ["outcome"]),
  healthChanges: spec("fairlead_endpoint_health_changes_total", "Endpoints found unhealthy or healthy by probes", [
    "to",
  ]),
  panics: spec("fairlead_endpoint_panics_total", "Times that too few endpoints were healthy, so that all were used"),
  ejections: spec("fairlead_endpoint_ejections_total", "Endpoints ejected by outlier detection, by why", ["reason"]),
  rateLimited: spec("fairlead_rate_limited_requests_total", "Requests over a limit; enforced is false in dry run", [
    "policy",
    "limit",
    "enforced",
  ]),
  limitsCrowded: spec(
    "fairlead_rate_limit_keys_crowded_total",
    "Lookups of clients that found no bucket of their own and shared one",
  ),
  meshRequests: spec("fairlead_mesh_requests_total", "Enriched requests by namespace of the caller", ["namespace"]),
  meshServices: spec("fairlead_mesh_service_requests_total", "Enriched requests by service", ["service"]),
  meshAnomalies: spec("fairlead_mesh_anomalies_total", "Anomalies of enriched requests", ["anomaly"]),
  meshLimited: spec("fairlead_mesh_limited_total", "Requests over a limit of their pair or namespace", ["by"]),
  meshCrowded: spec("fairlead_mesh_pairs_crowded_total", "Requests of pairs that found no room to be counted"),
  connections: spec("fairlead_connections_total", "Ended connections by lane and reason", [
    "direction",
    "lane",
    "reason",
  ]),
  readySeconds: spec("fairlead_connection_ready_seconds", "Accepted to upstream ready", ["lane"]),
  refused: spec("fairlead_handshakes_refused_total", "Connections refused before a plan, by reason", [
    "direction",
    "reason",
  ]),
  notes: spec("fairlead_policy_notes_total", "AUDIT matches, dry-run differences and policies that need L7", [
    "kind",
    "policy",
  ]),
  passthrough: spec("fairlead_passthrough_total", "Connections past the mesh, by why", ["why"]),
  unknownFacts: spec("fairlead_records_without_facts_total", "Records whose plan or verdict is no longer known"),
  seriesDropped: spec("fairlead_metric_series_overflow_total", "Connections counted under other: too many label sets"),
  questions: spec("fairlead_questions_total", "Questions of native, by kind and outcome", ["ask", "outcome"]),
  accessLogDropped: spec("fairlead_access_log_dropped_total", "Access log lines dropped because the writer was behind"),
  spansSent: spec("fairlead_spans_sent_total", "Spans that the collector took"),
  spansDropped: spec("fairlead_spans_dropped_total", "Spans dropped because the collector was away or behind"),
  tapDropped: spec("fairlead_tap_dropped_total", "Requests that a tap would have shown, beyond its rate"),
  nativeCounters: spec("fairlead_native_total", "Counters of the native library and the BPF programs", ["counter"]),
  svidExpiry: spec("fairlead_svid_expiry_timestamp_seconds", "End of life of each SVID of this node", ["identity"]),
  svidFailures: spec("fairlead_svid_fetch_failures_total", "SVID fetches and renewals that failed"),
  svidRotations: spec("fairlead_svid_rotations_total", "SVIDs renewed"),
  nodeCredentialExpiry: spec("fairlead_node_credential_expiry_timestamp_seconds", "End of life of the node credential"),
  controllerConnected: spec("fairlead_controller_connected", "1 while the discovery stream is up"),
  controllerConnects: spec("fairlead_controller_connect_attempts_total", "Attempts to reach the controller"),
  discoveryAge: spec("fairlead_discovery_age_seconds", "Time since the controller was last heard, 0 while connected"),
  discoveryEntries: spec("fairlead_discovery_entries", "Resources known", ["kind"]),
  discoveryStale: spec("fairlead_discovery_stale_entries", "Resources served past their TTL while disconnected"),
  resourcesRefused: spec("fairlead_discovery_resources_refused", "Resources refused, the last good one stays", [
    "type",
  ]),
  cacheFailures: spec("fairlead_cache_write_failures_total", "Discovery cache writes that failed"),
  interception: spec("fairlead_interception", "1 for the way in which this node intercepts: ebpf or nftables", ["way"]),
  podsEnrolled: spec("fairlead_pods", "Pods of this node by state", ["state"]),
  apiLists: spec("fairlead_kubernetes_lists_total", "Whole lists that took effect, by reason", ["kind", "reason"]),
  apiWatchEnds: spec("fairlead_kubernetes_watch_ends_total", "Watches that ended, by reason", ["kind", "reason"]),
  apiFailures: spec("fairlead_kubernetes_request_failures_total", "Lists and watches that failed, by what went wrong", [
    "kind",
    "reason",
  ]),
  apiContactAge: spec(
    "fairlead_kubernetes_contact_age_seconds",
    "Time since the API server's last sign of life, by kind",
    ["kind"],
  ),
  kernelRows: spec("fairlead_kernel_rows", "Rows wanted in BPF maps", ["map"]),
  kernelFailures: spec(
    "fairlead_kernel_update_failures_total",
    "BPF map updates that failed and were made up for later",
  ),
  generation: spec("fairlead_policy_generation", "Generation of decisions"),
  reevaluated: spec("fairlead_connections_reset_by_policy_total", "Open connections ended by a change of policy"),
  foreignHooks: spec(
    "fairlead_foreign_connect_hooks",
    "Connect hooks of others found beside ours (they may rewrite after us)",
  ),
  workersDied: spec("fairlead_native_workers_died_total", "Native threads that died of a bug, by thread", ["worker"]),
  requestsThrew: spec(
    "fairlead_request_bugs_total",
    "Requests ended by a bug of the agent, each with a line in its log",
  ),
  namespaceLimited: spec(
    "fairlead_namespace_limited_total",
    "Connections, requests and buffers refused because a namespace met its limit on a data thread",
    ["namespace", "limit"],
  ),
  cniRequests: spec("fairlead_cni_requests_total", "Questions of the CNI plugin, by how they were answered", [
    "command",
    "outcome",
  ]),
  cniSeconds: spec("fairlead_cni_request_seconds", "From a question of the CNI plugin to its answer", ["command"]),
  cniWrites: spec(
    "fairlead_cni_writes_total",
    "Times that the CNI plugin or its configuration was put on the node, or could not be",
    ["what", "outcome"],
  ),
  cniInstalled: spec("fairlead_cni_installed", "1 while the CNI plugin is on the node and in its configuration"),
  dataThreadsDied: spec("fairlead_data_threads_died_total", "Data threads that died or hung, each replaced"),
} as const;
