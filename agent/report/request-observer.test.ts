// What a data thread tells of its requests: only what somebody wants, in bounded batches, and what is lost is counted.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createFakeClock } from "../../test/kit/fake-clock.ts";
import { linesOf, logOff, observeAll, observeNothing, requestRecord } from "../../test/kit/telemetry.ts";
import { seededRandom } from "../base/random.ts";
import type { LogSettings, ObservedBatch, Tap } from "./observed.ts";
import { LOG, LOG_MAYBE, RequestObserver, SPAN, TAP } from "./request-observer.ts";

function setUp(log: Partial<LogSettings> = {}, settings = observeAll) {
  const clock = createFakeClock();
  const told: ObservedBatch[] = [];
  const observer = new RequestObserver({
    settings: { ...settings, log: { ...settings.log, ...log } },
    random: seededRandom(1),
    clock,
    tell: (batch) => void told.push(structuredClone(batch)),
  });
  return { clock, told, observer };
}
const tap = (more: Partial<Tap> = {}): Tap => ({
  id: 1,
  pod: "",
  method: "",
  path: "",
  statuses: [],
  perSecond: 1_000,
  ...more,
});

test("[OBS-3] nobody wants anything: nothing is noted; a tap makes that change, and its end change back", () => {
  const { observer, clock, told } = setUp({}, observeNothing);
  assert.equal(observer.wants(), 0);
  observer.setTaps([tap()]);
  assert.equal(observer.wants(), TAP);
  observer.ended(requestRecord(), TAP);
  clock.advance(100);
  assert.deepEqual(
    told[0]?.taps.map(({ id, count }) => [id, count]),
    [[1, 1]],
  );
  assert.equal(told[0]?.lines, "");
  observer.setTaps([]);
  assert.equal(observer.wants(), 0);
});

test("[OBS-3] the sample is a share of requests; where conditions are, every request may be wanted", () => {
  const tenth = setUp({ sample: 0.1 });
  let wanted = 0;
  for (let i = 0; i < 10_000; i++) if (tenth.observer.wants() === LOG) wanted++;
  assert.ok(wanted > 850 && wanted < 1_150, String(wanted));
  const named = setUp({ sample: 0, codes: [{ low: 500, high: 599 }] });
  assert.equal(named.observer.wants(), LOG_MAYBE);
  assert.ok(named.observer.isPlain(200, "-", 5));
  assert.ok(!named.observer.isPlain(503, "-", 5));
  for (const status of [200, 500, 404, 599]) named.observer.ended(requestRecord({ status }), LOG_MAYBE);
  named.clock.advance(100);
  assert.deepEqual(
    linesOf(named.told).map((line) => line.status),
    [500, 599],
  );
});

test("[OBS-3] lines go in batches: at once where they are many, soon where they are few", () => {
  const { observer, clock, told } = setUp();
  observer.ended(requestRecord(), LOG);
  observer.ended(requestRecord(), LOG);
  assert.equal(told.length, 0);
  clock.advance(100);
  assert.deepEqual([told.length, told[0]?.lineCount, linesOf(told).length], [1, 2, 2]);
  for (let i = 0; i < 100; i++) observer.ended(requestRecord(), LOG);
  assert.ok(told.length > 1);
});

test("[OBS-3] a control thread that does not read costs lines and spans, which are counted, and a bounded amount of memory", () => {
  const { observer, clock, told } = setUp();
  const total = 20_000;
  for (let i = 0; i < total; i++) observer.ended(requestRecord(), LOG | SPAN);
  assert.equal(told.length, 4, "as many batches as may be unread");
  clock.advance(10_000);
  assert.equal(told.length, 4);
  const unread = told.length;
  for (let i = 0; i < unread; i++) observer.read();
  clock.advance(100);
  const sum = (of: (batch: ObservedBatch) => number): number => told.reduce((all, batch) => all + of(batch), 0);
  assert.ok(sum((b) => b.lineCount) < 1_000);
  assert.equal(
    sum((b) => b.lineCount + b.droppedLines),
    total,
  );
  assert.equal(
    sum((b) => b.spans.length + b.droppedSpans),
    total,
  );
});

test("[OBS-3] a tap has a rate: what is more is not shown but counted, and nobody else's lines suffer", () => {
  const { observer, clock, told } = setUp({ ...logOff, on: false });
  observer.setTaps([tap({ id: 1, perSecond: 10 }), tap({ id: 2, method: "POST" })]);
  for (let i = 0; i < 100; i++) observer.ended(requestRecord({ method: i % 4 === 0 ? "POST" : "GET" }), TAP);
  clock.advance(500);
  for (let i = 0; i < 100; i++) observer.ended(requestRecord(), TAP);
  observer.close();
  const of = (id: number) => {
    const all = told.flatMap((batch) => batch.taps).filter((t) => t.id === id);
    return [all.reduce((n, t) => n + t.count, 0), all.reduce((n, t) => n + t.dropped, 0)];
  };
  assert.deepEqual(of(1), [15, 185]);
  assert.deepEqual(of(2), [25, 0]);
});

test("what waits is told when a thread stops, though nobody has read the last batches", () => {
  const { observer, told } = setUp();
  for (let i = 0; i < 5_000; i++) observer.ended(requestRecord(), LOG);
  const before = told.length;
  observer.close();
  assert.equal(told.length, before + 1);
});
