// Places by name: one name, one place, on all threads; never two names at one; and what a dead thread held comes back.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Worker } from "node:worker_threads";
import fc from "fast-check";
import { SharedSlots } from "./shared-slots.ts";

const capacity = 64;
function setUp(threads = 2) {
  const memory = new SharedArrayBuffer(SharedSlots.bytesFor(capacity));
  const fresh: number[] = [];
  const isNew = (slot: number): void => void fresh.push(slot);
  const all = Array.from({ length: threads }, (_, thread) => new SharedSlots(capacity, memory, thread, isNew));
  return { memory, all, fresh };
}

test("[DP-25] a name has one place on all threads, and begins anew only when nobody held it", () => {
  const { all, fresh } = setUp();
  const [a, b] = all as [SharedSlots, SharedSlots];
  const at = a.take("x");
  assert.deepEqual([b.take("x"), a.take("x"), fresh], [at, at, [at]]);
  const generation = a.generation(at);
  a.give("x");
  a.give("x");
  assert.equal(a.take("x"), at, "the other thread holds it");
  a.give("x");
  b.give("x");
  assert.equal(b.take("x"), at);
  assert.deepEqual([fresh, b.generation(at)], [[at, at], generation + 1]);
});

test("[DP-25] when all places are held there is none, and each that is let go is another's", () => {
  const { all, fresh } = setUp(1);
  const [a] = all as [SharedSlots];
  const names = Array.from({ length: capacity }, (_, i) => `endpoint ${i}`);
  assert.equal(new Set(names.map((name) => a.take(name))).size, capacity);
  assert.equal(a.take("one more"), -1);
  a.give("endpoint 7");
  const at = a.take("one more");
  assert.ok(at >= 0);
  assert.equal(fresh.at(-1), at);
});

test("[DP-25] whatever threads take, give and die in whatever order: what is held is one name's, and what the dead held is free", () => {
  const step = fc.record({
    kind: fc.constantFrom("take", "take", "give", "die"),
    thread: fc.nat({ max: 3 }),
    name: fc.nat({ max: 80 }).map(String),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 250 }), (steps) => {
      const { memory, all } = setUp(4);
      const held = all.map(() => new Map<string, number>());
      for (const { kind, thread, name } of steps) {
        const slots = all[thread] as SharedSlots;
        const own = held[thread] as Map<string, number>;
        if (kind === "take") {
          const at = slots.take(name);
          const holders = new Set(held.flatMap((h) => [...h.keys()]));
          if (at < 0) assert.ok(holders.size >= capacity && !holders.has(name));
          else {
            for (const other of held)
              for (const [n, slot] of other) assert.equal(slot === at, n === name, `${n} and ${name}`);
            // Held once however often it is taken: it is given back below as often.
            if (own.has(name)) slots.give(name);
            own.set(name, at);
          }
        } else if (kind === "give") {
          if (own.delete(name)) slots.give(name);
        } else {
          SharedSlots.forget(memory, thread);
          own.clear();
          all[thread] = new SharedSlots(capacity, memory, thread, () => {});
        }
      }
      for (let thread = 0; thread < 4; thread++) SharedSlots.forget(memory, thread);
      const [after] = [new SharedSlots(capacity, memory, 0, () => {})];
      for (let i = 0; i < capacity; i++) assert.ok(after.take(`new ${i}`) >= 0);
    }),
    { numRuns: 200 },
  );
});

const bySixteen = `
  import { parentPort, workerData } from "node:worker_threads";
  const { SharedSlots } = await import(workerData.url);
  const slots = new SharedSlots(64, workerData.memory, workerData.thread, () => {});`;
const start = (body: string, workerData: object): Worker =>
  new Worker(new URL(`data:text/javascript,${encodeURIComponent(bySixteen + body)}`), {
    workerData: { ...workerData, url: new URL("./shared-slots.ts", import.meta.url).href },
  });

test("[DP-25] four threads at once agree on every place", { timeout: 120_000 }, async () => {
  const memory = new SharedArrayBuffer(SharedSlots.bytesFor(capacity));
  const seen = await Promise.all(
    [0, 1, 2, 3].map((thread) => {
      const worker = start(
        `for (let round = 0; round < 300; round++) {
           for (let i = 0; i < 40; i++) slots.take("name " + i);
           for (let i = 0; i < 40; i++) slots.give("name " + i);
         }
         parentPort.postMessage(Array.from({ length: 40 }, (_, i) => slots.take("name " + i)));
         setInterval(() => {}, 1000);`,
        { memory, thread },
      );
      return new Promise<number[]>((resolve, reject) => {
        worker.once("message", (places: number[]) => {
          resolve(places);
        });
        worker.once("error", reject);
      }).finally(() => void setTimeout(() => worker.terminate(), 0));
    }),
  );
  for (const places of seen) {
    assert.equal(new Set(places.filter((at) => at >= 0)).size, 40);
    assert.deepEqual(places, seen[0]);
  }
});

test("[DP-25] a thread that dies with the lock holds nobody up", { timeout: 60_000 }, async () => {
  const memory = new SharedArrayBuffer(SharedSlots.bytesFor(capacity));
  const worker = start("", { memory, thread: 1 });
  await new Promise((resolve) => worker.once("exit", resolve));
  // As it would stand there if it had been ended in the middle.
  Atomics.store(new Int32Array(memory), 0, 2);
  const other = start('parentPort.postMessage(slots.take("x"));', { memory, thread: 0 });
  const taken = new Promise<number>((resolve) => other.once("message", resolve));
  SharedSlots.forget(memory, 1);
  assert.ok((await taken) >= 0);
});
