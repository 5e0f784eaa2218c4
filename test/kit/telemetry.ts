// Telemetry of requests for tests: nothing is wanted, or all of it, kept in lists.
import type { ThreadTelemetry } from "../../agent/app/data-threads.ts";
import { systemClock } from "../../agent/base/clock.ts";
import { seededRandom } from "../../agent/base/random.ts";
import type { TraceSettings } from "../../agent/decide/trace/request-trace.ts";
import type { LogSettings, ObservedBatch, ObserveSettings, RequestRecord } from "../../agent/report/observed.ts";
import { startWatching, type WatchParts } from "../../agent/request-watch.ts";

export const logOff: LogSettings = { on: false, sample: 1, codes: [], flags: [], slowerMs: 0, namespaces: [] };
export const observeNothing: ObserveSettings = { log: logOff, masks: { addresses: false, queries: false } };
export const observeAll: ObserveSettings = { ...observeNothing, log: { ...logOff, on: true } };
export const traceNothing: TraceSettings = { make: [], ratio: 0, exports: false };

export const noTelemetry: ThreadTelemetry = {
  settings: { observe: observeNothing, trace: traceNothing },
  attach: () => () => {},
  observed: () => {},
  notes: () => {},
};

/** A thread's watch whose batches land in `told`; `observer.close()` tells what waits. */
export function watchParts(
  observe: ObserveSettings = observeNothing,
  trace: TraceSettings = traceNothing,
): { readonly watch: WatchParts; readonly told: ObservedBatch[] } {
  const told: ObservedBatch[] = [];
  const tell = (batch: ObservedBatch): void => void told.push(batch);
  const watch = startWatching({ observe, trace }, { random: seededRandom(3), clock: systemClock, tell });
  return { watch, told };
}

/** The lines of batches as objects. */
export const linesOf = (told: readonly ObservedBatch[]): Record<string, unknown>[] =>
  told.flatMap(({ lines }) => lines.split("\n").filter(Boolean)).map((line) => JSON.parse(line));

export const requestRecord = (more: Partial<RequestRecord> = {}): RequestRecord => ({
  startedMs: 1_700_000_000_000,
  durationMs: 12.5,
  direction: "outbound",
  protocol: "http",
  method: "GET",
  authority: "web.shop",
  path: "/cart/7?token=abc",
  status: 200,
  grpcStatus: "",
  flags: "-",
  outcome: "finished",
  reason: "",
  requestBytes: 0,
  responseBytes: 1_024,
  retries: 0,
  source: "10.244.1.5:40000",
  destination: "10.96.0.1:80",
  upstream: "10.244.2.1:8080",
  sourceWorkload: "shop/client",
  destinationWorkload: "shop/web",
  service: "shop/web",
  sourceIdentity: "spiffe://cluster.local/ns/shop/sa/client",
  destinationIdentity: "spiffe://cluster.local/ns/shop/sa/web",
  route: "shop/web",
  routeRule: 1,
  policy: "",
  policyRule: -1,
  input: "",
  denied: false,
  notes: [],
  traceId: "4bf92f3577b34da6a3ce929d0e0e4736",
  spanId: "00f067aa0ba902b7",
  parentSpanId: "",
  traceState: "",
  requestId: "r-1",
  correlationId: "c-1",
  connection: 7,
  pod: "shop/client",
  ...more,
});
