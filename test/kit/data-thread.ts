// A data thread under test: sockets that are given away as native gives them, its channel's other end, and what the control thread needs.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { DataType, define, open } from "ffi-rs";
import { type DataThreadParts, type DataThreads, startDataThreads } from "../../agent/app/data-threads.ts";
import { createGuardMemory } from "../../agent/app/guard-report.ts";
import { Replicas } from "../../agent/app/replicas.ts";
import { systemClock } from "../../agent/base/clock.ts";
import { encodeFrame, FrameReader } from "../../agent/base/frames.ts";
import { silentLogger } from "../../agent/base/log.ts";
import { seededRandom } from "../../agent/base/random.ts";
import type { JoinParams } from "../../agent/native-calls.ts";
import { MeshState } from "../../agent/state/mesh-state.ts";
import type { HandedSocket } from "../../agent/threads.ts";
import { type FakeNative, silentListener, startFakeNative } from "./fake-native.ts";
import { localPod, workload } from "./mesh.ts";
import { noTelemetry } from "./telemetry.ts";

export const podA = workload("shop", "a", "10.244.1.6");

// Native hands over descriptors that nobody else owns; here they are made by dup from sockets that Node accepted.
open({ library: "libc", path: "libc.so.6" });
const c = define({ dup: { library: "libc", retType: DataType.I32, paramsType: [DataType.I32] } });
const descriptorOf = (socket: Socket): number => (socket as unknown as { _handle: { fd: number } })._handle.fd;
const dup = (socket: Socket): number => {
  const fd = c.dup([descriptorOf(socket)]) as number;
  assert.ok(fd > 0);
  return fd;
};

/** As native does: this side lets go, or it would read what is meant for the thread. */
export function give(socket: Socket): number {
  const fd = dup(socket);
  socket.destroy();
  return fd;
}

export const threadParts = (
  native: FakeNative,
  ended: DataThreadParts["ended"],
  more: Partial<DataThreadParts> = {},
): DataThreadParts => ({
  native: native.channel,
  replicas: new Replicas({ state: new MeshState(), pods: () => [localPod(podA)], knowledge: () => "fresh" }),
  clock: systemClock,
  random: seededRandom(1),
  log: silentLogger,
  died: { add: () => {} },
  hungMs: 60_000,
  metricSeries: 100,
  telemetry: noTelemetry,
  drainIdleMs: 300,
  guard: createGuardMemory(64),
  heapMb: 256,
  guarded: () => {},
  limits: { connections: 1000, requests: 1000, bytes: 2 ** 26, share: 0.3 },
  threw: () => {},
  requests: () => {},
  malformed: () => {},
  endpoint: () => {},
  mirrored: () => {},
  decided: () => {},
  limited: () => {},
  ended,
  changed: () => {},
  ...more,
});

/** Both ends of a stream through a listener. */
export async function pair(t: TestContext, where: string | number): Promise<{ near: Socket; far: Socket }> {
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true });
  await new Promise<void>((resolve) => server.listen(where as never, resolve));
  const accepted = new Promise<Socket>((resolve) => server.once("connection", resolve));
  const address = server.address();
  const near =
    typeof address === "string"
      ? connect(address)
      : connect({ port: (address as AddressInfo).port, allowHalfOpen: true });
  const far = await accepted;
  server.close();
  t.after(() => {
    near.destroy();
    far.destroy();
  });
  return { near, far };
}

/** What a data thread asks of native: `dial` connects as this process can, or fails; `join` is noted and refused. */
export function answerDials(
  channel: Socket,
  answer: (params: { endpoint: { port: number } }) => Promise<object>,
  joins: JoinParams[] = [],
): void {
  const frames = new FrameReader({
    async frame(_kind, payload) {
      const { id, method, params } = JSON.parse(payload.toString());
      if (method === "join") joins.push(params);
      const answered =
        method === "join"
          ? { error: { code: "join_stale", message: "join" } }
          : method === "release"
            ? { ok: {} }
            : await answer(params);
      channel.write(encodeFrame(2, JSON.stringify({ id, ...answered })));
    },
  });
  channel.on("data", (chunk: Buffer) => frames.push(chunk)).resume();
}

/** A data thread's entry made of a few statements. */
export const script = (body: string): URL =>
  new URL(`data:text/javascript,${encodeURIComponent(`import { parentPort } from "node:worker_threads"; ${body}`)}`);

export interface StartedThreads {
  readonly threads: DataThreads;
  /** What was asked to be joined. */
  readonly joins: readonly JoinParams[];
  /** A connection of a client to the pod shop/a, given to a thread; the client's end. */
  connect(thread: number, more?: Partial<HandedSocket>): Promise<Socket>;
}

/** Data threads that run; what they dial on behalf of shop/a is `server`. A thread that is started again gets a channel of its own. */
export async function startThreads(
  t: TestContext,
  count: number,
  server: Server,
  more: Partial<DataThreadParts> = {},
): Promise<StartedThreads> {
  const folder = mkdtempSync(join(tmpdir(), "threads-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const native = await startFakeNative(silentListener, systemClock);
  t.after(() => native.close());
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => server.close());
  const channels = new Map<number, Socket>();
  const joins: JoinParams[] = [];
  // Made ahead: an answer of native is given at once.
  const spare = await Promise.all(Array.from({ length: count + 4 }, (_, i) => pair(t, join(folder, `${i}.sock`))));
  native.answers.set("handover.attach", ({ thread }) => {
    const { near, far } = spare.pop() as (typeof spare)[0];
    channels.set(thread as number, far);
    const dialled = async (): Promise<object> => {
      const socket = connect({ port: (server.address() as AddressInfo).port, allowHalfOpen: true });
      await new Promise((resolve) => socket.once("connect", resolve));
      return { ok: { fd: give(socket), cookie: 8_002, id: 2, lane: "local" } };
    };
    answerDials(far, dialled, joins);
    far.on("error", () => {});
    return { fd: give(near) };
  });
  const started = await startDataThreads(
    count,
    threadParts(native, () => {}, more),
  );
  assert.ok(started.ok, JSON.stringify(started));
  t.after(() => started.value.stop());
  return {
    threads: started.value,
    joins,
    async connect(thread, handed = {}) {
      const client = await pair(t, 0);
      const event: HandedSocket = {
        event: "socket",
        fd: give(client.far),
        id: 1,
        tunnel: "plain",
        direction: "inbound",
        pod: "shop/a",
        original: { ip: "10.244.1.6", port: 8080 },
        source: { ip: "10.244.1.5", port: 40_000 },
        planId: 0,
        verdictId: 9,
        protocol: "http1",
        ...handed,
      };
      channels.get(thread)?.write(encodeFrame(6, JSON.stringify(event)));
      client.near.on("error", () => {});
      return client.near;
    },
  };
}
