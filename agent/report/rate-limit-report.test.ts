// What is told of requests over a limit: every one counted, the noisiest clients named, bounded whatever comes.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import type { PolicyName } from "../api/names.ts";
import { silentLogger } from "../base/log.ts";
import { createMetrics } from "../base/metrics.ts";
import { type LimitNote, LimitNotes, RateLimitReport } from "./rate-limit-report.ts";

const note = (key: string, more: Partial<LimitNote> = {}): LimitNote => ({
  policy: "shop/web" as PolicyName,
  limit: "address",
  key,
  dryRun: false,
  overflow: false,
  ...more,
});

test("[LIM-1] the audit names policy, limit, client and pod with how often; ten clients, the rest as a sum", () => {
  const notes = new LimitNotes();
  assert.equal(notes.flush(), undefined);
  for (let client = 0; client < 12; client++)
    for (let i = 0; i <= client; i++) notes.add(note(`10.0.0.${client}`), "shop/a");
  const rows = notes.flush();
  assert.equal(rows?.named.length, 10);
  assert.deepEqual(rows?.named[0], { ...note("10.0.0.11"), destination: "shop/a", requests: 12 });
  assert.deepEqual(rows?.others, [
    { policy: "shop/web", limit: "address", dryRun: false, overflow: false, clients: 2, requests: 3 },
  ]);
  assert.equal(notes.flush(), undefined);
});

test("[LIM-1] however many clients: every request is counted once, and what is told stays small", async () => {
  const arbitrary = fc.array(
    fc.record({ key: fc.nat(5_000), dryRun: fc.boolean(), times: fc.integer({ min: 1, max: 3 }) }),
    {
      maxLength: 3_000,
    },
  );
  for (const added of fc.sample(arbitrary, 20)) {
    const notes = new LimitNotes();
    const metrics = createMetrics();
    const lines: string[] = [];
    const log = { ...silentLogger, warn: (event: string) => void lines.push(event) };
    const report = new RateLimitReport(metrics, log);
    let total = 0;
    for (const { key, dryRun, times } of added)
      for (let i = 0; i < times; i++, total++) notes.add(note(String(key), { dryRun }), "shop/a");
    const rows = notes.flush();
    if (rows !== undefined) report.take(rows);
    assert.ok(lines.length <= 12, `${lines.length} lines`);
    const text = await metrics.text();
    const counted = [...text.matchAll(/^fairlead_rate_limited_requests_total\{.*\} (\d+)$/gm)];
    assert.equal(
      counted.reduce((sum, [, n]) => sum + Number(n), 0),
      total,
    );
  }
});
