// Connections that are refused with a word: the word arrives, whatever the client was sending, and a flood of them is cut short.
import assert from "node:assert/strict";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { type TestContext, test } from "node:test";
import { createFakeClock } from "../../../test/kit/fake-clock.ts";
import { waitFor } from "../../../test/kit/wait.ts";
import { Refusing } from "./refusing.ts";
import { Sweep } from "./sweep.ts";

async function setUp(t: TestContext) {
  const clock = createFakeClock();
  const sweep = new Sweep(clock);
  const refusing = new Refusing(sweep);
  const server = createServer({ allowHalfOpen: true }, (socket) => refusing.refuse(socket, "too many"));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", 1024, resolve));
  const sockets = new Set<Socket>();
  t.after(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
    sweep.stop();
  });
  const client = () => {
    const seen = { text: "", error: "", ended: false };
    const { port } = server.address() as AddressInfo;
    const socket = connect({ port, host: "127.0.0.1", allowHalfOpen: true });
    sockets.add(socket);
    socket.on("data", (chunk: Buffer) => {
      seen.text += chunk.toString();
    });
    socket.on("error", (error: NodeJS.ErrnoException) => {
      seen.error = error.code ?? "?";
    });
    socket.on("end", () => {
      seen.ended = true;
    });
    return { socket, seen };
  };
  return { client, clock };
}

test("[SEC-8] a connection that is not taken is told so with 503, even in the middle of a long request", async (t) => {
  const { client } = await setUp(t);
  const { socket, seen } = client();
  socket.write("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 500000\r\n\r\n");
  socket.write(Buffer.alloc(500_000));
  await waitFor("the end", () => seen.ended);
  assert.match(seen.text, /^HTTP\/1\.1 503 Service Unavailable\r\n/);
  assert.match(seen.text, /\r\nconnection: close\r\n/);
  assert.match(seen.text, /\r\ncontent-length: 9\r\n\r\ntoo many\n$/);
  assert.equal(seen.error, "");
});

test("[SEC-8] of many that are refused at once some are told, the rest is reset", async (t) => {
  const { client, clock } = await setUp(t);
  const all = Array.from({ length: 400 }, () => client());
  await waitFor("all are over", () => all.every(({ seen }) => seen.ended || seen.error !== ""));
  const told = all.filter(({ seen }) => seen.text.includes("503"));
  assert.equal(told.length, 256);
  assert.ok(all.every(({ seen }) => seen.text.includes("503") || seen.error === "ECONNRESET"));
  // Those that were told and stay all the same are waited for no longer than 2 s; then there is room again.
  clock.advance(2_000);
  const { socket, seen } = client();
  await waitFor("told", () => seen.text.includes("503"));
  socket.end();
});
