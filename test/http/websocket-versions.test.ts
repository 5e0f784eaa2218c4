// WebSocket where client, lane and server do not all speak the same version of HTTP (RFC 8441): extended CONNECT is Upgrade and back, bytes
// pass both ways with each end of its own, and what cannot be opened is said.
import assert from "node:assert/strict";
import { once } from "node:events";
import { type AddressInfo, createServer } from "node:net";
import type { Duplex } from "node:stream";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import fc from "fast-check";
import { acceptOf } from "../../agent/forward/websocket.ts";
import { type Lane, type LaneOptions, startLane } from "../kit/http-lane.ts";
import { waitFor } from "../kit/wait.ts";
import {
  acceptFor,
  breakOff,
  exampleKey,
  openOn,
  openTunnel,
  readAll,
  readNext,
  type ServerOptions,
  sessionTo,
  tunnelServer,
} from "../kit/websocket-peers.ts";

type Version = 1 | 2;
const pairs: readonly (readonly [Version, Version])[] = [
  [1, 1],
  [1, 2],
  [2, 1],
  [2, 2],
];
/** Those in which one side has to be spoken to in HTTP/2. */
const mixed = pairs.slice(1);
type Serve = (connection: Duplex, fields: Readonly<Record<string, unknown>>, line: string) => void;

async function laneTo(
  t: TestContext,
  to: Version,
  serve: Serve,
  options: Partial<LaneOptions> & ServerOptions = {},
): Promise<Lane> {
  const port = await tunnelServer(t, to, serve, options);
  const lane = await startLane(port, { upstream: to === 2 ? "http2" : "http1", ...options });
  t.after(() => lane[Symbol.asyncDispose]());
  return lane;
}
const echo: Serve = (connection) => void connection.pipe(connection);
const closed = (end: Duplex): Promise<unknown> => {
  const isClosed = new Promise((resolve) => end.once("close", resolve));
  end.resume();
  return isClosed;
};
const ended = (lane: Lane) => waitFor("the record", () => lane.ended.at(-1));

test("[TRF-7] the proof of a handshake is the one of RFC 6455", () => {
  assert.equal(acceptOf(exampleKey), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
  assert.equal(acceptFor(exampleKey), acceptOf(exampleKey));
});

const anySizes = fc.array(fc.oneof(fc.integer({ min: 1, max: 300 }), fc.integer({ min: 1, max: 90_000 })), {
  maxLength: 6,
});
/** Each piece another byte, so that order and length are seen. */
const contentOf = (sizes: readonly number[]): Buffer =>
  Buffer.concat(sizes.map((size, i) => Buffer.alloc(size, i + 1)));

async function speak(to: Duplex, sizes: readonly number[], waits: Promise<unknown>): Promise<void> {
  for (const [i, size] of sizes.entries()) to.write(Buffer.alloc(size, i + 1));
  await waits;
  to.end();
}

for (const [from, to] of pairs)
  test(`[TRF-7] WebSocket from HTTP/${from} to HTTP/${to}: bytes pass both ways, whoever ends first`, async (t) => {
    let serve: Serve = () => {};
    const lane = await laneTo(t, to, (...all) => serve(...all));
    const check = async (said: readonly number[], answered: readonly number[], first: "client" | "server" | "both") => {
      const records = lane.ended.length;
      let atServer: Promise<Buffer> | undefined;
      const isSaid = new Promise<void>((resolve) => {
        serve = (connection) => {
          atServer = readAll(connection);
          const waits = first === "client" ? atServer : Promise.resolve();
          void speak(connection, answered, waits).then(resolve);
        };
      });
      const { status, connection } = await openTunnel(t, from, lane.port);
      assert.equal(status, from === 1 ? 101 : 200);
      const atClient = readAll(connection);
      await speak(connection, said, first === "server" ? atClient : Promise.resolve());
      await isSaid;
      const [got, back] = [await atServer, await atClient];
      assert.deepEqual([got?.equals(contentOf(said)), back.equals(contentOf(answered))], [true, true]);
      const record = await waitFor("the record", () => lane.ended[records]);
      const bytes = [said, answered].map((sizes) => sizes.reduce((sum, size) => sum + size, 0));
      assert.deepEqual([record.requestBytes, record.responseBytes], bytes);
      assert.deepEqual([record.method, record.status, record.outcome], ["GET", status, "finished"]);
      assert.equal(lane.ended.length, records + 1);
    };
    const first = fc.constantFrom("client" as const, "server" as const, "both" as const);
    await fc.assert(fc.asyncProperty(anySizes, anySizes, first, check), { numRuns: 25 });
    assert.deepEqual([lane.refused, lane.threw], [[], []]);
  });

test("[TRF-7] an extended CONNECT is asked about as the GET that it is elsewhere, and reaches an HTTP/1.1 server as one", async (t) => {
  const asked: string[] = [];
  let seen: readonly unknown[] = [];
  const fields = { "sec-websocket-protocol": "chat", "x-own": "1" };
  const lane = await laneTo(
    t,
    1,
    (connection, got, line) => {
      const { "sec-websocket-key": key, "sec-websocket-version": version, cookie, host } = got;
      seen = [line, String(key).length, version, got["sec-websocket-protocol"], got["x-own"], cookie, host, got.te];
      connection.end();
    },
    {
      answer: () => ({ kind: "let in", fields: { "sec-websocket-protocol": "chat", "x-theirs": "2" } }),
      decide(head, _, pools) {
        asked.push([head.method, head.path, head.authority, head.header("upgrade"), head.header("x-own")].join(" "));
        return {
          kind: "forward",
          upstream: pools.http1,
          path: "/other",
          edits: { remove: ["x-own"], set: [], add: [] },
        };
      },
    },
  );
  const own = { ...fields, cookie: "a=1; b=2", te: "trailers", "sec-websocket-key": "theirs" };
  const { fields: answer } = await openTunnel(t, 2, lane.port, "/chat", own);
  assert.deepEqual(asked, ["GET /chat a.test websocket 1"]);
  assert.deepEqual(seen, ["GET a.test /other", 24, "13", "chat", undefined, "a=1; b=2", "a.test", undefined]);
  assert.deepEqual([answer["sec-websocket-protocol"], answer["x-theirs"]], ["chat", "2"]);
  assert.deepEqual(
    [answer["sec-websocket-accept"], answer.upgrade, answer.connection],
    [undefined, undefined, undefined],
  );
});

test("[TRF-7] a GET with Upgrade reaches an HTTP/2 server as an extended CONNECT, and its client gets the proof that it asked for", async (t) => {
  let seen: readonly unknown[] = [];
  const lane = await laneTo(
    t,
    2,
    (connection, got, line) => {
      seen = [line, got["sec-websocket-key"], got["sec-websocket-version"], got["sec-websocket-protocol"]];
      connection.end();
    },
    { answer: () => ({ kind: "let in", fields: { "sec-websocket-protocol": "chat" } }) },
  );
  const { fields } = await openTunnel(t, 1, lane.port, "/chat", { "sec-websocket-protocol": "chat, other" });
  assert.deepEqual(seen, ["CONNECT websocket a.test /chat", undefined, "13", "chat, other"]);
  const { upgrade, connection, "sec-websocket-accept": accept, "sec-websocket-protocol": protocol } = fields;
  assert.deepEqual([upgrade, connection, accept, protocol], ["websocket", "upgrade", acceptFor(exampleKey), "chat"]);
});

test("[TRF-7] what a client of HTTP/2 says before it is let in waits, and arrives", async (t) => {
  for (const to of [1, 2] as const) {
    const lane = await laneTo(t, to, echo);
    const early = Buffer.alloc(20_000, "early");
    const { connection } = await openOn(await sessionTo(t, lane.port), "/", {}, early);
    const all = readAll(connection);
    connection.end("late");
    assert.equal((await all).toString(), `${early}late`);
  }
});

for (const [from, to] of mixed) {
  test(`[TRF-7] WebSocket from HTTP/${from} to HTTP/${to}: a client that breaks off is gone at the server, and the other way round`, async (t) => {
    const ends: Duplex[] = [];
    const lane = await laneTo(t, to, (connection) => void ends.push(connection));
    const one = await openTunnel(t, from, lane.port);
    const server = await waitFor("the server's end", () => ends[0]);
    const isGone = closed(server);
    breakOff(one.connection);
    await isGone;
    const two = await openTunnel(t, from, lane.port);
    const broken = await waitFor("the server's end", () => ends[1]);
    const isClosed = closed(two.connection);
    breakOff(broken);
    if (from === 1) two.connection.end();
    await isClosed;
    if (from === 2) assert.equal((two.connection as unknown as { rstCode: number }).rstCode, 10);
    const outcomes = await waitFor("two records", () => lane.ended.length === 2 && lane.ended.map((e) => e.outcome));
    // Node's HTTP/2 ends its side before it resets it, which a client of HTTP/1.1 has heard of when the reset comes.
    assert.deepEqual(outcomes, ["client_gone", from === 1 ? "finished" : "upstream_reset"]);
    assert.deepEqual(lane.threw, []);
  });

  test(`[TRF-7] WebSocket from HTTP/${from} to HTTP/${to}: whoever does not read holds the other up, and memory stays small`, async (t) => {
    const most = 100_000_000;
    for (const slow of ["client", "server"] as const) {
      const ends: Duplex[] = [];
      const lane = await laneTo(t, to, (connection) => void ends.push(connection));
      const { connection } = await openTunnel(t, from, lane.port);
      const server = await waitFor("the server's end", () => ends[0]);
      const [writer, reader] = slow === "server" ? [connection, server] : [server, connection];
      const chunk = Buffer.alloc(50_000, "x");
      let sent = 0;
      let isBlocked = false;
      while (!isBlocked && sent < most) {
        sent += chunk.length;
        isBlocked = await new Promise<boolean>((resolve) => {
          const give = setTimeout(() => resolve(true), 2_000);
          writer.write(chunk, () => {
            clearTimeout(give);
            resolve(false);
          });
        });
      }
      assert.ok(isBlocked, `${sent} bytes went to a ${slow} that reads nothing`);
      const all = readAll(reader);
      writer.end();
      assert.equal((await all).length, sent);
    }
  });
}

test("[TRF-7] what a server says instead of letting a client in reaches it; 200 to a GET lets nobody in", async (t) => {
  const no = (status: number) => ({ kind: "answer", status, body: "no" }) as const;
  for (const [from, to] of mixed) {
    const lane = await laneTo(t, to, echo, { answer: () => no(403) });
    const { status, connection } = await openTunnel(t, from, lane.port);
    assert.deepEqual([status, /\bno\b/.test(await readNext(connection))], [403, true]);
    assert.equal((await ended(lane)).status, 403);
  }
  const page = await laneTo(t, 1, echo, { answer: () => no(200) });
  const { status, connection } = await openTunnel(t, 2, page.port);
  assert.deepEqual([status, /does not speak WebSocket/.test(await readNext(connection))], [501, true]);
  assert.equal((await ended(page)).outcome, "refused:upgrade_declined");
  const liar = await laneTo(t, 1, echo, { answer: () => ({ kind: "let in", accept: acceptFor("another") }) });
  assert.equal((await openTunnel(t, 2, liar.port)).status, 502);
  assert.equal((await ended(liar)).outcome, "refused:websocket_accept");
  const own = await laneTo(t, 1, echo, {
    decide: () => ({ kind: "respond", status: 200, headers: [], body: Buffer.from("ours") }),
  });
  assert.equal((await openTunnel(t, 2, own.port)).status, 501);
});

test("[TRF-7] an HTTP/2 server that takes no extended CONNECT is not asked: 501 says why", async (t) => {
  for (const from of [1, 2] as const) {
    const lane = await laneTo(t, 2, echo, { advertises: false });
    const { status, connection } = await openTunnel(t, from, lane.port);
    assert.equal(status, 501);
    assert.match(await readNext(connection), /does not take WebSocket over HTTP\/2 \(RFC 8441\)/);
    const { outcome, requestBytes } = await ended(lane);
    assert.deepEqual([outcome, requestBytes], ["refused:upgrade_unsupported", 0]);
  }
});

test("[TRF-7] more tunnels than one connection to the server takes get others", async (t) => {
  for (const from of [1, 2] as const) {
    const lane = await laneTo(t, 2, echo, { mostStreams: 3 });
    const open = from === 1 ? undefined : await sessionTo(t, lane.port);
    const one = () => (open === undefined ? openTunnel(t, from, lane.port) : openOn(open, "/"));
    const all = await Promise.all(Array.from({ length: 8 }, one));
    for (const [i, { connection }] of all.entries()) {
      connection.write(`tunnel ${i}`);
      assert.equal(await readNext(connection), `tunnel ${i}`);
    }
  }
});

test("[DP-29] a server that is gone before it says what it takes is tried a few times, and its client told", async (t) => {
  let dials = 0;
  const server = createServer((socket) => {
    dials++;
    socket.on("error", () => {}).destroy();
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => server.close());
  for (const from of [1, 2] as const) {
    const lane = await startLane((server.address() as AddressInfo).port, { upstream: "http2" });
    t.after(() => lane[Symbol.asyncDispose]());
    dials = 0;
    assert.equal((await openTunnel(t, from, lane.port)).status >= 502, true);
    assert.ok(dials <= 5, `${dials} connections`);
    assert.equal(lane.ended.length, 1);
  }
});

test("[TRF-7] a client of HTTP/1.1 without a key is told so; other protocols and plain CONNECT are not carried", async (t) => {
  const lane = await laneTo(t, 2, echo);
  assert.equal((await openTunnel(t, 1, lane.port, "/", { "sec-websocket-key": "" })).status, 400);
  assert.equal((await openTunnel(t, 2, lane.port, "/", { ":protocol": "connect-udp" })).status, 501);
  const session = await sessionTo(t, lane.port);
  const plain = session.request({ ":method": "CONNECT", ":authority": "a.test:80" }, { endStream: false });
  plain.on("error", () => {});
  assert.equal((await once(plain, "response"))[0][":status"], 501);
  assert.deepEqual(lane.refused, ["connect_unsupported", "connect_unsupported"]);
});

const upstreamOf = (pools: Lane["pools"], to: Version) => (to === 2 ? pools.http2 : pools.http1);

test("[TRF-7] a tunnel that is silent for too long is ended", async (t) => {
  for (const [from, to] of mixed) {
    const lane = await laneTo(t, to, echo, { limits: { tunnelIdleTimeoutMs: 300 } });
    const { connection } = await openTunnel(t, from, lane.port);
    await closed(connection);
    assert.equal((await ended(lane)).outcome, "tunnel_idle");
  }
});

test("[TRF-7] the deadlines of a request are not those of the tunnel that it opens", async (t) => {
  const timeoutMs = 2_000;
  const outlive = async ([from, to]: readonly [Version, Version]): Promise<void> => {
    const lane = await laneTo(t, to, echo, {
      decide: (_, __, pools) => ({
        kind: "forward",
        upstream: upstreamOf(pools, to),
        timeoutMs,
        tryTimeoutMs: timeoutMs,
        responseTimeoutMs: timeoutMs,
        idleTimeoutMs: timeoutMs,
      }),
    });
    // A machine that is too slow for the deadlines gets more tries.
    const { connection } = await waitFor("an open tunnel", async () => {
      const opened = await openTunnel(t, from, lane.port);
      return opened.status < 300 && opened;
    });
    await sleep(timeoutMs + 500);
    connection.write("still here");
    assert.equal(await readNext(connection), "still here");
  };
  await Promise.all(mixed.map(outlive));
});

test("[TRF-7] a client's connection that is drained takes no new stream, and its tunnel lives on", async (t) => {
  const lane = await laneTo(t, 1, echo);
  const session = await sessionTo(t, lane.port);
  const { connection } = await openOn(session, "/");
  const told = once(session, "goaway");
  for (const each of lane.connections) each.drain();
  await told;
  const all = readAll(connection);
  connection.write("after");
  connection.end("all");
  assert.equal((await all).toString(), "afterall");
  assert.equal((await ended(lane)).outcome, "finished");
});
