// Threat records: which requests have one, how many a thread tells however many come, and what is kept of them.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { createFakeClock } from "../../test/kit/fake-clock.ts";
import { requestRecord } from "../../test/kit/telemetry.ts";
import { createMetrics } from "../base/metrics.ts";
import type { LineSink } from "./line-sink.ts";
import { metricNames } from "./metric-names.ts";
import { requestLine } from "./request-line.ts";
import { type ThreatKind, ThreatNotes, ThreatReport, threatOf, threatsKept, threatsPerSecond } from "./threats.ts";

test("[ENR-3] denied and limited requests are threats; a full node, a missing route or a failed server is none", () => {
  assert.equal(threatOf("UAEX", "policy_denied"), "denied");
  assert.equal(threatOf("RL", "mesh_limit"), "limited");
  assert.equal(threatOf("UAEX", "mesh_limit"), "limited", "blocked by the limit of its pair");
  assert.equal(threatOf("UO", "rate_limit"), "limited", "too many at once");
  for (const [flags, reason] of [
    ["UO", "max_requests"],
    ["NR", "no_route"],
    ["UH", "held_back"],
    ["-", "redirect"],
  ] as const)
    assert.equal(threatOf(flags, reason), undefined, reason);
});

test("[ENR-3] every threat is counted; records are bounded, and what is left out is told", () => {
  const kinds = fc.constantFrom<ThreatKind>("denied", "limited", "malformed");
  const steps = fc.array(fc.record({ kind: kinds, waitMs: fc.integer({ min: 0, max: 40 }) }), { maxLength: 400 });
  fc.assert(
    fc.property(steps, fc.integer({ min: 1, max: 100 }), (all, every) => {
      const clock = createFakeClock();
      const notes = new ThreatNotes(clock);
      let [lines, dropped, counted, elapsedMs] = [0, 0, 0, 0];
      const read = (): void => {
        const taken = notes.take();
        lines += taken?.lines.length ?? 0;
        dropped += taken?.dropped ?? 0;
        for (const [, count] of taken?.counts ?? []) counted += count;
      };
      all.forEach(({ kind, waitMs }, i) => {
        clock.advance(waitMs);
        elapsedMs += waitMs;
        if (notes.begin(kind)) notes.add(`{"n":${i}}`);
        if (i % every === 0) read();
      });
      read();
      assert.equal(counted, all.length);
      assert.equal(lines + dropped, all.length);
      assert.ok(lines <= threatsPerSecond + Math.ceil((elapsedMs * threatsPerSecond) / 1000));
      assert.equal(notes.take(), undefined);
    }),
  );
});

test("[ENR-3] the last records are kept, newest first, and all of them written; a record has the request's keys and features.mesh", async () => {
  const metrics = createMetrics();
  const written: string[] = [];
  const sink: LineSink = { write: (lines) => void written.push(lines), close: async () => {} };
  const report = new ThreatReport(metrics, sink, metrics.counter(metricNames.threatsDropped));
  const features = { mesh: { namespace: "edge" }, score: 0.6, anomalies: ["cross_namespace" as const] };
  const lines = Array.from({ length: threatsKept + 5 }, (_, n) =>
    requestLine(requestRecord({ connection: n, features, denied: true, policy: "shop/deny" }), masks, "denied"),
  );
  report.take({ lines: lines.slice(0, 700), counts: [["denied", 700]], dropped: 0 });
  report.take({ lines: lines.slice(700), counts: [["denied", 400]], dropped: 95 });
  const kept = report.last(threatsKept * 2) as Record<string, unknown>[];
  assert.equal(kept.length, threatsKept);
  assert.deepEqual([kept[0]?.id, kept.at(-1)?.id], [threatsKept + 4, 5]);
  assert.deepEqual(
    [kept[0]?.type, kept[0]?.threat, kept[0]?.features, kept[0]?.policy, kept[0]?.pod],
    ["threat", "denied", features, "shop/deny", "shop/client"],
  );
  assert.equal(written.join("").split("\n").length, lines.length + 1);
  const text = await metrics.text();
  assert.match(text, /^fairlead_threats_total\{kind="denied"\} 1100$/m);
  assert.match(text, /^fairlead_threat_records_dropped_total 95$/m);
  const plain = JSON.parse(requestLine(requestRecord(), masks));
  assert.deepEqual([plain.type, "threat" in plain, "pod" in plain], ["request", false, false]);
});

const masks = { addresses: false, queries: false };
