// The channel client against a peer that speaks the real protocol over a real stream.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createFakeClock } from "../test/kit/fake-clock.ts";
import { silentListener, startFakeNative } from "../test/kit/fake-native.ts";
import { waitFor } from "../test/kit/wait.ts";
import { systemClock } from "./base/clock.ts";
import { startNative } from "./native.ts";

const settled = (): Promise<void> => new Promise((resolve) => setImmediate(() => setImmediate(resolve)));

test("calls resolve with the value, or with native's own code and text", async (t) => {
  const native = await startFakeNative(silentListener, systemClock);
  t.after(() => native.close());
  native.answers.set("stop", () => ({ error: { code: "busy", message: "still draining" } }));
  const put = await native.channel.call("map.put", { map: "m", entries: [["00", "01"]] });
  assert.deepEqual(put, { ok: true, value: { count: 1 } });
  assert.deepEqual(await native.channel.call("stop", {}), {
    ok: false,
    error: { code: "busy", message: "still draining" },
  });
});

test("a call without a reply ends with call_timeout, and a late reply is ignored", async (t) => {
  const clock = createFakeClock();
  const native = await startFakeNative(silentListener, clock);
  t.after(() => native.close());
  native.answers.set("heartbeat", () => undefined);
  const call = native.channel.call("heartbeat", {}, 500);
  clock.advance(501);
  const result = await call;
  assert.ok(!result.ok);
  assert.equal(result.error.code, "call_timeout");
});

test("questions are answered under their id; one without an answer is said to have failed, not left to its time", async (t) => {
  const seen: unknown[] = [];
  const native = await startFakeNative(
    {
      ...silentListener,
      question: (q) => (q.ask === "peer" ? { speaker: true } : null),
      records: (b) => seen.push(b.length),
    },
    systemClock,
  );
  t.after(() => native.close());
  const answer = await native.ask({ ask: "peer", pod: "a/b" });
  assert.equal(answer.speaker, true);
  assert.equal((await native.ask({ ask: "outbound" })).failed, true);
  native.records(Buffer.alloc(256));
  await waitFor("records", () => seen.length > 0);
  assert.deepEqual(seen, [256]);
});

test("a library that dies fails what is open and says so once", async (t) => {
  const reasons: string[] = [];
  const native = await startFakeNative({ ...silentListener, closed: (reason) => reasons.push(reason) }, systemClock);
  t.after(() => native.close());
  native.answers.set("heartbeat", () => undefined);
  const open = native.channel.call("heartbeat", {});
  native.die();
  const result = await open;
  assert.ok(!result.ok);
  assert.equal(result.error.code, "channel_closed");
  const after = await native.channel.call("counters", {});
  assert.ok(!after.ok);
  await waitFor("told of", () => reasons.length > 0);
  await settled();
  assert.equal(reasons.length, 1);
});

test("a library that is missing is one line that names the file and the fix", () => {
  const started = startNative("/nowhere/libfairlead.so", {} as never, silentListener, systemClock);
  assert.ok(!started.ok);
  assert.match(started.error, /\/nowhere\/libfairlead\.so.*npm run setup/s);
});
