// Runs in a pod: one namespace's flood of a data thread. Arguments: HOST KIND CONNECTIONS; HTTP/1.1 goes to port 80, HTTP/2 to port 81. "stop" -> {opened, refused, answered, bytes}.
import { connect, type Socket } from "node:net";
import { createInterface } from "node:readline";
import { http2Flood, pour } from "./http2-flood.ts";

const [host = "", kind = "hammer", count = "200"] = process.argv.slice(2);
const say = (value: unknown): void => void process.stdout.write(`${JSON.stringify(value)}\n`);
const seen = { opened: 0, refused: 0, answered: 0, bytes: 0 };
const sockets = new Set<Socket>();
let isOver = false;

const head = "GET / HTTP/1.1\r\nhost: mixed\r\n";
const chunk = Buffer.from("1\r\nx\r\n".repeat(1000));
const pipelined = Buffer.from(`${head}\r\n`.repeat(400));
const nothing = (): void => {};

function count1(data: Buffer): void {
  seen.answered++;
  if (data.toString("latin1", 0, 12) !== "HTTP/1.1 200") seen.refused++;
}

const http1: Readonly<Record<string, (socket: Socket) => (data: Buffer) => void>> = {
  /** Requests as fast as they are answered. */
  hammer(socket) {
    socket.write(`${head}\r\n`);
    return (data) => {
      count1(data);
      socket.write(`${head}\r\n`);
    };
  },
  /** Hundreds of requests at a time, without waiting for answers. */
  pipeline(socket) {
    pour(socket, () => pipelined);
    return count1;
  },
  /** A new connection for each request. */
  connects(socket) {
    socket.write(`${head}connection: close\r\n\r\n`);
    return count1;
  },
  /** Heads byte by byte. */
  loris(socket) {
    let at = 0;
    const text = `${head}x: ${"y".repeat(10_000)}`;
    const timer = setInterval(() => socket.write(text[at++ % text.length] as string), 20);
    socket.once("close", () => clearInterval(timer));
    return count1;
  },
  /** Heads of 60 KiB without an end. */
  heads(socket) {
    socket.write(`${head}x-long: ${"x".repeat(60_000)}`);
    return count1;
  },
  /** Bodies in chunks of one byte. */
  chunks(socket) {
    socket.write("POST / HTTP/1.1\r\nhost: mixed\r\ntransfer-encoding: chunked\r\n\r\n");
    pour(socket, () => chunk);
    return count1;
  },
};

function open(): void {
  if (isOver) return;
  const one = http1[kind];
  const two = one === undefined ? http2Flood(kind) : undefined;
  const socket = connect({ host, port: two === undefined ? 80 : 81, noDelay: true });
  let take: (data: Buffer) => void = nothing;
  socket.once("connect", () => {
    seen.opened++;
    sockets.add(socket);
    take = one?.(socket) ?? two?.(socket, seen) ?? nothing;
  });
  socket.on("data", (data: Buffer) => take(data));
  socket.on("error", () => {});
  socket.once("close", () => {
    sockets.delete(socket);
    seen.bytes += socket.bytesWritten;
    setTimeout(open, kind === "connects" ? 0 : 50);
  });
}
for (let i = 0; i < Number(count); i++) setTimeout(open, i);
say({ started: true });
for await (const line of createInterface({ input: process.stdin })) if (line === "stop") break;
isOver = true;
for (const socket of sockets) seen.bytes += socket.bytesWritten - socket.writableLength;
say(seen);
process.exit(0);
