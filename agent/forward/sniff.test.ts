// Which version a client speaks, from its first bytes however they are cut, and that nothing of them is lost.
import assert from "node:assert/strict";
import { connect, createServer, type OnReadOpts, Socket } from "node:net";
import { type TestContext, test } from "node:test";
import fc from "fast-check";
import { waitFor } from "../../test/kit/wait.ts";
import { systemClock } from "../base/clock.ts";
import { preface } from "./http2/codes.ts";
import { protocolOf, type SniffLimits, takenFor, UnknownClient, upstreamProtocol } from "./sniff.ts";

test("[INT-7] the preface of HTTP/2 is HTTP/2, a request line with its version HTTP/1, all else another protocol", () => {
  for (let i = 0; i < preface.length; i++) assert.equal(protocolOf(preface.subarray(0, i)), undefined);
  assert.equal(protocolOf(Buffer.concat([preface, Buffer.from("x")])), "http2");
  for (const text of [
    "GET / HTTP/1.1\r\n",
    "PRI * HTTP/1.1\r\n",
    "PUT /\xe9 HTTP/1.0\n",
    "M-SEARCH * HTTP/1.1\r\nhost",
  ])
    assert.equal(protocolOf(Buffer.from(text, "latin1")), "http1", text);
  for (const text of [
    "",
    "G",
    "GET",
    "GET ",
    "PRI * HT",
    "POST / HTTP/1.1",
    "POST / HTTP/1.1\r",
    `GET /${"a".repeat(5000)}`,
  ])
    assert.equal(protocolOf(Buffer.from(text)), undefined, text);
  // Meant as requests, if not good ones: HTTP refuses them.
  for (const text of [
    "PING\r\n",
    "HELO\n",
    "get key\r\n",
    "GET /\r\n",
    "GET /\0",
    "GET\t/ HTTP/1.1\r\n",
    "GET / HTTP/1.2\r\n",
    "GET / HTTP/2.0\r\n",
    "\r\nGET / HTTP/1.1\r\n",
    "\nGET / HTTP/1.1\r\n",
    `${"A".repeat(21)} / HTTP/1.1\r\n`,
  ])
    assert.equal(protocolOf(Buffer.from(text, "latin1")), "http1", text);
  for (const text of ["\0", "\x16\x03\x01", " GET", "*1\r\n$4"])
    assert.equal(protocolOf(Buffer.from(text, "latin1")), "other", text);
});

test("[INT-7] what bytes say does not depend on how they were cut: once said, more of them change nothing", () => {
  const line = fc.stringMatching(/^(PRI|GET|[A-Z]{1,3}) ?[/*]{0,2} ?(HTTP\/[12]\.[01])?\r?\n?[a-z]{0,9}$/);
  const bytes = fc.oneof(
    fc.uint8Array({ maxLength: 40 }),
    line.map((text) => new Uint8Array(Buffer.from(text))),
    fc.constant(new Uint8Array(preface)),
  );
  const given = fc.constantFrom(
    ...[...notHttp1, ...badHttp1].map((text) => new Uint8Array(Buffer.from(text, "latin1"))),
  );
  fc.assert(
    fc.property(fc.oneof(bytes, given), fc.boolean(), (all, isHttp2Port) => {
      let said: string | undefined;
      for (let i = 0; i <= all.length; i++) {
        const now = protocolOf(all.subarray(0, i), isHttp2Port);
        if (said !== undefined) assert.equal(now, said);
        said = now;
      }
      // One of both reads it, never each a part: on either kind of port the same but for text that is no request of HTTP/1.x.
      const elsewhere = protocolOf(all, !isHttp2Port);
      if (said !== undefined && elsewhere !== undefined && said !== elsewhere)
        assert.deepEqual([said, elsewhere].sort(), ["http1", "http2"]);
    }),
  );
});

const notHttp1 = [
  "INVALID CONNECTION PREFACE\r\n\r\n",
  "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\r",
  "PRI * HTTP/2.0\r\n\r\nGET / HTTP/1.1\r\n",
  "GET / HTTP/2.0\r\n",
  "GET / FTP/1.1\r\n",
  "GET /\r\n",
  "PING\r\n",
  "\r\nPRI * HTTP/2.0\r\n",
  "GET /\0 \n",
];
const badHttp1 = [
  "GET\t/ HTTP/1.1\r\n",
  "GET /\0 HTTP/1.1\r\n",
  "GET / HTTP/1.2\r\n",
  "GET / http/1.1 \n",
  "GET HTTP/1.0\n",
  "\r\n\nGET / HTTP/1.1\r\n",
  `${"A".repeat(21)} / HTTP/1.1\r\n`,
];

test("[INT-7] [TRF-7] on a port declared HTTP/2, text that is meant as no request of HTTP/1.x is an invalid preface (RFC 9113 §3.4)", () => {
  for (const text of notHttp1) {
    const bytes = Buffer.from(text, "latin1");
    assert.deepEqual([protocolOf(bytes, true), protocolOf(bytes)], ["http2", "http1"], text);
  }
  for (const text of [...badHttp1, "GET / HTTP/1.1\r\n", "PRI * HTTP/1.1\r\n", "POST /x HTTP/1.0\n"])
    assert.equal(protocolOf(Buffer.from(text, "latin1"), true), "http1", text);
  for (const text of ["\0", "\x16\x03\x01", " GET", "*1\r\n$4"])
    assert.equal(protocolOf(Buffer.from(text, "latin1"), true), "other", text);
  // What comes before the end of its line may still be either.
  for (const text of ["", "INVALID CONNECTION", "GET\t/", "\r\n\r\n", preface.toString().slice(0, 20)])
    assert.equal(protocolOf(Buffer.from(text, "latin1"), true), undefined, text);
});

test("[INT-7] what tells nothing in its time is HTTP/1, but on a port declared HTTP/2 only if it may be a request line", () => {
  const http1 = ["GET /a", "G", `GET /${"a".repeat(9000)}`];
  const http2 = ["GET\t/", "INVALID\0", "\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n", "PRI"];
  for (const text of [...http1, ...http2]) assert.equal(takenFor(Buffer.from(text), false), "http1", text);
  for (const text of http1) assert.equal(takenFor(Buffer.from(text), true), "http1", text);
  for (const text of http2) assert.equal(takenFor(Buffer.from(text), true), "http2", text);
});

test("[DP-28] a server is spoken to as its port is declared; where that says nothing, as the client speaks", () => {
  for (const client of ["http1", "http2"] as const) {
    for (const declared of ["http2", "grpc", "h2c"]) assert.equal(upstreamProtocol(declared, client), "http2");
    for (const declared of ["http", "grpc-web", "ws"]) assert.equal(upstreamProtocol(declared, client), "http1");
    for (const declared of ["", "tcp", "tls"]) assert.equal(upstreamProtocol(declared, client), client);
  }
});

/** A socket that is sniffed, and what whoever takes it reads. */
async function sniffed(t: TestContext, given: Partial<SniffLimits> = {}) {
  const limits = { idleTimeoutMs: 10_000, headTimeoutMs: 10_000, drainIdleMs: 10_000, isHttp2Port: false, ...given };
  const seen = { protocol: "", bytes: Buffer.alloc(0), gone: 0, drained: 0 };
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const made = new Promise<UnknownClient>((resolve) => {
    const listening = server as unknown as { _handle: { onconnection: (status: number, handle: object) => void } };
    listening._handle.onconnection = (_status, handle) => {
      const open = (onread: OnReadOpts): Socket =>
        new Socket({ handle, onread, allowHalfOpen: true } as unknown as ConstructorParameters<typeof Socket>[0]);
      const take = (protocol: string) => (adopt: (onread: OnReadOpts) => Socket) => {
        seen.protocol = protocol;
        // Small, so that what was read comes in several pieces.
        const buffer = Buffer.alloc(7);
        const socket = adopt({
          buffer: () => buffer,
          callback: (count) => {
            seen.bytes = Buffer.concat([seen.bytes, buffer.subarray(0, count)]);
            return true;
          },
        });
        t.after(() => socket.destroy());
        return { drain: () => void seen.drained++ };
      };
      const takers = { http1: take("http1"), http2: take("http2"), other: take("other") };
      resolve(new UnknownClient(open, takers, () => void seen.gone++, systemClock, limits));
    };
  });
  const client = connect({ port: (server.address() as { port: number }).port, noDelay: true });
  client.on("error", () => {});
  const unknown = await made;
  t.after(() => {
    client.destroy();
    server.close();
  });
  return { client, unknown, seen };
}

for (const [protocol, first, isHttp2Port = false] of [
  ["http1", "PRI /x HTTP/1.1\r\nhost: a\r\n\r\n"],
  ["http2", preface.toString()],
  ["other", "*1\r\n$4\r\nPING\r\n"],
  ["http2", "INVALID CONNECTION PREFACE\r\n\r\n", true],
] as const)
  test(`[INT-7] bytes of ${protocol} that come one by one are read whole by whoever speaks it (${JSON.stringify(first)})`, async (t) => {
    const { client, unknown, seen } = await sniffed(t, { isHttp2Port });
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
  const silent = await sniffed(t, { idleTimeoutMs: 20 });
  await waitFor("its time", () => silent.seen.gone === 1);
  const drained = await sniffed(t, { drainIdleMs: 20 });
  drained.unknown.drain();
  await waitFor("let go", () => drained.seen.gone === 1);
  await waitFor("closed", () => drained.client.destroyed || drained.client.readableEnded || drained.client.closed);
  for (const { seen } of [ends, silent, drained]) assert.deepEqual([seen.gone, seen.protocol], [1, ""]);
});

test("[INT-7] [SEC-8] bytes that tell nothing in a head's time, or that are too many, go to HTTP/1, which refuses them", async (t) => {
  const slow = await sniffed(t, { idleTimeoutMs: 60_000, headTimeoutMs: 20 });
  slow.client.write("GE");
  await waitFor("its time", () => slow.seen.protocol === "http1");
  slow.client.write("T /");
  await waitFor("the rest", () => slow.seen.bytes.toString() === "GET /");
  const long = await sniffed(t);
  const text = `GET /${"a".repeat(20_000)}`;
  long.client.write(text);
  await waitFor("all of it", () => long.seen.bytes.length === text.length);
  assert.deepEqual([long.seen.protocol, long.seen.bytes.toString()], ["http1", text]);
});
