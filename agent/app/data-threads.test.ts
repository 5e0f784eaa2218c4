// Data threads that drain, and those that are poisoned: what is open ends well, and a thread that dies takes only its own with it.
import assert from "node:assert/strict";
import { Agent, createServer, get, type RequestOptions } from "node:http";
import type { Socket } from "node:net";
import { type TestContext, test } from "node:test";
import { podA, script, startThreads, threadParts } from "../../test/kit/data-thread.ts";
import { silentListener, startFakeNative } from "../../test/kit/fake-native.ts";
import { localPod } from "../../test/kit/mesh.ts";
import { waitFor } from "../../test/kit/wait.ts";
import { systemClock } from "../base/clock.ts";
import { silentLogger } from "../base/log.ts";
import type { TenantRefusals } from "../forward/tenants.ts";
import { MeshState, type MeshUpdate } from "../state/mesh-state.ts";
import { startDataThreads } from "./data-threads.ts";
import { Replicas } from "./replicas.ts";

/** Asks on one connection that is kept, again and again, as usual clients do. */
function clientOn(t: TestContext, socket: Socket) {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  agent.createConnection = () => socket;
  t.after(() => agent.destroy());
  const options: RequestOptions = { agent, host: "a.shop" };
  return (path = "/"): Promise<{ status: number; connection: string | undefined; body: string }> =>
    new Promise((resolve, reject) => {
      get({ ...options, path }, (answer) => {
        let body = "";
        answer.on("data", (chunk: Buffer) => {
          body += chunk.toString();
        });
        answer.on("end", () =>
          resolve({ status: answer.statusCode ?? 0, connection: answer.headers.connection, body }),
        );
        answer.on("error", reject);
      }).on("error", reject);
    });
}

type Ask = ReturnType<typeof clientOn>;

/** Asks until an answer says close: the order to drain may reach the thread after the first of these requests. */
async function toldBy(ask: Ask | undefined): Promise<Awaited<ReturnType<Ask>>> {
  for (let i = 0; i < 1000; i++) {
    const answer = await ask?.();
    if (answer?.connection === "close") return answer;
  }
  return assert.fail("never told");
}

test("[DP-19] [OPS-2] threads drain: the next answer says close, a long answer ends, and then it is told", async (t) => {
  let finish: (() => void) | undefined;
  const server = createServer((request, response) => {
    if (request.url !== "/long") return void response.end("ok");
    response.write("begun ");
    finish = () => {
      response.end("ended");
    };
  });
  const { threads, connect } = await startThreads(t, 2, server, { drainIdleMs: 60_000 });
  const clients = (await Promise.all([0, 1].map((thread) => connect(thread)))).map((socket) => clientOn(t, socket));
  for (const ask of clients) assert.equal((await ask()).body, "ok");
  const long = clients[1]?.("/long");
  await waitFor("the long answer has begun", () => finish !== undefined);

  let isDrained = false;
  const drained = threads.drain().then(() => {
    isDrained = true;
  });
  assert.equal((await toldBy(clients[0])).body, "ok");
  assert.equal(isDrained, false, "an answer is still under way");
  // One that comes now is served too.
  const late = clientOn(t, await connect(0));
  assert.equal((await toldBy(late)).body, "ok");
  finish?.();
  assert.equal((await long)?.body, "begun ended");
  // Its head went out before anyone knew; the client may ask once more.
  assert.equal((await toldBy(clients[1])).body, "ok");
  await drained;
  await threads.drain();
});

test("[DP-19] [SEC-8] threads drain: a client that asks for nothing, or for ever begins to, is let go", async (t) => {
  const server = createServer((_, response) => response.end("ok"));
  const { threads, connect } = await startThreads(t, 1, server, { drainIdleMs: 50 });
  const [idle, slow] = [await connect(0), await connect(0)];
  for (const socket of [idle, slow]) socket.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
  const ended = [idle, slow].map((socket) => new Promise<void>((resolve) => socket.resume().once("end", resolve)));
  await Promise.all([idle, slow].map((socket) => waitFor("an answer", () => socket.bytesRead > 0)));
  slow.write("GET / HT");
  const drained = threads.drain();
  // The second after the 10 s that a head may take.
  await Promise.all(ended);
  for (const socket of [idle, slow]) socket.end();
  await drained;
});

test("[DIS-6] clients of a pod that is being deleted are told with their next answer; those of other connections are not", async (t) => {
  const state = new MeshState();
  const replicas = new Replicas({ state, pods: () => [localPod(podA)], knowledge: () => "fresh" });
  const apply = (update: MeshUpdate): void => {
    state.apply(update);
    replicas.mesh(update);
  };
  apply({ changed: [{ kind: "Workload", value: podA }], removed: [] });
  const server = createServer((_, response) => response.end("ok"));
  const { connect } = await startThreads(t, 1, server, { replicas });
  const ask = clientOn(t, await connect(0));
  assert.notEqual((await ask()).connection, "close");
  apply({ changed: [{ kind: "Workload", value: { ...podA, draining: true } }], removed: [] });
  assert.equal((await toldBy(ask)).status, 200);
});

test("[INT-14] a poisoned thread takes its own connections and no others with it, and another takes its place within a second", async (t) => {
  // What the control thread can tell and a replica cannot take: it throws in the middle of its work.
  const poison = { changed: [{ kind: "Workload", value: null }], removed: [] } as unknown as MeshUpdate;
  const posts: ((update: MeshUpdate) => void)[] = [];
  class OneByOne extends Replicas {
    override attach(post: Parameters<Replicas["attach"]>[0]): () => void {
      posts.push((update) => post({ say: "mesh", ...update }));
      return super.attach(post);
    }
  }
  const replicas = new OneByOne({ state: new MeshState(), pods: () => [localPod(podA)], knowledge: () => "fresh" });
  const lines: { event: string; fields: Record<string, unknown> }[] = [];
  const note = (event: string, fields?: object): void => void lines.push({ event, fields: { ...fields } });
  let died = 0;
  const server = createServer((_, response) => response.end("ok"));
  const { threads, connect } = await startThreads(t, 2, server, {
    replicas,
    log: { ...silentLogger, error: note, info: note },
    died: { add: () => void died++ },
  });
  const [hit, other] = [await connect(0), await connect(1)];
  const [askHit, askOther] = [clientOn(t, hit), clientOn(t, other)];
  assert.deepEqual([(await askHit()).body, (await askOther()).body], ["ok", "ok"]);
  const ended = new Promise<void>((resolve) => hit.once("close", () => resolve()));
  posts[0]?.(poison);
  await ended;
  assert.equal((await askOther()).body, "ok");
  await waitFor("another in its place", () => lines.some(({ event }) => event === "data_thread_started"));
  assert.equal(died, 1);
  const seen = lines.find(({ event }) => event === "data_thread_died");
  assert.match(String(seen?.fields.reason), /null|undefined/);
  assert.ok(Number(seen?.fields.restartInMs) <= 300, "it is not waited for long");
  assert.deepEqual([threads.next(), threads.next()].sort(), [0, 1]);
  assert.equal((await clientOn(t, await connect(0))()).body, "ok");
  assert.equal((await askOther()).body, "ok");
});

test("[INT-14] a thread that needs more memory than it may have ends alone, and the agent says how much that is", async (t) => {
  const native = await startFakeNative(silentListener, systemClock);
  t.after(() => native.close());
  native.answers.set("handover.attach", () => ({ fd: 0 }));
  const lines: string[] = [];
  const log = {
    ...silentLogger,
    error: (event: string, fields?: object) => void lines.push(`${event} ${JSON.stringify(fields)}`),
  };
  let died = 0;
  const hungry = `parentPort.postMessage({ say: "ready" });
    const kept = []; setTimeout(() => { for (;;) kept.push(new Array(10_000).fill(kept.length)); }, 10);`;
  const threads = await startDataThreads(
    1,
    threadParts(native, () => {}, { script: script(hungry), heapMb: 32, log, died: { add: () => void died++ } }),
  );
  assert.ok(threads.ok);
  t.after(() => threads.value.stop());
  await waitFor("out of memory", () => died >= 1);
  assert.match(lines.join("\n"), /data_thread_died.*memory limit.*FAIRLEAD_DATA_THREAD_HEAP_MB/);
});

test("[SEC-8] a namespace with too many connections, or heads that fill the memory, is refused with the reason; another is served", async (t) => {
  const seen: TenantRefusals[] = [];
  const server = createServer((_, response) => response.end("ok"));
  const { connect } = await startThreads(t, 1, server, {
    limits: { connections: 3, requests: 100, bytes: 60_000, share: 0.3 },
    limited: (refusals) => void seen.push(...refusals),
  });
  const outbound = (pod: string): Promise<Socket> =>
    connect(0, { direction: "outbound", pod, original: { ip: "10.9.9.9", port: 80 } });
  const texts: string[] = [];
  const sockets: Socket[] = [];
  for (let i = 0; i < 4; i++) {
    const socket = await outbound("shop/a");
    texts.push("");
    socket.on("data", (chunk: Buffer) => {
      texts[i] += chunk.toString();
    });
    sockets.push(socket);
  }
  await waitFor("one too many", () =>
    texts.some((text) => /^HTTP\/1\.1 503 [\s\S]*FAIRLEAD_NAMESPACE_CONNECTIONS/.test(text)),
  );
  // A head without end, on each that is left.
  for (const socket of sockets) socket.write(`GET / HTTP/1.1\r\nhost: a\r\nx: ${"x".repeat(40_000)}`);
  await waitFor("431", () => texts.some((text) => text.startsWith("HTTP/1.1 431 ")));
  const ask = clientOn(t, await connect(0, { identity: "spiffe://cluster.local/ns/other/sa/b" }));
  assert.equal((await ask()).body, "ok");
  await waitFor("told", () => ["connections", "bytes"].every((limit) => seen.some((r) => r.limit === limit)));
  assert.ok(seen.every((r) => r.namespace === "shop"));
});
