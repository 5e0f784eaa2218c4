// Messages of HTTP/2 as HTTP/1.1 and back (RFC 9113 §8.1 to §8.3, RFC 9110 §7.6): what concerns one connection stays behind, cookies are
// joined, the authority is Host. Lists of fields and bytes in memory, nothing else.
import { STATUS_CODES } from "node:http";
import type { HeaderEdits, HeaderList } from "../../http.ts";
import { CONTENT_LENGTH, EXPECT, ORDINARY } from "../http1/bytes.ts";
import type { FieldParser } from "../http1/fields.ts";
import type { OutBuffer } from "../http1/out-buffer.ts";
import { CHUNKED, LENGTH, NO_BODY } from "../http1/request.ts";
import type { RequestRewrite } from "../http1/write.ts";
import { isValue, kind, kindOf } from "./fields.ts";
import type { Http2Request } from "./head.ts";
import type { UpHead } from "./stream-links.ts";

const has = (list: HeaderList, step: number, name: string): boolean => {
  for (let i = 0; i < list.length; i += step) if (list[i] === name) return true;
  return false;
};

/** Edits never touch what frames the message or concerns the connection, and what HTTP/2 does not allow is left out. */
function addTo(to: string[], list: HeaderList): void {
  for (let i = 0; i < list.length; i += 2) {
    const name = list[i] as string;
    const value = (list[i + 1] as string).trim();
    if (kindOf(name) === kind.regular && isValue(value)) to.push(name, value);
  }
}

/** The fields after `edits`, without `host`; the same array if nothing changes. */
export function editedFields(fields: HeaderList, edits: HeaderEdits | undefined): HeaderList {
  const isEdited =
    edits !== undefined && (edits.made !== undefined || edits.remove.length + edits.set.length + edits.add.length > 0);
  if (!isEdited && !has(fields, 2, "host")) return fields;
  const out: string[] = [];
  for (let i = 0; i < fields.length; i += 2) {
    const name = fields[i] as string;
    if (name === "host") continue;
    if (isEdited && (has(edits.remove, 1, name) || has(edits.set, 2, name)) && kindOf(name) === kind.regular) continue;
    out.push(name, fields[i + 1] as string);
  }
  if (isEdited) {
    addTo(out, edits.set);
    addTo(out, edits.add);
    if (edits.made !== undefined) out.push(...edits.made.list);
  }
  return out;
}

// Heads are made as one string each: writing it once is cheaper than writing its parts.
const line = (name: string, value: string): string => `${name}: ${value}\r\n`;

function cookies(fields: HeaderList): string {
  let joined = "";
  for (let i = 0; i < fields.length; i += 2)
    if (fields[i] === "cookie") joined = joined === "" ? (fields[i + 1] as string) : `${joined}; ${fields[i + 1]}`;
  return joined;
}

/** How a request's body is delimited in HTTP/1.1. `end`: it has none. */
export function framingOf(head: Http2Request, end: boolean): number {
  if (end) return NO_BODY;
  return head.contentLength > 0 ? LENGTH : head.contentLength === 0 ? NO_BODY : CHUNKED;
}

/** Methods of which a server expects a body, so that its absence is said (RFC 9110 §8.6). */
const expectsBody = (method: string): boolean => method === "POST" || method === "PUT" || method === "PATCH";

/** The head of a request as HTTP/1.1. Its characters were checked by the HTTP/2 side, which allows nothing that HTTP/1.1 would not. */
export function writeHttp1Request(head: Http2Request, out: OutBuffer, rewrite: RequestRewrite, framing: number): void {
  let text = `${head.method} ${rewrite.path ?? head.path} HTTP/1.1\r\n`;
  text += line("host", rewrite.authority ?? head.authority);
  const fields = editedFields(head.headers(), rewrite.edits);
  let hasCookie = false;
  let takesTrailers = false;
  for (let i = 0; i < fields.length; i += 2) {
    const name = fields[i] as string;
    if (name === "cookie") {
      if (!hasCookie) text += line(name, cookies(fields));
      hasCookie = true;
    } else if (name === "te") takesTrailers = true;
    else if (name !== "content-length" && name !== "http2-settings") text += line(name, fields[i + 1] as string);
  }
  if (framing === CHUNKED) text += "transfer-encoding: chunked\r\n";
  else if (framing === LENGTH) text += line("content-length", String(head.contentLength));
  else if (head.contentLength === 0 || expectsBody(head.method)) text += "content-length: 0\r\n";
  if (takesTrailers) text += "connection: te\r\nte: trailers\r\n";
  out.text(`${text}\r\n`);
}

/** Fields of an HTTP/1.1 message that go on. `length`: Content-Length is among them. */
export function http1Fields(parser: FieldParser, length: boolean): string[] {
  const fields: string[] = [];
  for (let i = 0; i < parser.count; i++) {
    const of = parser.kinds[i];
    if (of === CONTENT_LENGTH) {
      if (length) fields.push("content-length", String(parser.contentLength));
    } else if (of === ORDINARY) fields.push(parser.name(i), parser.value(i));
    // Its case means nothing (RFC 9110 §10.1.1), but servers of HTTP/2 compare it letter by letter.
    else if (of === EXPECT) fields.push(parser.name(i), parser.value(i).toLowerCase());
  }
  return fields;
}

/** An answer's head as HTTP/1.1, for a client that is spoken to so. `bodiless`: by its request's method, or it ended with the head. */
export function writeHttp1Response(head: UpHead, out: OutBuffer, isEnd: boolean, isBodiless: boolean): void {
  let text = `HTTP/1.1 ${head.status} ${STATUS_CODES[head.status] ?? ""}\r\n`;
  const fields = head.headers();
  for (let i = 0; i < fields.length; i += 2) {
    const name = fields[i] as string;
    if (name !== "te" && name !== "host") text += line(name, fields[i + 1] as string);
  }
  if (head.status >= 200 && head.contentLength < 0 && head.status !== 204 && head.status !== 304) {
    if (isEnd && !isBodiless) text += "content-length: 0\r\n";
    else if (!isEnd) text += "transfer-encoding: chunked\r\n";
  }
  out.text(`${text}\r\n`);
}

/** Trailer fields as they stand behind the last chunk; those that mean nothing there are left out. */
export function writeTrailerLines(fields: HeaderList, out: OutBuffer): void {
  for (let i = 0; i < fields.length; i += 2)
    if (kindOf(fields[i] as string) === kind.regular) out.text(line(fields[i] as string, fields[i + 1] as string));
  out.crlf();
}
