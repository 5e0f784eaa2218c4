// Program of pods: a server and a client of WebSocket's opening handshake in either version of HTTP, with an echo of bytes behind it.
// `serve PORT1 PORT2 NAME` speaks HTTP/1.1 and HTTP/2, `both PORT NAME` either of them on one port, HTTP/2 without extended CONNECT; `ask VERSION HOST PATH SIZE` prints status, what the server says that it was asked, and whether
// all bytes came back behind it.
import { createHash } from "node:crypto";
import { once } from "node:events";
import { createServer as createHttp1, request, type Server } from "node:http";
import { connect, createServer as createHttp2, type ServerHttp2Stream } from "node:http2";
import { createServer } from "node:net";
import type { Duplex } from "node:stream";

const [what = "", ...rest] = process.argv.slice(2);
const proofOf = (key: string): string =>
  createHash("sha1").update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest("base64");

function echo(connection: Duplex, name: string, asked: string): void {
  connection.on("error", () => {});
  connection.write(`${name} ${asked}\n`);
  connection.pipe(connection);
}

const upgrading = (name: string): Server =>
  createHttp1((_, response) => void response.end("a page")).on("upgrade", (asked, socket: Duplex, early: Buffer) => {
    const proof = proofOf(String(asked.headers["sec-websocket-key"]));
    const fields = `Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${proof}\r\n`;
    socket.write(`HTTP/1.1 101 Switching Protocols\r\n${fields}\r\n`);
    if (early.length > 0) socket.unshift(early);
    echo(socket, name, `${asked.method} ${asked.url}`);
  });

function serve(port1: number, port2: number, name: string): void {
  upgrading(name).listen(port1, "::");
  createHttp2({ settings: { enableConnectProtocol: true } })
    .on("session", (session) => session.on("error", () => {}))
    .on("stream", (stream: ServerHttp2Stream, fields) => {
      stream.respond({ ":status": fields[":protocol"] === "websocket" ? 200 : 400 });
      echo(stream, name, `${fields[":method"]} ${fields[":path"]}`);
    })
    .listen(port2, "::");
}

/** HTTP/2 is known by its preface (RFC 9113 §3.4). */
function serveBoth(port: number, name: string): void {
  const http1 = upgrading(name);
  const http2 = createHttp2((_, response) => void response.end("a page"));
  http2.on("session", (session) => session.on("error", () => {}));
  createServer((socket) => {
    socket.on("error", () => {});
    socket.once("readable", () => {
      const first: Buffer | null = socket.read();
      if (first === null) return;
      socket.unshift(first);
      (first.toString("latin1", 0, 3) === "PRI" ? http2 : http1).emit("connection", socket);
    });
  }).listen(port, "::");
}

async function opened(version: string, host: string, path: string): Promise<readonly [number, Duplex, Buffer]> {
  if (version === "2") {
    const session = connect(`http://${host}`);
    session.on("error", () => {});
    await once(session, "remoteSettings");
    const line = { ":method": "CONNECT", ":protocol": "websocket", ":scheme": "http", ":authority": host };
    const stream = session.request({ ...line, ":path": path, "sec-websocket-version": "13" }, { endStream: false });
    const [fields] = (await once(stream, "response")) as [{ ":status": number }];
    return [fields[":status"], stream, Buffer.alloc(0)];
  }
  const key = "dGhlIHNhbXBsZSBub25jZQ==";
  const headers = {
    connection: "Upgrade",
    upgrade: "websocket",
    "sec-websocket-key": key,
    "sec-websocket-version": "13",
  };
  const asking = request({ host, path, headers }).end();
  return new Promise((resolve, reject) => {
    asking.on("error", reject);
    asking.on("response", (answer) => resolve([answer.statusCode ?? 0, answer as never, Buffer.alloc(0)]));
    asking.on("upgrade", (answer, socket, early) => {
      const isProven = answer.headers["sec-websocket-accept"] === proofOf(key);
      resolve([isProven ? 101 : 0, socket, early]);
    });
  });
}

async function ask(version: string, host: string, path: string, size: number): Promise<string> {
  const [status, connection, early] = await opened(version, host, path);
  const parts = [early];
  const isOpen = status === 101 || (version === "2" && status === 200);
  const sent = Buffer.from(Uint8Array.from({ length: size }, (_, i) => i % 251));
  let line = -1;
  const all = (): Buffer => Buffer.concat(parts);
  const isWhole = (): boolean => {
    line = all().indexOf("\n");
    return line >= 0 && all().length >= line + 1 + size;
  };
  connection.on("data", (part: Buffer) => parts.push(part));
  connection.resume();
  if (!isOpen) {
    await once(connection, "end");
    return `${status} ${all().toString().trim()}`;
  }
  connection.write(sent);
  while (!isWhole()) await once(connection, "data");
  const back = all()
    .subarray(line + 1)
    .equals(sent);
  connection.end();
  await once(connection, "end");
  return `${status} ${all().subarray(0, line)} ${back}`;
}

if (what === "serve") serve(Number(rest[0]), Number(rest[1]), rest[2] ?? "");
else if (what === "both") serveBoth(Number(rest[0]), rest[1] ?? "");
else {
  console.log(await ask(rest[0] ?? "", rest[1] ?? "", rest[2] ?? "", Number(rest[3])));
  process.exit(0);
}
