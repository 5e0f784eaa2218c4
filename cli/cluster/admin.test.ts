// The way to an admin socket in a pod, with the real relay as a process of this machine in place of the API server's.
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer, type Server } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { waitFor } from "../../test/kit/wait.ts";
import { call, callJson } from "../../test/lab/unix-http.ts";
import { AdminAgent } from "./admin.ts";
import type { PodName } from "./connect.ts";
import { PodStream } from "./pod-stream.ts";

const pod: PodName = { namespace: "fairlead-system", name: "agent-1", container: "agent" };
const inside = new URL("../inside.ts", import.meta.url).href;
const run = new URL("../run.ts", import.meta.url).href;
const program = `Promise.all([import(${JSON.stringify(inside)}), import(${JSON.stringify(run)})]).then(([i, r]) => r.runProcess(i.main))`;

/** A pod whose programs run here; `started` counts them. */
function podHere(t: TestContext, socket: string): { readonly started: ChildProcess[]; readonly agent: AdminAgent } {
  const started: ChildProcess[] = [];
  const run = async (): Promise<PodStream> => {
    const child = spawn(process.execPath, ["-e", program, "fairlead", "relay", "--socket", socket]);
    started.push(child);
    const stream = new PodStream("fairlead-system/agent-1");
    stream.stdin.pipe(child.stdin);
    child.stdout.pipe(stream.stdout);
    child.stderr.pipe(stream.stderr);
    child.stdin.on("error", () => {});
    child.on("close", (code) => stream.ended(code === 0 ? undefined : `exit code ${code}`));
    stream.over({
      close: () => void child.stdin.destroy(),
      on: (event, listener) => child.on(event, listener),
    });
    return stream;
  };
  const agent = new AdminAgent({ run }, pod);
  t.after(() => agent.destroy());
  return { started, agent };
}

async function serving(t: TestContext, answer: Parameters<typeof createServer>[1]): Promise<string> {
  const folder = mkdtempSync(join(tmpdir(), "fairlead-relay-"));
  const socket = join(folder, "admin.sock");
  const server: Server = createServer(answer as never);
  await new Promise<void>((resolve) => server.listen(socket, resolve));
  t.after(() => {
    server.close();
    server.closeAllConnections();
    rmSync(folder, { recursive: true });
  });
  return socket;
}

test("[OPS-3] an admin socket in a pod answers as one here does, over one program for many questions, which ends with us", async (t) => {
  const big = "x".repeat(3_000_000);
  const socket = await serving(t, (request, response) => {
    response.setHeader("content-type", "application/json");
    response.end(JSON.stringify({ path: request.url, big: request.url === "/big" ? big : "" }));
  });
  const { agent, started } = podHere(t, socket);
  assert.deepEqual(await callJson(agent, "/v1/status", { timeoutMs: 60_000 }), {
    ok: true,
    value: { path: "/v1/status", big: "" },
  });
  const second = await callJson(agent, "/big", { timeoutMs: 60_000 });
  assert.ok(second.ok);
  assert.equal((second.value as { big: string }).big.length, big.length);
  assert.equal(started.length, 1, "the second question takes the first one's connection");
  agent.destroy();
  await waitFor("the program in the pod has ended", () => started[0]?.exitCode === 0);
});

test("[OPS-3] what an agent streams arrives line by line, until we end it", async (t) => {
  const socket = await serving(t, (_request, response) => {
    response.write('{"n":1}\n{"n"');
    response.write(":2}\n");
  });
  const { agent, started } = podHere(t, socket);
  const lines: string[] = [];
  const over = new AbortController();
  const done = await call(agent, "/v1/tap", {
    timeoutMs: Number.POSITIVE_INFINITY,
    signal: over.signal,
    onLine(line) {
      lines.push(line);
      if (lines.length === 2) over.abort();
    },
  });
  assert.equal(done.ok, false);
  assert.deepEqual(lines, ['{"n":1}', '{"n":2}']);
  await waitFor("the program in the pod has ended", () => started[0]?.exitCode !== null);
});

test("[OPS-3] an agent that does not listen is one sentence that names the pod and the reason", async (t) => {
  const { agent } = podHere(t, "/nonexistent/admin.sock");
  const answer = await callJson(agent, "/v1/status", { timeoutMs: 60_000 });
  assert.ok(!answer.ok);
  assert.match(answer.error, /^fairlead-system\/agent-1: fairlead relay: \/nonexistent\/admin\.sock: connect ENOENT/);
});
