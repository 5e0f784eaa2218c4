// The socket of the plugin: one question and one answer, whoever asks and however; bounded in length, number and time.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, statSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { waitFor } from "../../test/kit/wait.ts";
import { systemClock } from "../base/clock.ts";
import { silentLogger } from "../base/log.ts";
import type { CniAnswer, CniRequest } from "./protocol.ts";
import { CniServer } from "./server.ts";

const pod = {
  ...{ containerId: "c", namespace: "shop", name: "cart", uid: "u", netns: "/run/netns/x", interface: "eth0" },
  addresses: ["10.1.2.3"],
};
const framed = (text: string): Buffer => {
  const head = Buffer.alloc(4);
  head.writeUInt32LE(Buffer.byteLength(text), 0);
  return Buffer.concat([head, Buffer.from(text)]);
};
const add = framed(JSON.stringify({ version: 1, command: "add", ...pod }));

async function start(
  t: TestContext,
  answer: (request: CniRequest, signal: AbortSignal) => Promise<CniAnswer>,
  { maxConnections = 8, answerMs = 60_000 } = {},
) {
  const dir = mkdtempSync(join(tmpdir(), "cni-"));
  const done: string[] = [];
  const server = new CniServer({
    ...{ clock: systemClock, log: silentLogger, maxConnections, answerMs, answer },
    done: (command, outcome, seconds) => done.push(`${command} ${outcome} ${seconds >= 0}`),
  });
  const path = join(dir, "cni.sock");
  t.after(async () => {
    await server.close(0);
    rmSync(dir, { recursive: true, force: true });
  });
  assert.deepEqual(await server.listen(path), { ok: true, value: undefined });
  return { server, path, done };
}
const dial = (path: string): Socket => connect({ path, allowHalfOpen: true }).on("error", () => {});
async function heard(socket: Socket): Promise<Record<string, unknown> | undefined> {
  const chunks: Buffer[] = [];
  socket.on("data", (chunk: Buffer) => chunks.push(chunk));
  await new Promise((resolve) => socket.once("close", resolve).once("end", () => socket.end()));
  const bytes = Buffer.concat(chunks);
  if (bytes.length === 0) return undefined;
  assert.equal(bytes.readUInt32LE(0), bytes.length - 4);
  return JSON.parse(bytes.toString("utf8", 4));
}
async function ask(path: string, bytes: Buffer): Promise<Record<string, unknown> | undefined> {
  const socket = dial(path);
  socket.write(bytes);
  return heard(socket);
}
const yes = async (): Promise<CniAnswer> => ({ outcome: "ok", reason: "enrolled" });

test("[INT-11] a question is answered once, however it is cut, and counted", async (t) => {
  const asked: CniRequest[] = [];
  const { path, done } = await start(t, async (request) => {
    asked.push(request);
    return yes();
  });
  assert.equal(statSync(path).mode & 0o777, 0o600);
  const slow = dial(path);
  for (let i = 0; i < add.length; i += 7) {
    slow.write(add.subarray(i, i + 7));
    await systemClock.sleep(1);
  }
  assert.deepEqual(await heard(slow), { version: 1, outcome: "ok", reason: "enrolled" });
  assert.deepEqual(asked, [{ command: "add", pod: { ...pod, netnsInode: 0 } }]);
  assert.deepEqual(done, ["add ok true"]);
});

test("[INT-11] what is no question is refused with its reason", async (t) => {
  const { path, done } = await start(t, yes);
  for (const [bytes, why] of [
    [framed("{"), /not JSON/],
    [framed('{"version":9}'), /version/],
    [Buffer.from([255, 255, 255, 255]), /at most 65536/],
    [Buffer.concat([add, add]), /bytes after/],
  ] as const) {
    const said = await ask(path, bytes);
    assert.equal(said?.outcome, "failed");
    assert.equal(said?.retry, false);
    assert.match(String(said?.message), why);
  }
  const cut = dial(path);
  cut.end(add.subarray(0, 20));
  assert.match(String((await heard(cut))?.message), /ends in its middle/);
  assert.deepEqual(new Set(done), new Set(["malformed refused true"]));
});

test("[INT-11] an answer that does not come is told in time, a bug too, and both are tried again", async (t) => {
  let isAborted = false;
  const { path, done } = await start(
    t,
    async (request, signal) => {
      if (request.command === "gc") throw new Error("broken");
      signal.addEventListener("abort", () => {
        isAborted = true;
      });
      return new Promise(() => {});
    },
    { answerMs: 50 },
  );
  assert.deepEqual(await ask(path, add), {
    ...{ version: 1, outcome: "failed", code: "late", retry: true },
    message: "the agent on this node has no answer after 50 ms",
  });
  assert.equal(isAborted, true);
  const bug = await ask(path, framed('{"version":1,"command":"gc"}'));
  assert.deepEqual([bug?.code, bug?.retry], ["bug", true]);
  assert.deepEqual(done, ["add late true", "gc bug true"]);
});

test("[INT-11] more questions than are taken at a time are let go at once; a plugin that goes is forgotten", async (t) => {
  let open = 0;
  const { path, done } = await start(
    t,
    (_request, signal) =>
      new Promise((resolve) => {
        open++;
        signal.addEventListener("abort", () => {
          open--;
          resolve({ outcome: "failed", code: "gone", message: "", retry: true });
        });
      }),
    { maxConnections: 2 },
  );
  const held = [dial(path), dial(path)];
  for (const socket of held) socket.write(add);
  await waitFor("two are being answered", async () => open === 2);
  assert.equal(await ask(path, add), undefined);
  assert.ok(done.includes("dropped busy true"));
  for (const socket of held) socket.destroy();
  await waitFor("nobody waits any more", async () => open === 0);
  await waitFor("it is counted as such", async () => done.filter((line) => line === "add gone true").length === 2);
});

test("[INT-11] a successor takes the path over while the old one still answers, and the path always answers", async (t) => {
  let release: (() => void) | undefined;
  const slow = await start(t, async () => {
    await new Promise<void>((resolve) => {
      release = resolve;
    });
    return { outcome: "ok", reason: "old" };
  });
  const waiting = ask(slow.path, add);
  const next = new CniServer({
    ...{ clock: systemClock, log: silentLogger, maxConnections: 8, answerMs: 60_000, done: () => {} },
    answer: async () => ({ outcome: "ok", reason: "new" }),
  });
  t.after(() => next.close(0));
  await waitFor("the old one is asked", async () => release !== undefined);
  assert.deepEqual(await next.listen(slow.path), { ok: true, value: undefined });
  const closed = slow.server.close(60_000);
  assert.equal((await ask(slow.path, add))?.reason, "new");
  release?.();
  assert.equal((await waiting)?.reason, "old");
  await closed;
  assert.equal((await ask(slow.path, add))?.reason, "new");
});
