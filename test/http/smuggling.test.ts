// Each case through a proxy made of the codec's parts, to a server that writes down every byte: refused before the server sees a byte, or
// forwarded so that the server, which reads by the letter of the RFC, sees just what is meant.
import assert from "node:assert/strict";
import { connect, createServer, type Socket } from "node:net";
import { after, before, test } from "node:test";
import type { Malformed } from "../../agent/http.ts";
import { type Http1Proxy, startProxy } from "../kit/http1-proxy.ts";
import { readStrictly } from "../kit/strict-http1.ts";
import { smugglingCases } from "./smuggling-cases.ts";

const received: Buffer[] = [];
const refused: Malformed[] = [];
const accepted = new Set<Socket>();
const server = createServer((socket) => {
  accepted.add(socket);
  let pending = Buffer.alloc(0);
  socket.on("error", () => {});
  socket.on("data", (data: Buffer) => {
    received.push(data);
    pending = Buffer.concat([pending, data]);
    for (;;) {
      const first = readStrictly(pending);
      if (first === undefined) return;
      pending = pending.subarray(first.length);
      socket.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    }
  });
});
let proxy: Http1Proxy;

before(async () => {
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  const port = typeof address === "object" ? (address?.port ?? 0) : 0;
  proxy = await startProxy(port, {
    handler: { refused: (why) => refused.push(why) },
    limits: { lingerMs: 100 },
  });
});
after(async () => {
  await proxy[Symbol.asyncDispose]();
  for (const socket of accepted) socket.destroy();
  server.close();
});

/** All that comes back until `enough` answers or the end. */
function converse(bytes: Buffer, enough: number): Promise<string> {
  return new Promise((resolve) => {
    const socket = connect(proxy.port, "127.0.0.1");
    let text = "";
    const done = (): void => {
      socket.destroy();
      resolve(text);
    };
    socket.on("error", done);
    socket.on("close", done);
    socket.on("data", (data) => {
      text += data.toString("latin1");
      if ((text.match(/HTTP\/1\.1 \d/g) ?? []).length >= enough && (enough < 9 || /\r\n\r\n/.test(text))) done();
    });
    socket.write(bytes);
  });
}

for (const { name, rule, bytes, expect } of smugglingCases) {
  test(`[TRF-7] RFC ${rule}: ${name}`, async () => {
    received.length = 0;
    refused.length = 0;
    const answer = await converse(Buffer.from(bytes, "latin1"), expect.kind === "refuse" ? 9 : expect.targets.length);
    const seen = Buffer.concat(received);
    if (expect.kind === "refuse") {
      assert.match(answer, new RegExp(`^HTTP/1\\.1 ${expect.status} [^]*connection: close\r\n\r\n$`));
      assert.doesNotMatch(seen.toString("latin1"), /smuggled/);
      const inBody = /^(chunk_|trailer_)|^line_ending$/.test(expect.refused) && /chunked\r\n\r\n/i.test(bytes);
      if (!inBody) {
        assert.deepEqual(
          refused.map((r) => [r.refused, r.status]),
          [[expect.refused, expect.status]],
        );
        assert.equal(seen.length, 0);
      }
      return;
    }
    const messages = [];
    for (let rest = seen; rest.length > 0; ) {
      const first = readStrictly(rest);
      assert.ok(first !== undefined, `left over: ${rest.toString("latin1")}`);
      messages.push(first);
      rest = rest.subarray(first.length);
    }
    assert.deepEqual(
      messages.map((m) => (m.host === "a" ? m.target : m.host + m.target)),
      expect.targets,
    );
    assert.deepEqual(
      messages.map((m) => m.body),
      expect.bodies,
    );
    for (const m of messages) assert.doesNotMatch(m.head, /upgrade|http2-settings/i);
  });
}
