// What goes wrong between real clients and servers of HTTP/1.1 has one outcome that both can see, and nobody waits for nothing.
import assert from "node:assert/strict";
import { Agent, type IncomingMessage, request, type Server, type ServerResponse } from "node:http";
import { connect } from "node:net";
import { test } from "node:test";
import { inspect } from "node:util";
import type { Handler } from "../../agent/forward/http1/exchange.ts";
import { behind, behindTcp, curl, echo, note, raw } from "../kit/http1-peers.ts";
import { startProxy } from "../kit/http1-proxy.ts";
import { patienceMs, waitFor } from "../kit/wait.ts";

test("[TRF-6] an idle connection that its server closed costs no request", async (t) => {
  // The server answers one request per connection and closes at the next one's first byte: what a client sees that comes too late.
  const { proxy, ended } = await behindTcp(t, (socket) => {
    let served = false;
    socket.on("data", () => {
      if (served) socket.resetAndDestroy();
      else socket.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
      served = true;
    });
  });
  for (let i = 0; i < 20; i++) {
    const got = await raw(proxy.port, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", (text) => text.endsWith("ok"));
    assert.match(got, /^HTTP\/1.1 200/);
  }
  await waitFor("twenty answers", () => ended.filter((e) => e.status === 200).length === 20);
  assert.ok(ended.filter((e) => e.resent === 1).length >= 19);
  // A request that may have had an effect is not sent twice.
  const post = await raw(proxy.port, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx", (text) =>
    text.includes("\r\n\r\n"),
  );
  assert.match(post, /^HTTP\/1.1 502/);
});

test("[TRF-6] a pool's limit makes requests wait, and refuses what finds no place to wait", async (t) => {
  let most = 0;
  let now = 0;
  const { promise: answering, resolve: answer } = Promise.withResolvers<void>();
  const { proxy, ended } = await behind(
    t,
    async (_, res) => {
      most = Math.max(most, ++now);
      await answering;
      now--;
      res.end("ok");
    },
    { pool: { maxConnections: 2, maxWaiting: 3, connectTimeoutMs: patienceMs } },
  );
  const asked = Array.from({ length: 8 }, () =>
    curl("-o", "/dev/null", "-w", "%{http_code}", `http://127.0.0.1:${proxy.port}/`),
  );
  // Two are being served, three wait.
  const refused = (): boolean => ended.filter((e) => e.outcome === "pool_overflow").length === 3;
  await waitFor("three refused", refused).catch((error: Error) => assert.fail(`${error.message}: ${inspect(ended)}`));
  answer();
  const codes = (await Promise.all(asked)).map(({ out }) => out).sort();
  assert.equal(most, 2);
  assert.deepEqual(codes, ["200", "200", "200", "200", "200", "503", "503", "503"]);
});

test("[RES-6] no answer in time is 504, none at all 503 or 502, and the client's connection stays", async (t) => {
  const decide: Partial<Handler> = {};
  const { proxy, ended } = await behindTcp(
    t,
    (socket) => socket.on("data", (d) => d.includes("/gone") && socket.destroy()),
    {
      handler: decide,
    },
  );
  decide.decide = undefined as never;
  const handler: Handler = {
    decide: (head) => ({ kind: "forward", upstream: proxy.pool, timeoutMs: head.path === "/slow" ? 100 : 0 }),
    ended: note(ended),
  };
  const own = await startProxy(1, { handler });
  t.after(() => own[Symbol.asyncDispose]());
  const ask = (path: string): string => `GET ${path} HTTP/1.1\r\nHost: a\r\n\r\n`;
  const got = await raw(own.port, ask("/slow") + ask("/gone"), (text) => text.includes(" 502 "));
  assert.match(got, /^HTTP\/1.1 504 Gateway Timeout\r\ncontent-length: 0\r\n\r\nHTTP\/1.1 502 Bad Gateway/);
  const refusing = await startProxy(1, { handler: { ended: note(ended) } });
  t.after(() => refusing[Symbol.asyncDispose]());
  assert.match(await raw(refusing.port, ask("/"), (text) => text.includes("\r\n\r\n")), /^HTTP\/1.1 503 /);
  await waitFor("three ends", () => ended.length === 3);
  assert.deepEqual(
    ended.map((e) => e.outcome),
    ["request_timeout", "upstream_closed", "connect_refused"],
  );
});

test("[TRF-7] a client that goes away takes its request with it; one that half-closes is answered", async (t) => {
  let closed = 0;
  const { proxy, server, ended } = await behind(t, (req, res) => {
    if (req.url === "/half") setTimeout(() => res.end("answer"), 30);
    else res.on("close", () => closed++).write("begin");
  });
  await raw(proxy.port, "GET /wait HTTP/1.1\r\nHost: a\r\n\r\n", (text) => text.includes("begin"));
  await waitFor("the server learns of it", () => closed === 1);
  (server as Server & { httpAllowHalfOpen: boolean }).httpAllowHalfOpen = true;
  const half = await raw(proxy.port, "GET /half HTTP/1.1\r\nHost: a\r\n\r\n", undefined, true);
  assert.match(half, /answer$/);
  const cut = await raw(proxy.port, "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc", undefined, true);
  assert.doesNotMatch(cut, /200/);
  await waitFor("three exchanges end", () => ended.length === 3);
  assert.deepEqual([ended[1]?.outcome, ended[2]?.outcome], ["finished", "client_gone"]);
});

test("[TRF-7] a response that breaks off is seen to be broken, in any framing", async (t) => {
  const heads = ["Content-Length: 10", "Transfer-Encoding: chunked"];
  for (const head of heads) {
    const { proxy, ended } = await behindTcp(t, (socket) =>
      socket.on("data", () => socket.end(`HTTP/1.1 200 OK\r\n${head}\r\n\r\n3\r\nabc\r\n`)),
    );
    const { code } = await curl(`http://127.0.0.1:${proxy.port}/`);
    assert.ok(code === 18 || code === 56, `${head}: ${code}`);
    await waitFor("the exchange ends", () => ended.length === 1);
    assert.equal(ended[0]?.outcome, "upstream_closed");
  }
});

test("[TRF-7] malformed responses are 502 and never reach the client", async (t) => {
  const bad = [
    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
    "HTTP/1.1 200 OK\nContent-Length: 2\r\n\r\nok",
    "HTTP/2 200\r\n\r\n",
    "HTTP/1.1 20 OK\r\n\r\n",
    "HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    `HTTP/1.1 200 OK\r\nX: ${"a".repeat(70_000)}\r\n\r\n`,
    "SSH-2.0-OpenSSH\r\n",
  ];
  let next = 0;
  const { proxy, ended } = await behindTcp(t, (socket) => socket.on("data", () => socket.write(bad[next] ?? "")));
  for (next = 0; next < bad.length; next++) {
    const got = await raw(proxy.port, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", (text) => text.includes("\r\n\r\n"));
    assert.match(got, /^HTTP\/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n$/, bad[next] ?? "");
  }
  assert.ok(ended.every((e) => e.outcome.startsWith("refused:")));
});

test("[TRF-7] bytes behind a response belong to nobody: the connection is not used again", async (t) => {
  const { proxy } = await behindTcp(t, (socket) =>
    socket.on("data", () =>
      socket.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"),
    ),
  );
  for (let i = 0; i < 3; i++) {
    const got = await raw(
      proxy.port,
      "GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(2),
      (text) => (text.match(/ok/g) ?? []).length === 2,
    );
    assert.doesNotMatch(got, /evil/);
  }
});

test("[TRF-7] slow heads get 408, idle connections are closed, nobody is waited for", async (t) => {
  const { proxy } = await behind(t, echo, { limits: { headTimeoutMs: 150, idleTimeoutMs: 150, lingerMs: 100 } });
  assert.match(await raw(proxy.port, "GET / HT"), /^HTTP\/1.1 408 Request Timeout\r\n/);
  assert.equal(await raw(proxy.port, ""), "");
  await waitFor("no connection is left", () => proxy.connections.size === 0);
});

test("[TRF-7] a slow reader holds its server back, and goes on with it", async (t) => {
  let written = 0;
  const total = 200_000_000;
  const { proxy } = await behind(t, (_, res) => {
    const piece = Buffer.alloc(100_000, 97);
    const more = (): void => {
      while (written < total) {
        written += piece.length;
        if (!res.write(piece)) {
          res.once("drain", more);
          return;
        }
      }
      res.end();
    };
    more();
  });
  const socket = connect(proxy.port, "127.0.0.1");
  let got = 0;
  socket.pause();
  socket.on("data", (data) => {
    got += data.length;
  });
  socket.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
  await waitFor("bytes are written", () => written > 1_000_000);
  await new Promise((resolve) => setTimeout(resolve, 300));
  const held = written;
  assert.ok(held < 40_000_000, `${held} bytes went ahead`);
  assert.ok(proxy.pool.open === 1 && proxy.connections.size === 1);
  socket.resume();
  await waitFor("all has come", () => got >= total);
  socket.destroy();
});

test("[TRF-7] draining: what is under way ends well with Connection: close, idle connections end", async (t) => {
  const held: ServerResponse[] = [];
  const serve = (req: IncomingMessage, res: ServerResponse): void => {
    if (req.url === "/held") held.push(res);
    else res.end("ok");
  };
  const { proxy } = await behind(t, serve, { limits: { drainIdleMs: 50 } });
  const agent = new Agent({ keepAlive: true });
  t.after(() => agent.destroy());
  const ask = (path: string): Promise<string | undefined> =>
    new Promise((resolve, reject) => {
      request({ port: proxy.port, host: "127.0.0.1", agent, path }, (res) => {
        res.resume();
        res.on("end", () => resolve(res.headers.connection));
      })
        .on("error", reject)
        .end();
    });
  assert.notEqual(await ask("/"), "close");
  const pending = ask("/held");
  await waitFor("it is under way", () => held.length === 1);
  for (const connection of proxy.connections) connection.drain();
  held[0]?.end("ok");
  assert.equal(await pending, "close");
  await waitFor("no connection is left", () => proxy.connections.size === 0);
});

test("[RES-5] a refused connection is tried again where the decision says; a late answer of the first changes nothing", async (t) => {
  const { proxy } = await behind(t, echo);
  let asked = 0;
  const failing = await startProxy(1, {
    handler: {
      failed(why, exchange) {
        asked++;
        assert.equal(why, "connect_refused");
        assert.ok(exchange.canResend);
        return asked === 3
          ? { kind: "forward", upstream: proxy.pool, delayMs: 10 }
          : { kind: "forward", upstream: failing.pool };
      },
    },
  });
  t.after(() => failing[Symbol.asyncDispose]());
  const { out } = await curl("-d", "body", `http://127.0.0.1:${failing.port}/again`);
  assert.equal((JSON.parse(out) as { readonly size: number }).size, 4);
  assert.equal(asked, 3);
});

test("[TRF-7] a client that asks and asks and reads nothing is not served ahead of what it took", async (t) => {
  let decided = 0;
  const { proxy } = await behind(t, echo, {
    handler: {
      decide() {
        decided++;
        return { kind: "respond", status: 200, headers: [], body: Buffer.alloc(50_000) };
      },
    },
  });
  const socket = connect(proxy.port, "127.0.0.1");
  t.after(() => socket.destroy());
  socket.pause();
  for (let i = 0; i < 50; i++) socket.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(100));
  await new Promise((resolve) => setTimeout(resolve, 300));
  assert.ok(decided < 1_000, `${decided} of 5,000 answered`);
  let got = 0;
  socket.on("data", (data) => {
    got += data.length;
  });
  socket.resume();
  await waitFor("all are answered", () => decided === 5_000 && got > 5_000 * 50_000);
});

test("[SEC-8] a decision or hook that throws ends that exchange alone", async (t) => {
  const thrown: unknown[] = [];
  const { proxy, ended } = await behind(t, echo, {
    handler: {
      decide: (head) => {
        if (head.path === "/decide") throw new Error("decide");
        return { kind: "forward", upstream: proxy.pool };
      },
      answered: (_, exchange) => {
        if (exchange.method === "PUT") throw new Error("answered");
        return undefined;
      },
      threw: (error) => thrown.push((error as Error).message),
    },
  });
  const ask = (line: string): Promise<string> =>
    raw(proxy.port, `${line} HTTP/1.1\r\nHost: a\r\n\r\n`, (text) => text.includes("\r\n\r\n"));
  assert.equal(await ask("GET /decide"), "");
  assert.equal(await ask("PUT /answered"), "");
  assert.match(await ask("GET /"), /^HTTP\/1.1 200/);
  assert.deepEqual(thrown, ["decide", "answered"]);
  await waitFor("three ends", () => ended.length === 3);
  assert.deepEqual(
    ended.map((e) => e.outcome),
    ["internal_error", "internal_error", "finished"],
  );
});

test("[TRF-7] endless interim responses are a failure of the server", async (t) => {
  const { proxy, ended } = await behindTcp(t, (socket) =>
    socket.on("data", () => socket.write("HTTP/1.1 102 Processing\r\n\r\n".repeat(40))),
  );
  const got = await raw(proxy.port, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", (text) => text.includes(" 502 "));
  assert.equal((got.match(/102/g) ?? []).length, 32);
  await waitFor("the end", () => ended.length === 1);
  assert.equal(ended[0]?.outcome, "refused:too_many_interim_responses");
});

test("[TRF-7] a server that answers before it has read the body, and closes, is understood", async (t) => {
  const { proxy } = await behindTcp(t, (socket) =>
    socket.once("data", () =>
      socket.end("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig"),
    ),
  );
  const { out, code } = await curl(
    "-w",
    "|%{http_code}",
    "-H",
    "Expect:",
    "-d",
    "x".repeat(100_000),
    `http://127.0.0.1:${proxy.port}/`,
  );
  assert.equal(code, 0);
  assert.equal(out, "big|413");
});

test("[RES-5] [RES-6] a try that gives no answer or a bad one is made again elsewhere, with its body if that was kept", async (t) => {
  const good = await behind(t, echo);
  const bad = await behind(t, (req, res) => {
    if (req.url === "/slow") return;
    req.resume();
    req.on("end", () => {
      res.statusCode = 503;
      res.end("no");
    });
  });
  const { proxy, ended } = await behind(t, echo, {
    handler: {
      decide: ({ path }) => ({
        kind: "forward",
        upstream: bad.proxy.pool,
        tryTimeoutMs: path === "/slow" ? 100 : patienceMs,
        replayBytes: 50_000,
      }),
      answered: (head, exchange) =>
        head.status === 503 && exchange.canResend ? { kind: "forward", upstream: good.proxy.pool } : undefined,
      failed: (why, exchange) => {
        assert.equal(why, "try_timeout");
        return exchange.canResend ? { kind: "forward", upstream: good.proxy.pool } : undefined;
      },
    },
  });
  const ask = (path: string, size: number, ...more: readonly string[]): Promise<{ readonly out: string }> =>
    curl(
      "-w",
      "|%{http_code}",
      "-H",
      "Expect:",
      ...more,
      "-d",
      "x".repeat(size),
      `http://127.0.0.1:${proxy.port}${path}`,
    );
  for (const more of [[], ["-H", "Transfer-Encoding: chunked"]]) {
    for (const path of ["/slow", "/unavailable"]) {
      const { out } = await ask(path, 40_000, ...more);
      assert.match(out, /"size":40000,.*\|200$/);
    }
    assert.match((await ask("/slow", 90_000, ...more)).out, /^\|504$/);
    assert.match((await ask("/unavailable", 90_000, ...more)).out, /^no\|503$/);
  }
  await waitFor("eight ends", () => ended.length === 8);
  assert.deepEqual(
    ended.map((e) => [e.outcome, e.resent]),
    [1, 2].flatMap(() => [
      ["finished", 1],
      ["finished", 1],
      ["try_timeout", 0],
      ["finished", 0],
    ]),
  );
});

test("[SEC-8] a client that pours on after it was refused is cut, not read for as long as it likes", async (t) => {
  const { proxy } = await behind(t, (_, res) => void res.end("ok"), { limits: { lingerMs: 600_000 } });
  const socket = connect({ port: proxy.port, host: "127.0.0.1", allowHalfOpen: true });
  t.after(() => socket.destroy());
  socket.on("error", () => {});
  socket.resume();
  const more = Buffer.alloc(60_000, "x");
  const pour = (): void => {
    while (!socket.destroyed && socket.write(more));
  };
  socket.on("drain", pour);
  socket.write("GET / HTTP/1.1\r\nno host\r\n\r\n");
  pour();
  await waitFor("it is cut", () => socket.destroyed);
});
