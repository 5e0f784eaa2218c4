// Long bodies that are moved by native: the exchange around them is as if they had been read and written here. The library is the real one.
import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { connect, type Socket } from "node:net";
import { after, type TestContext, test } from "node:test";
import fc from "fast-check";
import type { Exchange } from "../../agent/forward/http1/exchange.ts";
import { behind, behindTcp, curl, echo, raw, readResponses } from "../kit/http1-peers.ts";
import { type JoinedLane, startJoinedLane, stopNative } from "../kit/joined-lane.ts";
import { waitFor } from "../kit/wait.ts";

after(stopNative);

const MiB = 2 ** 20;
const big = 16 * MiB;
const bytes = randomBytes(big);
const hashOf = (data: Buffer): string => createHash("sha256").update(data).digest("hex");
const head = (length: number): string => `HTTP/1.1 200 OK\r\nContent-Length: ${length}\r\n\r\n`;
const post = (length: number): string => `POST / HTTP/1.1\r\nHost: a\r\nContent-Length: ${length}\r\n\r\n`;
const get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

async function lane(t: TestContext, least = 256 * 1024): Promise<JoinedLane> {
  const started = await startJoinedLane(least);
  t.after(() => started.close());
  return started;
}

interface Counted {
  readonly outcome: string;
  readonly requestBytes: number;
  readonly responseBytes: number;
}
/** Takes down every exchange with its bytes. */
const counting = (into: Counted[]) => ({
  ended: ({ outcome, requestBytes, responseBytes }: Exchange): void =>
    void into.push({ outcome, requestBytes, responseBytes }),
});
const ended = (counted: readonly Counted[], count = 1): Promise<unknown> =>
  waitFor("the exchange's end", () => counted.length >= count);
const open = async (t: TestContext, port: number): Promise<Socket> => {
  const socket = connect({ port, host: "127.0.0.1", allowHalfOpen: true }).on("error", () => {});
  t.after(() => socket.destroy());
  await new Promise((resolve) => socket.once("connect", resolve));
  return socket;
};

test("[INT-9] 16 MiB both ways are moved whole and counted, and the connection is used again", async (t) => {
  const joined = await lane(t);
  const counted: Counted[] = [];
  const before = await joined.counter("joins");
  const { proxy } = await behind(
    t,
    (req, res) => {
      if (req.method === "POST") echo(req, res);
      else res.setHeader("content-length", big).end(bytes);
    },
    { lane: joined, handler: counting(counted), pool: { maxConnections: 1 } },
  );
  const client = await open(t, proxy.port);
  const answers = readResponses(client, 4);
  client.write(get);
  client.write(post(big));
  client.write(bytes);
  client.write(get + get);
  const [first, posted, ...others] = (await answers) as [Buffer, Buffer, Buffer, Buffer];
  assert.equal(hashOf(first), hashOf(bytes));
  assert.equal(JSON.parse(posted.toString()).hash, hashOf(bytes));
  for (const other of others) assert.equal(hashOf(other), hashOf(bytes));
  // The last bytes may be here before it is known there that they were the last.
  await ended(counted, 4);
  assert.deepEqual(
    counted.map(({ outcome, requestBytes, responseBytes }) => [outcome, requestBytes, responseBytes]),
    [
      ["finished", 0, big],
      ["finished", big, posted.length],
      ["finished", 0, big],
      ["finished", 0, big],
    ],
  );
  assert.equal((await joined.counter("joins")) - before, 4);
  assert.equal(joined.joins.size, 0);
  assert.equal(proxy.pool.open, 1);
});

test("a client that takes its time holds the server back, and nobody's memory holds the body", async (t) => {
  const joined = await lane(t);
  const counted: Counted[] = [];
  const total = 256 * MiB;
  let written = 0;
  const { proxy } = await behindTcp(
    t,
    (socket) => {
      socket.once("data", () => {
        socket.write(head(total));
        const more = (): void => {
          while (written < total) {
            written += MiB;
            if (!socket.write(bytes.subarray(0, MiB))) return void socket.once("drain", more);
          }
        };
        more();
      });
    },
    { lane: joined, handler: counting(counted) },
  );
  const client = await open(t, proxy.port);
  let got = 0;
  let isHeld = false;
  client.write(get);
  await new Promise<void>((resolve) => {
    client.on("data", (data: Buffer) => {
      got += data.length;
      if (got < 4 * MiB || isHeld) return;
      isHeld = true;
      client.pause();
      resolve();
    });
  });
  // It stands still once every buffer on the way is full.
  let last = -1;
  await waitFor("the server to be held back", async () => {
    const stands = written === last;
    last = written;
    await new Promise((resolve) => setTimeout(resolve, 300));
    return stands;
  });
  assert.ok(written < total / 2, `${written} bytes left the server`);
  client.resume();
  await ended(counted);
  assert.deepEqual(counted, [{ outcome: "finished", requestBytes: 0, responseBytes: total }]);
});

test("[TRF-5] a request timeout ends a body under way, and what was moved is counted", async (t) => {
  const joined = await lane(t);
  const counted: Counted[] = [];
  let sent = 0;
  const { proxy } = await behindTcp(
    t,
    (socket) => {
      socket.once("data", () => {
        socket.write(head(big));
        sent = 2 * MiB;
        socket.write(bytes.subarray(0, sent));
      });
    },
    {
      lane: joined,
      handler: { ...counting(counted), decide: () => ({ kind: "forward", upstream: proxy.pool, timeoutMs: 1_500 }) },
    },
  );
  const got = await raw(proxy.port, get);
  assert.equal(got.length, head(big).length + sent);
  await ended(counted);
  assert.deepEqual(counted, [{ outcome: "request_timeout", requestBytes: 0, responseBytes: sent }]);
});

test("[TRF-5] a body that moves slowly is not idle; one that stands still is, in both directions", async (t) => {
  const joined = await lane(t);
  const counted: Counted[] = [];
  let drips = 0;
  const { proxy } = await behindTcp(
    t,
    (socket) => {
      socket.once("data", (data) => {
        if (data.toString("latin1").startsWith("POST")) return;
        socket.write(head(big));
        const drip = setInterval(() => {
          socket.write(bytes.subarray(0, 1_000));
          if (++drips === 16) clearInterval(drip);
        }, 250);
        socket.on("close", () => clearInterval(drip));
      });
    },
    { lane: joined, handler: counting(counted), limits: { stallTimeoutMs: 2_000 } },
  );
  const got = await raw(proxy.port, get);
  assert.equal(drips, 16);
  assert.equal(got.length, head(big).length + 16_000);
  const answer = await raw(proxy.port, `${post(big)}${"x".repeat(700_000)}`);
  assert.match(answer, /^HTTP\/1.1 408 /);
  assert.deepEqual(
    counted.map((c) => [c.outcome, c.requestBytes, c.responseBytes]),
    [
      ["response_stalled", 0, 16_000],
      ["request_stalled", 700_000, 0],
    ],
  );
});

test("who breaks off a body under way is named as ever, and the other side sees that it broke", async (t) => {
  const joined = await lane(t);
  const counted: Counted[] = [];
  const servers: Socket[] = [];
  let serverGone = "";
  const { proxy } = await behindTcp(
    t,
    (socket) => {
      servers.push(socket);
      socket.on("error", ({ message }) => (serverGone = message));
      socket.on("end", () => (serverGone ||= "end"));
      socket.once("data", (data) => {
        if (data.toString("latin1").startsWith("GET"))
          socket.write(Buffer.concat([Buffer.from(head(big)), bytes.subarray(0, MiB)]));
        socket.on("data", () => {});
      });
    },
    { lane: joined, handler: counting(counted) },
  );
  const outcome = async (text: string, act: (client: Socket, server: Socket) => void): Promise<string> => {
    const [count, opened] = [counted.length, servers.length];
    const client = await open(t, proxy.port);
    let got = 0;
    client.on("data", (data: Buffer) => (got += data.length));
    client.write(text);
    if (text.startsWith("POST")) client.write(bytes.subarray(0, MiB));
    await waitFor("the join", () => servers.length > opened && joined.joins.size === 1);
    if (text === get) await waitFor("what was sent", () => got === head(big).length + MiB);
    act(client, servers.at(-1) as Socket);
    await ended(counted, count + 1);
    assert.equal(joined.joins.size, 0);
    client.destroy();
    return counted[count]?.outcome as string;
  };
  assert.equal(await outcome(get, (_, server) => server.resetAndDestroy()), "upstream_reset");
  assert.equal(await outcome(get, (_, server) => server.end()), "upstream_closed");
  assert.equal(await outcome(get, (client) => client.resetAndDestroy()), "client_gone");
  assert.equal(await outcome(post(big), (_, server) => server.resetAndDestroy()), "upstream_reset");
  assert.equal(await outcome(post(big), (client) => client.resetAndDestroy()), "client_gone");
  serverGone = "";
  assert.equal(await outcome(post(big), (client) => client.end()), "client_gone");
  await waitFor("the server to be told", () => serverGone !== "");
  for (const { responseBytes } of counted.slice(0, 3)) assert.equal(responseBytes, MiB);
});

test("a server that answers before it has the body, and ends, is heard", async (t) => {
  const joined = await lane(t);
  const counted: Counted[] = [];
  const { proxy } = await behindTcp(
    t,
    (socket) => {
      socket.once("data", () => {
        let read = 0;
        socket.on("data", (data) => {
          read += data.length;
          if (read < MiB || !socket.writable) return;
          socket.end("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno\n");
        });
      });
    },
    { lane: joined, handler: counting(counted) },
  );
  const client = await open(t, proxy.port);
  let got = "";
  client.on("data", (data) => (got += data.toString("latin1")));
  client.write(post(big));
  client.write(bytes.subarray(0, 2 * MiB));
  await ended(counted);
  await waitFor("the answer", () => got.endsWith("no\n"));
  assert.match(got, /^HTTP\/1.1 413 /);
  assert.equal(counted[0]?.outcome, "finished");
});

test("what has to be seen on the way is not given away: copies, what is kept for another try, short waits", async (t) => {
  const joined = await lane(t);
  const before = await joined.counter("joins");
  const copied = createHash("sha256");
  const copies = { begin: () => {}, data: (chunk: Buffer) => void copied.update(chunk), end: () => {}, cut: () => {} };
  for (const more of [{ copies }, { replayBytes: big }, { idleTimeoutMs: 900 }]) {
    const { proxy } = await behind(t, echo, {
      lane: joined,
      handler: { decide: () => ({ kind: "forward", upstream: proxy.pool, ...more }) },
    });
    const client = await open(t, proxy.port);
    const answers = readResponses(client, 1);
    client.write(post(big));
    client.write(bytes);
    assert.equal(JSON.parse(String((await answers)[0])).hash, hashOf(bytes));
  }
  assert.equal(copied.digest("hex"), hashOf(bytes));
  assert.equal(await joined.counter("joins"), before);
});

test("a socket that native does not know again is carried here", async (t) => {
  const joined = await startJoinedLane(256 * 1024, () => 1);
  t.after(() => joined.close());
  const before = await joined.counter("joins");
  const { proxy } = await behind(t, (_, res) => res.setHeader("content-length", big).end(bytes), { lane: joined });
  const got = await curl(`http://127.0.0.1:${proxy.port}/`);
  assert.equal(hashOf(Buffer.from(got.out, "latin1")), hashOf(bytes));
  assert.equal(await joined.counter("joins"), before);
});

test("[INT-9] property: any sizes, cuts and pipelining, whatever the threshold", async (t) => {
  const size = fc.oneof(fc.nat(300), fc.nat(70_000), fc.nat(900_000));
  const requests = fc.array(fc.record({ up: size, down: size, chunked: fc.boolean() }), { minLength: 1, maxLength: 5 });
  await fc.assert(
    fc.asyncProperty(
      requests,
      fc.constantFrom(1, 1_000, 65_536),
      fc.integer({ min: 1, max: 200_000 }),
      async (all, least, cut) => {
        const joined = await startJoinedLane(least);
        try {
          await exchanges(t, joined, all, cut);
        } finally {
          joined.close();
        }
      },
    ),
    { numRuns: 25 },
  );
});

async function exchanges(
  t: TestContext,
  joined: JoinedLane,
  all: readonly { readonly up: number; readonly down: number; readonly chunked: boolean }[],
  cut: number,
): Promise<void> {
  const { proxy, server } = await behind(
    t,
    (req, res) => {
      // What is asked for comes back while the request is still on its way.
      const down = Number(req.headers["x-down"]);
      const hash = createHash("sha256");
      res.setHeader("content-length", down + 64);
      res.write(bytes.subarray(0, down));
      req.on("data", (data) => hash.update(data)).on("end", () => res.end(hash.digest("hex")));
    },
    { lane: joined },
  );
  const client = await open(t, proxy.port);
  const answers = readResponses(client, all.length);
  const parts = all.map(({ up, down, chunked }) => {
    const fields = `POST / HTTP/1.1\r\nHost: a\r\nX-Down: ${down}\r\n`;
    const body = bytes.subarray(0, up);
    if (!chunked) return [`${fields}Content-Length: ${up}\r\n\r\n`, body];
    const end = up === 0 ? "0\r\n\r\n" : "\r\n0\r\n\r\n";
    return [`${fields}Transfer-Encoding: chunked\r\n\r\n${up === 0 ? "" : `${up.toString(16)}\r\n`}`, body, end];
  });
  const sent = Buffer.concat(parts.flat().map((part) => Buffer.from(part as string)));
  for (let at = 0; at < sent.length; at += cut) client.write(sent.subarray(at, at + cut));
  const got = await answers;
  for (const [i, { up, down }] of all.entries()) {
    const answer = got[i] as Buffer;
    assert.equal(answer.length, down + 64);
    assert.ok(answer.subarray(0, down).equals(bytes.subarray(0, down)));
    assert.equal(answer.subarray(down).toString(), hashOf(bytes.subarray(0, up)));
  }
  client.destroy();
  await proxy[Symbol.asyncDispose]();
  server.closeAllConnections();
}
