// What is gathered for one client never reaches another, whatever cuts a message short between its head and its body.
import assert from "node:assert/strict";
import { test } from "node:test";
import { behindTcp, raw } from "../kit/http1-peers.ts";
import { waitFor } from "../kit/wait.ts";

const broken: readonly (readonly [name: string, answer: string])[] = [
  ["a chunk size that is none", "HTTP/1.1 200 OK\r\nX-Of: broken\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"],
  ["a chunk that does not end", "HTTP/1.1 200 OK\r\nX-Of: broken\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc"],
  ["an interim answer and rubbish", "HTTP/1.1 103 Early Hints\r\nX-Of: broken\r\n\r\nrubbish\r\n\r\n"],
];
const good = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

for (const [name, answer] of broken)
  test(`[DP-27] the head of an answer with ${name} stays with its client`, async (t) => {
    const { proxy, ended } = await behindTcp(t, (socket) =>
      socket.on("data", (data: Buffer) => socket.write(data.includes("/broken") ? answer : good)),
    );
    const head = (path: string): string => `GET ${path} HTTP/1.1\r\nHost: a\r\n\r\n`;
    await raw(proxy.port, head("/broken"), (text) => text.includes("\r\n\r\n")).catch(() => {});
    await waitFor("it is over", () => ended.length === 1);
    assert.equal(await raw(proxy.port, head("/"), (text) => text.endsWith("ok")), good);
  });
