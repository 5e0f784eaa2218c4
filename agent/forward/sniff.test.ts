// Which version a client speaks, from its first bytes however they are cut, and that nothing of them is lost.
import assert from "node:assert/strict";
import { connect, createServer, type OnReadOpts, Socket } from "node:net";
import { type TestContext, test } from "node:test";
import fc from "fast-check";
import { waitFor } from "../../test/kit/wait.ts";
import { systemClock } from "../base/clock.ts";
import { preface } from "./http2/codes.ts";
import { protocolOf, UnknownClient, upstreamProtocol } from "./sniff.ts";

test("[INT-7] the preface of HTTP/2 and nothing else is HTTP/2; too few bytes say nothing", () => {
  for (let i = 0; i < preface.length; i++) assert.equal(protocolOf(preface.subarray(0, i)), undefined);
  assert.equal(protocolOf(Buffer.concat([preface, Buffer.from("x")])), "http2");
  for (const text of ["G", "POST / HTTP/1.1", "PUT", "PRI /", "PRI * HTTP/1.1\r\n", "\0", "\x16\x03\x01"])
    assert.equal(protocolOf(Buffer.from(text)), "http1", text);
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 1, maxLength: 40 }), (bytes) => {
      const isPrefix = preface.subarray(0, bytes.length).equals(bytes.subarray(0, preface.length));
      assert.equal(protocolOf(bytes), !isPrefix ? "http1" : bytes.length < preface.length ? undefined : "http2");
    }),
  );
});

test("[DP-28] a server is spoken to as its port is declared; where that says nothing, as the client speaks", () => {
  for (const client of ["http1", "http2"] as const) {
    for (const declared of ["http2", "grpc", "h2c"]) assert.equal(upstreamProtocol(declared, client), "http2");
    for (const declared of ["http", "grpc-web", "ws"]) assert.equal(upstreamProtocol(declared, client), "http1");
    for (const declared of ["", "tcp", "tls"]) assert.equal(upstreamProtocol(declared, client), client);
  }
});

/** A socket that is sniffed, and what whoever takes it reads. */
async function sniffed(t: TestContext, limits = { idleTimeoutMs: 10_000, drainIdleMs: 10_000 }) {
  const seen = { protocol: "", bytes: Buffer.alloc(0), gone: 0, drained: 0 };
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const given = new Promise<UnknownClient>((resolve) => {
    const listening = server as unknown as { _handle: { onconnection: (status: number, handle: object) => void } };
    listening._handle.onconnection = (_status, handle) => {
      const made = (onread: OnReadOpts): Socket =>
        new Socket({ handle, onread, allowHalfOpen: true } as unknown as ConstructorParameters<typeof Socket>[0]);
      const take = (protocol: string) => (open: (onread: OnReadOpts) => Socket) => {
        seen.protocol = protocol;
        // Small, so that what was read comes in several pieces.
        const buffer = Buffer.alloc(7);
        const socket = open({
          buffer: () => buffer,
          callback: (count) => {
            seen.bytes = Buffer.concat([seen.bytes, buffer.subarray(0, count)]);
            return true;
          },
        });
        t.after(() => socket.destroy());
        return { drain: () => void seen.drained++ };
      };
      const takers = { http1: take("http1"), http2: take("http2") };
      resolve(new UnknownClient(made, takers, () => void seen.gone++, systemClock, limits));
    };
  });
  const client = connect({ port: (server.address() as { port: number }).port, noDelay: true });
  client.on("error", () => {});
  const unknown = await given;
  t.after(() => {
    client.destroy();
    server.close();
  });
  return { client, unknown, seen };
}

for (const [protocol, first] of [
  ["http1", "PRI /x HTTP/1.1\r\nhost: a\r\n\r\n"],
  ["http2", preface.toString()],
] as const)
  test(`[INT-7] bytes of ${protocol} that come one by one are read whole by whoever speaks it`, async (t) => {
    const { client, unknown, seen } = await sniffed(t);
    const text = `${first}${"more ".repeat(20)}`;
    for (const byte of text.slice(0, 30)) {
      client.write(byte);
      await systemClock.sleep(1);
    }
    client.write(text.slice(30));
    await waitFor("all of it", () => seen.bytes.length === text.length);
    assert.deepEqual([seen.protocol, seen.bytes.toString(), seen.gone], [protocol, text, 0]);
    unknown.drain();
    assert.equal(seen.drained, 1);
  });

test("[INT-7] a client that ends, says nothing for its time, or is to end before it spoke, is let go once", async (t) => {
  const ends = await sniffed(t);
  ends.client.end("PRI");
  await waitFor("the end", () => ends.seen.gone === 1);
  const silent = await sniffed(t, { idleTimeoutMs: 20, drainIdleMs: 10_000 });
  await waitFor("its time", () => silent.seen.gone === 1);
  const drained = await sniffed(t, { idleTimeoutMs: 10_000, drainIdleMs: 20 });
  drained.unknown.drain();
  await waitFor("let go", () => drained.seen.gone === 1);
  await waitFor("closed", () => drained.client.destroyed || drained.client.readableEnded || drained.client.closed);
  for (const { seen } of [ends, silent, drained]) assert.deepEqual([seen.gone, seen.protocol], [1, ""]);
});
