// Heads of WebSocket's opening handshake on their way from one version of HTTP to the other: an extended CONNECT (RFC 8441 §5) is a GET
// with Upgrade, and 200 is 101. Memory, nothing else.
import { STATUS_CODES } from "node:http";
import type { HeaderList } from "../../http.ts";
import type { OutBuffer } from "../http1/out-buffer.ts";
import type { RequestParser } from "../http1/request.ts";
import type { ResponseParser } from "../http1/response.ts";
import type { RequestRewrite } from "../http1/write.ts";
import { acceptOf, websocket } from "../websocket.ts";
import { Http2Request, joined } from "./head.ts";
import type { UpHead } from "./stream-links.ts";
import { editedFields, http1Fields } from "./translate.ts";

/** An extended CONNECT as routes, policies and records see it: as what the same client would have sent in HTTP/1.1. */
export class UpgradeRequest extends Http2Request {
  constructor(head: Http2Request) {
    const { fields, sensitive, scheme, authority, path, protocol } = head;
    super({ fields, sensitive, contentLength: -1, method: "GET", scheme, authority, path, protocol });
  }
  override header(name: string): string | undefined {
    if (name === "upgrade") return this.protocol;
    return name === "connection" ? "upgrade" : super.header(name);
  }
}

/** Ours to say towards a server of HTTP/1.1; `te` has no trailers to announce in a tunnel. */
const ownInRequest: ReadonlySet<string> = new Set([
  "sec-websocket-key",
  "sec-websocket-accept",
  "content-length",
  "http2-settings",
  "te",
  "cookie",
]);

/** The GET of HTTP/1.1 that asks for what an extended CONNECT asks for. */
export function writeUpgradeRequest(head: Http2Request, out: OutBuffer, rewrite: RequestRewrite, key: string): void {
  const fields = editedFields(head.headers(), rewrite.edits);
  let text = `GET ${rewrite.path ?? head.path} HTTP/1.1\r\nhost: ${rewrite.authority ?? head.authority}\r\n`;
  for (let i = 0; i < fields.length; i += 2)
    if (!ownInRequest.has(fields[i] as string)) text += `${fields[i]}: ${fields[i + 1]}\r\n`;
  const cookie = joined(fields, "cookie");
  if (cookie !== undefined) text += `cookie: ${cookie}\r\n`;
  if (joined(fields, "sec-websocket-version") === undefined) text += "sec-websocket-version: 13\r\n";
  out.text(`${text}connection: upgrade\r\nupgrade: ${websocket}\r\nsec-websocket-key: ${key}\r\n\r\n`);
}

/** Whether a 101 is the answer to our key. */
export const isSwitched = (head: ResponseParser, key: string): boolean =>
  head.header("upgrade")?.toLowerCase() === websocket && head.header("sec-websocket-accept") === acceptOf(key);

/** A 101 as HTTP/2 knows it. */
export class SwitchedAnswer implements UpHead {
  readonly status = 200;
  readonly sensitive = null;
  readonly contentLength = -1;
  private readonly fields: HeaderList;

  constructor(head: ResponseParser) {
    this.fields = without(http1Fields(head, false), "sec-websocket-accept");
  }
  header(name: string): string | undefined {
    return joined(this.fields, name);
  }
  headers(): HeaderList {
    return this.fields;
  }
}

/** A list without these names. */
function without(fields: HeaderList, ...names: readonly string[]): string[] {
  const left: string[] = [];
  for (let i = 0; i < fields.length; i += 2)
    if (!names.includes(fields[i] as string)) left.push(fields[i] as string, fields[i + 1] as string);
  return left;
}

/** Fields of an answer that opens a tunnel: it has no length (RFC 9110 §9.3.6). */
export const tunnelFields = (fields: HeaderList): HeaderList => without(fields, "content-length");

/** Whether a request of HTTP/1.1 asks for WebSocket, and for nothing else. */
export const asksWebSocket = (head: RequestParser): boolean =>
  head.upgrades && head.method === "GET" && head.value(head.upgradeField).toLowerCase() === websocket;

/** Fields of a GET with Upgrade as an extended CONNECT has them: keys are HTTP/1.1's. */
export const connectFields = (fields: HeaderList): string[] => without(fields, "sec-websocket-key", "content-length");

/** The 101 that an HTTP/1.1 client with this key gets for a 200. */
export function writeSwitching(head: UpHead, out: OutBuffer, key: string): void {
  let text = `HTTP/1.1 101 ${STATUS_CODES[101]}\r\n`;
  const fields = without(head.headers(), "sec-websocket-accept", "content-length");
  for (let i = 0; i < fields.length; i += 2) text += `${fields[i]}: ${fields[i + 1]}\r\n`;
  out.text(`${text}connection: upgrade\r\nupgrade: ${websocket}\r\nsec-websocket-accept: ${acceptOf(key)}\r\n\r\n`);
}
