// The control thread's end of telemetry: settings, taps of several threads, and where batches go.
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { createFakeClock } from "../../test/kit/fake-clock.ts";
import { silentLogger } from "../base/log.ts";
import { createMetrics } from "../base/metrics.ts";
import { readConfig } from "../config.ts";
import type { ObservedBatch } from "../report/observed.ts";
import { threatsKept } from "../report/threats.ts";
import type { ToThread } from "../threads.ts";
import { readTap } from "./tap-query.ts";
import { mostTaps, openTelemetry } from "./telemetry.ts";

const report = { notes() {}, carried() {} };
const configOf = (env: Record<string, string>) => readConfig({ FAIRLEAD_NODE: "node1", ...env }, "/none");

async function open(t: TestContext, env: Record<string, string> = {}) {
  const config = configOf(env);
  assert.ok(config.ok, JSON.stringify(config));
  const metrics = createMetrics();
  const clock = createFakeClock();
  const parts = { config: config.value, clock, log: silentLogger, metrics, version: "1", report: () => report };
  const opened = await openTelemetry(parts);
  assert.ok(opened.ok, JSON.stringify(opened));
  t.after(() => opened.value.close());
  return { telemetry: opened.value, metrics, clock };
}
const batch = (more: Partial<ObservedBatch> = {}): ObservedBatch => ({
  lines: "",
  lineCount: 0,
  taps: [],
  spans: [],
  droppedLines: 0,
  droppedSpans: 0,
  ...more,
});
const anyTap = { pod: "", method: "", path: "", statuses: [], perSecond: 10 };

test("[OBS-3] settings: every word is checked, and each problem names its variable and what it may be", () => {
  const bad = configOf({
    FAIRLEAD_ACCESS_LOG_CODES: "5xx,9xx",
    FAIRLEAD_ACCESS_LOG_FLAGS: "uf",
    FAIRLEAD_ACCESS_LOG_SAMPLE: "2",
    FAIRLEAD_ACCESS_LOG_SLOWER_MS: "x",
    FAIRLEAD_LOG_MASK: "names",
    FAIRLEAD_TRACE_HEADERS: "w3c,zipkin",
    FAIRLEAD_TRACE_SAMPLE: "1%",
    FAIRLEAD_TRACE_ENDPOINT: "collector:4318",
  });
  assert.ok(!bad.ok);
  const of = (name: string): string => bad.error.filter((line) => line.startsWith(`${name}:`)).join();
  assert.match(of("FAIRLEAD_ACCESS_LOG_CODES"), /"9xx" is no status \(as 5xx/);
  assert.match(of("FAIRLEAD_ACCESS_LOG_FLAGS"), /"uf" is no response flag/);
  assert.match(of("FAIRLEAD_ACCESS_LOG_SAMPLE"), /not a number from 0 to 1/);
  assert.match(of("FAIRLEAD_ACCESS_LOG_SLOWER_MS"), /not a number/);
  assert.match(of("FAIRLEAD_LOG_MASK"), /"names" is none of addresses, queries/);
  assert.match(of("FAIRLEAD_TRACE_HEADERS"), /"zipkin" is none of w3c, b3, b3multi, request-id, correlation-id/);
  assert.match(of("FAIRLEAD_TRACE_SAMPLE"), /not a number from 0 to 1/);
  assert.match(of("FAIRLEAD_TRACE_ENDPOINT"), /is not an http or https URL/);
});

test("[OBS-3] [OBS-4] defaults: no log, headers made, 1 % sampled; a condition shuts out what it does not name", async (t) => {
  const { telemetry } = await open(t);
  const { observe, trace } = telemetry.settings;
  assert.deepEqual([observe.log.on, observe.log.sample], [false, 1]);
  assert.deepEqual(trace, { make: ["w3c", "request-id", "correlation-id"], ratio: 0.01, exports: false });
  const named = (await open(t, { FAIRLEAD_ACCESS_LOG: "stdout", FAIRLEAD_ACCESS_LOG_CODES: "5xx" })).telemetry;
  assert.deepEqual([named.settings.observe.log.on, named.settings.observe.log.sample], [true, 0]);
  const both = await open(t, { FAIRLEAD_ACCESS_LOG_CODES: "5xx", FAIRLEAD_ACCESS_LOG_SAMPLE: "0.1" });
  assert.equal(both.telemetry.settings.observe.log.sample, 0.1);
  const none = await open(t, { FAIRLEAD_TRACE_HEADERS: "none" });
  assert.deepEqual(none.telemetry.settings.trace.make, []);
  const config = configOf({ FAIRLEAD_ACCESS_LOG: "printer" });
  assert.ok(config.ok);
  const parts = { config: config.value, clock: createFakeClock(), log: silentLogger, metrics: createMetrics() };
  const refused = await openTelemetry({ ...parts, version: "1", report: () => report });
  assert.ok(!refused.ok && refused.error.startsWith('FAIRLEAD_ACCESS_LOG: "printer" is none of off, stdout'));
});

test("[OBS-3] lines of threads reach the file; what they dropped is counted", async (t) => {
  const folder = mkdtempSync(join(tmpdir(), "telemetry-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const { telemetry, metrics } = await open(t, { FAIRLEAD_ACCESS_LOG: `file:${join(folder, "log")}` });
  telemetry.observed(batch({ lines: '{"a":1}\n{"a":2}\n', lineCount: 2, droppedLines: 3, droppedSpans: 4 }));
  await telemetry.close();
  assert.equal(readFileSync(join(folder, "log"), "utf8"), '{"a":1}\n{"a":2}\n');
  const text = await metrics.text();
  assert.match(text, /^fairlead_access_log_dropped_total 3$/m);
  assert.match(text, /^fairlead_spans_dropped_total 4$/m);
});

test("[OBS-3] a tap is told to all threads, those that begin later too, and shows what each of them tells; drops are said", async (t) => {
  const { telemetry, clock, metrics } = await open(t);
  const said: ToThread[][] = [[], []];
  const detach = telemetry.attach((message) => said[0]?.push(message));
  assert.deepEqual(said[0], [], "nobody taps");
  const lines = telemetry.tap(anyTap);
  assert.ok(lines !== undefined);
  let text = "";
  let isTaken = true;
  const stop = lines({
    write(more) {
      if (isTaken) text += more;
      return isTaken;
    },
  });
  telemetry.attach((message) => said[1]?.push(message));
  for (const messages of said) assert.deepEqual(messages, [{ say: "taps", taps: [{ ...anyTap, id: 1 }] }]);
  telemetry.observed(batch({ taps: [{ id: 1, lines: '{"n":1}\n', count: 1, dropped: 2 }] }));
  isTaken = false;
  telemetry.observed(batch({ taps: [{ id: 1, lines: '{"n":2}\n{"n":3}\n', count: 2, dropped: 0 }] }));
  isTaken = true;
  clock.advance(1_000);
  assert.deepEqual(text.trimEnd().split("\n"), [
    '{"type":"tap","shown":0,"dropped":0}',
    '{"n":1}',
    '{"type":"tap","shown":1,"dropped":4}',
  ]);
  assert.match(await metrics.text(), /^fairlead_tap_dropped_total 4$/m);
  detach();
  stop();
  assert.deepEqual([said[0]?.length, said[1]?.at(-1)], [1, { say: "taps", taps: [] }]);
  telemetry.observed(batch({ taps: [{ id: 1, lines: "late\n", count: 1, dropped: 0 }] }));
  clock.advance(5_000);
  assert.ok(!text.includes("late"));
});

test("[OBS-3] there are only so many taps", async (t) => {
  const { telemetry } = await open(t);
  const stops = Array.from({ length: mostTaps }, () => telemetry.tap(anyTap)?.({ write: () => true }));
  assert.ok(stops.every((stop) => stop !== undefined));
  assert.equal(telemetry.tap(anyTap), undefined);
  stops[0]?.();
  assert.notEqual(telemetry.tap(anyTap), undefined);
  for (const stop of stops) stop?.();
});

test("[OBS-3] the query of a tap is read strictly", () => {
  const read = (text: string) => readTap(new URLSearchParams(text));
  assert.deepEqual(read("pod=shop/web-1&method=GET&path=/a*&status=5xx,404&rate=7"), {
    ok: true,
    value: {
      pod: "shop/web-1",
      method: "GET",
      path: "/a*",
      statuses: [
        { low: 500, high: 599 },
        { low: 404, high: 404 },
      ],
      perSecond: 7,
    },
  });
  assert.deepEqual(read(""), { ok: true, value: { ...anyTap, perSecond: 100 } });
  for (const [text, name] of [
    ["pod=Shop", "pod"],
    ["pod=a/b/c", "pod"],
    ["rate=0", "rate"],
    ["rate=x", "rate"],
    ["status=7xx", "status"],
    ["colour=red", "colour"],
  ] as const) {
    const bad = read(text);
    assert.ok(!bad.ok && bad.error.startsWith(`${name}: `), text);
  }
});

test("[ENR-3] threat records are written where the setting says and the last ones are shown; a wrong setting is named", async (t) => {
  const dir = mkdtempSync(join(tmpdir(), "fairlead-threats-"));
  t.after(() => rmSync(dir, { recursive: true, force: true }));
  const path = join(dir, "threats.log");
  const { telemetry, metrics } = await open(t, { FAIRLEAD_THREAT_LOG: `file:${path}` });
  telemetry.observed(batch({ threats: { lines: ['{"id":1}', '{"id":2}'], counts: [["denied", 3]], dropped: 1 } }));
  assert.deepEqual(telemetry.threats(threatsKept), [{ id: 2 }, { id: 1 }]);
  assert.deepEqual(telemetry.threats(1), [{ id: 2 }]);
  await telemetry.close();
  assert.equal(readFileSync(path, "utf8"), '{"id":1}\n{"id":2}\n');
  assert.match(await metrics.text(), /^fairlead_threats_total\{kind="denied"\} 3$/m);
  const config = configOf({ FAIRLEAD_THREAT_LOG: "disk" });
  assert.ok(config.ok);
  const parts = { config: config.value, clock: createFakeClock(), log: silentLogger, metrics: createMetrics() };
  const refused = await openTelemetry({ ...parts, version: "1", report: () => report });
  assert.ok(!refused.ok);
  assert.match(refused.error, /^FAIRLEAD_THREAT_LOG: "disk" is none of off, stdout, file:PATH/);
});
