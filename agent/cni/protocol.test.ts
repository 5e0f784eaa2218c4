// Questions of the plugin as bytes: what is read is what was written, anything else is refused by its field.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { encodeAnswer, maxMessageBytes, messageSize, parseRequest } from "./protocol.ts";

const pod = {
  containerId: "c0ffee",
  namespace: "shop",
  name: "cart-1.a",
  uid: "ab-12",
  netns: "/run/netns/x",
  netnsInode: 4026531840,
  interface: "eth0",
  addresses: ["10.1.2.3", "fd00::3"],
};
const question = (changes: object = {}): string => JSON.stringify({ version: 1, command: "add", ...pod, ...changes });
const problem = (text: string): string => {
  const parsed = parseRequest(text);
  return parsed.ok ? "" : parsed.error;
};

test("[INT-11] a question is read with all it says", () => {
  assert.deepEqual(parseRequest(question()), { ok: true, value: { command: "add", pod } });
  assert.deepEqual(parseRequest('{"version":1,"command":"gc"}'), { ok: true, value: { command: "gc" } });
  const gone = parseRequest(question({ command: "del", netns: "", addresses: [] }));
  assert.ok(gone.ok && gone.value.command === "del" && gone.value.pod.netns === "");
});

test("[INT-11] every wrong field of a question is named", () => {
  assert.match(problem("{"), /not JSON/);
  assert.match(problem("7"), /not a JSON object/);
  assert.match(problem(question({ version: 2 })), /^version: is 2, this agent speaks 1/);
  assert.match(problem(question({ command: "ADD" })), /^command: is none of/);
  const all = problem(
    question({ namespace: "A", netns: "", interface: "a b", addresses: ["x"], uid: 7, containerId: "" }),
  );
  for (const field of ["namespace", "netns", "interface", "addresses[0]", "uid", "containerId"])
    assert.ok(all.includes(`${field}: `), `${field} in ${all}`);
});

test("[INT-11] lengths over the limit are refused before anything is read", () => {
  const head = (size: number): Buffer => Buffer.from(new Uint32Array([size]).buffer);
  assert.deepEqual(messageSize(head(maxMessageBytes)), { ok: true, value: maxMessageBytes });
  assert.equal(messageSize(head(maxMessageBytes + 1)).ok, false);
});

test("[INT-11] an answer is never longer than the plugin takes", () => {
  fc.assert(
    fc.property(fc.string({ unit: "binary", maxLength: 4_000 }), fc.boolean(), (text, retry) => {
      const bytes = encodeAnswer({ outcome: "failed", code: "x", message: text, retry });
      assert.equal(bytes.readUInt32LE(0), bytes.length - 4);
      assert.ok(bytes.length - 4 <= maxMessageBytes);
      assert.equal(JSON.parse(bytes.toString("utf8", 4)).retry, retry);
    }),
  );
});

test("[INT-11] any bytes are read or refused", () => {
  const near = fc.record({ ...Object.fromEntries(Object.keys(pod).map((k) => [k, fc.jsonValue()])) });
  fc.assert(
    fc.property(fc.oneof(fc.string(), fc.json(), near.map(question)), (text) => {
      const parsed = parseRequest(text);
      if (!parsed.ok) return parsed.error.length > 0;
      return parsed.value.command === "gc" || parsed.value.pod.addresses.every((a) => a.length > 0);
    }),
  );
});
