// Clients and servers that break off anywhere: nothing stays behind, each exchange ends once, and no answer reaches another's request.
import assert from "node:assert/strict";
import { connect } from "node:net";
import { test } from "node:test";
import { seededRandom } from "../../agent/base/random.ts";
import { behindTcp } from "../kit/http1-peers.ts";
import { waitFor } from "../kit/wait.ts";

test("[TRF-7] after 600 connections with random aborts on both sides nothing is left, and nobody got another's answer", async (t) => {
  const random = seededRandom(7);
  let decided = 0;
  const { proxy, ended } = await behindTcp(
    t,
    (socket) => {
      let text = "";
      socket.on("end", () => socket.end());
      socket.on("data", (data) => {
        text += data.toString("latin1");
        for (;;) {
          const found = /^(?:GET|POST) \/(\w+).*?\r\n\r\n/s.exec(text);
          if (found === null) return;
          const length = Number(/content-length: (\d+)/i.exec(found[0])?.[1] ?? 0);
          if (text.length < found[0].length + length) return;
          text = text.slice(found[0].length + length);
          const body = `<${found[1]}>`.repeat(random.below(3_000) + 1);
          const chunked = `Transfer-Encoding: chunked\r\n\r\n${body.length.toString(16)}\r\n${body}\r\n0\r\n\r\n`;
          const answer = `HTTP/1.1 200 OK\r\n${random.below(2) ? chunked : `Content-Length: ${body.length}\r\n\r\n${body}`}`;
          const what = random.below(20);
          if (what === 0) socket.resetAndDestroy();
          else if (what === 1) socket.end(answer.slice(0, random.below(answer.length)));
          else if (what === 2) socket.end(answer);
          else socket.write(answer);
        }
      });
    },
    { limits: { lingerMs: 200 }, pool: { maxConnections: 10 } },
  );
  const one = (id: number): Promise<void> =>
    new Promise((resolve) => {
      const socket = connect(proxy.port, "127.0.0.1");
      const count = 1 + random.below(4);
      let got = "";
      const leave = random.below(4) === 0 ? random.below(20_000) : Number.POSITIVE_INFINITY;
      socket.on("error", () => {});
      socket.on("close", () => {
        const ids = new Set([...got.matchAll(/<(\w+)>/g)].map((m) => m[1]?.split("x")[0]));
        assert.ok(ids.size === 0 || (ids.size === 1 && ids.has(`c${id}`)), `${id} got ${[...ids].join()}`);
        resolve();
      });
      socket.on("data", (data) => {
        got += data.toString("latin1");
        if (got.length >= leave) random.below(2) ? socket.resetAndDestroy() : socket.destroy();
      });
      for (let i = 0; i < count; i++) {
        decided++;
        const size = random.below(2) * random.below(30_000);
        const close = i === count - 1 ? "Connection: close\r\n" : "";
        const head = `${size ? "POST" : "GET"} /c${id}x${i} HTTP/1.1\r\nHost: a\r\n${close}Content-Length: ${size}\r\n\r\n`;
        if (random.below(30) === 0) {
          socket.end(head.slice(0, random.below(head.length)));
          return;
        }
        socket.write(head + "b".repeat(size));
      }
      // A server that broke off leaves some without an answer: they go after a while.
      setTimeout(() => socket.destroy(), 1_500);
    });
  for (let round = 0; round < 20; round++) await Promise.all(Array.from({ length: 30 }, (_, i) => one(round * 30 + i)));
  await waitFor(
    "no connection is left",
    () => proxy.connections.size === 0 && proxy.pool.open === proxy.pool.idleCount && proxy.pool.waitingCount === 0,
  );
  assert.ok(proxy.pool.open <= 10);
  assert.ok(ended.length > 300 && ended.length <= decided, `${ended.length} of ${decided}`);
  assert.ok(ended.every((e) => e.outcome !== "" && e.outcome !== "internal_error"));
});
