import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { seededRandom } from "../../agent/base/random.ts";
import { createFakeClock } from "../../test/kit/fake-clock.ts";
import { Pace } from "./pace.ts";
import { KeyQueue, type QueueOptions, type Verdict } from "./queue.ts";

const options: QueueOptions = { concurrency: 2, backoff: { baseMs: 100, maxMs: 1000 }, attempts: 4 };

function made(run: (key: string, attempt: number) => Promise<Verdict> | Verdict, spacingMs = 0) {
  const clock = createFakeClock();
  const runs: { readonly key: string; readonly atMs: number; readonly attempt: number }[] = [];
  const gaveUp: string[] = [];
  const queue = new KeyQueue(options, {
    clock,
    random: seededRandom(1),
    async run(key, attempt) {
      runs.push({ key, atMs: clock.monotonicMs(), attempt });
      return run(key, attempt);
    },
    spacingMs: () => spacingMs,
    gaveUp: (key) => void gaveUp.push(key),
    waited: () => {},
  });
  queue.open();
  return { clock, queue, runs, gaveUp };
}

test("[RES-8] what fails is tried again, later each time, and left alone in the end until it is added again", async () => {
  const { clock, queue, runs, gaveUp } = made(() => ({ kind: "again" }));
  queue.add("a");
  await clock.advanceAsync(60_000);
  assert.deepEqual(
    runs.map((r) => r.attempt),
    [1, 2, 3, 4],
  );
  const pauses = runs.slice(1).map((r, i) => r.atMs - (runs[i]?.atMs ?? 0));
  for (const [i, pause] of pauses.entries())
    assert.ok(pause >= 50 * 2 ** i && pause <= 101 * 2 ** i, `pause ${i}: ${pause}`);
  assert.deepEqual(gaveUp, ["a"]);
  assert.equal(queue.depth, 0);
  queue.add("a");
  await clock.advanceAsync(0);
  assert.equal(runs.at(-1)?.attempt, 1);
});

test("[RES-8] a server that asks for a pause gets it, whoever adds the key meanwhile", async () => {
  const { clock, queue, runs } = made((_, attempt) =>
    attempt === 1 ? { kind: "again", afterMs: 5000 } : { kind: "done" },
  );
  queue.add("a");
  await clock.advanceAsync(1000);
  queue.add("a");
  await clock.advanceAsync(3900);
  assert.equal(runs.length, 1);
  await clock.advanceAsync(200);
  assert.equal(runs.length, 2);
});

test("[RES-8] what changes often is written seldom, and its last state always", async () => {
  const { clock, queue, runs } = made(() => ({ kind: "done" }), 1000);
  for (let i = 0; i < 100; i++) {
    queue.add("a");
    await clock.advanceAsync(50);
  }
  await clock.advanceAsync(2000);
  assert.ok(runs.length >= 5 && runs.length <= 7, `${runs.length} runs`);
  assert.ok((runs.at(-1)?.atMs ?? 0) >= 4950, "the last one after the last change");
});

test("[RES-8] what was added before a closing is forgotten, and what ends after it changes nothing", async () => {
  let end = (_: Verdict): void => {};
  const { clock, queue, runs } = made((key) => (key === "slow" ? new Promise((r) => (end = r)) : { kind: "done" }));
  queue.add("slow");
  await clock.advanceAsync(0);
  queue.close();
  queue.add("a");
  assert.equal(queue.depth, 0);
  queue.open();
  queue.add("b");
  end({ kind: "again" });
  await clock.advanceAsync(10_000);
  assert.deepEqual(
    runs.map((r) => r.key),
    ["slow", "b"],
  );
});

test("[RES-8] one run of a key at a time, bounded in all, and after its last adding each key runs once more", async () => {
  const step = fc.oneof(
    fc.record({ add: fc.constantFrom("a", "b", "c", "d", "e") }),
    fc.record({ pass: fc.integer({ min: 1, max: 400 }) }),
  );
  await fc.assert(
    fc.asyncProperty(
      fc.array(step, { maxLength: 60 }),
      fc.array(fc.constantFrom("done", "again", "held"), { minLength: 1, maxLength: 20 }),
      fc.constantFrom(0, 150),
      async (steps, verdicts, spacingMs) => {
        const running = new Set<string>();
        const started = new Map<string, number>();
        const added = new Map<string, number>();
        let turn = 0;
        const { clock, queue } = made(async (key) => {
          assert.ok(!running.has(key), "twice at once");
          running.add(key);
          assert.ok(running.size <= options.concurrency);
          started.set(key, ++turn);
          await clock.sleep(30);
          running.delete(key);
          const verdict = verdicts[turn % verdicts.length];
          if (verdict === "done") return { kind: "done" };
          return verdict === "again" ? { kind: "again" } : { kind: "again", afterMs: 300 };
        }, spacingMs);
        for (const s of steps) {
          if ("add" in s) {
            queue.add(s.add);
            // Started at once when there is a free place: that run saw this adding.
            added.set(s.add, running.has(s.add) && started.get(s.add) === turn ? turn - 1 : turn);
          } else await clock.advanceAsync(s.pass);
        }
        await clock.advanceAsync(60_000);
        for (const [key, at] of added) assert.ok((started.get(key) ?? 0) > at, `${key} ran after its last adding`);
        assert.equal(queue.depth, 0);
      },
    ),
    { numRuns: 200 },
  );
});

test("[RES-8] a burst goes at once, then so many a second", () => {
  const clock = createFakeClock();
  const pace = new Pace({ perSecond: 10, burst: 3 }, clock);
  assert.deepEqual([pace.takeMs(), pace.takeMs(), pace.takeMs(), pace.takeMs(), pace.takeMs()], [0, 0, 0, 100, 200]);
  assert.equal(pace.tryTake(), false);
  clock.advance(1000);
  assert.deepEqual([pace.tryTake(), pace.tryTake(), pace.tryTake(), pace.tryTake()], [true, true, true, false]);
});
