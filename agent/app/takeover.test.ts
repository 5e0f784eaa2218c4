// One agent after the other on one node: who claims, who yields, what a dead or hung one leaves behind.
import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { waitFor } from "../../test/kit/wait.ts";
import { systemClock } from "../base/clock.ts";
import { silentLogger } from "../base/log.ts";
import { Takeover } from "./takeover.ts";

function node(t: TestContext) {
  const runDir = mkdtempSync(join(tmpdir(), "takeover-"));
  t.after(() => rmSync(runDir, { recursive: true, force: true }));
  const yielded: string[] = [];
  const lost: string[] = [];
  const agent = (pid: number, answerMs = 30_000): Takeover => {
    const takeover = new Takeover({
      runDir,
      pid,
      version: "test",
      clock: systemClock,
      log: silentLogger,
      answerMs,
      yieldTo: async (to) => void yielded.push(`${pid}>${to}`),
      lost: (to) => void lost.push(`${pid}>${to}`),
    });
    t.after(() => takeover.close());
    return takeover;
  };
  return { runDir, agent, yielded, lost };
}

test("[DP-19] the first agent serves; the second claims, and only when it is ready does the first yield", async (t) => {
  const { agent, yielded, lost } = node(t);
  const first = agent(1);
  assert.ok((await first.claim()).ok);
  assert.ok((await first.serve()).ok);
  const second = agent(2);
  assert.ok((await second.claim()).ok);
  assert.equal(second.predecessor, 1);
  assert.deepEqual(yielded, []);
  assert.ok((await second.serve()).ok);
  assert.deepEqual(yielded, ["1>2"]);
  first.close();
  const third = agent(3);
  assert.ok((await third.claim()).ok);
  assert.equal(third.predecessor, 2);
  assert.ok((await third.serve()).ok);
  assert.deepEqual([yielded, lost], [["1>2", "2>3"], []]);
});

test("[DP-19] of two successors at once one is turned away; if the claimant dies the one that serves is told and the next may claim", async (t) => {
  const { agent, lost } = node(t);
  const first = agent(1);
  await first.claim();
  await first.serve();
  const second = agent(2);
  assert.ok((await second.claim()).ok);
  const third = agent(3);
  const refused = await third.claim();
  assert.ok(!refused.ok && refused.error.includes("agent 2"));
  second.close();
  await waitFor("the claim is free again", async () => (await agent(4).claim()).ok);
  assert.deepEqual(lost, ["1>2"]);
});

test("the name that a killed agent left is no obstacle, and of two first agents one wins", async (t) => {
  const { agent, runDir } = node(t);
  const path = join(runDir, "takeover.sock");
  const dead = createServer();
  await new Promise<void>((resolve) => dead.listen(`${path}.tmp`, resolve));
  const { renameSync } = await import("node:fs");
  renameSync(`${path}.tmp`, path);
  await new Promise<void>((resolve) => dead.close(() => resolve()));
  assert.ok(existsSync(path));
  const [a, b] = [agent(1), agent(2)];
  assert.ok((await a.claim()).ok && (await b.claim()).ok);
  const results = [await a.serve(), await b.serve()];
  assert.equal(results.filter((r) => r.ok).length, 1);
});

test("an agent that hangs is replaced without its help", async (t) => {
  const { agent, runDir } = node(t);
  const hung = createServer((socket) => void socket.on("data", () => {}).on("error", () => {}));
  await new Promise<void>((resolve) => hung.listen(join(runDir, "takeover.sock"), resolve));
  t.after(() => hung.close());
  const next = agent(2, 100);
  assert.ok((await next.claim()).ok);
  assert.ok((await next.serve()).ok, "the path is taken over from the hung one");
  assert.ok(readdirSync(runDir).includes("takeover.sock"));
});
