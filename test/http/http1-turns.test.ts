// Connections that wait for their namespace's turn: every request is answered in the end, in its order, whatever came in which pieces.
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { type AddressInfo, connect, type Socket } from "node:net";
import { type TestContext, test } from "node:test";
import { seededRandom } from "../../agent/base/random.ts";
import { startProxy } from "../kit/http1-proxy.ts";
import { crowdedTenant } from "../kit/tenants.ts";
import { waitFor } from "../kit/wait.ts";

/** A proxy whose clients have this share of the thread, since another namespace is never idle. */
async function crowded(t: TestContext, share: number) {
  const server = createServer((request, response) => {
    let bytes = 0;
    request.on("data", (chunk: Buffer) => {
      bytes += chunk.length;
    });
    request.on("end", () => {
      if (request.url?.startsWith("/long") !== true) return void response.end(`<${request.url} ${bytes}>`);
      response.write(Buffer.alloc(3_000_000, "-"));
      response.end(`<${request.url} ${bytes}>`);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { tenant, stop } = crowdedTenant(share);
  const proxy = await startProxy((server.address() as AddressInfo).port, { tenant, limits: { drainIdleMs: 100 } });
  const sockets = new Set<Socket>();
  t.after(async () => {
    for (const socket of sockets) socket.destroy();
    await proxy[Symbol.asyncDispose]();
    stop();
    server.closeAllConnections();
    server.close();
  });
  const client = () => {
    const seen = { text: "", ended: false };
    const socket = connect(proxy.port, "127.0.0.1");
    sockets.add(socket);
    socket.setNoDelay(true);
    socket.on("error", () => {});
    socket.on("data", (chunk: Buffer) => {
      seen.text += chunk.toString("latin1");
    });
    socket.on("end", () => {
      seen.ended = true;
    });
    return { socket, seen };
  };
  return { proxy, tenant, client };
}

test("[SEC-8] [TRF-7] pipelined requests, tiny chunks and long bodies of a namespace that must wait are all answered, in order", async (t) => {
  const random = seededRandom(11);
  const { tenant, client } = await crowded(t, 0.05);
  const each = 12;
  let held = 0;
  const all = Array.from({ length: 24 }, (_, c) => {
    const { socket, seen } = client();
    const expected: string[] = [];
    let bytes = "";
    for (let i = 0; i < each; i++) {
      const path = `/c${c}/${i}`;
      const kind = random.below(3);
      const size = kind === 0 ? 0 : 1 + random.below(kind === 1 ? 40_000 : 2_000);
      expected.push(`<${path} ${size}>`);
      if (kind === 0) bytes += `GET ${path} HTTP/1.1\r\nhost: a\r\n\r\n`;
      else if (kind === 1)
        bytes += `POST ${path} HTTP/1.1\r\nhost: a\r\ncontent-length: ${size}\r\n\r\n${"b".repeat(size)}`;
      else
        bytes += `POST ${path} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n${"1\r\nx\r\n".repeat(size)}0\r\n\r\n`;
    }
    // In pieces of any size, one after the other.
    const send = (from: number): void => {
      if (from >= bytes.length || socket.destroyed) return;
      const to = from + 1 + random.below(20_000);
      socket.write(bytes.slice(from, to), "latin1", () => setImmediate(send, to));
    };
    send(0);
    return { seen, expected };
  });
  await waitFor("all answers", () => {
    held = Math.max(held, tenant.queue.length);
    return all.every(({ seen }) => (seen.text.match(/<[^>]*>/g) ?? []).length === each);
  });
  for (const { seen, expected } of all) assert.deepEqual(seen.text.match(/<[^>]*>/g), expected);
  assert.ok(held > 0, "somebody waited");
});

test("[SEC-8] [DP-19] who waits for a turn and leaves, or is drained meanwhile, leaves nothing behind", async (t) => {
  const { proxy, tenant, client } = await crowded(t, 0.006);
  const all = Array.from({ length: 30 }, () => client());
  for (const { socket } of all) socket.write("GET / HTTP/1.1\r\nhost: a\r\n\r\nGET /2 HTTP/1.1\r\nhost: a\r\n\r\n");
  await waitFor("somebody waits", () => tenant.queue.length > 0 && proxy.connections.size === 30);
  for (const { socket } of all.slice(0, 15)) socket.destroy();
  for (const connection of proxy.connections) connection.drain();
  await waitFor("the others are let go", () => all.slice(15).every(({ seen }) => seen.ended));
  // Each had an answer that says close, or was idle; none was cut in the middle.
  for (const { seen } of all.slice(15))
    assert.match(seen.text, /^(HTTP\/1\.1 200 [\s\S]*<\/ 0>)?(HTTP\/1\.1 200 [\s\S]*<\/2 0>)?$/);
  for (const { socket } of all) socket.end();
  await waitFor("nobody is left", () => proxy.connections.size === 0 && tenant.queue.length === 0);
});

test("[SEC-8] [TRF-7] long answers of a namespace that must wait arrive whole, to clients that read slowly too", async (t) => {
  const { tenant, client } = await crowded(t, 0.1);
  let held = 0;
  const all = Array.from({ length: 8 }, (_, c) => {
    const { socket, seen } = client();
    socket.write(`GET /long/${c} HTTP/1.1\r\nhost: a\r\n\r\nGET /${c} HTTP/1.1\r\nhost: a\r\n\r\n`);
    if (c % 2 === 0) {
      socket.on("data", () => {
        socket.pause();
        setTimeout(() => socket.resume(), 3);
      });
    }
    return { seen, length: 3_000_000, expected: [`</long/${c} 0>`, `</${c} 0>`] };
  });
  await waitFor("all answers", () => {
    held = Math.max(held, tenant.queue.length);
    return all.every(
      ({ seen }) => seen.text.length > 3_000_000 && /<[^>]*>[\s\S]*<[^>]*>/.test(seen.text.slice(3_000_000)),
    );
  });
  for (const { seen, expected } of all) {
    assert.deepEqual(seen.text.match(/<[^>]*>/g), expected);
    assert.equal(seen.text.replaceAll(/[^-]/g, "").length >= 3_000_000, true);
  }
  assert.ok(held > 0, "somebody waited");
});
