// Requests of HTTP/1.1 clients between two nodes, through the data threads of both: what they share, what has a connection of its own, and
// that nobody can tell.
import assert from "node:assert/strict";
import { once } from "node:events";
import {
  Agent,
  createServer,
  type IncomingMessage,
  type RequestListener,
  type RequestOptions,
  request,
} from "node:http";
import type { AddressInfo, Socket } from "node:net";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import fc from "fast-check";
import { startTwoNodes, type TwoNodes } from "../kit/two-nodes.ts";
import { anyAsked, anyPlan } from "../kit/versions-arbitraries.ts";
import { ask1, expected, planServer } from "../kit/versions-model.ts";
import { waitFor } from "../kit/wait.ts";

async function serving(t: TestContext, take: RequestListener) {
  const server = createServer(take);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => {
    server.close();
    server.closeAllConnections();
  });
  return { server, port: (server.address() as AddressInfo).port };
}

/** Asks on one connection of the client pod, again and again; on another when it was told that this one ends. */
function asker(t: TestContext, nodes: TwoNodes) {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  agent.createConnection = (_, opened) => {
    void nodes.connect().then((socket) => opened?.(null, socket));
    return undefined;
  };
  t.after(() => agent.destroy());
  const open = (options: RequestOptions) => request({ agent, host: "a.shop", ...options });
  const ask = async (options: RequestOptions = {}, body?: Buffer) => {
    const asked = open(options);
    asked.end(body);
    const [answer] = (await once(asked, "response")) as [IncomingMessage];
    // What breaks now is told by the answer.
    asked.on("error", () => {});
    const parts: Buffer[] = [];
    for await (const part of answer) parts.push(part as Buffer);
    return { status: answer.statusCode, text: Buffer.concat(parts).toString(), headers: answer.headers };
  };
  return { ask, open, agent };
}

const taken = { offered: true, taken: true };
const refused = { offered: true, taken: false };
const own = { offered: false, taken: false };

test("[TRF-7] [DP-28] between nodes: method, path, fields, cookies, body, trailers and interim answers against a plain model", async (t) => {
  const server = await planServer(false);
  t.after(() => server.close());
  const nodes = await startTwoNodes(t, server.port);
  const { agent } = asker(t, nodes);
  await fc.assert(
    fc.asyncProperty(anyAsked, anyPlan, async (asked, plan) => {
      assert.deepEqual(await ask1(server.port, agent, asked, plan), expected(asked, plan, 1, 1));
    }),
    { numRuns: 60 },
  );
  assert.deepEqual(nodes.streams, [taken]);
});

test("[DP-27] many clients of one pod share a stream between the nodes, and there are more where its HTTP/2 streams run out", async (t) => {
  const waiting: (() => void)[] = [];
  const { port } = await serving(t, (_, answer) => void waiting.push(() => answer.end("ok")));
  const nodes = await startTwoNodes(t, port);
  const clients = Array.from({ length: 150 }, () => asker(t, nodes));
  const first = clients.slice(0, 60).map(({ ask }) => ask());
  await waitFor("all are at the server", () => waiting.length === 60);
  assert.deepEqual(nodes.streams, [taken]);
  const rest = clients.slice(60).map(({ ask }) => ask());
  await waitFor("all are at the server", () => waiting.length === 150);
  for (const go of waiting) go();
  for (const answer of await Promise.all([...first, ...rest]))
    assert.deepEqual([answer.status, answer.text], [200, "ok"]);
  assert.deepEqual(nodes.streams, [taken, taken]);
});

test("[DP-14] an agent that takes no offer, or never heard of it, is spoken to in HTTP/1.1 on that same stream, and not asked again for a while", async (t) => {
  const { port } = await serving(t, (asked, answer) => void answer.end(asked.url));
  const nodes = await startTwoNodes(t, port, { takes: () => false });
  const clients = Array.from({ length: 5 }, () => asker(t, nodes));
  const answers = await Promise.all(clients.map(({ ask }, i) => ask({ path: `/${i}` })));
  assert.deepEqual(
    answers.map(({ text }) => text),
    ["/0", "/1", "/2", "/3", "/4"],
  );
  assert.equal((await clients[0]?.ask({ path: "/again" }))?.text, "/again");
  assert.deepEqual(nodes.streams.slice(0, 2), [refused, own]);
  assert.ok(nodes.streams.length <= 5, "the stream that was offered carries requests too");
  assert.equal(nodes.streams.filter(({ offered }) => offered).length, 1);
});

test("[TRF-7] another protocol, and a body that is announced as long, go on a stream of their own", async (t) => {
  const { server, port } = await serving(t, (asked, answer) => {
    let bytes = 0;
    asked.on("data", (chunk: Buffer) => {
      bytes += chunk.length;
    });
    asked.on("end", () => answer.end(String(bytes)));
  });
  server.on("upgrade", (_, socket: Socket) => {
    socket.on("error", () => {});
    socket.write("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n");
    socket.pipe(socket);
  });
  const nodes = await startTwoNodes(t, port);
  const { ask, open } = asker(t, nodes);
  assert.equal((await ask()).text, "0");
  assert.deepEqual(nodes.streams, [taken]);
  const upgrading = open({ headers: { connection: "upgrade", upgrade: "echo" } });
  upgrading.end();
  const [, socket] = (await once(upgrading, "upgrade")) as [IncomingMessage, Socket];
  socket.write("echoed");
  assert.equal(String((await once(socket, "data"))[0]), "echoed");
  socket.destroy();
  assert.deepEqual(nodes.streams, [taken, own]);
  const long = asker(t, nodes);
  const headers = { "content-length": String(1024 * 1024) };
  assert.equal((await long.ask({ method: "POST", headers }, Buffer.alloc(1024 * 1024))).text, String(1024 * 1024));
  assert.equal(nodes.streams.filter(({ taken }) => taken).length, 1);
});

test("[DP-27] where answers are long, requests get streams of their own; where they are short again, they share", async (t) => {
  const { port } = await serving(t, (asked, answer) => void answer.end(Buffer.alloc(Number(asked.url?.slice(1)))));
  const nodes = await startTwoNodes(t, port);
  const { ask } = asker(t, nodes);
  assert.equal((await ask({ path: "/4000000" })).text.length, 4_000_000);
  assert.deepEqual(nodes.streams, [taken]);
  assert.equal((await ask({ path: "/4000000" })).text.length, 4_000_000);
  assert.deepEqual(nodes.streams, [taken, own]);
  for (let i = 0; i < 40; i++) await ask({ path: "/10" });
  assert.deepEqual(nodes.streams, [taken, own]);
});

test("[TRF-7] a server that breaks its answer off, and a client that goes away, are seen as such by the other side alone", async (t) => {
  let gone = 0;
  const { port } = await serving(t, (asked, answer) => {
    if (asked.url === "/ok") return void answer.end("ok");
    answer.writeHead(200, { "content-length": "1000" });
    answer.write("begun");
    answer.on("close", () => gone++);
    if (asked.url === "/break") setTimeout(() => asked.socket.destroy(), 50);
  });
  const nodes = await startTwoNodes(t, port);
  const [one, two, three] = [asker(t, nodes), asker(t, nodes), asker(t, nodes)];
  await assert.rejects(one.ask({ path: "/break" }), /aborted|ECONNRESET|terminated/);
  assert.equal(gone, 1);
  const leaving = two.open({ path: "/wait" });
  leaving.on("error", () => {});
  leaving.end();
  const [begun] = (await once(leaving, "response")) as [IncomingMessage];
  // Read to here, so that it is an end and no reset.
  await once(
    begun.on("error", () => {}),
    "data",
  );
  leaving.destroy();
  await waitFor("the server sees it", () => gone === 2);
  assert.equal((await three.ask({ path: "/ok" })).text, "ok");
  assert.deepEqual(nodes.streams, [taken]);
});

test("[SEC-8] a client that does not read its answer holds up nobody who shares its stream", async (t) => {
  const { port } = await serving(t, (asked, answer) => {
    if (asked.url === "/ok") return void answer.end("ok");
    const more = (): void => {
      while (answer.write(Buffer.alloc(16_384))) if (answer.destroyed) return;
      answer.once("drain", more);
    };
    more();
  });
  const nodes = await startTwoNodes(t, port);
  const slow = asker(t, nodes).open({ path: "/endless" });
  slow.on("error", () => {});
  slow.end();
  const [answer] = (await once(slow, "response")) as [IncomingMessage];
  answer.pause();
  answer.on("error", () => {});
  const { ask } = asker(t, nodes);
  for (let i = 0; i < 200; i++) assert.equal((await ask({ path: "/ok" })).text, "ok");
  assert.deepEqual(nodes.streams, [taken]);
  slow.destroy();
});

test("[SEC-8] a namespace that holds too much at the server's node loses the answers that nobody takes, and no other", async (t) => {
  let cut = 0;
  const { port } = await serving(t, (asked, answer) => {
    if (asked.url === "/ok") return void answer.end("ok");
    answer.on("close", () => cut++);
    const more = (): void => {
      while (answer.write(Buffer.alloc(16_384))) if (answer.destroyed) return;
      answer.once("drain", more);
    };
    more();
  });
  const limits = { connections: 1000, requests: 1000, bytes: 100_000, share: 0.3 };
  const nodes = await startTwoNodes(t, port, { serverParts: { limits } });
  const { ask } = asker(t, nodes);
  assert.equal((await ask({ path: "/ok" })).text, "ok");
  for (let i = 0; i < 4; i++) {
    const slow = asker(t, nodes).open({ path: "/endless" });
    slow.on("error", () => {});
    slow.on("response", (answer: IncomingMessage) => answer.pause().on("error", () => {}));
    slow.end();
  }
  await waitFor("an answer is given up", async () => {
    assert.equal((await ask({ path: "/ok" })).text, "ok");
    return cut > 0;
  });
  assert.deepEqual(nodes.streams, [taken]);
});

test("[SEC-1] [OBS-3] requests that share a stream are counted at the server's node as what they are", async (t) => {
  const { port } = await serving(t, (_, answer) => void answer.end("ok"));
  let counted = 0;
  const nodes = await startTwoNodes(t, port, {
    serverParts: {
      requests(_, ended) {
        if (ended !== undefined) counted++;
      },
    },
  });
  const { ask } = asker(t, nodes);
  // A gRPC call over HTTP/1.1 is the server's matter, as it was.
  const headers = { "content-type": "application/grpc", "content-length": "1" };
  const odd = await ask({ method: "POST", headers }, Buffer.from("x"));
  assert.deepEqual([odd.status, odd.text], [200, "ok"]);
  await waitFor("it is counted", () => counted > 0);
});

test("[DP-29] kept connections that the server closes under requests: each that may be sent twice goes on a new one, and none fails", async (t) => {
  let isStale = (_: Socket): boolean => false;
  const waiting: (() => void)[] = [];
  const { port } = await serving(t, (asked, answer) => {
    if (isStale(asked.socket)) asked.socket.destroy();
    else if (asked.url === "/wait") waiting.push(() => answer.end("ok"));
    else answer.end("ok");
  });
  const nodes = await startTwoNodes(t, port);
  const clients = Array.from({ length: 8 }, () => asker(t, nodes));
  const old = new Set<Socket>();
  isStale = (socket) => {
    old.add(socket);
    return false;
  };
  const first = clients.map(({ ask }) => ask({ path: "/wait" }));
  await waitFor("each has a connection to the server", () => waiting.length === clients.length);
  for (const go of waiting) go();
  await Promise.all(first);
  isStale = (socket) => old.has(socket);
  for (const { ask } of clients) assert.equal((await ask()).status, 200);
  assert.deepEqual(nodes.streams, [taken]);
});

test("[DP-19] [OPS-2] the server's agent drains under load: requests go to new streams, and none is lost", async (t) => {
  const { port } = await serving(t, (_, answer) => void setTimeout(() => answer.end("ok"), 5));
  const nodes = await startTwoNodes(t, port);
  let isOver = false;
  const loads = Array.from({ length: 10 }, async () => {
    const { ask } = asker(t, nodes);
    let asked = 0;
    for (; !isOver; asked++) assert.deepEqual([(await ask({ method: "POST" })).status], [200]);
    return asked;
  });
  await waitFor("the stream is there", () => nodes.streams.length === 1);
  await sleep(100);
  const draining = nodes.serverThreads.drain();
  await waitFor("another stream is there", () => nodes.streams.length > 1);
  isOver = true;
  for (const asked of await Promise.all(loads)) assert.ok(asked > 0);
  void draining;
  assert.ok(nodes.streams.every(({ taken }) => taken));
});
