// Both ends of a WebSocket's connection in either version of HTTP, without its frames: what opens it, and a stream of bytes each way.
import { createHash } from "node:crypto";
import { once } from "node:events";
import { createServer as createHttp1, type IncomingHttpHeaders as Fields } from "node:http";
import { type ClientHttp2Session, connect as connectHttp2, createServer as createHttp2 } from "node:http2";
import { type AddressInfo, connect } from "node:net";
import type { Duplex } from "node:stream";
import type { TestContext } from "node:test";

export const exampleKey = "dGhlIHNhbXBsZSBub25jZQ==";
/** Of RFC 6455 §1.3, said again. */
export const acceptFor = (key: string): string =>
  createHash("sha1").update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest("base64");

/** What a server does with one that asks: "let in" sends 101 or 200 and these fields. */
export type Answer =
  | { readonly kind: "let in"; readonly fields?: Fields; readonly accept?: string }
  | { readonly kind: "answer"; readonly status: number; readonly body: string };
export interface ServerOptions {
  readonly answer?: (fields: Fields) => Answer;
  /** HTTP/2: it says in its settings that it takes extended CONNECT. */
  readonly advertises?: boolean;
  readonly mostStreams?: number;
}

const open = { kind: "let in" } as const;

/** A server of that version; `serve` gets the connections that it lets in. */
export async function tunnelServer(
  t: TestContext,
  version: 1 | 2,
  serve: (connection: Duplex, fields: Fields, line: string) => void,
  { answer = () => open, advertises = true, mostStreams = 100 }: ServerOptions = {},
): Promise<number> {
  const all = new Set<{ destroy(): unknown }>();
  const kept = <T extends { destroy(): unknown }>(one: T): T => {
    all.add(one);
    return one;
  };
  const server =
    version === 1
      ? createHttp1((_, response) => void response.end("a page"))
      : createHttp2({ settings: { enableConnectProtocol: advertises, maxConcurrentStreams: mostStreams } });
  if (version === 1)
    server.on("upgrade", (asked, socket: Duplex, early: Buffer) => {
      kept(socket).on("error", () => {});
      const said = answer(asked.headers);
      if (said.kind === "answer") {
        const length = Buffer.byteLength(said.body);
        socket.end(`HTTP/1.1 ${said.status} No\r\ncontent-length: ${length}\r\n\r\n${said.body}`);
        return;
      }
      const accept = said.accept ?? acceptFor(String(asked.headers["sec-websocket-key"]));
      const own = Object.entries(said.fields ?? {}).map(([name, value]) => `${name}: ${value}\r\n`);
      socket.write(
        `HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${accept}\r\n${own.join("")}\r\n`,
      );
      if (early.length > 0) socket.unshift(early);
      serve(socket, asked.headers, `${asked.method} ${asked.headers.host} ${asked.url}`);
    });
  else
    server
      .on("session", (session: ClientHttp2Session) => kept(session).on("error", () => {}))
      .on("stream", (stream, fields: Fields) => {
        stream.on("error", () => {});
        const said = answer(fields);
        if (said.kind === "answer") {
          stream.respond({ ":status": said.status });
          stream.end(said.body);
          return;
        }
        stream.respond({ ":status": 200, ...said.fields });
        const { ":method": method, ":protocol": protocol, ":authority": authority, ":path": path } = fields;
        serve(stream, fields, `${method} ${protocol ?? "-"} ${authority} ${path}`);
      });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => {
    for (const one of all) one.destroy();
    server.close();
  });
  return (server.address() as AddressInfo).port;
}

export interface Opened {
  readonly status: number;
  readonly fields: Fields;
  /** What comes behind the answer's head, and where to write to. */
  readonly connection: Duplex;
}

async function open1(t: TestContext, port: number, path: string, fields: Readonly<Record<string, string>>) {
  const socket = connect({ port, host: "127.0.0.1", allowHalfOpen: true });
  t.after(() => socket.destroy());
  socket.on("error", () => {});
  const all = {
    host: "a.test",
    connection: "Upgrade",
    upgrade: "websocket",
    "sec-websocket-key": exampleKey,
    "sec-websocket-version": "13",
    ...fields,
  };
  const lines = Object.entries(all).map(([name, value]) => (value === "" ? "" : `${name}: ${value}\r\n`));
  socket.write(`GET ${path} HTTP/1.1\r\n${lines.join("")}\r\n`);
  let head = "";
  while (!head.includes("\r\n\r\n")) {
    const [chunk] = (await once(socket, "data")) as [Buffer];
    head += chunk.toString("latin1");
  }
  socket.pause();
  const at = head.indexOf("\r\n\r\n");
  if (head.length > at + 4) socket.unshift(Buffer.from(head.slice(at + 4), "latin1"));
  const [first = "", ...rest] = head.slice(0, at).split("\r\n");
  const named = rest.map((line) => line.split(": ")).map(([name = "", value = ""]) => [name.toLowerCase(), value]);
  return { status: Number(first.split(" ")[1]), fields: Object.fromEntries(named), connection: socket };
}

/** A session of HTTP/2 whose server's settings are there. */
export async function sessionTo(t: TestContext, port: number): Promise<ClientHttp2Session> {
  const session = connectHttp2(`http://127.0.0.1:${port}`);
  session.on("error", () => {});
  t.after(() => session.destroy());
  await once(session, "remoteSettings");
  return session;
}

/** Asks on a session for the protocol; `early` goes out before the answer is there. */
export async function openOn(
  session: ClientHttp2Session,
  path: string,
  fields: Readonly<Record<string, string>> = {},
  early?: Buffer,
): Promise<Opened> {
  const line = { ":method": "CONNECT", ":protocol": "websocket", ":scheme": "http", ":authority": "a.test" };
  const asked = { ...line, ":path": path, "sec-websocket-version": "13", ...fields };
  const stream = session.request(asked, { endStream: false });
  stream.on("error", () => {});
  if (early !== undefined) stream.write(early);
  const [answer] = (await once(stream, "response")) as [Fields & { ":status": number }];
  return { status: answer[":status"], fields: answer, connection: stream };
}

/** Asks for WebSocket in that version. Fields that are "" are left out. */
export async function openTunnel(
  t: TestContext,
  version: 1 | 2,
  port: number,
  path = "/chat?room=1",
  fields: Readonly<Record<string, string>> = {},
): Promise<Opened> {
  return version === 1 ? open1(t, port, path, fields) : openOn(await sessionTo(t, port), path, fields);
}

/** What comes next. */
export async function readNext(from: Duplex): Promise<string> {
  const next = once(from, "data");
  from.resume();
  return String((await next)[0]);
}

/** Breaks off without a word. */
export function breakOff(end: Duplex, code = 10): void {
  const any = end as unknown as { close(code: number): void; resetAndDestroy?(): void };
  if (any.resetAndDestroy === undefined) any.close(code);
  else any.resetAndDestroy();
}

/** All that comes until the other side ends its own. */
export async function readAll(from: Duplex): Promise<Buffer> {
  const parts: Buffer[] = [];
  from.on("data", (part: Buffer) => parts.push(part));
  from.resume();
  await once(from, "end");
  return Buffer.concat(parts);
}
