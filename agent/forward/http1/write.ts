// Heads on their way on: fields of one connection dropped, edits applied, framing as decided here (RFC 9110 §7.6.1, RFC 9112 §6). Runs of
// untouched field lines are copied as they came; a line in an unusual form is written anew. Writes to memory only.
import type { HeaderEdits, HeaderList } from "../../http.ts";
import * as b from "./bytes.ts";
import type { FieldParser } from "./fields.ts";
import type { OutBuffer } from "./out-buffer.ts";
import { CHUNKED, type RequestParser } from "./request.ts";
import type { ResponseParser } from "./response.ts";

export interface RequestRewrite {
  readonly edits?: HeaderEdits | undefined;
  /** Origin form with the query. */
  readonly path?: string | undefined;
  /** What Host says to the server. */
  readonly authority?: string | undefined;
}

const noEdits: HeaderEdits = { remove: [], set: [], add: [] };
const requestVersion = Buffer.from(" HTTP/1.1\r\n");
const responseVersion = Buffer.from("HTTP/1.1 ");
const chunked = "transfer-encoding: chunked\r\n";

// Which kinds a field list loses.
const dropInRequest = new Uint8Array(16);
const dropInResponse = new Uint8Array(16);
for (const kind of [b.TRANSFER_ENCODING, b.CONNECTION, b.UPGRADE, b.TE, b.HOP, b.NAMED]) {
  dropInRequest[kind] = 1;
  dropInResponse[kind] = 1;
}

const notInValue = /[^\t\x20-\x7e\x80-\xff]/;
/** A value that cannot end its line or the head. An expression, since values were often put together just now, and it reads such as one piece. */
export const isFieldValue = (value: string): boolean => !notInValue.test(value);

function isToken(name: string): boolean {
  for (let i = 0; i < name.length; i++) {
    const c = name.charCodeAt(i);
    if (c > 255 || ((b.classOf[c] as number) & b.TOKEN) === 0) return false;
  }
  return name !== "";
}

/** Edits never touch what frames the message or concerns the connection. */
function isEditable(name: string): boolean {
  if (!isToken(name)) return false;
  const kind = b.kindOfName(name);
  return kind === b.ORDINARY || kind === b.EXPECT;
}

// Names come from configuration and from here: few, and each with many requests. Whoever brings more is asked about anew.
const mostNames = 1_024;
const editable = new Map<string, boolean>();
function isKnownEditable(name: string): boolean {
  let is = editable.get(name);
  if (is === undefined) {
    is = isEditable(name);
    if (editable.size < mostNames) editable.set(name, is);
  }
  return is;
}

function isEdited(fields: FieldParser, i: number, edits: HeaderEdits): boolean {
  for (let k = 0; k < edits.remove.length; k++) if (fields.isField(i, edits.remove[k] as string)) return true;
  for (let k = 0; k < edits.set.length; k += 2) if (fields.isField(i, edits.set[k] as string)) return true;
  return false;
}

/** `name: value` or `name:value` without further white space, so that its bytes may go on as they are. */
function isPlain(fields: FieldParser, i: number, lineEnd: number): boolean {
  const { spans } = fields;
  const gap = (spans[i * 4 + 2] as number) - (spans[i * 4 + 1] as number);
  if ((spans[i * 4 + 3] as number) + 2 !== lineEnd) return false;
  return gap === 1 || (gap === 2 && fields.buf[fields.base + (spans[i * 4 + 1] as number) + 1] === b.SP);
}

/** Writes the fields whose kind `drop` does not name and which no edit takes, then what edits bring. */
function writeFields(fields: FieldParser, out: OutBuffer, edits: HeaderEdits, drop: Uint8Array, length: number): void {
  const { buf, base, spans, kinds, count } = fields;
  const hasEdits = edits.remove.length > 0 || edits.set.length > 0;
  let from = -1;
  for (let i = 0; i < count; i++) {
    const start = spans[i * 4] as number;
    const end = i + 1 < count ? (spans[i * 4 + 4] as number) : fields.fieldsEnd;
    const kind = kinds[i] as number;
    let keep = drop[kind] === 0;
    // An edit cannot take what frames the message: only ordinary fields are asked about.
    if (keep && hasEdits && (kind === b.ORDINARY || kind === b.EXPECT) && isEdited(fields, i, edits)) keep = false;
    const plain =
      keep && isPlain(fields, i, end) && (kind !== b.CONTENT_LENGTH || buf[base + (spans[i * 4 + 2] as number)] !== 48);
    if (plain) {
      if (from === -1) from = start;
      continue;
    }
    if (from !== -1) out.bytes(buf, base + from, base + start);
    from = -1;
    if (!keep) continue;
    out.bytes(buf, base + start, base + (spans[i * 4 + 1] as number));
    out.text(": ");
    if (kind === b.CONTENT_LENGTH) out.decimal(length);
    else out.bytes(buf, base + (spans[i * 4 + 2] as number), base + (spans[i * 4 + 3] as number));
    out.crlf();
  }
  if (from !== -1) out.bytes(buf, base + from, base + fields.fieldsEnd);
  writeList(out, edits.set);
  writeList(out, edits.add);
  if (edits.made === undefined) return;
  const { lines } = edits.made;
  out.bytes(lines, 0, lines.length);
}

function writeList(out: OutBuffer, list: HeaderList): void {
  for (let i = 0; i < list.length; i += 2) {
    const name = list[i] as string;
    const value = list[i + 1] as string;
    // A value that would break out of its line is left out.
    if (isKnownEditable(name) && isFieldValue(value)) out.field(name, value);
  }
}

/** The request as this hop's server is sent it. Body framing stays what it was. */
export function writeRequest(head: RequestParser, out: OutBuffer, rewrite: RequestRewrite): void {
  const isConnect = head.method === "CONNECT";
  if (head.isOriginForm && rewrite.path === undefined) {
    // Method, space and target stand together at the head's beginning, behind an empty line at most.
    out.bytes(head.buf, head.base + head.lineStart, head.base + head.targetEnd);
  } else {
    out.text(head.method);
    out.text(" ");
    out.text(isConnect ? head.authority : (rewrite.path ?? head.path));
  }
  out.bytes(requestVersion, 0, requestVersion.length);
  // Host first, as RFC 9112 §3.2 asks, if it is not simply the one that came.
  const ownHost = rewrite.authority !== undefined || !head.isOriginForm || head.hostCount === 0;
  dropInRequest[b.HOST_FIELD] = ownHost ? 1 : 0;
  if (ownHost) {
    out.text("host: ");
    out.text(rewrite.authority ?? head.authority);
    out.crlf();
  }
  writeFields(head, out, rewrite.edits ?? noEdits, dropInRequest, head.contentLength);
  if (head.body === CHUNKED) out.text(chunked);
  if (head.upgrades) {
    out.text(
      head.teTrailers ? "connection: upgrade, te\r\nte: trailers\r\nupgrade: " : "connection: upgrade\r\nupgrade: ",
    );
    out.text(head.value(head.upgradeField));
    out.crlf();
  } else if (head.teTrailers) out.text("connection: te\r\nte: trailers\r\n");
  out.crlf();
}

/** How the response goes on to the client. */
export interface ResponseShape {
  /** Of the request: 0 gets no chunks and is told when the connection stays. */
  readonly minor: number;
  /** Framing towards the client. */
  readonly body: number;
  readonly close: boolean;
}

export function writeResponse(
  head: ResponseParser,
  out: OutBuffer,
  edits: HeaderEdits | undefined,
  shape: ResponseShape,
): void {
  out.bytes(responseVersion, 0, responseVersion.length);
  if (head.reasonEnd > 12) out.bytes(head.buf, head.base + 9, head.base + head.reasonEnd);
  else {
    out.decimal(head.status);
    out.text(" ");
  }
  out.crlf();
  // Neither 1xx nor 204 has a length (RFC 9110 §8.6).
  dropInResponse[b.CONTENT_LENGTH] = head.status < 200 || head.status === 204 || head.isTunnel ? 1 : 0;
  writeFields(head, out, edits ?? noEdits, dropInResponse, head.contentLength);
  if (head.status === 101 || head.status === 426) {
    if (head.upgradeField >= 0) {
      out.text("connection: upgrade\r\nupgrade: ");
      out.text(head.value(head.upgradeField));
      out.crlf();
    }
  } else if (!head.isInterim && !head.isTunnel) {
    if (shape.body === CHUNKED) out.text(chunked);
    if (shape.close) out.text("connection: close\r\n");
    else if (shape.minor === 0) out.text("connection: keep-alive\r\n");
  }
  out.crlf();
}

/** Trailer fields behind the last chunk, which is written too. */
export function writeTrailers(trailers: FieldParser | undefined, out: OutBuffer): void {
  if (trailers === undefined) {
    out.text("0\r\n\r\n");
    return;
  }
  out.text("0\r\n");
  writeFields(trailers, out, noEdits, dropInRequest, 0);
  out.crlf();
}

/** A response made here. `body` undefined: to HEAD, its length is told and nothing sent. */
export function writeLocal(
  out: OutBuffer,
  status: number,
  reason: string,
  headers: HeaderList,
  body: Buffer,
  shape: { readonly isHead: boolean; readonly minor: number; readonly close: boolean },
): void {
  out.text(`HTTP/1.1 ${status} ${reason}\r\n`);
  writeList(out, headers);
  if (status >= 200 && status !== 204 && status !== 304) out.text(`content-length: ${body.length}\r\n`);
  if (shape.close) out.text("connection: close\r\n");
  else if (shape.minor === 0) out.text("connection: keep-alive\r\n");
  out.crlf();
  if (!shape.isHead && status !== 204 && status !== 304) out.bytes(body, 0, body.length);
}
