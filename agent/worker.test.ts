// The place where the HTTP lane plugs in: a data thread takes a socket from native over a channel of its own and carries it.
import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer as createHttp1 } from "node:http";
import { connect as connectHttp2, createServer as createHttp2 } from "node:http2";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { answerDials, give, pair, podA, script, startThreads, threadParts } from "../test/kit/data-thread.ts";
import { silentListener, startFakeNative } from "../test/kit/fake-native.ts";
import { authorization, localPod, member, mesh, service, workload } from "../test/kit/mesh.ts";
import { waitFor } from "../test/kit/wait.ts";
import type { Authorization } from "./api/policy.ts";
import { startDataThreads } from "./app/data-threads.ts";
import { Replicas } from "./app/replicas.ts";
import { systemClock } from "./base/clock.ts";
import { encodeFrame } from "./base/frames.ts";
import { silentLogger } from "./base/log.ts";
import type { LocalPod } from "./flow.ts";
import type { JoinParams } from "./native-calls.ts";
import type { RequestDeltas } from "./report/request-series.ts";
import type { HandedEnd } from "./threads.ts";

/** A data thread with a native that does nothing by itself; `hand` gives it a client's socket for a port of 127.0.0.1. */
async function threadOf(t: TestContext) {
  const folder = mkdtempSync(join(tmpdir(), "handover-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const native = await startFakeNative(silentListener, systemClock);
  t.after(() => native.close());
  const channel = await pair(t, join(folder, "channel.sock"));
  native.answers.set("handover.attach", () => ({ fd: give(channel.near) }));
  const ends: HandedEnd[] = [];
  const threads = await startDataThreads(
    1,
    threadParts(native, (_thread, end) => ends.push(end)),
  );
  assert.ok(threads.ok, JSON.stringify(threads));
  t.after(() => threads.value.stop());
  const hand = (fd: number, port: number): void => {
    const event = {
      event: "socket",
      fd,
      id: 1,
      tunnel: "plain",
      direction: "outbound",
      pod: "shop/a",
      original: { ip: "127.0.0.1", port },
      source: { ip: "127.0.0.1", port: 1 },
      planId: 9,
      verdictId: 0,
    };
    channel.far.write(encodeFrame(6, JSON.stringify(event)));
  };
  return { threads: threads.value, channel: channel.far, hand, ends };
}

test("[INT-9] a data thread adopts a handed socket and carries it to its destination, half-close included", async (t) => {
  // The destination hashes what it gets and answers only after the client's end of stream.
  const upstream = createServer({ allowHalfOpen: true }, (socket) => {
    const hash = createHash("sha256");
    socket.on("data", (chunk) => hash.update(chunk));
    socket.on("end", () => socket.end(hash.digest("hex")));
  });
  await new Promise<void>((resolve) => upstream.listen(0, "127.0.0.1", resolve));
  t.after(() => upstream.close());

  const { threads, channel, hand, ends } = await threadOf(t);
  assert.equal(threads.next(), 0);

  answerDials(channel, async ({ endpoint }) => {
    const socket = connect({ port: endpoint.port, allowHalfOpen: true });
    await new Promise((resolve) => socket.once("connect", resolve));
    return { ok: { fd: give(socket), id: 2, lane: "plain" } };
  });
  const client = await pair(t, 0);
  const { port } = upstream.address() as AddressInfo;
  hand(give(client.far), port);

  const sent = randomBytes(3_000_000);
  // What begins as text would be read as a request.
  sent[0] = 0;
  const got = new Promise<string>((resolve) => {
    let text = "";
    client.near.on("data", (chunk: Buffer) => {
      text += chunk.toString();
    });
    client.near.on("end", () => resolve(text));
  });
  client.near.end(sent);
  assert.equal(await got, createHash("sha256").update(sent).digest("hex"));
  await waitFor("the end is told", () => ends.length > 0);
  const [end] = ends;
  assert.deepEqual(
    [end?.handed.planId, end?.handed.source.port, end?.reason, end?.sent, end?.received],
    [9, 1, "finished", 3_000_000, 64],
  );
  assert.ok((end?.durationUs ?? 0) >= (end?.readyUs ?? 0) && (end?.readyUs ?? 0) > 0);
});

test("a handed socket whose destination refuses is ended, and the end says why", async (t) => {
  const { channel, hand, ends } = await threadOf(t);
  answerDials(channel, async () => ({ error: { code: "connect_refused", message: "dial: connect_refused" } }));
  const client = await pair(t, 0);
  client.near.write("\0");
  const closed = new Promise<void>((resolve) => {
    client.near.once("error", () => resolve());
    client.near.once("end", () => resolve());
    client.near.resume();
  });
  hand(give(client.far), 1);
  await closed;
  await waitFor("the end is told", () => ends.length > 0);
  assert.deepEqual([ends[0]?.reason, ends[0]?.readyUs], ["connect_refused", 0]);
});

test("[INT-14] a data thread that ends is counted, plans stop naming it, and another takes its number and its channel", async (t) => {
  const folder = mkdtempSync(join(tmpdir(), "handover-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const native = await startFakeNative(silentListener, systemClock);
  t.after(() => native.close());
  const channels = [await pair(t, join(folder, "0.sock")), await pair(t, join(folder, "1.sock"))];
  let attached = 0;
  native.answers.set("handover.attach", () => ({ fd: give((channels[attached++] as (typeof channels)[0]).near) }));
  const seen = { died: 0, changes: [] as (number | undefined)[] };
  const died = { add: () => void seen.died++ };
  const threads = await startDataThreads(
    1,
    threadParts(native, () => {}, { died, changed: () => seen.changes.push(threads.ok ? threads.value.next() : -1) }),
  );
  assert.ok(threads.ok);
  t.after(() => threads.value.stop());
  channels[0]?.far.destroy();
  await waitFor("another thread", () => threads.value.next() === 0 && attached === 2);
  await waitFor("told of twice", () => seen.changes.length === 2);
  assert.deepEqual(seen, { died: 1, changes: [undefined, 0] });
});

test("[INT-14] a data thread that hangs is ended and replaced; one that throws too", async (t) => {
  const native = await startFakeNative(silentListener, systemClock);
  t.after(() => native.close());
  native.answers.set("handover.attach", () => ({ fd: 0 }));
  const ready = 'parentPort.postMessage({ say: "ready" });';
  for (const fatal of ["for (;;);", 'throw new Error("a bug");']) {
    const lines: string[] = [];
    const log = {
      ...silentLogger,
      error: (event: string, fields?: object) => lines.push(`${event} ${fields?.["reason" as never] ?? ""}`),
    };
    let died = 0;
    const threads = await startDataThreads(
      1,
      threadParts(native, () => {}, {
        script: script(`${ready} parentPort.on("message", () => { ${fatal} });`),
        // One that throws must not be taken for one that hangs.
        hungMs: fatal.startsWith("for") ? 500 : 60_000,
        log,
        died: { add: () => void died++ },
      }),
    );
    assert.ok(threads.ok);
    await waitFor(`died of ${fatal}`, () => died >= 2);
    await threads.value.stop();
    assert.ok(
      lines.some((line) =>
        fatal.startsWith("for") ? line.startsWith("data_thread_hung") : line === "data_thread_died a bug",
      ),
      lines.join(),
    );
  }
});

test("[INT-14] a data thread that cannot start at all is an error that names it", async (t) => {
  const native = await startFakeNative(silentListener, systemClock);
  t.after(() => native.close());
  native.answers.set("handover.attach", () => ({ fd: 0 }));
  const threads = await startDataThreads(
    2,
    threadParts(native, () => {}, { script: script('throw new Error("no way");') }),
  );
  assert.deepEqual(threads, { ok: false, error: "data thread 0: no way" });
});

/** A data thread of a node with the pod shop/a, and a connection to it handed over whose first bytes are `protocol`. */
async function handedInbound(t: TestContext, protocol: "http1" | "http2" | null, policies: readonly Authorization[]) {
  let dialled = 0;
  const server = createServer((socket) => {
    dialled++;
    socket.on("error", () => {}).pipe(socket);
  });
  const state = mesh({ authorizations: policies });
  const replicas = new Replicas({ state, pods: () => [localPod(podA)], knowledge: () => "fresh" });
  const { connect: hand } = await startThreads(t, 1, server, { replicas });
  const client = await hand(0, { protocol });
  const seen = { text: "", error: "" };
  client.on("data", (chunk: Buffer) => {
    seen.text += chunk.toString("latin1");
  });
  client.on("error", (error: NodeJS.ErrnoException) => {
    seen.error = error.code ?? "";
  });
  return { client, seen, replicas, dialled: () => dialled };
}
const noAdmin = authorization("no-admin", [{ to: [{ paths: ["/admin*"] }] }], { action: "deny" });

test("[DP-24] [SEC-1] a client that was silent and then speaks HTTP is judged by its requests", async (t) => {
  const { client, seen, dialled } = await handedInbound(t, null, [noAdmin]);
  client.write("GET /admin HTTP/1.1\r\nhost: a\r\n\r\n");
  await waitFor("an answer", () => seen.text.includes("RBAC"));
  assert.match(seen.text, /^HTTP\/1\.1 403 /);
  assert.equal(dialled(), 0);
});

test("[DP-25] [INT-12] a connection that comes before its thread knows the pod waits for that, and is then served", async (t) => {
  const server = createHttp1((_, response) => void response.end("served"));
  const pods: LocalPod[] = [];
  const replicas = new Replicas({ state: mesh({}), pods: () => pods, knowledge: () => "fresh" });
  const { connect: hand } = await startThreads(t, 1, server, { replicas });
  const client = await hand(0, { protocol: "http1" });
  let text = "";
  client.on("data", (chunk: Buffer) => {
    text += chunk.toString();
  });
  client.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
  // The thread has read the connection's event by then: an answer would be here.
  await systemClock.sleep(200);
  assert.equal(text, "");
  pods.push(localPod(podA));
  replicas.pods();
  await waitFor("an answer", () => text !== "");
  assert.match(text, /^HTTP\/1\.1 200 /);
});

/** Node's own client on a connection that was handed over. */
function http2Client(t: TestContext, connected: Socket) {
  const session = connectHttp2("http://a", { createConnection: () => connected });
  session.on("error", () => {});
  t.after(() => session.destroy());
  return async (path: string): Promise<string> => {
    const stream = session.request({ ":path": path });
    let text = "";
    stream.on("response", (headers) => {
      text = `${headers[":status"]} `;
    });
    for await (const chunk of stream as AsyncIterable<Buffer>) text += chunk.toString();
    return text;
  };
}

const declaredA = workload("shop", "a", "10.244.1.6", { services: [member("shop", "a", 80, 8080)] });
/** Types of frames; of GOAWAY its code too (RFC 9113 §6.8). */
function framesOf(bytes: Buffer): number[][] {
  const frames: number[][] = [];
  for (let at = 0; at < bytes.length; at += 9 + bytes.readUIntBE(at, 3)) {
    const type = bytes[at + 3] as number;
    frames.push(type === 7 ? [type, bytes.readUInt32BE(at + 13)] : [type]);
  }
  return frames;
}

for (const protocol of ["http2", null] as const)
  test(`[DP-24] [SEC-1] [INT-7] HTTP/2 is judged request by request, streams of one connection each for itself (first bytes: ${protocol})`, async (t) => {
    const state = mesh({ authorizations: [noAdmin] });
    const replicas = new Replicas({ state, pods: () => [localPod(podA)], knowledge: () => "fresh" });
    const server = createHttp2((request, response) => void response.end(`served ${request.url}`));
    const told: RequestDeltas[] = [];
    const { connect: hand } = await startThreads(t, 1, server, {
      replicas,
      requests: (_, deltas) => void (deltas !== undefined && told.push(deltas)),
    });
    const get = http2Client(t, await hand(0, { protocol }));
    const paths = Array.from({ length: 40 }, (_, i) => (i % 2 === 0 ? `/admin/${i}` : `/${i}`));
    const answers = await Promise.all(paths.map(get));
    assert.deepEqual(
      answers,
      paths.map((path) => (path.startsWith("/admin") ? "403 RBAC: access denied\n" : `200 served ${path}`)),
    );
    const counted = (code: string): number => {
      const deltas = told.flatMap((each) => each.deltas);
      const ids = new Set(deltas.filter(({ labels }) => labels?.response_code === code).map(({ id }) => id));
      return deltas.filter(({ id }) => ids.has(id)).reduce((sum, { count }) => sum + count, 0);
    };
    await waitFor("the metrics", () => counted("403") === 20 && counted("200") === 20);
  });

test("[INT-7] what was silent and then speaks HTTP/1 is read as that, byte by byte too", async (t) => {
  const { client, seen } = await handedInbound(t, null, [noAdmin]);
  client.setNoDelay(true);
  for (const byte of "PRI /admin HTTP/1.1\r\nhost: a\r\n\r\n") {
    client.write(byte);
    await systemClock.sleep(1);
  }
  await waitFor("an answer", () => seen.text.includes("RBAC"));
  assert.match(seen.text, /^HTTP\/1\.1 403 /);
});

for (const [declared, isHttp2] of [
  ["h2c", true],
  ["grpc", true],
  ["http", false],
] as const)
  test(`[INT-7] [TRF-7] text that is no request and no preface is refused as the port is declared (${declared})`, async (t) => {
    const port80 = [{ port: 80, targetPort: 8080, nodePort: 0, protocol: declared }];
    const known = mesh({ services: [service("shop", "a", "10.96.0.9", port80)], workloads: [declaredA] });
    const replicas = new Replicas({ state: known, pods: () => [localPod(declaredA)], knowledge: () => "fresh" });
    const told: string[] = [];
    const malformed = (refused: string): void => void told.push(refused);
    const { connect: hand } = await startThreads(t, 1, createServer(), { replicas, malformed });
    const outbound = { direction: "outbound", service: "shop/a", original: { ip: "10.96.0.9", port: 80 } } as const;
    for (const way of [{}, outbound]) {
      for (const text of [
        "INVALID CONNECTION PREFACE\r\n\r\n",
        "GET\t/ HTTP/1.1\r\n\r\n",
        "GET /\0 HTTP/1.1\r\n\r\n",
      ]) {
        const client = await hand(0, { ...way, protocol: null });
        const chunks: Buffer[] = [];
        client.on("data", (chunk: Buffer) => void chunks.push(chunk));
        client.write(text);
        await waitFor("the end", () => client.readableEnded);
        client.destroy();
        const got = Buffer.concat(chunks);
        if (!isHttp2 || text.includes("HTTP/1.1")) assert.match(got.toString("latin1"), /^HTTP\/1\.1 400 /, text);
        else assert.deepEqual(framesOf(got), [[4], [8], [7, 1]], "SETTINGS, its window, GOAWAY with PROTOCOL_ERROR");
      }
    }
    const count = isHttp2 ? 2 : 0;
    await waitFor("the counts", () => told.length === 6);
    assert.equal(told.filter((refused) => refused === "preface").length, count, told.join());
  });

test("[INT-7] [OBS-1] what was silent is read as requests even where it is allowed as a connection: they are counted", async (t) => {
  const server = createHttp1((request, response) => void response.end(`served ${request.url}`));
  const told: RequestDeltas[] = [];
  const replicas = new Replicas({ state: mesh({}), pods: () => [localPod(podA)], knowledge: () => "fresh" });
  const requests = (_: number, deltas: RequestDeltas | undefined) => void (deltas !== undefined && told.push(deltas));
  const { connect: hand } = await startThreads(t, 1, server, { replicas, requests });
  // A browser's spare connection: nothing for a while, then as any other.
  const client = await hand(0, { protocol: null });
  let text = "";
  client.on("data", (chunk: Buffer) => {
    text += chunk.toString("latin1");
  });
  for (const path of ["/1", "/2"]) {
    client.write(`GET ${path} HTTP/1.1\r\nhost: a\r\n\r\n`);
    await waitFor("its answer", () => text.includes(`served ${path}`));
  }
  const count = () => told.flatMap(({ deltas }) => deltas).reduce((sum, each) => sum + each.count, 0);
  await waitFor("the metrics", () => count() === 2);
});

test("[DP-24] what was silent, is no HTTP and is allowed as a connection is carried, until a policy about requests comes", async (t) => {
  const { client, seen, replicas } = await handedInbound(t, null, []);
  client.write("*1\r\n");
  await waitFor("the echo", () => seen.text.includes("*1"));
  replicas.mesh({ changed: [{ kind: "Authorization", value: noAdmin }], removed: [] });
  await waitFor("the reset", () => seen.error !== "");
  assert.equal(seen.error, "ECONNRESET");
});

test("[INT-9] the rest of a long body is given to native, by what it knows both sockets by; refused, it is carried here", async (t) => {
  const body = randomBytes(4_000_000);
  const server = createHttp1((_, res) => res.end(body));
  const { joins, connect } = await startThreads(t, 1, server);
  const client = await connect(0, { cookie: 8_001 });
  const got: Buffer[] = [];
  client.on("data", (data: Buffer) => got.push(data));
  client.write("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
  await new Promise((resolve) => client.once("end", resolve));
  assert.ok(Buffer.concat(got).subarray(-body.length).equals(body));
  assert.equal(joins.length, 1);
  const [{ from, to, bytes }] = joins as [JoinParams];
  assert.deepEqual([from.cookie, from.id, to.cookie, to.id], [8_002, 2, 8_001, 1]);
  assert.ok(bytes > 512 * 1024 && bytes < body.length);
});
