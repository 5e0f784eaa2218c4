// Clients of Node: node:http, node:http2, its own fetch, and undici over HTTP/2. Called with WHICH BASE PLAN [FOLDER OF UNDICI].
import { Agent, request as httpRequest } from "node:http";
import { connect } from "node:http2";
import { createRequire } from "node:module";
import { join } from "node:path";
import { Readable } from "node:stream";
import { bodyOf, parsePlan, sumOf, type Visit } from "./plan.ts";

interface Seen {
  readonly status: number;
  readonly bytes: Buffer;
  readonly back: string;
}
type Ask = (visit: Visit) => Promise<Seen | string>;

const [which = "", base = "", plan = "", folder = ""] = process.argv.slice(2);
const fieldsOf = (visit: Visit): Record<string, string> => {
  const at = visit.field.indexOf(":");
  return at < 0 ? {} : { [visit.field.slice(0, at)]: visit.field.slice(at + 1) };
};

function overHttp(): Ask {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  return (visit) =>
    new Promise((resolve, reject) => {
      const { bytes, told } = bodyOf(visit);
      const headers = { ...fieldsOf(visit), ...(told && bytes.length > 0 ? { "content-length": bytes.length } : {}) };
      const request = httpRequest(base + visit.path, { method: visit.method, agent, headers }, (answer) => {
        const parts: Buffer[] = [];
        answer.on("data", (b: Buffer) => parts.push(b));
        answer.on("error", reject);
        answer.on("end", () =>
          resolve({
            status: answer.statusCode ?? 0,
            bytes: Buffer.concat(parts),
            back: String(answer.headers["x-back"] ?? ""),
          }),
        );
      });
      request.on("error", reject);
      if ("expect" in headers) {
        request.on("continue", () => request.end(bytes));
        request.flushHeaders();
      } else if (told) request.end(bytes.length > 0 ? bytes : undefined);
      else {
        request.write(bytes.subarray(0, 1000));
        request.end(bytes.subarray(1000));
      }
    });
}

function overHttp2(): Ask {
  const session = connect(base);
  return (visit) =>
    new Promise((resolve, reject) => {
      const { bytes, told } = bodyOf(visit);
      if (visit.field.startsWith("expect:")) return resolve("HTTP/2 of Node has no 100-continue of its own");
      const length = told && bytes.length > 0 ? { "content-length": bytes.length } : {};
      const head = { ":method": visit.method, ":path": visit.path, ...fieldsOf(visit), ...length };
      const stream = session.request(head, { endStream: bytes.length === 0 });
      const parts: Buffer[] = [];
      let status = 0;
      let back = "";
      stream.on("response", (fields) => {
        status = Number(fields[":status"]);
        back = String(fields["x-back"] ?? "");
      });
      stream.on("data", (b: Buffer) => parts.push(b));
      stream.on("error", reject);
      stream.on("aborted", () => reject(new Error("aborted")));
      stream.on("end", () => stream.once("close", () => resolve({ status, bytes: Buffer.concat(parts), back })));
      if (bytes.length > 0) stream.end(bytes);
    });
}

async function withFetch(visit: Visit): Promise<Seen | string> {
  const { bytes, told } = bodyOf(visit);
  if (visit.field.startsWith("expect:")) return "fetch knows no Expect";
  const body = told ? bytes : (Readable.toWeb(Readable.from([bytes.subarray(0, 1000), bytes.subarray(1000)])) as never);
  const answer = await fetch(base + visit.path, {
    method: visit.method,
    headers: fieldsOf(visit),
    redirect: "manual",
    ...(bytes.length === 0 ? {} : { body, duplex: "half" }),
  } as RequestInit);
  const back = answer.headers.get("x-back") ?? "";
  return { status: answer.status, bytes: Buffer.from(await answer.arrayBuffer()), back };
}

interface Undici {
  request(
    options: object,
  ): Promise<{ statusCode: number; headers: Record<string, string>; body: { arrayBuffer(): Promise<ArrayBuffer> } }>;
}
function overUndici(): Ask {
  const load = createRequire(join(folder, "package.json"));
  const client = new (load("undici") as { H2CClient: new (origin: string) => Undici }).H2CClient(base);
  return async (visit) => {
    const { bytes, told } = bodyOf(visit);
    if (visit.field.startsWith("expect:")) return "undici knows no Expect";
    const body =
      bytes.length === 0 ? null : told ? bytes : Readable.from([bytes.subarray(0, 1000), bytes.subarray(1000)]);
    const answer = await client.request({ path: visit.path, method: visit.method, headers: fieldsOf(visit), body });
    const got = Buffer.from(await answer.body.arrayBuffer());
    return { status: answer.statusCode, bytes: got, back: answer.headers["x-back"] ?? "" };
  };
}

const ask: Ask =
  which === "http" ? overHttp() : which === "http2" ? overHttp2() : which === "undici" ? overUndici() : withFetch;
for (const visit of parsePlan(plan)) {
  const seen = await Promise.race([
    ask(visit),
    new Promise<never>((_, reject) => setTimeout(() => reject(new Error("no answer within 60 s")), 60_000)),
  ]).catch((e: Error) => e);
  const rest =
    seen instanceof Error
      ? ["error", `${seen.message} ${String((seen.cause as Error | undefined)?.message ?? "")}`.replaceAll("\n", " ")]
      : typeof seen === "string"
        ? ["cannot", seen]
        : [seen.status, seen.bytes.length, sumOf(seen.bytes), seen.back];
  console.log([visit.name, ...rest].join("\t"));
}
process.exit(0);
