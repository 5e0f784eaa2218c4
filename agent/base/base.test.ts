import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { createFakeClock } from "../../test/kit/fake-clock.ts";
import { createBackoff } from "./backoff.ts";
import { every, systemClock } from "./clock.ts";
import { parseHostPort, readEnv } from "./env.ts";
import { createLifecycle } from "./lifecycle.ts";
import { createLogger, silentLogger } from "./log.ts";
import { createMetrics } from "./metrics.ts";
import { seededRandom, systemRandom } from "./random.ts";

test("timers run in order, can be cancelled, and sleep ends on abort", async () => {
  const clock = createFakeClock();
  const seen: string[] = [];
  clock.after(20, () => seen.push("b"));
  clock.after(10, () => seen.push("a"));
  clock.after(15, () => seen.push("never"))();
  const stop = every(clock, 8, () => seen.push("tick"));
  clock.advance(20);
  assert.deepEqual(seen, ["tick", "a", "tick", "b"]);
  stop();
  assert.equal(clock.pending, 0);
  const controller = new AbortController();
  const slept = clock.sleep(1e9, controller.signal);
  controller.abort();
  await slept;
  assert.equal(clock.pending, 0);
  const before = systemClock.monotonicMs();
  await systemClock.sleep(5);
  assert.ok(systemClock.monotonicMs() - before >= 4);
});

test("a wait longer than a 32-bit timer does not fire at once", async () => {
  let fired = false;
  const cancel = systemClock.after(2 ** 33, () => {
    fired = true;
  });
  await systemClock.sleep(10);
  cancel();
  assert.equal(fired, false);
});

test("[DIS-4] backoff grows, is bounded and jittered, and starts again after success", () => {
  fc.assert(
    fc.property(fc.integer(), fc.integer({ min: 1, max: 60 }), (seed, rounds) => {
      const backoff = createBackoff({ baseMs: 100, maxMs: 30_000 }, seededRandom(seed));
      for (let i = 0; i < rounds; i++) {
        const ceiling = Math.min(30_000, 100 * 2 ** i);
        const delay = backoff.nextMs();
        assert.ok(delay >= ceiling / 2 && delay <= ceiling);
      }
      backoff.reset();
      assert.ok(backoff.nextMs() <= 100);
    }),
  );
});

test("random sequences repeat by seed and stay in range", () => {
  const draw = (seed: number) => Array.from({ length: 50 }, seededRandom(seed).next);
  assert.deepEqual(draw(7), draw(7));
  assert.notDeepEqual(draw(7), draw(8));
  for (const random of [seededRandom(1), systemRandom]) {
    for (let i = 0; i < 1000; i++) assert.ok([0, 1, 2].includes(random.below(3)));
  }
});

test("environment problems name every variable at once", () => {
  const env = readEnv({
    A_PORT: "70000",
    B_BOOL: "maybe",
    C_LEVEL: "loud",
    D_LISTEN: "nowhere",
    E_MS: "10",
    F: " ",
    G: "a,, b",
  });
  env.port("A_PORT", 1);
  env.boolean("B_BOOL", true);
  env.oneOf("C_LEVEL", ["info", "warn"], "info");
  env.hostPort("D_LISTEN", "0.0.0.0:1");
  assert.equal(env.durationMs("E_MS", 5), 10);
  env.required("F", "the node's name");
  assert.deepEqual(env.list("G", []), ["a", "b"]);
  const result = env.finish(1);
  assert.ok(!result.ok);
  assert.deepEqual(
    result.error.map((line) => line.split(":")[0]),
    ["A_PORT", "B_BOOL", "C_LEVEL", "D_LISTEN", "F"],
  );
  assert.deepEqual(parseHostPort("[::1]:80"), { host: "::1", port: 80 });
  for (const bad of ["::1:80", "host", "host:", ":80", "host:99999", "a b:1"])
    assert.equal(parseHostPort(bad), undefined);
});

test("a log line is one JSON object that no field value can break", () => {
  const lines: string[] = [];
  const log = createLogger("info", "test", { write: (chunk: string) => void lines.push(chunk) });
  log.debug("hidden");
  log.with({ node: "n1" }).warn("something_happened", { value: 'x"\n{"level":"error"}', error: new Error("why") });

  assert.equal(lines.length, 1);
  const line = JSON.parse(lines[0] ?? "");
  assert.equal(line.level, "warn");
  assert.equal(line.event, "something_happened");
  assert.equal(line.node, "n1");
  assert.equal(line.error.message, "why");
});

test("[OBS-7] metrics appear in the text format with their labels", async () => {
  const metrics = createMetrics();
  metrics.counter({ name: "a_total", help: "a", labels: ["reason"] }).add({ reason: 'x"y' }, 2);
  metrics.gaugeOf({ name: "b_seconds", help: "b", labels: [] }, (gauge) => gauge.set({}, 5));
  metrics.histogram({ name: "c_seconds", help: "c", labels: [] }, [1, 2]).observe({}, 1.5);
  const text = await metrics.text();
  assert.match(text, /a_total\{reason="x\\"y"\} 2/);
  assert.match(text, /b_seconds 5/);
  assert.match(text, /c_seconds_bucket\{le="2"\} 1/);
});

test("parts start in order, end in reverse, and one that hangs is cut at the deadline", async () => {
  const clock = createFakeClock();
  const seen: string[] = [];
  const life = createLifecycle(clock, silentLogger);
  life.add({ name: "a", start: () => void seen.push("start a"), stop: () => void seen.push("stop a") });
  life.add({
    name: "b",
    start: () => void seen.push("start b"),
    drain: () => new Promise(() => {}),
    stop: () => void seen.push("stop b"),
  });
  await life.start();
  const ended = life.shutdown(1000);
  assert.equal(life.signal.aborted, true);
  await clock.advanceAsync(1000);
  await ended;
  assert.deepEqual(seen, ["start a", "start b", "stop b", "stop a"]);
});

test("a part that cannot start stops those before it and is named", async () => {
  const seen: string[] = [];
  const life = createLifecycle(createFakeClock(), silentLogger);
  life.add({ name: "a", stop: () => void seen.push("stop a") });
  life.add({
    name: "listener",
    start: () => {
      throw new Error("address in use");
    },
  });
  await assert.rejects(life.start(), /listener: address in use/);
  assert.deepEqual(seen, ["stop a"]);
});
