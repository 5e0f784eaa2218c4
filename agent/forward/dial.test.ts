// A data thread's sockets over real unix and TCP pairs; the native side of its channel is played by the test's kit.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { DataType, define, open } from "ffi-rs";
import { type FakeNative, silentListener, startFakeNative } from "../../test/kit/fake-native.ts";
import { waitFor } from "../../test/kit/wait.ts";
import { systemClock } from "../base/clock.ts";
import type { DialParams } from "../native-calls.ts";
import { type LaneSocket, LaneSockets } from "./dial.ts";

open({ library: "libc", path: "libc.so.6" });
const c = define({ dup: { library: "libc", retType: DataType.I32, paramsType: [DataType.I32] } });

/** The far end of a pair, and a descriptor of the near one as native would give it. */
async function ends(t: TestContext, where: string | number): Promise<{ fd: number; far: Socket }> {
  const server = createServer({ allowHalfOpen: true });
  await new Promise<void>((resolve) => server.listen(where as never, resolve));
  const accepted = new Promise<Socket>((resolve) => server.once("connection", resolve));
  const near =
    typeof where === "string"
      ? connect({ path: where, allowHalfOpen: true })
      : connect((server.address() as AddressInfo).port);
  const far = await accepted;
  await new Promise<void>((resolve) => (near.connecting ? near.once("connect", resolve) : resolve()));
  const fd = c.dup([(near as unknown as { _handle: { fd: number } })._handle.fd]) as number;
  near.destroy();
  server.close();
  t.after(() => far.destroy());
  return { fd, far };
}

const params: DialParams = {
  pod: "shop/a",
  endpoint: { ip: "10.0.0.1", port: 80, mode: "fairlead/1", identities: ["spiffe://cluster.local/ns/shop/sa/b"] },
  source: { ip: "10.0.0.2", port: 4000 },
};

async function lane(t: TestContext): Promise<{ native: FakeNative; sockets: LaneSockets; folder: string }> {
  const native = await startFakeNative(silentListener, systemClock);
  const folder = mkdtempSync(join(tmpdir(), "dial-"));
  t.after(async () => {
    await native.close();
    rmSync(folder, { recursive: true, force: true });
  });
  return { native, sockets: new LaneSockets(native.channel), folder };
}

async function dialled(t: TestContext, kind: "tunnel" | "plain") {
  const { native, sockets, folder } = await lane(t);
  const { fd, far } = await ends(t, kind === "tunnel" ? join(folder, "pair.sock") : 0);
  native.answers.set("dial", () => ({ fd, id: 7, lane: kind, peer: "spiffe://cluster.local/ns/shop/sa/b" }));
  native.answers.set("abort", () => ({}));
  const socket = await sockets.dial(params);
  assert.ok(socket.ok);
  return { native, sockets, socket: socket.value, far };
}

const endOf = (socket: Socket | LaneSocket): Promise<string> =>
  new Promise((resolve) => {
    socket.once("error", (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message));
    socket.once("end", () => resolve("end"));
    socket.resume();
  });

test("[TRF-6] a place among a service's connections is let go when a socket that native does not see any more has closed", async (t) => {
  const limits = { key: "k", maxConnections: 1, maxPending: 0, policy: "shop/few" };
  for (const kind of ["plain", "tunnel"] as const) {
    const { native, sockets, folder } = await lane(t);
    const { fd } = await ends(t, kind === "tunnel" ? join(folder, "pair.sock") : 0);
    native.answers.set("dial", () => ({ fd, id: 7, lane: kind }));
    native.answers.set("release", () => ({}));
    const dialled = await sockets.dial({ ...params, limits });
    assert.ok(dialled.ok);
    dialled.value.destroy();
    await new Promise((resolve) => dialled.value.once("close", resolve));
    const released = () => native.calls.filter(({ method }) => method === "release");
    if (kind === "plain") await waitFor("it is let go", () => released().length === 1);
    assert.deepEqual(
      released().map((call) => call.params),
      kind === "plain" ? [{ id: 7 }] : [],
    );
  }
});

test("[INT-9] a dialled socket carries both ways, and each way ends by itself", async (t) => {
  const { native, socket, far, sockets } = await dialled(t, "tunnel");
  assert.deepEqual(native.calls.at(-1)?.params, params);
  assert.deepEqual([socket.id, socket.paired, sockets.size], [7, true, 1]);
  assert.equal(socket.peer, "spiffe://cluster.local/ns/shop/sa/b");
  const asked = endOf(far);
  socket.end("question");
  assert.equal(await asked, "end");
  const answered = endOf(socket);
  far.end("answer");
  assert.equal(await answered, "end");
  await waitFor("the socket is forgotten", () => sockets.size === 0);
});

test("[DP-24] a dial that fails gives the close reason", async (t) => {
  const { native, sockets } = await lane(t);
  native.answers.set("dial", () => ({
    error: { code: "policy_denied", message: "dial: policy_denied", policy: "a/b" },
  }));
  const refused = await sockets.dial(params);
  assert.deepEqual(refused, {
    ok: false,
    error: { code: "policy_denied", message: "dial: policy_denied", policy: "a/b" },
  });
});

test("[INT-9] the far side's reset, told on the channel, is an error of the socket and no end", async (t) => {
  const { socket, sockets } = await dialled(t, "tunnel");
  const end = endOf(socket);
  sockets.aborted(8);
  sockets.aborted(7);
  assert.equal(await end, "ECONNRESET");
});

test("[INT-9] a reset by the thread: native is told first, then its own end is closed; a TCP socket is reset itself", async (t) => {
  const { native, socket, far } = await dialled(t, "tunnel");
  let open = false;
  native.answers.set("abort", () => {
    open = !socket.destroyed;
    return {};
  });
  const closed = endOf(far);
  socket.reset();
  await closed;
  assert.ok(open && socket.destroyed);
  assert.deepEqual(native.calls.at(-1), { method: "abort", params: { id: 7 } });

  const plain = await dialled(t, "plain");
  const reset = endOf(plain.far);
  plain.socket.reset();
  assert.equal(await reset, "ECONNRESET");
  assert.equal(plain.native.calls.at(-1)?.method, "dial");
});

test("a reply to a dial that was given up leaves no descriptor behind", async (t) => {
  const { sockets, folder } = await lane(t);
  const { fd, far } = await ends(t, join(folder, "pair.sock"));
  const end = endOf(far);
  sockets.late({ fd, id: 7, lane: "tunnel" });
  sockets.late({});
  assert.equal(await end, "end");
});
