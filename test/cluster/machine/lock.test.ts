import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { waitFor } from "../../kit/wait.ts";
import { withLock } from "./lock.ts";

const scratch = mkdtempSync(join(tmpdir(), "fairlead-lock-"));
after(() => rmSync(scratch, { recursive: true, force: true }));
const quiet = (): void => undefined;

test("of many who want it one at a time has it, and no file is left", async () => {
  const file = join(scratch, "many/a.lock");
  let inside = 0;
  let done = 0;
  const work = async (): Promise<void> => {
    assert.equal(++inside, 1);
    await sleep(5);
    inside--;
    done++;
  };
  await Promise.all(Array.from({ length: 12 }, () => withLock(file, quiet, work)));
  assert.equal(done, 12);
  assert.ok(!existsSync(join(scratch, "many")));
});

test("what the work throws comes out, and the lock is free again", async () => {
  const file = join(scratch, "b.lock");
  const failing = withLock(file, quiet, () => Promise.reject(new Error("no")));
  await assert.rejects(failing, /^Error: no$/);
  assert.equal(await withLock(file, quiet, async () => 7), 7);
});

test("an owner that is killed lets go, and who waits is told that he waits", async () => {
  const file = join(scratch, "c.lock");
  const script = `const { withLock } = await import(${JSON.stringify(new URL("lock.ts", import.meta.url).href)});
    await withLock(${JSON.stringify(file)}, () => {}, () => new Promise(() => { console.log("have it"); setInterval(() => {}, 1000); }));`;
  const owner: ChildProcess = spawn(process.execPath, ["--input-type=module", "-e", script], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  assert.ok(owner.stdout !== null);
  await once(owner.stdout, "data");
  let told = false;
  const second = withLock(
    file,
    () => {
      told = true;
    },
    async () => "mine",
  );
  await waitFor("being told of the wait", () => told);
  owner.kill("SIGKILL");
  assert.equal(await second, "mine");
});
