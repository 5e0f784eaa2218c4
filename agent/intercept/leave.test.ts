// What a pod's way out waits for, and what is known of it after.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createFakeClock } from "../../test/kit/fake-clock.ts";
import { localPod, workload } from "../../test/kit/mesh.ts";
import { ok } from "../base/result.ts";
import type { Native } from "../native.ts";
import { Departed, unheard } from "./leave.ts";

const pod = localPod(workload("shop", "web", "10.244.1.5"));

/** Time from the pod's way out to its end, if what is announced and the streams that have begun follow `at` (ms since then). */
async function msUntilUnheard(at: { announced: (ms: number) => boolean; streams?: (ms: number) => number }) {
  const clock = createFakeClock();
  const beganMs = clock.monotonicMs();
  const now = (): number => clock.monotonicMs() - beganMs;
  const tunnel = { id: 7, direction: "inbound", source: "10.244.2.9:15000", destination: "10.244.1.5:8080" };
  const native = {
    call: () => Promise.resolve(ok({ tunnels: [{ ...tunnel, streams: at.streams?.(now()) ?? 0 }] })),
  } as unknown as Native;
  let endedMs: number | undefined;
  void unheard({ native, clock, isAnnounced: () => at.announced(now()), withdrawMs: 5_000 }, pod).then(() => {
    endedMs = now();
  });
  for (let i = 0; i < 400 && endedMs === undefined; i++) await clock.advanceAsync(50);
  return endedMs ?? assert.fail("no end");
}

const between = (ms: number, low: number, high: number): void => assert.ok(ms >= low && ms <= high, `${ms} ms`);

test("[DP-9] a pod leaves when no agent has begun a stream to it for a second, also if this one hears of no announcement", async () => {
  between(await msUntilUnheard({ announced: () => false }), 1_000, 1_200);
  between(await msUntilUnheard({ announced: (ms) => ms < 700 }), 1_700, 2_000);
  // A label that went, came and went: others still go by the announcement before the last.
  between(await msUntilUnheard({ announced: () => false, streams: (ms) => Math.min(ms, 2_000) }), 3_000, 3_300);
});

test("[DP-9] [INT-12] an announcement that comes while it leaves, of the label before the last, is waited out too", async () => {
  between(await msUntilUnheard({ announced: (ms) => ms > 600 && ms < 1_500 }), 2_500, 2_900);
});

test("[DP-9] what never ends is not waited for for ever", async () => {
  between(await msUntilUnheard({ announced: () => true }), 5_000, 5_100);
  between(await msUntilUnheard({ announced: () => false, streams: (ms) => ms }), 5_000, 5_200);
  between(await msUntilUnheard({ announced: (ms) => ms > 600, streams: (ms) => ms }), 5_000, 10_200);
});

test("[DP-9] [INT-12] a pod that has left is known for a while, as one that goes; one that is back is not among them", async () => {
  const clock = createFakeClock();
  let forgotten = 0;
  const departed = new Departed(clock, () => {
    forgotten++;
  });
  departed.note(pod);
  assert.deepEqual(departed.get(pod.name)?.workload, { ...pod.workload, draining: true });
  departed.forget(pod.name);
  assert.deepEqual([departed.get(pod.name), departed.all()], [undefined, []]);
  departed.note(pod);
  await clock.advanceAsync(29_000);
  departed.note(pod);
  await clock.advanceAsync(2_000);
  assert.deepEqual([departed.all().length, forgotten], [1, 0], "of the second time");
  await clock.advanceAsync(30_000);
  assert.deepEqual([departed.get(pod.name), forgotten], [undefined, 1]);
});
