// A command that takes long says so, one that does not keeps quiet.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createFakeClock } from "../test/kit/fake-clock.ts";
import { reporting } from "./progress.ts";

function setUp() {
  const clock = createFakeClock();
  const said: string[] = [];
  const work = Promise.withResolvers<string>();
  let left = 5;
  const done = reporting(
    clock,
    work.promise,
    () => `${left--} to go`,
    (line) => said.push(line),
  );
  return { clock, said, work, done };
}

test("[OPS-3] what is done within two seconds says nothing", async () => {
  const { clock, said, work, done } = setUp();
  await clock.advanceAsync(1_999);
  work.resolve("done");
  assert.equal(await done, "done");
  await clock.advanceAsync(60_000);
  assert.deepEqual([said, clock.pending], [[], 0]);
});

test("[OPS-3] what takes longer says every two seconds how it stands, until it is done or fails", async () => {
  const { clock, said, work, done } = setUp();
  await clock.advanceAsync(5_000);
  assert.deepEqual(said, ["5 to go (2 s)", "4 to go (4 s)"]);
  work.reject(new Error("no right to"));
  await assert.rejects(done, /no right to/);
  await clock.advanceAsync(60_000);
  assert.deepEqual([said.length, clock.pending], [2, 0]);
});
