// The writer that all connections of a thread gather in: whose bytes go where, and in how many writes.
import assert from "node:assert/strict";
import type { Socket } from "node:net";
import { test } from "node:test";
import { defaultCodecLimits } from "./limits.ts";
import { MessageWriter } from "./message-writer.ts";
import { ResponseParser } from "./response.ts";

function made() {
  const writes: string[] = [];
  const socket = {
    writableLength: 0,
    write: (bytes: Buffer) => writes.push(bytes.toString("latin1")),
    cork: () => {},
    uncork: () => {},
  };
  return { writer: new MessageWriter(socket as unknown as Socket), writes };
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

test("[DP-27] what is gathered for one connection goes to it before another's, and nowhere once it is cut", async () => {
  const [one, two] = [made(), made()];
  one.writer.response(head("one"), undefined, 1, false);
  one.writer.flushSoon();
  two.writer.response(head("two"), undefined, 1, false);
  one.writer.payload(ok, 0, 2, true, undefined);
  two.writer.payload(ok, 0, 2, true, undefined);
  await turn();
  assert.deepEqual(one.writes, [textOf("one"), "ok"]);
  assert.deepEqual(two.writes, [`${textOf("two")}ok`]);
  one.writer.response(head("cut"), undefined, 1, false);
  two.writer.discard();
  one.writer.discard();
  two.writer.response(head("next"), undefined, 1, false);
  two.writer.payload(ok, 0, 2, true, undefined);
  assert.equal(one.writes.length, 2);
  assert.equal(two.writes.at(-1), `${textOf("next")}ok`);
  one.writer.response(head("gone"), undefined, 1, false);
  two.writer.local(503, "Service Unavailable", [], ok, 1, false, true);
  assert.deepEqual(one.writes.at(-1), textOf("gone"));
  assert.match(two.writes.at(-1) ?? "", /^HTTP\/1\.1 503 [\s\S]*ok$/);
});
