// Connections to HTTP/2 servers that are full, go away, refuse or break, and what that does to requests; connections of clients that end.
import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer as createHttp1, request } from "node:http";
import {
  type ClientHttp2Session,
  connect,
  constants,
  createServer,
  type Http2Server,
  type IncomingHttpHeaders,
  type ServerHttp2Session,
  type ServerHttp2Stream,
} from "node:http2";
import type { AddressInfo } from "node:net";
import { type TestContext, test } from "node:test";
import { systemClock } from "../../agent/base/clock.ts";
import { type Lane, type LaneOptions, startLane } from "../kit/http-lane.ts";

interface Given {
  readonly server: Http2Server;
  readonly lane: Lane;
  readonly session: () => ClientHttp2Session;
}

type Serve = (stream: ServerHttp2Stream, headers: IncomingHttpHeaders, session: ServerHttp2Session) => void;

async function given(
  t: TestContext,
  serve: Serve,
  options: Partial<LaneOptions> = {},
  settings: { maxConcurrentStreams?: number; initialWindowSize?: number } = {},
): Promise<Given> {
  const server = createServer({ settings });
  const sessions = new Set<ServerHttp2Session>();
  server.on("session", (session) => {
    sessions.add(session);
    session.on("error", () => {});
    session.on("close", () => sessions.delete(session));
    session.on("stream", (stream, headers) => {
      stream.on("error", () => {});
      serve(stream, headers, session);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const lane = await startLane((server.address() as AddressInfo).port, { upstream: "http2", ...options });
  const clients: ClientHttp2Session[] = [];
  t.after(async () => {
    for (const client of clients) client.destroy();
    await lane[Symbol.asyncDispose]();
    for (const session of sessions) session.destroy();
    server.close();
  });
  const session = (): ClientHttp2Session => {
    const client = connect(`http://127.0.0.1:${lane.port}`);
    client.on("error", () => {});
    clients.push(client);
    return client;
  };
  return { server, lane, session };
}

interface Got {
  readonly status: number;
  readonly body: string;
}

async function ask(session: ClientHttp2Session, path: string, body?: string): Promise<Got> {
  const stream = session.request(
    { ":path": path, ":method": body === undefined ? "GET" : "POST" },
    { endStream: body === undefined },
  );
  const answered = once(stream, "response") as Promise<[IncomingHttpHeaders]>;
  if (body !== undefined) stream.end(body);
  const [headers] = await answered;
  let text = "";
  for await (const part of stream as AsyncIterable<Buffer>) text += part.toString();
  return { status: Number(headers[":status"]), body: text };
}

const until = async (what: string, holds: () => boolean): Promise<void> => {
  for (let i = 0; i < 1_000; i++) {
    if (holds()) return;
    await systemClock.sleep(10);
  }
  assert.fail(what);
};

const echo: Serve = (stream) => {
  stream.respond({ ":status": 200 });
  stream.pipe(stream);
};

test("[TRF-7] [DP-27] a server that takes few streams at once gets more connections, and no request is lost or seen by the client as refused", async (t) => {
  let most = 0;
  const open = new Map<ServerHttp2Session, number>();
  const { lane, session } = await given(
    t,
    (stream, _headers, of) => {
      open.set(of, (open.get(of) ?? 0) + 1);
      most = Math.max(most, open.get(of) ?? 0);
      stream.on("close", () => open.set(of, (open.get(of) ?? 1) - 1));
      systemClock.after(5, () => echo(stream, {}, of));
    },
    {},
    { maxConcurrentStreams: 10 },
  );
  const client = session();
  const answers = await Promise.all(Array.from({ length: 100 }, (_, i) => ask(client, `/${i}`, `body ${i}`)));
  for (const [i, answer] of answers.entries()) assert.deepEqual(answer, { status: 200, body: `body ${i}` });
  assert.ok(lane.pools.http2.open > 1, `${lane.pools.http2.open} connections`);
  assert.ok(most <= 10, `${most} streams at once`);
});

test("[TRF-7] requests that the server's GOAWAY leaves out go to a new connection, with their bodies; those that it serves are answered", async (t) => {
  const seen: string[] = [];
  let gone: ServerHttp2Session | undefined;
  const { lane, session } = await given(t, (stream, headers, of) => {
    const path = String(headers[":path"]);
    if (path === "/served") {
      systemClock.after(50, () => echo(stream, headers, of));
      return;
    }
    if (gone === undefined) {
      gone = of;
      of.goaway(constants.NGHTTP2_NO_ERROR, 1);
    }
    // Only the first stream of this connection is served.
    if (gone === of) return;
    seen.push(path);
    echo(stream, headers, of);
  });
  const client = session();
  const served = ask(client, "/served", "s");
  await until("under way", () => lane.pools.http2.open === 1);
  const answers = await Promise.all([served, ask(client, "/a", "body a"), ask(client, "/b", "body b")]);
  assert.deepEqual(
    answers.map(({ status, body }) => `${status} ${body}`),
    ["200 s", "200 body a", "200 body b"],
  );
  assert.deepEqual(seen.sort(), ["/a", "/b"]);
  assert.deepEqual(
    lane.ended.map(({ outcome }) => outcome),
    ["finished", "finished", "finished"],
  );
});

for (const version of [1, 2])
  test(`[DP-29] a stream that the server refuses unseen is sent again, whatever its method (HTTP/${version} client); after three times it is 503`, async (t) => {
    let refusals = 2;
    const { lane, session } = await given(t, (stream, headers, of) => {
      if (refusals-- > 0) stream.close(constants.NGHTTP2_REFUSED_STREAM);
      else echo(stream, headers, of);
    });
    const client = session();
    const post = async (): Promise<Got> => {
      if (version === 2) return ask(client, "/", "once");
      const sent = request({ port: lane.port, method: "POST", headers: { "content-length": "4" } });
      sent.end("once");
      const [answer] = await once(sent, "response");
      let body = "";
      for await (const part of answer as AsyncIterable<Buffer>) body += part.toString();
      return { status: answer.statusCode, body };
    };
    assert.deepEqual(await post(), { status: 200, body: "once" });
    assert.equal(lane.ended[0]?.resent, 2);
    refusals = 100;
    assert.equal((await post()).status, 503);
    assert.deepEqual([lane.ended[1]?.outcome, lane.ended[1]?.resent], ["upstream_refused", 3]);
  });

test("[DP-29] a connection that breaks: a request that may have had an effect is not sent again, one that may be is", async (t) => {
  let breaks = 0;
  const { lane, session } = await given(t, (stream, headers, of) => {
    if (breaks > 0) {
      breaks--;
      of.destroy();
    } else echo(stream, headers, of);
  });
  const client = session();
  assert.equal((await ask(client, "/")).status, 200);
  breaks = 1;
  assert.equal((await ask(client, "/", "effect")).status, 502);
  assert.match(lane.ended[1]?.outcome ?? "", /^upstream_(?:reset|closed)$/);
  assert.equal(lane.ended[1]?.resent, 0);
  assert.equal((await ask(client, "/")).status, 200);
  breaks = 1;
  assert.equal((await ask(client, "/")).status, 200);
  await until("ended", () => lane.ended.length === 4);
  assert.equal(lane.ended[3]?.resent, 1);
});

test("[DIS-6] a client's connection that drains: streams under way end well, GOAWAY comes twice, later requests come over another", async (t) => {
  let answer: (() => void) | undefined;
  const { lane, session } = await given(t, (stream, headers, of) => {
    if (headers[":path"] === "/slow") answer = () => echo(stream, headers, of);
    else echo(stream, headers, of);
  });
  const client = session();
  const last: number[] = [];
  client.on("goaway", (_code: number, id: number) => last.push(id));
  const slow = ask(client, "/slow", "slow body");
  await until("asked", () => answer !== undefined);
  for (const connection of lane.connections) connection.drain();
  await until("told", () => last.length === 2);
  assert.deepEqual(last, [0x7fff_ffff, 1]);
  answer?.();
  assert.deepEqual(await slow, { status: 200, body: "slow body" });
  await until("closed", () => client.closed && lane.connections.size === 0);
  assert.equal((await ask(session(), "/", "next")).body, "next");
});

test("[DIS-6] [DP-19] connections that drain again and again under load lose no request", async (t) => {
  const { lane, session } = await given(t, echo);
  let client = session();
  let asked = 0;
  let stop = false;
  const loop = async (): Promise<void> => {
    while (!stop) {
      // As clients do: after GOAWAY a new connection.
      if (client.closed || client.destroyed) client = session();
      const mine = client;
      const answer = await ask(mine, `/${asked}`, "x").catch((error: unknown) => error);
      if (answer instanceof Error && "code" in answer && answer.code === "ERR_HTTP2_GOAWAY_SESSION") continue;
      assert.deepEqual(answer, { status: 200, body: "x" });
      asked++;
    }
  };
  const loops = Array.from({ length: 8 }, loop);
  for (let i = 0; i < 20; i++) {
    const before = asked;
    await until("requests", () => asked > before + 10);
    for (const connection of lane.connections) connection.drain();
  }
  stop = true;
  await Promise.all(loops);
  assert.ok(asked > 200);
  assert.deepEqual(new Set(lane.ended.map(({ outcome }) => outcome)), new Set(["finished"]));
});

test("[DIS-6] an endpoint that leaves: its streams end, then its connections; an idle connection ends after its time", async (t) => {
  let answer: (() => void) | undefined;
  const { lane, session } = await given(
    t,
    (stream, headers, of) => {
      if (headers[":path"] === "/slow") answer = () => echo(stream, headers, of);
      else echo(stream, headers, of);
    },
    { pool: { idleTimeoutMs: 100 } },
  );
  const client = session();
  const slow = ask(client, "/slow", "slow body");
  await until("asked", () => answer !== undefined);
  lane.pools.http2.retire();
  answer?.();
  assert.equal((await slow).body, "slow body");
  await until("closed", () => lane.pools.http2.open === 0);
  // Whoever is sent there all the same is served.
  assert.equal((await ask(client, "/", "late")).body, "late");
  await until("closed again", () => lane.pools.http2.open === 0);
  lane.pools.http2.revive();
  assert.equal((await ask(client, "/", "x")).body, "x");
  await until("idle for its time", () => lane.pools.http2.open === 0);
});

for (const upstream of ["http1", "http2"] as const)
  test(`[TRF-7] an answer that comes before its request is whole reaches the client, and what is left of the request is not waited for (${upstream})`, async (t) => {
    const own = createHttp1((_question, answer) => void answer.writeHead(413).end("too much"));
    await new Promise<void>((resolve) => own.listen(0, "127.0.0.1", resolve));
    t.after(() => {
      own.closeAllConnections();
      own.close();
    });
    const early: Serve = (stream) => {
      stream.respond({ ":status": 413 });
      stream.end("too much");
    };
    const { lane: other, session } = await given(t, early);
    const lane = upstream === "http2" ? other : await startLane((own.address() as AddressInfo).port, { upstream });
    if (lane !== other) t.after(() => lane[Symbol.asyncDispose]());
    const client = upstream === "http2" ? session() : connect(`http://127.0.0.1:${lane.port}`);
    t.after(() => client.destroy());
    const stream = client.request({ ":path": "/", ":method": "POST" }, { endStream: false });
    stream.on("error", () => {});
    const answered = once(stream, "response") as Promise<[IncomingHttpHeaders]>;
    stream.write(Buffer.alloc(10_000));
    const [headers] = await answered;
    assert.equal(headers[":status"], 413);
    let body = "";
    for await (const part of stream as AsyncIterable<Buffer>) body += part.toString();
    assert.equal(body, "too much");
    stream.end();
    await until("ended", () => lane.ended.length === 1);
    assert.deepEqual([lane.ended[0]?.outcome, lane.ended[0]?.status], ["finished", 413]);
  });

test("[SEC-8] an upload that its server does not read stops at the windows, and goes on when it does", async (t) => {
  let take: (() => void) | undefined;
  const { lane, session } = await given(t, (stream) => {
    let bytes = 0;
    take = () => {
      stream.on("data", (chunk: Buffer) => {
        bytes += chunk.length;
      });
      stream.on("end", () => {
        stream.respond({ ":status": 200 });
        stream.end(String(bytes));
      });
    };
  });
  const client = session();
  const stream = client.request({ ":path": "/", ":method": "POST" }, { endStream: false });
  const answered = once(stream, "response");
  const total = 8_000_000;
  let written = 0;
  const more = (): void => {
    while (written < total) {
      written += 50_000;
      if (!stream.write(Buffer.alloc(50_000))) {
        stream.once("drain", more);
        return;
      }
    }
    stream.end();
  };
  more();
  await until("the server has it", () => take !== undefined);
  await systemClock.sleep(300);
  // Windows of both hops and buffers of both programs.
  assert.ok(written < 2_000_000, `${written}`);
  take?.();
  await answered;
  let body = "";
  for await (const part of stream as AsyncIterable<Buffer>) body += part.toString();
  assert.equal(body, String(total));
  await until("ended", () => lane.ended.length === 1);
  assert.equal(lane.ended[0]?.requestBytes, total);
});

test("[SEC-8] a malformed request costs its stream alone and is told by reason; CONNECT is not served", async (t) => {
  const { lane, session } = await given(t, echo);
  const client = session();
  const good = ask(client, "/", "a");
  const tunnel = client.request({ ":method": "CONNECT", ":authority": "a:1" });
  const [headers] = (await once(tunnel, "response")) as [IncomingHttpHeaders];
  assert.equal(headers[":status"], 501);
  tunnel.close();
  const bad = client.request({ ":path": "/", ":method": "POST", "content-length": "5" }, { endStream: false });
  const closed = new Promise((resolve) => bad.on("error", () => {}).on("close", resolve));
  bad.end("too long");
  await closed;
  assert.equal((await good).body, "a");
  assert.equal((await ask(client, "/", "b")).body, "b");
  assert.deepEqual(new Set(lane.refused), new Set(["connect_unsupported", "content_length"]));
});

test("[TRF-7] an answer that its server breaks off without an error reaches the client as broken off", async (t) => {
  const { lane, session } = await given(t, (stream) => {
    stream.respond({ ":status": 200 });
    stream.write("a part", () => stream.close(constants.NGHTTP2_NO_ERROR));
  });
  const stream = session().request({ ":path": "/" });
  stream.resume();
  const error = await new Promise<NodeJS.ErrnoException | undefined>((resolve) => {
    stream.on("error", resolve).on("end", () => resolve(undefined));
  });
  // Node ends the stream in order, or resets it, as its timing is: the client never waits, and never takes a part for the whole.
  if (error === undefined) assert.equal(lane.ended[0]?.outcome, "finished");
  else assert.equal(stream.rstCode, constants.NGHTTP2_INTERNAL_ERROR);
});
