// A data thread's channel of the real native library in this process, with sockets that are adopted as it hands them over: what an
// exchange gives away is moved by native's own workers.
import assert from "node:assert/strict";
import { connect, type OnReadOpts, type Socket } from "node:net";
import { join } from "node:path";
import { DataType, define, open } from "ffi-rs";
import { nativeSettings } from "../../agent/app/native-settings.ts";
import { systemClock } from "../../agent/base/clock.ts";
import { ok } from "../../agent/base/result.ts";
import { readConfig } from "../../agent/config.ts";
import { type LaneSocket, LaneSockets } from "../../agent/forward/dial.ts";
import type { Dialer } from "../../agent/forward/http1/exchange.ts";
import { LaneJoins } from "../../agent/forward/joins.ts";
import { adoptChannel, startNative } from "../../agent/native.ts";
import { silentListener } from "./fake-native.ts";

const library = join(import.meta.dirname, "../../native/target/release/libfairlead.so");
open({ library: "libc", path: "libc.so.6" });
const c = define({
  dup: { library: "libc", retType: DataType.I32, paramsType: [DataType.I32] },
  getsockopt: {
    library: "libc",
    retType: DataType.I32,
    paramsType: [DataType.I32, DataType.I32, DataType.I32, DataType.U8Array, DataType.U8Array],
  },
});
const [solSocket, soCookie] = [1, 57];

/** The kernel's own number of a socket. */
export function cookieOf(fd: number): number {
  const value = Buffer.alloc(8);
  const size = Buffer.from([8, 0, 0, 0]);
  assert.equal(c.getsockopt([fd, solSocket, soCookie, value, size]), 0);
  return Number(value.readBigUInt64LE());
}

export interface JoinedLane {
  readonly joins: LaneJoins;
  /** Takes over what Node accepted or connected; `fd` is closed by its owner. */
  adopt(fd: number, onread?: OnReadOpts): LaneSocket;
  readonly dial: Dialer;
  /** Of native, by name. */
  counter(name: string): Promise<number>;
  close(): void;
}

let thread = 0;
let started: ReturnType<typeof startNative> | undefined;

/** One library for the process; each lane is a thread of its own to it. `cookie`: what is told of a socket. */
export async function startJoinedLane(leastBytes: number, cookie = cookieOf): Promise<JoinedLane> {
  if (started === undefined) {
    const config = readConfig({ FAIRLEAD_NODE: "test", FAIRLEAD_WORKERS: "2" }, "/none");
    assert.ok(config.ok, JSON.stringify(config));
    started = startNative(library, nativeSettings(config.value), silentListener, systemClock);
  }
  assert.ok(started.ok, JSON.stringify(started));
  const native = started.value.channel;
  const attached = await native.call("handover.attach", { thread: thread++ });
  assert.ok(attached.ok, JSON.stringify(attached));
  const channel = adoptChannel(
    attached.value.fd,
    {
      ...silentListener,
      event(event) {
        if (event.event === "moved") joins.moved(event.join as number, event.taken as number, event.moved as number);
      },
    },
    systemClock,
  );
  const sockets = new LaneSockets(channel);
  const joins = new LaneJoins(channel, leastBytes);
  let id = 1_000_000;
  const adopt = (fd: number, onread?: OnReadOpts): LaneSocket => {
    const own = c.dup([fd]) as number;
    assert.ok(own > 0);
    const facts = { fd: own, id: id++, paired: false, cookie: cookie(own) };
    return sockets.adopt(facts, onread === undefined ? undefined : { onread });
  };
  return {
    joins,
    adopt,
    async dial(endpoint, onread) {
      const socket = connect({ host: endpoint.ip, port: endpoint.port, allowHalfOpen: true });
      await new Promise<void>((resolve, reject) => socket.once("connect", resolve).once("error", reject));
      const adopted = adopt(descriptorOf(socket), onread);
      socket.destroy();
      return ok(adopted as Socket);
    },
    async counter(name) {
      const counters = await native.call("counters", {});
      assert.ok(counters.ok);
      return (counters.value as Record<string, number>)[name] ?? 0;
    },
    close() {
      channel.close();
      sockets.close();
    },
  };
}

const descriptorOf = (socket: Socket): number => (socket as unknown as { _handle: { fd: number } })._handle.fd;

/** Ends the library's channel, which would keep the process. */
export function stopNative(): void {
  if (started?.ok) started.value.channel.close();
  started = undefined;
}
