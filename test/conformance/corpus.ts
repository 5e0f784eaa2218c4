// Requests that two readers might take for different ones, beyond test/http/smuggling-cases.ts: disguises of framing that public collections of desync
// attacks list, pipelines, and HTTP/2 on its way to a server of HTTP/1.1. Verdicts are the RFCs'. "refuse": no whole request may reach the
// server; "seen": just these do; "either": refused, or forwarded so that the server sees just these.
import { smugglingCases } from "../http/smuggling-cases.ts";

export type Verdict =
  | { readonly kind: "refuse" }
  | { readonly kind: "seen" | "either"; readonly targets: readonly string[]; readonly bodies: readonly string[] };

export interface RawCase {
  readonly name: string;
  readonly rule: string;
  /** Latin1. */
  readonly bytes: string;
  readonly verdict: Verdict;
}
export interface Http2Case {
  readonly name: string;
  readonly rule: string;
  readonly fields: readonly (readonly [string, string])[];
  /** Absent: the head ends the stream. */
  readonly body?: string;
  readonly trailers?: readonly (readonly [string, string])[];
  readonly verdict: Verdict;
}

const refuse: Verdict = { kind: "refuse" };
const seen = (targets: readonly string[], bodies: readonly string[]): Verdict => ({ kind: "seen", targets, bodies });
const either = (targets: readonly string[], bodies: readonly string[]): Verdict => ({
  kind: "either",
  targets,
  bodies,
});

const hidden = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
const post = (fields: string, body: string): string => `POST /a HTTP/1.1\r\nHost: a\r\n${fields}\r\n${body}`;
const raw = (name: string, rule: string, bytes: string, verdict: Verdict): RawCase => ({ name, rule, bytes, verdict });
/** A length, and a disguised Transfer-Encoding that a lenient server behind might honour. */
const disguised = (what: string, rule: string, field: string): RawCase =>
  raw(`a length beside ${what}`, rule, post(`Content-Length: 5\r\n${field}\r\n`, `0\r\n\r\n${hidden}`), refuse);
/** A disguise that by the RFC is just another field: the length alone counts. */
const harmless = (what: string, rule: string, field: string): RawCase =>
  raw(
    `a length beside ${what}`,
    rule,
    post(`Content-Length: 5\r\n${field}\r\n`, `0\r\n\r\n${hidden}`),
    either(["/a", "/smuggled"], ["0\r\n\r\n", ""]),
  );

const disguises: readonly RawCase[] = [
  disguised("Transfer-Encoding in mixed case", "9112 6.3", "tRANSFER-ENCODING: chunked"),
  disguised("Transfer-Encoding: CHUNKED", "9112 6.3", "Transfer-Encoding: cHuNkEd"),
  disguised("Transfer-Encoding: identity", "9112 6.3", "Transfer-Encoding: identity"),
  disguised("Transfer-Encoding behind a tab", "9112 6.3", "Transfer-Encoding:\tchunked"),
  disguised("Transfer-Encoding behind many spaces", "9112 6.3", `Transfer-Encoding:${" ".repeat(200)}chunked`),
  disguised("Transfer-Encoding before spaces", "9112 6.3", "Transfer-Encoding: chunked   "),
  disguised("Transfer-Encoding without a space", "9112 6.3", "Transfer-Encoding:chunked"),
  disguised("Transfer-Encoding: chunked and a comma", "9112 6.3", "Transfer-Encoding: chunked,"),
  disguised("Transfer-Encoding: a comma and chunked", "9112 6.3", "Transfer-Encoding: ,chunked"),
  disguised("Transfer-Encoding: chunk", "9112 6.3", "Transfer-Encoding: chunk"),
  disguised("Transfer-Encoding in single quotes", "9112 6.3", "Transfer-Encoding: 'chunked'"),
  disguised("Transfer-Encoding: chunked and a NUL", "9110 5.5", "Transfer-Encoding: chunked\0"),
  disguised("Transfer-Encoding: chunked and a DEL", "9110 5.5", "Transfer-Encoding: chunked\x7f"),
  disguised("Transfer-Encoding: chunked and NEL", "9112 6.1", "Transfer-Encoding: chunked\x85"),
  disguised("Transfer-Encoding: a no-break space", "9112 6.1", "Transfer-Encoding:\xa0chunked"),
  disguised("Transfer-Encoding: a form feed", "9110 5.5", "Transfer-Encoding:\x0cchunked"),
  disguised("Transfer-Encoding: a backspace", "9110 5.5", "Transfer-Encoding:\x08chunked"),
  disguised("Transfer-Encoding: an escape", "9110 5.5", "Transfer-Encoding:\x1bchunked"),
  disguised("a NUL before Transfer-Encoding", "9110 5.1", "\0Transfer-Encoding: chunked"),
  disguised("a tab before Transfer-Encoding", "9112 2.2", "\tTransfer-Encoding: chunked"),
  disguised("a space within Transfer-Encoding", "9110 5.1", "Transfer Encoding: chunked"),
  disguised("a no-break space after Transfer-Encoding", "9110 5.1", "Transfer-Encoding\xa0: chunked"),
  disguised("a line end after Transfer-Encoding", "9112 5", "Transfer-Encoding\r\n: chunked"),
  disguised("a fold before the colon", "9112 5.2", "Transfer-Encoding\r\n : chunked"),
  disguised("a fold with a tab", "9112 5.2", "Transfer-Encoding:\r\n\tchunked"),
  disguised("a fold of another field", "9112 5.2", "X: y\r\n Transfer-Encoding: chunked"),
  disguised("Transfer-Encoding behind CR CR LF", "9112 2.2", "X: y\r\r\nTransfer-Encoding: chunked"),
  disguised("Transfer-Encoding behind LF CR", "9112 2.2", "X: y\n\rTransfer-Encoding: chunked"),
  disguised("Transfer-Encoding before a bare LF", "9112 2.2", "Transfer-Encoding: chunked\nX: y"),
  disguised(
    "Transfer-Encoding: two of them, the first unknown",
    "9112 6.3",
    "Transfer-Encoding: x\r\nTransfer-Encoding: chunked",
  ),
  disguised("a second length in a bare LF", "9112 2.2", "X: y\nContent-Length: 0"),
  disguised("a length in a fold", "9112 5.2", "Content-Length:\r\n 0"),
  disguised("two lengths in one field", "9110 8.6", "Content-Length: 5, 0"),
  disguised("a space before the colon of Content-Length", "9112 5.1", "Content-Length : 0"),
  harmless("Transfer_Encoding", "9110 5.1", "Transfer_Encoding: chunked"),
  harmless("X-Transfer-Encoding", "9110 5.1", "X-Transfer-Encoding: chunked"),
  harmless("Transfer-Encodings", "9110 5.1", "Transfer-Encodings: chunked"),
  harmless("TE: chunked", "9110 10.1.4", "TE: chunked"),
  harmless("Content_Length", "9110 5.1", "Content_Length: 0"),
  harmless("X-Content-Length", "9110 5.1", "X-Content-Length: 0"),
  harmless("Content-Encoding: chunked", "9110 8.4", "Content-Encoding: chunked"),
  harmless("Proxy-Connection", "9112 C.2.2", "Proxy-Connection: keep-alive"),
  harmless("X-HTTP-Method-Override", "9110 9.1", "X-HTTP-Method-Override: CONNECT"),
];

const chunked = (body: string): string => post("Transfer-Encoding: chunked\r\n", body);
const others: readonly RawCase[] = [
  raw(
    "trailers, then a request",
    "9112 7.1.2",
    chunked(`1\r\nx\r\n0\r\nX-T: y\r\n\r\n${hidden}`),
    seen(["/a", "/smuggled"], ["x", ""]),
  ),
  raw("a trailer without a colon", "9112 7.1.2", chunked(`1\r\nx\r\n0\r\nX-T\r\n\r\n${hidden}`), refuse),
  raw("a trailer with a fold", "9112 5.2", chunked(`1\r\nx\r\n0\r\nX: y\r\n z\r\n\r\n${hidden}`), refuse),
  raw(
    "a chunk's size with an underscore",
    "9112 7.1",
    chunked(`1_0\r\n0123456789abcdef\r\n0\r\n\r\n${hidden}`),
    refuse,
  ),
  raw("a chunk's size with a plus", "9112 7.1", chunked(`+1\r\nx\r\n0\r\n\r\n${hidden}`), refuse),
  raw("a chunk's size above 64 bits", "9112 7.1", chunked(`10000000000000001\r\nx\r\n0\r\n\r\n${hidden}`), refuse),
  raw("a bare CR in a chunk's extension", "9112 7.1.1", chunked(`1;a\rb\r\nx\r\n0\r\n\r\n${hidden}`), refuse),
  raw("CRLF missing behind a chunk", "9112 7.1", chunked(`1\r\nx0\r\n\r\n${hidden}`), refuse),
  raw(
    "the last chunk with many zeros",
    "9112 7.1",
    chunked(`1\r\nx\r\n00000\r\n\r\n${hidden}`),
    either(["/a", "/smuggled"], ["x", ""]),
  ),
  raw(
    "three requests at once",
    "9112 9.3.2",
    hidden.repeat(3),
    seen(["/smuggled", "/smuggled", "/smuggled"], ["", "", ""]),
  ),
  raw(
    "a request in the body of a GET",
    "9112 6",
    `GET /a HTTP/1.1\r\nHost: a\r\nContent-Length: ${hidden.length}\r\n\r\n${hidden}`,
    either(["/a"], [hidden]),
  ),
  raw(
    "a request in the body of a HEAD",
    "9112 6",
    `HEAD /a HTTP/1.1\r\nHost: a\r\nContent-Length: ${hidden.length}\r\n\r\n${hidden}`,
    either(["/a"], [hidden]),
  ),
  raw(
    "Connection: close, and a request behind it",
    "9112 9.6",
    `GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n${hidden}`,
    seen(["/a"], [""]),
  ),
  raw(
    "HTTP/1.0, and a request behind it",
    "9112 9.3",
    `GET /a HTTP/1.0\r\nHost: a\r\n\r\n${hidden}`,
    seen(["/a"], [""]),
  ),
  raw(
    "an upgrade that the server does not take, and a request behind it",
    "9110 7.8",
    `GET /a HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n${hidden}`,
    either(["/a", "/smuggled"], ["", ""]),
  ),
  raw("Host with a bare LF", "9112 2.2", "GET /a HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", refuse),
  raw(
    "CR LF written as escapes in the target",
    "9112 3.2",
    "GET /a%0d%0aX:%20y HTTP/1.1\r\nHost: a\r\n\r\n",
    seen(["/a%0d%0aX:%20y"], [""]),
  ),
  raw("a method with a bracket", "9110 9.1", "GE(T /a HTTP/1.1\r\nHost: a\r\n\r\n", refuse),
  raw(
    "a method in lower case is another method",
    "9110 9.1",
    "get /a HTTP/1.1\r\nHost: a\r\n\r\n",
    either(["/a"], [""]),
  ),
  raw("HTTP/1.1 with a letter behind", "9112 2.3", "GET /a HTTP/1.1x\r\nHost: a\r\n\r\n", refuse),
];

/** All for HTTP/1.1: those of the unit tests too, but for HTTP/2's preface, which is welcome at a port that takes both versions. */
export const rawCases: readonly RawCase[] = [
  ...smugglingCases
    .filter(({ bytes }) => !bytes.startsWith("PRI * HTTP/2.0"))
    .map(({ name, rule, bytes, expect }) =>
      raw(name, rule, bytes, expect.kind === "refuse" ? refuse : seen(expect.targets, expect.bodies)),
    ),
  ...disguises,
  ...others,
];

type Field = readonly [string, string];
const head = (...fields: readonly Field[]): readonly Field[] => [
  [":method", "POST"],
  [":scheme", "http"],
  [":authority", "a"],
  [":path", "/a"],
  ...fields,
];
/** The head with one pseudo-header another. */
const but = (name: string, value: string | undefined, ...fields: readonly Field[]): readonly Field[] => [
  ...head().flatMap(([n, v]): Field[] => (n === name ? (value === undefined ? [] : [[n, value]]) : [[n, v]])),
  ...fields,
];
const malformed = (
  name: string,
  rule: string,
  fields: readonly Field[],
  body?: string,
  trailers?: readonly Field[],
): Http2Case => ({
  name,
  rule,
  fields,
  ...(body === undefined ? {} : { body }),
  ...(trailers === undefined ? {} : { trailers }),
  verdict: refuse,
});
const fine = (
  name: string,
  rule: string,
  fields: readonly Field[],
  body: string | undefined,
  verdict: Verdict,
): Http2Case => ({
  name,
  rule,
  fields,
  ...(body === undefined ? {} : { body }),
  verdict,
});

/** HTTP/2 to a server of HTTP/1.1. */
export const http2Cases: readonly Http2Case[] = [
  malformed("a length below the body's", "9113 8.1.1", head(["content-length", "3"]), `abc${hidden}`),
  malformed("a length above the body's", "9113 8.1.1", head(["content-length", "300"]), "abc"),
  // Its head alone is a whole request, and goes on before anyone can know of the body; of the body nothing may.
  fine("a length of 0 before a body", "9113 8.1.1", head(["content-length", "0"]), hidden, either(["/a"], [""])),
  malformed("two lengths", "9110 8.6", head(["content-length", "3"], ["content-length", "0"]), "abc"),
  malformed("a length with a sign", "9110 8.6", head(["content-length", "+3"]), "abc"),
  malformed("a length that is a list", "9110 8.6", head(["content-length", "3, 0"]), "abc"),
  ...["chunked", "identity", "Chunked"].map((v) =>
    malformed(`transfer-encoding: ${v}`, "9113 8.2.2", head(["transfer-encoding", v]), `0\r\n\r\n${hidden}`),
  ),
  ...["connection", "keep-alive", "proxy-connection", "upgrade"].map((n) =>
    malformed(`${n} is of one connection`, "9113 8.2.2", head([n, n === "upgrade" ? "h2c" : "close"])),
  ),
  malformed("te: gzip", "9113 8.2.2", head(["te", "gzip"])),
  ...[
    "x\r\nTransfer-Encoding: chunked",
    "x\ntransfer-encoding: chunked",
    "x\ry",
    "x\0y",
    "\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a",
  ].map((v) => malformed(`a value ${JSON.stringify(v)}`, "9113 8.2.1", head(["x-a", v]))),
  malformed("a value behind a space", "9113 8.2.1", head(["x-a", " chunked"])),
  malformed("a value before a tab", "9113 8.2.1", head(["x-a", "chunked\t"])),
  ...[
    "X-A",
    "x a",
    "x:a",
    "x\r\na",
    "transfer-encoding\r\n",
    "transfer-encoding: chunked\r\nx",
    "",
    "x\0",
    "x\xe4",
  ].map((n) => malformed(`a name ${JSON.stringify(n)}`, "9113 8.2.1", head([n, "y"]))),
  ...["GET /smuggled HTTP/1.1\r\nX:", "GE T", "", "GET\r\n"].map((v) =>
    malformed(`:method ${JSON.stringify(v)}`, "9110 9.1", but(":method", v)),
  ),
  ...["/a HTTP/1.1\r\nHost: b\r\n\r\nGET /smuggled", "/a b", "/a\tb", "/a\0", "", "a", "http://b/a", "/a\r\n"].map(
    (v) => malformed(`:path ${JSON.stringify(v)}`, "9113 8.3.1", but(":path", v)),
  ),
  ...["a\r\nX: y", "a b", "u@a", "a/b", "a\0"].map((v) =>
    malformed(`:authority ${JSON.stringify(v)}`, "9113 8.3.1", but(":authority", v)),
  ),
  malformed(":scheme with a line end", "9113 8.3.1", but(":scheme", "http\r\nx: y")),
  malformed("no :method", "9113 8.3.1", but(":method", undefined)),
  malformed("no :scheme", "9113 8.3.1", but(":scheme", undefined)),
  malformed("no :path", "9113 8.3.1", but(":path", undefined)),
  malformed("two :path", "9113 8.3.1", [...head(), [":path", "/smuggled"]]),
  malformed("two :authority", "9113 8.3", [[":authority", "b"], ...head()]),
  malformed("a pseudo-header behind a field", "9113 8.3", [...but(":path", undefined), ["x-a", "y"], [":path", "/a"]]),
  malformed("an unknown pseudo-header", "9113 8.3", [[":x", "y"], ...head()]),
  malformed("a pseudo-header of answers", "9113 8.3", [[":status", "200"], ...head()]),
  malformed("host that is not :authority", "9113 8.3.1", head(["host", "b"])),
  malformed("two hosts", "9112 3.2", head(["host", "a"], ["host", "b"])),
  malformed("a pseudo-header in trailers", "9113 8.1", head(), "abc", [[":path", "/smuggled"]]),
  malformed("transfer-encoding in trailers", "9113 8.2.2", head(), "abc", [["transfer-encoding", "chunked"]]),
  malformed("a line end in trailers", "9113 8.2.1", head(), "abc", [
    ["x-t", "y\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"],
  ]),
  malformed("CONNECT with a path", "9113 8.5", but(":method", "CONNECT")),
  fine("a request in a body", "9113 8.1", head(), hidden, seen(["/a"], [hidden])),
  fine(
    "a request in a body of told length",
    "9113 8.1",
    head(["content-length", `${hidden.length}`]),
    hidden,
    seen(["/a"], [hidden]),
  ),
  fine("chunks in a body", "9113 8.1", head(), `0\r\n\r\n${hidden}`, seen(["/a"], [`0\r\n\r\n${hidden}`])),
  fine("te: trailers", "9113 8.2.2", head(["te", "trailers"]), undefined, seen(["/a"], [""])),
  fine("cookies in pieces", "9113 8.2.3", head(["cookie", "a=1"], ["cookie", "b=2"]), undefined, seen(["/a"], [""])),
  fine("host that is :authority", "9113 8.3.1", head(["host", "a"]), undefined, seen(["/a"], [""])),
  fine("escapes in the path", "9113 8.3.1", but(":path", "/a%0d%0aX:y"), undefined, seen(["/a%0d%0aX:y"], [""])),
];
