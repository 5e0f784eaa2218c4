import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { createMetrics } from "../base/metrics.ts";
import { RequestParties, RequestSeriesTable } from "./request-series.ts";
import { RequestTotals } from "./request-totals.ts";
import type { SeriesKey } from "./tcp-series.ts";

const key = (service: string, reporter: "source" | "destination" = "source"): SeriesKey => ({
  reporter,
  source: { workload: undefined, principal: "spiffe://cluster.local/ns/shop/sa/client" },
  destination: { workload: undefined, principal: "" },
  service: { namespace: "shop", name: service, hostname: `${service}.shop.svc.cluster.local` },
  fallbackService: "unknown",
  responseFlags: "-",
  secured: true,
});

/** "name{labels}" of the exposition -> value, for one service. */
async function shown(metrics: ReturnType<typeof createMetrics>, name: string): Promise<Map<string, number>> {
  const found = new Map<string, number>();
  for (const line of (await metrics.text()).split("\n")) {
    if (!line.startsWith(`${name}{`)) continue;
    const of = (label: string): string => new RegExp(`[{,]${label}="([^"]*)"`).exec(line)?.[1] ?? "";
    found.set(
      `${of("destination_service_name")} ${of("response_code")} ${of("le")}`.trim(),
      Number(line.split(" ").at(-1)),
    );
  }
  return found;
}

test("[OBS-1] [DP-25] requests of several data threads add up, whenever they tell and though one dies", async () => {
  const ended = fc.record({
    thread: fc.nat(1),
    service: fc.constantFrom("web", "api"),
    status: fc.constantFrom(200, 404, 503),
    ms: fc.double({ min: 0, max: 100_000, noNaN: true }),
    bytes: fc.nat(2_000_000),
  });
  const act = fc.oneof(
    { weight: 8, arbitrary: ended.map((request) => ({ request })) },
    { weight: 2, arbitrary: fc.nat(1).map((flush) => ({ flush })) },
    { weight: 1, arbitrary: fc.nat(1).map((dies) => ({ dies })) },
  );
  await fc.assert(
    fc.asyncProperty(fc.array(act, { maxLength: 60 }), async (acts) => {
      const metrics = createMetrics();
      const totals = new RequestTotals(metrics);
      const start = () => ({
        table: new RequestSeriesTable(100),
        parties: new Map(["web", "api"].map((service) => [service, new RequestParties(key(service))])),
        untold: [] as string[],
      });
      const threads = [start(), start()];
      const told: string[] = [];
      const flush = (n: number): void => {
        const thread = threads[n] as ReturnType<typeof start>;
        const deltas = thread.table.flush();
        if (deltas !== undefined) totals.take(n, structuredClone(deltas));
        told.push(...thread.untold.splice(0));
      };
      for (const step of acts) {
        if ("request" in step) {
          const { thread: n, service, status, ms, bytes } = step.request;
          const thread = threads[n] as ReturnType<typeof start>;
          thread.table.ended(thread.parties.get(service) as RequestParties, status, "", "-", ms, bytes, 1);
          thread.untold.push(`${service} ${status}`);
        } else if ("flush" in step) flush(step.flush);
        else {
          totals.gone(step.dies);
          threads[step.dies] = start();
        }
      }
      flush(0);
      flush(1);
      const wanted = new Map<string, number>();
      for (const name of told) wanted.set(name, (wanted.get(name) ?? 0) + 1);
      assert.deepEqual(await shown(metrics, "istio_requests_total"), wanted);
      const counts = await shown(metrics, "istio_request_duration_milliseconds_count");
      assert.deepEqual(counts, wanted);
    }),
    { numRuns: 60 },
  );
});

test("[OBS-1] buckets are cumulative and end with all; bytes and durations are summed", async () => {
  const metrics = createMetrics();
  const totals = new RequestTotals(metrics);
  const table = new RequestSeriesTable(10);
  const parties = new RequestParties(key("web"));
  for (const ms of [0.2, 3, 3, 70_000]) table.ended(parties, 200, undefined, "-", ms, 5, 1_500);
  const deltas = table.flush();
  assert.ok(deltas);
  totals.take(0, deltas);
  assert.equal(table.flush(), undefined);
  const buckets = await shown(metrics, "istio_request_duration_milliseconds_bucket");
  assert.equal(buckets.get("web 200 0.5"), 1);
  assert.equal(buckets.get("web 200 5"), 3);
  assert.equal(buckets.get("web 200 60000"), 3);
  assert.equal(buckets.get("web 200 +Inf"), 4);
  assert.equal((await shown(metrics, "istio_request_duration_milliseconds_sum")).get("web 200"), 70_006.2);
  assert.equal((await shown(metrics, "istio_response_bytes_sum")).get("web 200"), 6_000);
});

test("[OBS-1] label sets are bounded: beyond the limit requests count under other, and how many did is told", async () => {
  const metrics = createMetrics();
  const totals = new RequestTotals(metrics);
  const table = new RequestSeriesTable(3);
  for (let i = 0; i < 10; i++) table.ended(new RequestParties(key(`s${i}`)), 200, undefined, "-", 1, 0, 0);
  const deltas = table.flush();
  assert.ok(deltas);
  totals.take(0, deltas);
  const shownTotals = await shown(metrics, "istio_requests_total");
  assert.equal(shownTotals.get("other other"), 7);
  assert.equal(shownTotals.size, 4);
  assert.match(await metrics.text(), /fairlead_request_series_overflow_total 7\n/);
});
