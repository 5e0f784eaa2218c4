// Two data threads as on two nodes: what the client's dials comes to the server's as native would hand it over, one end each of a socket
// pair. No tunnel, no kernel: only what the two threads say to each other.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { type DataThreadParts, type DataThreads, startDataThreads } from "../../agent/app/data-threads.ts";
import { Replicas } from "../../agent/app/replicas.ts";
import { systemClock } from "../../agent/base/clock.ts";
import { encodeFrame, FrameReader } from "../../agent/base/frames.ts";
import type { DialParams } from "../../agent/native-calls.ts";
import type { HandedSocket } from "../../agent/threads.ts";
import { give, pair, podA, threadParts } from "./data-thread.ts";
import { silentListener, startFakeNative } from "./fake-native.ts";
import { localPod, mesh, workload } from "./mesh.ts";

const client = workload("shop", "client", "10.244.9.5");
const serverAddress = { ip: "10.244.1.6", port: 8080 };

export interface TwoNodesOptions {
  /** Whether the server's agent takes the offer of requests; an earlier one has never heard of it. */
  readonly takes?: () => boolean;
  readonly clientParts?: Partial<DataThreadParts>;
  readonly serverParts?: Partial<DataThreadParts>;
}

export interface TwoNodes {
  readonly clientThreads: DataThreads;
  readonly serverThreads: DataThreads;
  /** Streams between the nodes so far, and what each carries. */
  readonly streams: { readonly offered: boolean; readonly taken: boolean }[];
  /** A connection of the client pod to the server pod; the application's end. */
  connect(): Promise<Socket>;
  /** The same of a connection that is there: its far end, unread. */
  adopt(far: Socket): void;
}

/** What listens on `port` answers what reaches the pod on the second node. */
export async function startTwoNodes(t: TestContext, port: number, options: TwoNodesOptions = {}): Promise<TwoNodes> {
  const { takes = () => true } = options;
  const folder = mkdtempSync(join(tmpdir(), "nodes-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const streams: { offered: boolean; taken: boolean }[] = [];
  const channels: { client?: Socket; server?: Socket } = {};
  let numbers = 0;
  type Side = keyof typeof channels;
  const tell = (side: Side, event: object): void => void channels[side]?.write(encodeFrame(6, JSON.stringify(event)));

  /** The stream's two ends have one number each, the server's one above the client's. */
  async function dial(side: Side, params: DialParams): Promise<object> {
    numbers += 2;
    const id = numbers;
    if (side === "server") {
      const socket = connect({ port, allowHalfOpen: true });
      await new Promise((resolve) => socket.once("connect", resolve));
      return { fd: give(socket), id, lane: "local" };
    }
    const offered = params.requests === true;
    const taken = offered && takes();
    streams.push({ offered, taken });
    const { near, far } = await pair(t, join(folder, `${id}.sock`));
    const [fd, theirs] = [give(near), give(far)];
    tell("server", {
      ...{ event: "socket", fd: theirs, id: id + 1, tunnel: "fairlead/1", direction: "inbound", pod: "shop/a" },
      ...{ original: serverAddress, source: params.source, planId: 0, verdictId: 9, requests: taken },
      ...{ identity: localPod(client).identity, protocol: taken ? "http2" : "http1" },
    });
    return { fd, id, lane: "tunnel", requests: taken };
  }

  async function start(side: Side, parts: Partial<DataThreadParts>): Promise<DataThreads> {
    const native = await startFakeNative(silentListener, systemClock);
    t.after(() => native.close());
    const { near, far } = await pair(t, join(folder, `${side}.sock`));
    native.answers.set("handover.attach", () => ({ fd: give(near) }));
    channels[side] = far;
    const frames = new FrameReader({
      async frame(_kind, payload) {
        const { id, method, params } = JSON.parse(payload.toString());
        // A pair has no reset: the other thread hears of it as from native.
        if (method === "abort" && side === "client") tell("server", { event: "aborted", id: params.id + 1 });
        if (method === "abort" && side === "server") tell("client", { event: "aborted", id: params.id - 1 });
        const ok = method === "dial" ? await dial(side, params) : {};
        far.write(encodeFrame(2, JSON.stringify({ id, ok })));
      },
    });
    far.on("error", () => {});
    far.on("data", (chunk: Buffer) => frames.push(chunk)).resume();
    const started = await startDataThreads(
      1,
      threadParts(native, () => {}, parts),
    );
    assert.ok(started.ok, JSON.stringify(started));
    t.after(() => started.value.stop());
    return started.value;
  }

  const serverThreads = await start("server", options.serverParts ?? {});
  const state = mesh({ workloads: [{ ...podA, tunnel: "fairlead/1" }, client] });
  const replicas = new Replicas({ state, pods: () => [localPod(client)], knowledge: () => "fresh" });
  const clientThreads = await start("client", { replicas, ...options.clientParts });
  const adopt = (far: Socket): void => {
    numbers += 2;
    const event: HandedSocket = {
      ...{ event: "socket", fd: give(far), id: numbers, tunnel: "plain", direction: "outbound" },
      ...{ pod: "shop/client", original: serverAddress, source: { ip: "10.244.9.5", port: 40_000 } },
      ...{ planId: 0, verdictId: 0, protocol: "http1" },
    };
    tell("client", event);
  };
  return {
    clientThreads,
    serverThreads,
    streams,
    adopt,
    async connect() {
      const { near, far } = await pair(t, 0);
      adopt(far);
      near.on("error", () => {});
      return near;
    },
  };
}
