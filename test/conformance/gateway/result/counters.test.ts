import assert from "node:assert/strict";
import { test } from "node:test";
import { difference, readCounts } from "./counters.ts";

const line = (reporter: string, namespace: string, value: string): string =>
  `istio_requests_total{reporter="${reporter}",source_workload="echo-v1",source_workload_namespace="${namespace}",response_code="200"} ${value}`;

const none = { source: 0, destination: 0, connections: 0 };

test("[TRF-1] requests of some namespaces are summed over all agents, by the side that counted them", () => {
  const one = [
    "# TYPE istio_requests_total counter",
    line("source", "mesh", "3"),
    line("destination", "mesh", "2"),
    line("source", "mesh-consumer", "4"),
    line("source", "other", "100"),
    `istio_tcp_sent_bytes_total{reporter="source",source_workload_namespace="mesh"} 7`,
    `istio_tcp_connections_opened_total{reporter="source",source_workload_namespace="mesh"} 8`,
    `istio_tcp_connections_opened_total{reporter="destination",source_workload_namespace="mesh"} 9`,
  ].join("\n");
  const two = [line("source", "mesh", "1e3"), line("destination", "mesh", "5 1700000000000"), "garbage {"].join("\n");
  assert.deepEqual(readCounts([one, two], ["mesh", "mesh-consumer"]), { source: 1007, destination: 7, connections: 8 });
  assert.deepEqual(readCounts([], ["mesh"]), none);
  assert.deepEqual(difference({ source: 5, destination: 4, connections: 3 }, none), {
    source: 5,
    destination: 4,
    connections: 3,
  });
});
