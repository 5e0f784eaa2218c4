// HTTP/2 connections on sockets: peers that are slow, that read nothing, or that vanish.
import assert from "node:assert/strict";
import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { test } from "node:test";
import { frameType as t } from "../../agent/forward/http2/codes.ts";
import type { Http2Request, Http2Response } from "../../agent/forward/http2/head.ts";
import { defaultLimits, type Http2Limits } from "../../agent/forward/http2/limits.ts";
import { Http2Socket, Turn } from "../../agent/forward/http2/socket.ts";
import { createFakeClock, type FakeClock } from "../kit/fake-clock.ts";
import { block, frame, frames, get, headers, hello, Recorder } from "../kit/http2-pair.ts";
import { waitFor } from "../kit/wait.ts";

interface Served {
  readonly events: Recorder<Http2Request>;
  readonly clock: FakeClock;
  readonly peer: Socket;
  /** What the peer was sent so far. */
  sent(): Buffer;
  /** How many bytes of the peer were read. */
  read(): number;
  /** All that the peer was sent, once its connection is over. */
  readonly over: Promise<Buffer>;
}

async function served(use: (served: Served) => Promise<void>, limits: Partial<Http2Limits> = {}): Promise<void> {
  const events = new Recorder<Http2Request>();
  const clock = createFakeClock();
  const turn = new Turn();
  let accepted: Socket | undefined;
  const server = createServer((socket) => {
    accepted = socket;
    const bound = new Http2Socket<Http2Request>(
      { role: "server", handler: events, limits: { ...defaultLimits, ...limits } },
      turn,
      clock,
    );
    bound.attach(socket, true);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const peer = connect((server.address() as AddressInfo).port, "127.0.0.1");
  const parts: Buffer[] = [];
  peer.on("data", (part: Buffer) => void parts.push(part));
  peer.on("error", () => {});
  const over = once(peer, "close").then(() => Buffer.concat(parts));
  try {
    await use({
      events,
      clock,
      peer,
      over,
      sent: () => Buffer.concat(parts),
      read: () => accepted?.bytesRead ?? 0,
    });
  } finally {
    peer.destroy();
    await new Promise((resolve) => server.close(resolve));
  }
}

const ack = frame(t.settings, 1, 0);

test("[SEC-8] HTTP/2: who begins a head and does not end it, or never says its settings, is let go after 10 s", async () => {
  const debts: [owes: Buffer, code: number][] = [
    [Buffer.concat([hello, ack, frame(t.headers, 1, 1, block(get))]), 11],
    [Buffer.concat([hello, ack, headers(1, get, true).subarray(0, 20)]), 11],
    [hello, 11],
    [hello.subarray(0, 10), 4],
    [Buffer.alloc(0), 4],
  ];
  for (const [bytes, code] of debts) {
    await served(async ({ events, clock, peer, over, sent, read }) => {
      await waitFor("settings", () => sent().length > 0);
      if (bytes.length > 0) peer.write(bytes);
      await waitFor("all is read", () => read() === bytes.length);
      clock.advance(9_000);
      assert.deepEqual(events.lines, []);
      clock.advance(1_500);
      await waitFor("the end", () => events.lines.includes(`done peer_due ${code}`));
      // Whoever does not close gets closed.
      peer.resume();
      await waitFor("GOAWAY", () => frames(sent()).at(-1)?.type === t.goaway);
      clock.advance(2_000);
      const last = frames(await over).at(-1);
      assert.equal(last?.type, t.goaway);
      assert.equal(last?.payload.readUInt32BE(4), code);
    });
  }
  await served(async ({ events, clock, peer }) => {
    peer.write(Buffer.concat([hello, ack, headers(1, get, true)]));
    await waitFor("the request", () => events.lines.length > 1);
    clock.advance(60_000);
    assert.deepEqual(events.lines, ["head 1 GET a/  end", "end 1"]);
  });
});

test("[SEC-8] HTTP/2: who reads nothing of many large answers loses the connection before they fill the memory", async () => {
  await served(
    async ({ events, peer }) => {
      peer.pause();
      events.act = (event, stream) => {
        if (event === "end") stream.respond(200, ["x", "y".repeat(60_000)], true);
      };
      peer.write(Buffer.concat([hello, ack]));
      for (let i = 0; i < 400; i++) peer.write(headers(1 + 2 * i, get, true));
      await waitFor("the end", () => events.lines.some((l) => l.startsWith("done unsent_limit")));
    },
    { maxUnsent: 1_000_000 },
  );
});

test("[TRF-7] HTTP/2: the owner of every stream hears when the connection vanishes", async () => {
  await served(async ({ events, peer }) => {
    peer.write(Buffer.concat([hello, ack, headers(1, get, true), headers(3, get, false)]));
    await waitFor("both requests", () => events.heads.size === 2);
    peer.resetAndDestroy();
    await waitFor("the end", () => events.lines.some((l) => l.startsWith("done")));
    assert.equal(events.lines.filter((l) => l.startsWith("reset")).length, 2);
  });
  // The other role, and a server that is not there.
  const events = new Recorder<Http2Response>();
  const bound = new Http2Socket<Http2Response>({ role: "client", handler: events }, new Turn(), createFakeClock());
  const socket = connect({ port: 1, host: "127.0.0.1", onread: bound.onread() });
  bound.attach(socket, false);
  const line = { method: "GET", scheme: "http", authority: "w", path: "/" };
  assert.ok(bound.connection.request(line, [], true, null) !== null);
  await waitFor("the failure", () => events.lines.length >= 2);
  assert.deepEqual(events.lines, ["reset 1 ECONNREFUSED 8", "done ECONNREFUSED 8"]);
  assert.equal(bound.connection.request(line, [], true, null), null);
});

test("[SEC-8] HTTP/2: who pours on after its connection was ended is cut, not read for as long as it likes", async () => {
  await served(async ({ events, peer, over, read }) => {
    peer.allowHalfOpen = true;
    // It ends by a reset.
    over.catch(() => {});
    peer.write(hello);
    const endless = Buffer.concat(Array.from({ length: 1000 }, () => frame(t.ping, 0, 0, Buffer.alloc(8))));
    const pour = (): void => {
      while (!peer.destroyed && peer.write(endless));
    };
    peer.on("drain", pour);
    pour();
    await waitFor("it is ended", () => events.lines.some((l) => l.startsWith("done")));
    // No time passes here: it is what comes that ends it.
    await waitFor("it is cut", () => peer.destroyed);
    assert.ok(read() < 8_000_000, `${read()} bytes were read`);
  });
});
