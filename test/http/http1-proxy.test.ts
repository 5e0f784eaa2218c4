// Real clients and servers through the HTTP/1.1 exchange on loopback: what they say to each other arrives.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { gzipSync } from "node:zlib";
import fc from "fast-check";
import type { Handler } from "../../agent/forward/http1/exchange.ts";
import { behind, behindTcp, curl, echo, raw, readResponses, startNginx } from "../kit/http1-peers.ts";
import { startProxy } from "../kit/http1-proxy.ts";
import { waitFor } from "../kit/wait.ts";

test("[TRF-7] curl: keep-alive, bodies by length and in chunks, 100-continue, HEAD, HTTP/1.0", async (t) => {
  const { proxy } = await behind(t, (req, res) => {
    if (req.url === "/stream") {
      res.write("abc");
      setTimeout(() => res.end("def"), 20);
    } else if (req.url === "/none") res.writeHead(204).end();
    else if (req.url === "/same") res.writeHead(304, { etag: '"1"' }).end();
    else echo(req, res);
  });
  const base = `http://127.0.0.1:${proxy.port}`;
  const folder = mkdtempSync(join(tmpdir(), "fairlead-http1-"));
  t.after(() => rmSync(folder, { recursive: true }));
  const file = join(folder, "body");
  const content = Buffer.alloc(5_000_000, "0123456789");
  writeFileSync(file, content);
  const { out } = await curl(
    "-w",
    "|%{num_connects}|",
    `${base}/none`,
    `${base}/same`,
    `${base}/stream`,
    "-o",
    "/dev/null",
    "-o",
    "/dev/null",
    "-o",
    "-",
  );
  assert.equal(out, "|1||0|abcdef|0|");
  for (const more of [[], ["-H", "Transfer-Encoding: chunked"], ["-H", "Expect: 100-continue"], ["-H", "Expect:"]]) {
    const { out: answer } = await curl(...more, "--data-binary", `@${file}`, `${base}/up`);
    const { size, hash } = JSON.parse(answer) as { readonly size: number; readonly hash: string };
    assert.deepEqual([size, hash], [content.length, createHash("sha256").update(content).digest("hex")]);
  }
  const head = await curl("-I", `${base}/a`);
  assert.match(head.out, /^HTTP\/1.1 200 OK\r\n/);
  const old = await curl("-0", "-i", `${base}/stream`);
  assert.match(old.out, /\r\nconnection: close\r\n\r\nabcdef$/);
  assert.doesNotMatch(old.out, /chunked/i);
});

test("[SEC-8] what is compressed is left as it is, however much it would become", async (t) => {
  const bomb = gzipSync(Buffer.alloc(50_000_000));
  const coding = { "content-encoding": "gzip", "content-type": "text/html" };
  const { proxy } = await behind(t, (req, res) => {
    if (req.method === "GET") res.writeHead(200, coding).end(bomb);
    else echo(req, res);
  });
  const base = `http://127.0.0.1:${proxy.port}`;
  const folder = mkdtempSync(join(tmpdir(), "fairlead-http1-"));
  t.after(() => rmSync(folder, { recursive: true }));
  const [sent, got] = [join(folder, "sent"), join(folder, "got")];
  writeFileSync(sent, bomb);
  const { out } = await curl("-H", "Content-Encoding: gzip", "--data-binary", `@${sent}`, base);
  const { size, hash } = JSON.parse(out) as { readonly size: number; readonly hash: string };
  assert.deepEqual([size, hash], [bomb.length, createHash("sha256").update(bomb).digest("hex")]);
  await curl("-o", got, base);
  assert.ok(readFileSync(got).equals(bomb));
});

test("[TRF-7] pipelined requests are answered in their order, whatever the cut", async (t) => {
  let decided = 0;
  const decide: Handler["decide"] = () => {
    decided++;
    return { kind: "forward", upstream: proxy.pool };
  };
  const { proxy, ended } = await behind(t, echo, { handler: { decide } });
  let text = "";
  for (let i = 0; i < 50; i++)
    text +=
      i % 3 === 0
        ? `POST /${i} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello`
        : i % 3 === 1
          ? `GET /${i} HTTP/1.1\r\nHost: a\r\n\r\n`
          : `PUT /${i} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x\r\nde\r\n0\r\n\r\n`;
  text += "GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
  const whole = await raw(proxy.port, text);
  const urls = [...whole.matchAll(/"url":"\/(\w+)".*?"size":(\d)/g)].map((m) => `${m[1]}:${m[2]}`);
  assert.deepEqual(urls, [...Array.from({ length: 50 }, (_, i) => `${i}:${i % 3 === 1 ? 0 : 5}`), "last:0"]);
  const bytewise = connect(proxy.port, "127.0.0.1");
  bytewise.setNoDelay(true);
  let got = "";
  bytewise.on("data", (data) => {
    got += data.toString("latin1");
  });
  for (const byte of text.slice(0, 700)) {
    bytewise.write(byte);
    await new Promise((resolve) => setImmediate(resolve));
  }
  await waitFor("nine answers, and a tenth request", () => (got.match(/"url"/g) ?? []).length >= 9 && decided > 60);
  bytewise.destroy();
  await waitFor("all exchanges end", () => ended.length > 60);
});

test("[TRF-7] trailers, interim responses and both directions at once pass", async (t) => {
  const { proxy } = await behindTcp(t, (socket) => {
    let seen = "";
    socket.on("data", (data) => {
      seen += data.toString("latin1");
      if (seen.includes("expect") && !seen.includes("\r\n0\r\n"))
        socket.write("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
      if (seen.endsWith("x-sum: 1\r\n\r\n"))
        socket.write(
          "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-after: 2\r\nConnection: x\r\n\r\n",
        );
    });
  });
  const head =
    "POST / HTTP/1.1\r\nHost: a\r\nexpect: 100-continue\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n";
  const socket = connect(proxy.port, "127.0.0.1");
  t.after(() => socket.destroy());
  let got = "";
  socket.on("data", (data) => {
    got += data.toString("latin1");
  });
  socket.write(head);
  await waitFor("interim responses", () => got.endsWith("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"));
  socket.write("1\r\na\r\n0\r\nx-sum: 1\r\n\r\n");
  await waitFor("the answer with its trailers", () =>
    got.endsWith("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-after: 2\r\n\r\n"),
  );
});

test("[TRF-7] WebSocket: bytes of an upgraded connection pass both ways, half-close included", async (t) => {
  const { proxy, ended } = await behindTcp(t, (socket) => {
    socket.once("data", (data) => {
      assert.match(data.toString(), /connection: upgrade\r\nupgrade: websocket\r\n\r\n$/);
      socket.write("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello");
      socket.on("data", (more) => socket.write(more));
      socket.on("end", () => socket.end("bye"));
    });
  });
  const big = "x".repeat(3_000_000);
  const text = `GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly${big}`;
  const got = await raw(proxy.port, text, undefined, true);
  const [head, rest = ""] = got.split("\r\n\r\n");
  assert.match(head ?? "", /^HTTP\/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket$/);
  assert.equal(rest.length, "helloearlybye".length + big.length);
  assert.ok(rest.startsWith("helloearlyxx") && rest.endsWith("xbye"));
  await waitFor("the exchange ends", () => ended.length === 1);
  assert.equal(ended[0]?.outcome, "finished");
});

test("[TRF-7] CONNECT: a 2xx makes the connection opaque", async (t) => {
  const { proxy } = await behindTcp(t, (socket) => {
    socket.once("data", (data) => {
      assert.match(data.toString(), /^CONNECT b:443 HTTP\/1.1\r\nhost: b:443\r\n/);
      socket.write("HTTP/1.1 200 OK\r\n\r\n");
      socket.on("data", (more) => socket.write(more));
    });
  });
  const got = await raw(proxy.port, "CONNECT b:443 HTTP/1.1\r\nHost: b:443\r\n\r\nGET /x", (text) =>
    text.endsWith("GET /x"),
  );
  assert.equal(got, "HTTP/1.1 200 OK\r\n\r\nGET /x");
});

test("[TRF-7] an answer before the request's body has come does not confuse the next request", async (t) => {
  const { proxy } = await behind(t, echo, {
    handler: {
      decide: (head) =>
        head.path === "/no"
          ? { kind: "respond", status: 403, headers: ["x-why", "policy"], body: Buffer.from("denied") }
          : { kind: "forward", upstream: proxy.pool },
    },
    limits: { maxDiscardBytes: 1000, lingerMs: 300 },
  });
  const small = `POST /no HTTP/1.1\r\nHost: a\r\nContent-Length: 500\r\n\r\n${"x".repeat(500)}GET /yes HTTP/1.1\r\nHost: a\r\n\r\n`;
  const got = await raw(proxy.port, small, (text) => text.includes('"url":"/yes"'));
  assert.match(got, /^HTTP\/1.1 403 Forbidden\r\nx-why: policy\r\ncontent-length: 6\r\n\r\ndeniedHTTP\/1.1 200 OK/);
  const big = await raw(proxy.port, `POST /no HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n${"x".repeat(5000)}`);
  assert.match(big, /\r\nconnection: close\r\n\r\ndenied$/);
  const waits = await raw(
    proxy.port,
    "POST /no HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 500\r\n\r\n",
  );
  assert.match(waits, /\r\nconnection: close\r\n\r\ndenied$/);
});

test("[TRF-7] a client behind a socket pair, as a tunnel's stream is handed over: the same, its cuts included", async (t) => {
  const folder = mkdtempSync(join(tmpdir(), "fairlead-http1-"));
  t.after(() => rmSync(folder, { recursive: true }));
  const path = join(folder, "socket");
  const { ended } = await behindTcp(
    t,
    (socket) =>
      socket.on("data", (data) => {
        if (data.includes("/cut")) socket.end("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc");
        else socket.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
      }),
    { path },
  );
  const { out } = await curl("--unix-socket", path, "http://a/x", "http://a/y");
  assert.equal(out, "okok");
  assert.equal((await curl("--unix-socket", path, "http://a/cut")).code, 18);
  await waitFor("three exchanges end", () => ended.length === 3);
  assert.deepEqual(
    ended.map((e) => e.outcome),
    ["finished", "finished", "upstream_closed"],
  );
});

test("[TRF-7] fetch (undici) and nginx: files, ranges, errors, many at once on few connections", async (t) => {
  const nginx = await startNginx(t);
  const proxy = await startProxy(nginx.port, { pool: { maxConnections: 8 } });
  t.after(() => proxy[Symbol.asyncDispose]());
  const base = `http://127.0.0.1:${proxy.port}`;
  const digest = (bytes: ArrayBuffer): string => createHash("sha256").update(Buffer.from(bytes)).digest("hex");
  const expected = createHash("sha256").update(nginx.content).digest("hex");
  const one = async (i: number): Promise<void> => {
    if (i % 4 === 0) assert.equal(digest(await (await fetch(`${base}/file`)).arrayBuffer()), expected);
    else if (i % 4 === 1) {
      const part = await fetch(`${base}/file`, { headers: { range: `bytes=${i}-${i + 9}` } });
      assert.equal(part.status, 206);
      assert.equal(await part.text(), nginx.content.toString("latin1", i, i + 10));
    } else if (i % 4 === 2) {
      const missing = await fetch(`${base}/missing`, { method: "POST", body: "x".repeat(i * 100) });
      assert.equal(missing.status, 404);
      await missing.text();
    } else {
      const head = await fetch(`${base}/file`, { method: "HEAD" });
      assert.equal(head.headers.get("content-length"), String(nginx.content.length));
    }
  };
  for (let round = 0; round < 5; round++) await Promise.all(Array.from({ length: 40 }, (_, i) => one(round * 40 + i)));
  assert.ok(proxy.pool.open <= 8);
});

test("[TRF-7] any bodies in any pieces arrive whole both ways, on connections used again and again", async (t) => {
  const { proxy } = await behind(t, (req, res) => {
    // What came goes back in the same pieces, in the framing that was asked for.
    if (req.headers["x-length"] !== undefined) res.setHeader("content-length", req.headers["x-length"]);
    if (req.httpVersion === "1.1") req.on("data", (data) => res.write(data));
    req.on("end", () => res.end());
  });
  const piece = fc.tuple(fc.integer({ min: 1, max: 40_000 }), fc.boolean());
  const message = fc.record({ pieces: fc.array(piece, { maxLength: 5 }), chunked: fc.boolean(), back: fc.boolean() });
  let seed = 1;
  await fc.assert(
    fc.asyncProperty(fc.array(message, { minLength: 1, maxLength: 4 }), async (messages) => {
      const socket = connect(proxy.port, "127.0.0.1");
      const answers = readResponses(socket, messages.length);
      const sent: string[] = [];
      for (const { pieces, chunked, back } of messages) {
        const parts = pieces.map(([size]) => Buffer.from(Array.from({ length: size }, (_, i) => (i * seed) & 255)));
        seed += 2;
        const whole = Buffer.concat(parts);
        sent.push(createHash("sha256").update(whole).digest("hex"));
        const framing = chunked ? "Transfer-Encoding: chunked" : `Content-Length: ${whole.length}`;
        socket.write(`POST / HTTP/1.1\r\nHost: a\r\n${framing}\r\n${back ? `X-Length: ${whole.length}\r\n` : ""}\r\n`);
        for (const [i, part] of parts.entries()) {
          socket.write(
            chunked ? Buffer.concat([Buffer.from(`${part.length.toString(16)}\r\n`), part, Buffer.from("\r\n")]) : part,
          );
          if (pieces[i]?.[1]) await new Promise((resolve) => setImmediate(resolve));
        }
        if (chunked) socket.write("0\r\n\r\n");
      }
      assert.deepEqual(
        (await answers).map((body) => createHash("sha256").update(body).digest("hex")),
        sent,
      );
      socket.destroy();
    }),
    { numRuns: 60 },
  );
});
