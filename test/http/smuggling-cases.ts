// Requests that two readers might take for different ones, with what RFC 9112 and RFC 9110 ask of them. Written from their rules, not
// from what the codec does. "refuse": no server may see a byte; "one": exactly one request reaches the server, and what it sees is `seen`.

export interface SmugglingCase {
  readonly name: string;
  readonly rule: string;
  /** Latin1. A second request, GET /smuggled, hides in most of them. */
  readonly bytes: string;
  readonly expect:
    | { readonly kind: "refuse"; readonly status: number; readonly refused: string }
    | { readonly kind: "seen"; readonly targets: readonly string[]; readonly bodies: readonly string[] };
}

const hidden = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
const refuse = (name: string, rule: string, bytes: string, refused: string, status = 400): SmugglingCase => ({
  name,
  rule,
  bytes,
  expect: { kind: "refuse", status, refused },
});
const seen = (name: string, rule: string, bytes: string, targets: readonly string[], bodies: readonly string[]) =>
  ({ name, rule, bytes, expect: { kind: "seen", targets, bodies } }) satisfies SmugglingCase;
const post = (fields: string, body: string): string => `POST /a HTTP/1.1\r\nHost: a\r\n${fields}\r\n${body}`;
const withChunks = (body: string): string => post("Transfer-Encoding: chunked\r\n", body);
const get = (line: string, fields = "Host: a\r\n"): string => `${line}\r\n${fields}\r\n`;
const codings = (value: string): string => post(`Transfer-Encoding: ${value}\r\n`, `0\r\n\r\n${hidden}`);

export const smugglingCases: readonly SmugglingCase[] = [
  // Both lengths: CL.TE, TE.CL and every disguise of Transfer-Encoding.
  refuse(
    "CL.TE",
    "9112 6.3",
    post("Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", `0\r\n\r\n${hidden}`),
    "content_length_and_transfer_encoding",
  ),
  refuse(
    "TE.CL",
    "9112 6.3",
    post("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", `5c\r\n${hidden}\r\n0\r\n\r\n`),
    "content_length_and_transfer_encoding",
  ),
  refuse("TE xchunked", "9112 6.1", codings("xchunked"), "transfer_encoding_order"),
  refuse("TE in quotes", "9112 6.1", codings('"chunked"'), "transfer_encoding_order"),
  refuse("TE chunked, identity", "9112 6.1", codings("chunked, identity"), "transfer_encoding_order"),
  refuse("TE chunked twice in one field", "9112 6.1", codings("chunked, chunked"), "transfer_encoding_order"),
  refuse(
    "TE gzip, chunked: a coding not known here",
    "9112 6.1",
    codings("gzip, chunked"),
    "transfer_coding_unknown",
    501,
  ),
  refuse("TE empty", "9112 6.1", codings(""), "transfer_encoding_order"),
  refuse("TE with a parameter", "9112 7", codings("chunked;q=1"), "transfer_encoding_order"),
  refuse("TE behind a vertical tab", "9110 5.5", codings("\x0bchunked"), "field_value"),
  refuse(
    "two Transfer-Encoding fields",
    "9112 6.1",
    post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", `0\r\n\r\n${hidden}`),
    "transfer_encoding_repeated",
  ),
  refuse(
    "second Transfer-Encoding hides the first",
    "9112 6.1",
    post("Transfer-Encoding: chunked\r\nTransfer-encoding: x\r\n", `0\r\n\r\n${hidden}`),
    "transfer_encoding_repeated",
  ),
  refuse(
    "space before the colon of Transfer-Encoding",
    "9112 5.1",
    post("Transfer-Encoding : chunked\r\n", "0\r\n\r\n"),
    "space_before_colon",
  ),
  refuse("tab before the colon", "9112 5.1", post("Content-Length\t: 3\r\n", "abc"), "space_before_colon"),
  refuse("Transfer-Encoding folded", "9112 5.2", post("Transfer-Encoding:\r\n chunked\r\n", "0\r\n\r\n"), "obs_fold"),
  refuse(
    "a field that begins with a space",
    "9112 2.2",
    post(" Transfer-Encoding: chunked\r\n", "0\r\n\r\n"),
    "obs_fold",
  ),
  refuse(
    "Transfer-Encoding behind a bare LF",
    "9112 2.2",
    post("X: y\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
    "line_ending",
  ),
  refuse(
    "Transfer-Encoding behind a bare CR",
    "9112 2.2",
    post("X: y\rTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
    "line_ending",
  ),
  refuse("NUL in a name", "9110 5.1", post("Transfer-Encoding\0: chunked\r\n", "0\r\n\r\n"), "field_name"),
  refuse("NUL in a value", "9110 5.5", post("X: a\0b\r\n", ""), "field_value"),
  refuse("DEL in a value", "9110 5.5", post("X: a\x7fb\r\n", ""), "field_value"),
  refuse("a name in obs-text", "9110 5.1", post("Transfer\xadEncoding: chunked\r\n", "0\r\n\r\n"), "field_name"),
  refuse("an empty name", "9112 5", post(": chunked\r\n", ""), "field_name"),
  refuse("a line without a colon", "9112 5", post("nonsense\r\n", ""), "line_ending"),
  refuse(
    "Transfer-Encoding in HTTP/1.0",
    "9112 6.1",
    `POST /a HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n${hidden}`,
    "transfer_encoding_in_1_0",
  ),
  // Lengths.
  ...[
    "+3",
    "-3",
    "0x3",
    "3 3",
    "3, 3",
    "3,4",
    "",
    "3.0",
    "1e1",
    "9007199254740992",
    "99999999999999999999",
    "\xb3",
  ].map((v) =>
    refuse(
      `Content-Length ${JSON.stringify(v)}`,
      "9110 8.6",
      post(`Content-Length: ${v}\r\n`, `abc${hidden}`),
      "content_length",
    ),
  ),
  refuse(
    "two lengths that differ",
    "9112 6.3",
    post("Content-Length: 3\r\nContent-Length: 0\r\n", "abc"),
    "content_length_repeated",
  ),
  refuse(
    "two lengths that agree",
    "9112 6.3",
    post("Content-Length: 3\r\nContent-Length: 3\r\n", "abc"),
    "content_length_repeated",
  ),
  seen(
    "leading zeros of a length",
    "9110 8.6",
    post("Content-Length: 003\r\n", `abc${hidden}`),
    ["/a", "/smuggled"],
    ["abc", ""],
  ),
  seen(
    "white space around a length",
    "9110 5.6.3",
    post("Content-Length:\t 3\t \r\n", `abc${hidden}`),
    ["/a", "/smuggled"],
    ["abc", ""],
  ),
  seen(
    "GET with a body",
    "9112 6",
    `GET /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc${hidden}`,
    ["/a", "/smuggled"],
    ["abc", ""],
  ),
  seen("no length: no body", "9112 6.3", `POST /a HTTP/1.1\r\nHost: a\r\n\r\n${hidden}`, ["/a", "/smuggled"], ["", ""]),
  seen(
    "CHUNKED in capitals",
    "9112 7",
    post("transfer-encoding: CHUNKED\r\n", `3\r\nabc\r\n0\r\n\r\n${hidden}`),
    ["/a", "/smuggled"],
    ["abc", ""],
  ),
  // Chunks.
  ...[
    "",
    "x",
    "-1",
    "0x3",
    "3 ",
    "3\t",
    " 3",
    "g",
    "fffffffffffffffff",
    "00000000000000003",
    "20000000000000",
    "3\v",
    "3,",
    "3\0",
  ].map((size) =>
    refuse(
      `chunk size ${JSON.stringify(size)}`,
      "9112 7.1",
      withChunks(`${size}\r\nabc\r\n0\r\n\r\n${hidden}`),
      "chunk_size",
    ),
  ),
  refuse("chunk size ended by a bare LF", "9112 7.1", withChunks(`3\nabc\r\n0\r\n\r\n${hidden}`), "chunk_size"),
  refuse("chunk size ended by a bare CR", "9112 7.1", withChunks(`3\rxabc\r\n0\r\n\r\n${hidden}`), "chunk_size"),
  refuse(
    "bare LF in a chunk's extension",
    "9112 7.1.1",
    withChunks(`3;a\nabc\r\n0\r\n\r\n${hidden}`),
    "chunk_extension",
  ),
  refuse("an extension without a name", "9112 7.1.1", withChunks(`3;\r\nabc\r\n0\r\n\r\n${hidden}`), "chunk_extension"),
  refuse("chunk longer than its size", "9112 7.1", withChunks(`3\r\nabcd\r\n0\r\n\r\n${hidden}`), "chunk_end"),
  refuse("chunk ended by a bare LF", "9112 7.1", withChunks(`3\r\nabc\n0\r\n\r\n${hidden}`), "chunk_end"),
  refuse("chunk ended by other bytes", "9112 7.1", withChunks(`3\r\nabcXX0\r\n\r\n${hidden}`), "chunk_end"),
  refuse("end of chunks by a bare LF", "9112 7.1", withChunks(`0\r\n\n${hidden}`), "line_ending"),
  refuse(
    "Content-Length in trailers",
    "9110 6.5.1",
    withChunks(`0\r\nContent-Length: 3\r\n\r\n${hidden}`),
    "trailer_forbidden",
  ),
  refuse(
    "Transfer-Encoding in trailers",
    "9110 6.5.1",
    withChunks(`0\r\nTransfer-Encoding: x\r\n\r\n${hidden}`),
    "trailer_forbidden",
  ),
  refuse("Host in trailers", "9110 6.5.1", withChunks(`0\r\nHost: b\r\n\r\n${hidden}`), "trailer_forbidden"),
  seen(
    "extensions are read over",
    "9112 7.1.1",
    withChunks(`3;a="x;y" ;b\r\nabc\r\n2 ;c\r\nde\r\n0;z\r\n\r\n${hidden}`),
    ["/a", "/smuggled"],
    ["abcde", ""],
  ),
  seen(
    "a chunk that holds a request",
    "9112 7.1",
    withChunks(`${hidden.length.toString(16)}\r\n${hidden}\r\n0\r\n\r\n`),
    ["/a"],
    [hidden],
  ),
  seen(
    "leading zeros of a chunk",
    "9112 7.1",
    withChunks(`0003\r\nabc\r\n000\r\n\r\n${hidden}`),
    ["/a", "/smuggled"],
    ["abc", ""],
  ),
  // Request lines.
  refuse("two spaces before the target", "9112 3", get("GET  /a HTTP/1.1"), "request_line"),
  refuse("two spaces before the version", "9112 3", get("GET /a  HTTP/1.1"), "version"),
  refuse("a space in the target", "9112 3.2", get("GET /a b HTTP/1.1"), "version"),
  refuse("a tab for a space", "9112 3", get("GET\t/a HTTP/1.1"), "request_line"),
  refuse("a tab in the target", "9112 3", get("GET /a\tHTTP/1.1 HTTP/1.1"), "target"),
  refuse("a space behind the version", "9112 3", get("GET /a HTTP/1.1 "), "version"),
  refuse("a space before the method", "9112 3", get(" GET /a HTTP/1.1"), "request_line"),
  refuse("bare LF behind the request line", "9112 2.2", "GET /a HTTP/1.1\nHost: a\r\n\r\n", "line_ending"),
  refuse("bare CR in the request line", "9112 2.2", "GET /a HTTP/1.1\rHost: a\r\n\r\n", "line_ending"),
  refuse("only LF", "9112 2.2", "GET /a HTTP/1.1\nHost: a\n\n", "line_ending"),
  refuse("HTTP/0.9", "9112 2.3", "GET /a\r\n\r\n", "version"),
  refuse("lower-case version", "9112 2.3", get("GET /a http/1.1"), "version"),
  refuse("version 1", "9112 2.3", get("GET /a HTTP/1"), "version"),
  refuse("version 01.1", "9112 2.3", get("GET /a HTTP/01.1"), "version"),
  refuse("version 1.10", "9112 2.3", get("GET /a HTTP/1.10"), "version"),
  refuse("version 2.0", "9110 15.6.6", get("GET /a HTTP/2.0"), "version_unsupported", 505),
  refuse("HTTP/2's preface", "9110 15.6.6", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "version_unsupported", 505),
  refuse("a fragment in the target", "9112 3.2", get("GET /a#b HTTP/1.1"), "target"),
  refuse("a relative target", "9112 3.2", get("GET a HTTP/1.1"), "target"),
  refuse("another scheme", "9112 3.2.2", get("GET ftp://a/b HTTP/1.1"), "target"),
  refuse("a user in the target", "9110 4.2.4", get("GET http://u@a/b HTTP/1.1"), "target"),
  refuse("* for GET", "9112 3.2.4", get("GET * HTTP/1.1"), "target"),
  refuse("CONNECT with a path", "9112 3.2.3", get("CONNECT /a HTTP/1.1"), "target"),
  refuse("CONNECT without a port", "9112 3.2.3", get("CONNECT a HTTP/1.1"), "target"),
  refuse(
    "CONNECT with a body",
    "9110 9.3.6",
    `CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nContent-Length: 3\r\n\r\nabc`,
    "connect_with_body",
  ),
  refuse("a NUL in the target", "9112 3.2", get("GET /a\0b HTTP/1.1"), "target"),
  refuse("CRLF twice before a request", "9112 2.2", "\r\n\r\nGET /a HTTP/1.1\r\nHost: a\r\n\r\n", "request_line"),
  refuse("LF before a request", "9112 2.2", "\nGET /a HTTP/1.1\r\nHost: a\r\n\r\n", "request_line"),
  seen("CRLF once before a request", "9112 2.2", `\r\n${get("GET /a HTTP/1.1")}`, ["/a"], [""]),
  seen("absolute form: its authority is the host", "9112 3.2.2", get("GET http://b:8/a?x HTTP/1.1"), ["b:8/a?x"], [""]),
  seen("version 1.9 is served as 1.1", "9110 2.5", get("GET /a HTTP/1.9"), ["/a"], [""]),
  // Host.
  refuse("no Host", "9112 3.2", get("GET /a HTTP/1.1", ""), "host_missing"),
  refuse("two Hosts", "9112 3.2", get("GET /a HTTP/1.1", "Host: a\r\nHost: b\r\n"), "host_repeated"),
  refuse("two Hosts that agree", "9112 3.2", get("GET /a HTTP/1.1", "Host: a\r\nhost: a\r\n"), "host_repeated"),
  refuse("a second Host in a fold", "9112 5.2", get("GET /a HTTP/1.1", "Host: a\r\n Host: b\r\n"), "obs_fold"),
  ...["a b", "a/b", "a,b", "u@a", "a:80:80", "a:x", "[::1", "[]", ":80", "a?b", "a\\b", "\xe4"].map((host) =>
    refuse(`Host ${JSON.stringify(host)}`, "9112 3.2", get("GET /a HTTP/1.1", `Host: ${host}\r\n`), "host_malformed"),
  ),
  refuse("no Host, though the target names one", "9112 3.2", get("GET http://a/b HTTP/1.1", ""), "host_missing"),
  // Fields of one connection.
  refuse(
    "Connection names Content-Length",
    "9110 7.6.1",
    post("Content-Length: 3\r\nConnection: content-length\r\n", "abc"),
    "connection_names_framing",
  ),
  refuse(
    "Connection names Transfer-Encoding",
    "9110 7.6.1",
    post("Connection: close, Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
    "connection_names_framing",
  ),
  refuse(
    "Connection names Host",
    "9110 7.6.1",
    get("GET /a HTTP/1.1", "Host: a\r\nConnection: host\r\n"),
    "connection_names_framing",
  ),
  refuse(
    "Connection is no list of tokens",
    "9110 7.6.1",
    get("GET /a HTTP/1.1", "Host: a\r\nConnection: a b\r\n"),
    "connection_option",
  ),
  refuse(
    "another expectation",
    "9110 10.1.1",
    get("GET /a HTTP/1.1", "Host: a\r\nExpect: tea\r\n"),
    "expectation",
    417,
  ),
  // Upgrades that would carry requests past every decision.
  seen(
    "Upgrade to h2c is not passed on",
    "9110 7.8",
    get(
      "GET /a HTTP/1.1",
      "Host: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n",
    ),
    ["/a"],
    [""],
  ),
  seen(
    "Upgrade without the option is not passed on",
    "9110 7.8",
    get("GET /a HTTP/1.1", "Host: a\r\nUpgrade: websocket\r\n"),
    ["/a"],
    [""],
  ),
];
