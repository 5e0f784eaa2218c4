// What every client asks of every server, as lines that any language reads: name, method, path, body, field, separated by tabs. A client is called
// with the base of the URLs and these lines, and prints for each: name, status, length, start of SHA-256, field x-back; or name, "error", why; or name,
// "cannot", why. Bodies are the pattern i % 251; "c" before their size: without Content-Length.
import { createHash } from "node:crypto";

export interface Visit {
  readonly name: string;
  readonly method: string;
  readonly path: string;
  readonly body: string;
  /** One field, "name:value", or "". */
  readonly field: string;
}

export interface Answer {
  readonly status: number;
  readonly length: number;
  readonly sum: string;
  readonly back: string;
}

export const patternOf = (size: number): Buffer => Buffer.from(Uint8Array.from({ length: size }, (_, i) => i % 251));
const shaOf = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");
export const sumOf = (bytes: Uint8Array): string => shaOf(bytes).slice(0, 16);

export function parsePlan(text: string): Visit[] {
  return text
    .trimEnd()
    .split("\n")
    .map((line) => {
      const [name = "", method = "", path = "", body = "", field = ""] = line.split("\t");
      return { name, method, path, body, field };
    });
}
export const writePlan = (visits: readonly Visit[]): string =>
  visits.map((v) => [v.name, v.method, v.path, v.body, v.field].join("\t")).join("\n");

/** The body to send, and whether its length is told. */
export function bodyOf(visit: Visit): { readonly bytes: Buffer; readonly told: boolean } {
  const told = !visit.body.startsWith("c");
  return { bytes: patternOf(Number(told ? visit.body : visit.body.slice(1))), told };
}

/** What a right answer to a visit is; "error": that the client notices an answer that was cut off. */
export type Expected = Answer | "error";
export interface Wanted extends Visit {
  readonly expected: Expected;
}

const text = (status: number, body: string | Uint8Array, back = ""): Answer => {
  const bytes = Buffer.from(body);
  return { status, length: bytes.length, sum: sumOf(bytes), back };
};
const wanted = (
  name: string,
  method: string,
  path: string,
  body: string,
  field: string,
  expected: Expected,
): Wanted => ({
  name,
  method,
  path,
  body,
  field,
  expected,
});
const get = (name: string, path: string, expected: Expected, field = ""): Wanted =>
  wanted(name, "GET", path, "0", field, expected);
const summed = (name: string, method: string, body: string, field = ""): Wanted => {
  const bytes = patternOf(Number(body.replace("c", "")));
  return wanted(name, method, "/sum", body, field, text(200, `${method} ${bytes.length} ${shaOf(bytes)}`));
};
const bytes = (count: number): Answer => text(200, patternOf(count));

const long = "v".repeat(6000);
const pieces = Buffer.concat(Array.from({ length: 50 }, () => patternOf(1000)));
/** For servers that are nothing but files and a configuration, such as nginx. */
export const staticVisits: readonly Wanted[] = [
  get("GET", "/bytes/1000", bytes(1000)),
  get("GET of 2 MB", "/bytes/2000000", bytes(2_000_000)),
  get("GET of nothing", "/bytes/0", bytes(0)),
  wanted("HEAD", "HEAD", "/bytes/1000", "0", "", text(200, "")),
  get("204", "/status/204", text(204, "")),
  get(
    "GET with a query and escapes",
    "/back/%41/a%2Fb?q=%20&x=a%26b&&y",
    text(200, "", "/back/%41/a%2Fb?q=%20&x=a%26b&&y"),
  ),
  get("a long field there and back", "/back", text(200, "", long), `x-there:${long}`),
  ...Array.from({ length: 10 }, (_, i) => get(`GET again ${i + 1}`, "/bytes/10", bytes(10))),
];
export const visits: readonly Wanted[] = [
  ...staticVisits,
  get("answer in pieces", "/chunks/50", text(200, pieces)),
  get("304", "/status/304", text(304, "")),
  get("404", "/status/404", text(404, "")),
  get("503", "/status/503", text(503, "")),
  summed("POST", "POST", "300000"),
  summed("POST of unknown length", "POST", "c300000"),
  summed("POST of nothing", "POST", "0"),
  summed("PUT", "PUT", "10"),
  summed("DELETE", "DELETE", "0"),
  summed("Expect: 100-continue", "POST", "50000", "expect:100-continue"),
  get("103 before the answer", "/hints", text(200, "hinted")),
  wanted("answer before the upload is done", "POST", "/early", "30000", "", text(413, "too much")),
  get("an answer that is cut off", "/cut", "error"),
  get("GET after that", "/bytes/1000", bytes(1000)),
];

/** Why the line that a client printed for a visit is wrong; undefined if it is right. */
export function faultOf(want: Wanted, line: readonly string[]): string | undefined {
  const seen = line.slice(1).join(" ");
  if (want.expected === "error") return line[1] === "error" ? undefined : `a whole answer: ${seen.slice(0, 100)}`;
  const { status, length, sum, back } = want.expected;
  const [, gotStatus, gotLength, gotSum, gotBack = ""] = line;
  if (gotStatus === "error") return seen;
  const same =
    gotStatus === `${status}` && gotLength === `${length}` && gotSum === sum && (back === "" || gotBack === back);
  return same ? undefined : `${seen.slice(0, 200)} instead of ${status} ${length} ${sum} ${back.slice(0, 50)}`;
}
