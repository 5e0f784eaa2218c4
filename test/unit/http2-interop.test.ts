// The HTTP/2 codec against programs that others wrote: Node's own client and server, curl, nghttp, and gRPC through a proxy of its halves.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { once } from "node:events";
import { connect, createServer, type IncomingHttpHeaders, type ServerHttp2Stream } from "node:http2";
import type { AddressInfo } from "node:net";
import { test } from "node:test";
import { promisify } from "node:util";
import { Client, credentials, Metadata, status } from "@grpc/grpc-js";
import { deadline, same } from "../kit/grpc-bytes.ts";
import { grpcServer, path, pattern, unary } from "../kit/grpc-echo.ts";
import { echoServer, type Peer } from "../kit/http2-peers.ts";
import { proxyTo } from "../kit/http2-proxy.ts";
import { waitFor } from "../kit/wait.ts";

const run = promisify(execFile);

async function gather(stream: AsyncIterable<Buffer>): Promise<Buffer> {
  const parts: Buffer[] = [];
  for await (const part of stream) parts.push(part);
  return Buffer.concat(parts);
}

/** A node:http2 server that sends everything back, with the request's fields as JSON in one field and trailers. */
async function nodeServer(): Promise<{ port: number; close(): void }> {
  const server = createServer();
  server.on("stream", (stream: ServerHttp2Stream, headers: IncomingHttpHeaders) => {
    stream.on("error", () => {});
    stream.additionalHeaders({ ":status": 103, link: "</a.css>" });
    stream.respond(
      { ":status": 200, "x-seen": JSON.stringify(headers), "set-cookie": ["a=1", "b=2"] },
      { waitForTrailers: true },
    );
    stream.on("wantTrailers", () => stream.sendTrailers({ "x-sum": "1" }));
    stream.pipe(stream);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { port: (server.address() as AddressInfo).port, close: () => server.close() };
}

interface Answer {
  readonly headers: IncomingHttpHeaders;
  readonly interim: number[];
  readonly body: Buffer;
  readonly trailers: IncomingHttpHeaders;
}

async function ask(port: number, headers: Record<string, string | string[]>, body?: Buffer): Promise<Answer> {
  const session = connect(`http://127.0.0.1:${port}`);
  try {
    const stream = session.request(headers, body === undefined ? {} : { endStream: false });
    const interim: number[] = [];
    let trailers: IncomingHttpHeaders = {};
    stream.on("headers", (h: IncomingHttpHeaders) => void interim.push(Number(h[":status"])));
    stream.on("trailers", (h: IncomingHttpHeaders) => {
      trailers = h;
    });
    const answered = once(stream, "response");
    stream.end(body);
    const [got] = (await answered) as [IncomingHttpHeaders];
    return { headers: got, interim, body: await gather(stream), trailers };
  } finally {
    session.close();
  }
}

async function proxied(port: number, use: (proxy: Peer) => Promise<void>): Promise<void> {
  const proxy = await proxyTo(port);
  try {
    await use(proxy);
    assert.deepEqual(proxy.refused, []);
  } finally {
    await proxy.close();
  }
}

test("[TRF-7] HTTP/2: node:http2 client and server through our two halves: fields of any kind, content both ways, 1xx, trailers", async () => {
  const server = await nodeServer();
  try {
    await proxied(server.port, async ({ port }) => {
      const body = pattern(700_000);
      const sent = {
        ":method": "POST",
        ":path": "/a?b=c",
        "x-list": ["1", "2"],
        cookie: "a=b; c=d",
        "x-long": "v".repeat(30_000),
      };
      const got = await ask(port, sent, body);
      assert.ok(got.body.equals(body));
      assert.deepEqual(got.interim, [103]);
      assert.equal(got.trailers["x-sum"], "1");
      assert.deepEqual(got.headers["set-cookie"], ["a=1", "b=2"]);
      const seen = JSON.parse(String(got.headers["x-seen"])) as Record<string, string>;
      assert.equal(seen[":path"], "/a?b=c");
      assert.equal(seen["x-list"], "1, 2");
      assert.equal(seen["x-long"]?.length, 30_000);
      assert.match(seen.cookie ?? "", /a=b; ?c=d/);
    });
  } finally {
    server.close();
  }
});

test("[SEC-8] HPACK: Node's own codec reads what ours writes and the other way round, any character, again and again", async () => {
  const server = await nodeServer();
  try {
    await proxied(server.port, async ({ port }) => {
      const session = connect(`http://127.0.0.1:${port}`);
      try {
        const bytes = Array.from({ length: 256 }, (_, i) => i).filter((i) => i > 32 && i !== 127);
        for (let round = 0; round < 6; round++) {
          const headers: Record<string, string> = { ":path": `/${round % 2}` };
          // Amid zeros each character is worth the Huffman code; round by round values come from the table, and leave it.
          for (const c of bytes.slice(round * 20, round * 20 + 60)) {
            headers[`x-${c}-${round % 3}`] = `0000000000000000${String.fromCharCode(c)}00000000`;
          }
          const stream = session.request(headers);
          const [got] = (await once(stream, "response")) as [IncomingHttpHeaders];
          stream.resume();
          const seen = JSON.parse(String(got["x-seen"])) as Record<string, string>;
          for (const [name, value] of Object.entries(headers)) assert.equal(seen[name], value, name);
        }
      } finally {
        session.close();
      }
    });
  } finally {
    server.close();
  }
});

test("[TRF-7] HTTP/2: curl and nghttp, uploads, downloads, HEAD, padding and CONTINUATION", async () => {
  const peer = await echoServer({ body: pattern(200_000) });
  try {
    await proxied(peer.port, async ({ port }) => {
      for (const at of [peer.port, port]) {
        const url = `http://127.0.0.1:${at}/x`;
        const curl = (...args: string[]) =>
          run("curl", ["-s", "-m", "60", "--http2-prior-knowledge", ...args, url], {
            encoding: "buffer",
            maxBuffer: 1 << 24,
          });
        assert.ok((await curl()).stdout.equals(pattern(200_000)));
        assert.match((await curl("-I")).stdout.toString(), /^HTTP\/2 200 \r\ncontent-length: 200000\r\n/);
        assert.equal((await curl("-d", "abc")).stdout.toString(), "abc");
        const many = await run("nghttp", [
          "-n",
          "-s",
          "-m",
          "20",
          "-b",
          "100",
          "--continuation",
          "-H",
          `x-a: ${"b".repeat(5_000)}`,
          url,
        ]);
        assert.equal(many.stdout.split("\n").filter((l) => /\b200 +\S+ +\/x/.test(l)).length, 20, many.stdout);
      }
    });
    assert.deepEqual(peer.refused, []);
  } finally {
    await peer.close();
  }
});

async function grpc(use: (client: Client, proxy: Peer) => Promise<void>): Promise<void> {
  const server = await grpcServer();
  try {
    await proxied(server.port, async (proxy) => {
      const client = new Client(`127.0.0.1:${proxy.port}`, credentials.createInsecure());
      try {
        await use(client, proxy);
      } finally {
        client.close();
      }
    });
  } finally {
    server.stop();
  }
}

test("[TRF-7] gRPC: unary calls, many at once; status and message of trailers-only answers pass unchanged; deadlines and cancels end both sides", async () => {
  await grpc(async (client, proxy) => {
    const answers = await Promise.all(Array.from({ length: 50 }, (_, i) => unary(client, `m${i}`)));
    for (const [i, a] of answers.entries()) {
      assert.deepEqual(a, { value: `m${i}`, code: 0, details: "OK", trailer: "t" });
    }
    const failed = await unary(client, "fail");
    assert.equal(failed.code, status.FAILED_PRECONDITION);
    assert.equal(failed.details, "not now: ä%\n");
    assert.equal((await unary(client, "never", { deadline: Date.now() + 150 })).code, status.DEADLINE_EXCEEDED);
    await waitFor("no stream is left", () => [...proxy.open].every((s) => s.connection.streams.size === 0));
  });
});

test("[TRF-7] gRPC: client streaming, server streaming and both, with back-pressure that bounds what lies in between", async () => {
  await grpc(async (client, proxy) => {
    const many = client.makeServerStreamRequest(
      path("Many"),
      same,
      same,
      Buffer.from("400"),
      new Metadata(),
      deadline(),
    );
    many.pause();
    await new Promise((resolve) => setTimeout(resolve, 300));
    // 4 MB are asked for and nobody reads: the proxy holds no more than its windows.
    for (const s of proxy.open) {
      for (const stream of s.connection.streams.values())
        assert.ok(stream.queuedBytes <= 400_000, `${stream.queuedBytes}`);
    }
    let bytes = 0;
    for await (const m of many as AsyncIterable<Buffer>) bytes += m.length;
    assert.equal(bytes, 4_000_000);

    const summed = new Promise<string>((resolve, reject) => {
      const sum = client.makeClientStreamRequest(path("Sum"), same, same, new Metadata(), deadline(), (error, v) =>
        error === null ? resolve(v?.toString() ?? "") : reject(error),
      );
      let left = 300;
      const more = (): void => {
        while (left-- > 0) if (!sum.write(pattern(10_000))) return void sum.once("drain", more);
        sum.end();
      };
      more();
    });
    assert.equal(await summed, "3000000");

    const chat = client.makeBidiStreamRequest(path("Chat"), same, same, new Metadata(), deadline());
    const said: string[] = [];
    const ended = once(chat, "end");
    chat.on("data", (m: Buffer) => {
      said.push(m.toString());
      if (said.length < 20) chat.write(Buffer.from(`m${said.length}`));
      else chat.end();
    });
    chat.write(Buffer.from("m0"));
    await ended;
    assert.deepEqual(
      said,
      Array.from({ length: 20 }, (_, i) => `m${i}`),
    );
  });
});
