// A reader of HTTP/1.1 requests by the letter of RFC 9112, slow and plain, as the other opinion in tests. It throws at anything doubtful.
import assert from "node:assert/strict";

export interface StrictRequest {
  readonly method: string;
  readonly target: string;
  readonly host: string;
  readonly head: string;
  readonly body: string;
  /** Bytes of the whole message. */
  readonly length: number;
}

/** The first request in `bytes`, or undefined if it is not whole. */
export function readStrictly(bytes: Buffer): StrictRequest | undefined {
  const text = bytes.toString("latin1");
  const end = text.indexOf("\r\n\r\n");
  if (end === -1) return undefined;
  const head = text.slice(0, end);
  const [line = "", ...fields] = head.split("\r\n");
  const [, method = "", target = ""] =
    /^([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([!-"$-~\x80-\xff]+) HTTP\/1\.1$/.exec(line) ?? [];
  assert.notEqual(method, "", `no request line: ${JSON.stringify(line)}`);
  const named = new Map<string, string[]>();
  for (const field of fields) {
    const [, name = "", value = ""] =
      /^([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t -~\x80-\xff]*?)[ \t]*$/.exec(field) ?? [];
    assert.notEqual(name, "", `no field: ${JSON.stringify(field)}`);
    named.set(name.toLowerCase(), [...(named.get(name.toLowerCase()) ?? []), value]);
  }
  const only = (name: string): string | undefined => {
    const values = named.get(name) ?? [];
    assert.ok(values.length <= 1, `${name} several times`);
    return values[0];
  };
  const host = only("host");
  assert.ok(host !== undefined, "no Host");
  const coding = only("transfer-encoding");
  const declared = only("content-length");
  assert.ok(coding === undefined || declared === undefined, "two lengths");
  const start = end + 4;
  if (coding === undefined) {
    assert.match(declared ?? "0", /^(0|[1-9][0-9]*)$/);
    const size = Number(declared ?? 0);
    if (text.length < start + size) return undefined;
    return { method, target, host, head, body: text.slice(start, start + size), length: start + size };
  }
  assert.equal(coding, "chunked");
  let body = "";
  for (let at = start; ; ) {
    const found = /^([0-9a-f]+)\r\n/.exec(text.slice(at, at + 20));
    if (found === null) {
      assert.ok(text.length - at < 10, `no chunk: ${JSON.stringify(text.slice(at, at + 20))}`);
      return undefined;
    }
    at += found[0].length;
    const size = Number.parseInt(found[1] ?? "", 16);
    if (size > 0) {
      if (text.length < at + size + 2) return undefined;
      body += text.slice(at, at + size);
      assert.equal(text.slice(at + size, at + size + 2), "\r\n");
      at += size + 2;
      continue;
    }
    const last = text.indexOf("\r\n", at);
    if (last === -1) return undefined;
    if (last === at) return { method, target, host, head, body, length: at + 2 };
    const trailersEnd = text.indexOf("\r\n\r\n", at);
    if (trailersEnd === -1) return undefined;
    return { method, target, host, head, body, length: trailersEnd + 4 };
  }
}
