// What a connection writes: whose bytes go where, when, and in how many writes.
import assert from "node:assert/strict";
import type { Socket } from "node:net";
import { test } from "node:test";
import fc from "fast-check";
import type { Tenant } from "../tenants.ts";
import { defaultCodecLimits } from "./limits.ts";
import { MessageWriter } from "./message-writer.ts";
import { CHUNKED, NO_BODY } from "./request.ts";
import { ResponseParser } from "./response.ts";
import { mostWaiting } from "./write-turn.ts";

function made(writes: string[] = []) {
  const buffers: Buffer[] = [];
  const socket = {
    writableLength: 0,
    destroyed: false,
    write(bytes: Buffer) {
      writes.push(bytes.toString("latin1"));
      buffers.push(bytes);
    },
    end: () => writes.push("end"),
    cork: () => {},
    uncork: () => {},
  };
  return { writer: new MessageWriter(socket as unknown as Socket), socket, writes, buffers };
}
function head(name: string): ResponseParser {
  const parser = new ResponseParser(defaultCodecLimits);
  const bytes = Buffer.from(`HTTP/1.1 200 OK\r\nx-of: ${name}\r\ncontent-length: 2\r\n\r\n`);
  parser.run(bytes, 0, bytes.length);
  return parser;
}
const textOf = (name: string): string => `HTTP/1.1 200 OK\r\nx-of: ${name}\r\ncontent-length: 2\r\n\r\n`;
const ok = Buffer.from("ok");
/** Behind the microtasks of this turn. */
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

test("[TRF-6] a head goes with the payload that follows at once, and alone at the end of the turn where none does", async () => {
  const { writer, writes } = made();
  writer.response(head("a"), undefined, 1, false);
  writer.flushSoon();
  writer.payload(ok, 0, 2, true, undefined);
  await turn();
  assert.deepEqual(writes, [`${textOf("a")}ok`]);
  writer.response(head("b"), undefined, 1, false);
  writer.flushSoon();
  assert.equal(writes.length, 1);
  await turn();
  writer.payload(ok, 0, 2, true, undefined);
  assert.deepEqual(writes.slice(1), [textOf("b"), "ok"]);
});

test("[DP-27] what is gathered for one connection reaches it alone, and nowhere once it is cut", async () => {
  const [one, two] = [made(), made()];
  one.writer.response(head("one"), undefined, 1, false);
  two.writer.response(head("two"), undefined, 1, false);
  one.writer.payload(ok, 0, 2, true, undefined);
  two.writer.payload(ok, 0, 2, true, undefined);
  await turn();
  assert.deepEqual(one.writes, [`${textOf("one")}ok`]);
  assert.deepEqual(two.writes, [`${textOf("two")}ok`]);
  one.writer.response(head("cut"), undefined, 1, false);
  one.writer.discard();
  two.writer.response(head("next"), undefined, 1, false);
  two.writer.payload(ok, 0, 2, true, undefined);
  two.writer.local(503, "Service Unavailable", [], ok, 1, false, true);
  await turn();
  assert.equal(one.writes.length, 1);
  assert.match(two.writes.slice(1).join(""), /^HTTP\/1\.1 200 OK\r\nx-of: next[\s\S]*okHTTP\/1\.1 503 [\s\S]*ok$/);
});

test("[DP-27] memory that a slow client's socket still holds is not gathered in again", async () => {
  const [slow, other] = [made(), made()];
  slow.socket.writableLength = 100;
  slow.writer.response(head("slow"), undefined, 1, false);
  slow.writer.payload(ok, 0, 2, true, undefined);
  await turn();
  const [held] = slow.buffers;
  for (const name of ["a", "b", "c"]) {
    other.writer.response(head(name), undefined, 1, false);
    other.writer.payload(ok, 0, 2, true, undefined);
    await turn();
  }
  assert.equal(held?.toString("latin1"), `${textOf("slow")}ok`);
});

test("[DP-29] whole messages go out when the turn's reads are done, requests first; until then they are pending", async () => {
  const { writes: order, ...client } = made();
  const server = made(order);
  client.writer.response(head("a"), undefined, 1, false);
  client.writer.payload(ok, 0, 2, true, undefined);
  const request = Buffer.from("GET / HTTP/1.1\r\n\r\n");
  server.writer.request(request, NO_BODY, true);
  assert.deepEqual([order.length, server.writer.isPending, client.writer.isPending], [0, true, true]);
  assert.deepEqual([server.writer.pendingBytes, client.writer.pendingBytes], [request.length, textOf("a").length + 2]);
  await turn();
  assert.deepEqual(order, ["GET / HTTP/1.1\r\n\r\n", `${textOf("a")}ok`]);
  assert.deepEqual([server.writer.isPending, client.writer.isPending], [false, false]);
});

test("[DP-29] a request whose body is to come, and anything that follows what waits, goes out at once and in order", async () => {
  const { writer, writes } = made();
  writer.request(Buffer.from("POST"), CHUNKED, false);
  assert.deepEqual(writes, ["POST"]);
  writer.request(Buffer.from("one"), NO_BODY, true);
  writer.request(Buffer.from("two"), NO_BODY, true);
  assert.deepEqual(writes.slice(1), ["one"]);
  writer.write(Buffer.from("tunnelled"));
  assert.deepEqual(writes.slice(2), ["two", "tunnelled"]);
  writer.request(Buffer.from("three"), NO_BODY, true);
  writer.end();
  assert.deepEqual(writes.slice(4), ["three", "end"]);
  await turn();
  assert.equal(writes.length, 6);
});

test("[TRF-6] answers to requests that came together go out together, and those that are whole also where the next is cut", async () => {
  const { writer, writes } = made();
  for (const name of ["a", "b"]) {
    writer.response(head(name), undefined, 1, false);
    writer.payload(ok, 0, 2, true, undefined);
  }
  writer.response(head("c"), undefined, 1, false);
  writer.discard();
  await turn();
  assert.deepEqual(writes, [`${textOf("a")}ok${textOf("b")}ok`]);
});

test("[DP-25] where namespaces contend for the thread nothing waits: what writing costs is seen in the read that it belongs to", () => {
  const { writer, writes } = made();
  writer.payer = { isMeasured: true } as Tenant;
  writer.request(Buffer.from("one"), NO_BODY, true);
  writer.response(head("a"), undefined, 1, false);
  writer.payload(ok, 0, 2, true, undefined);
  assert.deepEqual(writes, ["one", `${textOf("a")}ok`]);
});

test("[DP-29] no more than some wait, and nothing is written to a socket that is gone", async () => {
  const all = Array.from({ length: mostWaiting }, () => made());
  const [gone, ...others] = all as [ReturnType<typeof made>, ...ReturnType<typeof made>[]];
  for (const { writer } of all.slice(1)) writer.request(Buffer.from("x"), NO_BODY, true);
  gone.writer.request(Buffer.from("x"), NO_BODY, true);
  assert.ok(all.every(({ writes }) => writes.length === 1));
  gone.writer.request(Buffer.from("y"), NO_BODY, true);
  gone.socket.destroyed = true;
  await turn();
  assert.equal(gone.writes.length, 1);
  assert.ok(others.every(({ writer }) => !writer.isPending));
});

const step = fc.record({
  who: fc.nat(2),
  what: fc.constantFrom("answer", "long answer", "request", "request with body", "bytes", "local", "soon", "turn"),
  isContended: fc.boolean(),
});
test("[TRF-6] [DP-27] whatever is written in whatever order, each socket gets its own bytes once and in order", async () => {
  const property = fc.asyncProperty(fc.array(step, { maxLength: 60 }), async (steps) => {
    const all = [made(), made(), made()];
    const expected = ["", "", ""];
    for (const [i, { who, what, isContended }] of steps.entries()) {
      const { writer } = all[who] as ReturnType<typeof made>;
      const name = `${i}`;
      let bytes = "";
      writer.payer = { isMeasured: isContended } as Tenant;
      if (what === "answer" || what === "long answer") {
        bytes = `${textOf(name)}ok`;
        writer.response(head(name), undefined, 1, false);
        if (what === "answer") writer.payload(ok, 0, 2, true, undefined);
        else for (const at of [0, 1]) writer.payload(ok, at, at + 1, at === 1, undefined);
      } else if (what === "request" || what === "request with body") {
        bytes = `GET /${name}`;
        writer.request(Buffer.from(bytes), NO_BODY, what === "request");
      } else if (what === "bytes") {
        bytes = `bytes ${name}`;
        writer.write(Buffer.from(bytes));
      } else if (what === "local") {
        bytes = `HTTP/1.1 503 No\r\ncontent-length: 2\r\n\r\nok`;
        writer.local(503, "No", [], ok, 1, false, false);
      } else if (what === "soon") writer.flushSoon();
      else await turn();
      expected[who] += bytes;
    }
    await turn();
    assert.deepEqual(
      all.map(({ writes }) => writes.join("")),
      expected,
    );
    assert.ok(all.every(({ writer }) => !writer.isPending && writer.pendingBytes === 0));
  });
  await fc.assert(property, { numRuns: 200 });
});
