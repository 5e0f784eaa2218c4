// When gathered changes take effect, with a thread that is as busy as the test says.
import assert from "node:assert/strict";
import { test } from "node:test";
import { silentLogger } from "../../../agent/base/log.ts";
import { createFakeClock } from "../../../test/kit/fake-clock.ts";
import type { ObjectRef, SourceSink } from "../types.ts";
import { Batch } from "./batch.ts";

function made(gatherMs: number) {
  const clock = createFakeClock();
  const seen: { readonly atMs: number; readonly names: readonly string[] }[] = [];
  let names: string[] = [];
  const thread = { busyMs: 0, followsMs: 0 };
  const sink: SourceSink = {
    apply: () => assert.fail("nothing is put"),
    delete: ({ name }) => void names.push(name),
    problems: () => {},
    settled() {
      seen.push({ atMs: clock.monotonicMs(), names });
      names = [];
      thread.busyMs += thread.followsMs;
    },
  };
  const batch = new Batch({ gatherMs, busyMs: () => thread.busyMs }, sink, clock, silentLogger, () => {});
  const change = (name: string): void => batch.remove({ kind: "Pod", namespace: "shop", name } as ObjectRef);
  batch.open();
  return { clock, seen, thread, change, batch };
}

test("[PRF-3] changes of a moment take effect together, and after a long rest as soon as after a short one", () => {
  const { clock, seen, change } = made(30);
  for (const restMs of [0, 100, 10_000]) {
    clock.advance(restMs);
    seen.length = 0;
    const beganMs = clock.monotonicMs();
    change("a");
    clock.advance(29);
    change("b");
    assert.deepEqual(seen, []);
    clock.advance(1);
    assert.deepEqual(seen, [{ atMs: beganMs + 30, names: ["a", "b"] }]);
  }
});

test("[PRF-3] what follows from a batch takes less than two fifths of a processor, and no change waits longer than 150 ms", () => {
  for (const [followsMs, apartMs] of [
    [5, 30],
    [20, 50],
    [40, 100],
    [400, 150],
  ] as const) {
    const { clock, seen, thread, change } = made(30);
    thread.followsMs = followsMs;
    // A change every millisecond, for two seconds.
    for (let i = 0; i < 2_000; i++) {
      change(`${i}`);
      clock.advance(1);
    }
    const gaps = seen.slice(2).map(({ atMs }, i) => atMs - (seen[i + 1]?.atMs ?? 0));
    assert.ok(gaps.length > 5 && gaps.every((gap) => Math.abs(gap - apartMs) <= 3), `${followsMs}: ${gaps}`);
    assert.deepEqual(
      seen.flatMap(({ names }) => names).slice(0, 1_000),
      Array.from({ length: 1_000 }, (_, i) => `${i}`),
      "none is lost, in order",
    );
  }
});

test("[PRF-3] after one batch from which much followed, a change that comes long after is not held up by it", () => {
  const { clock, seen, thread, change } = made(30);
  thread.followsMs = 2_000;
  change("much");
  clock.advance(30);
  thread.followsMs = 0;
  clock.advance(5_000);
  const beganMs = clock.monotonicMs();
  change("little");
  clock.advance(300);
  assert.deepEqual(seen.at(-1), { atMs: beganMs + 30, names: ["little"] });
});
