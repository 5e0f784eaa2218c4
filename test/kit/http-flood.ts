// Runs in a pod: one namespace's flood of a data thread. Arguments: HOST PORT KIND CONNECTIONS. Kinds: hammer (requests as fast as they are
// answered), loris (heads byte by byte), heads (heads of 60 KiB without an end), chunks (bodies in chunks of one byte). "stop" -> {opened,
// refused, answered}.
import { connect, type Socket } from "node:net";
import { createInterface } from "node:readline";

const [host = "", port = "80", kind = "hammer", count = "200"] = process.argv.slice(2);
const say = (value: unknown): void => void process.stdout.write(`${JSON.stringify(value)}\n`);
const seen = { opened: 0, refused: 0, answered: 0 };
let isOver = false;

const head = "GET / HTTP/1.1\r\nhost: web\r\n";
const chunk = Buffer.from("1\r\nx\r\n".repeat(1000));

function begin(socket: Socket): void {
  if (kind === "hammer") socket.write(`${head}\r\n`);
  else if (kind === "heads") socket.write(`${head}x-long: ${"x".repeat(60_000)}`);
  else if (kind === "chunks") {
    socket.write("POST / HTTP/1.1\r\nhost: web\r\ntransfer-encoding: chunked\r\n\r\n");
    const more = (): void => {
      while (!socket.destroyed && socket.write(chunk));
    };
    socket.on("drain", more);
    more();
  } else {
    let at = 0;
    const text = `${head}x: ${"y".repeat(10_000)}`;
    const timer = setInterval(() => socket.write(text[at++ % text.length] as string), 20);
    socket.once("close", () => clearInterval(timer));
  }
}

function open(): void {
  if (isOver) return;
  const socket = connect({ host, port: Number(port), noDelay: true });
  socket.once("connect", () => {
    seen.opened++;
    begin(socket);
  });
  socket.on("data", (data: Buffer) => {
    seen.answered++;
    if (data.toString("latin1", 0, 12) !== "HTTP/1.1 200") seen.refused++;
    else if (kind === "hammer") begin(socket);
  });
  socket.on("error", () => {});
  socket.once("close", () => setTimeout(open, 50));
}
for (let i = 0; i < Number(count); i++) setTimeout(open, i);
say({ started: true });
for await (const line of createInterface({ input: process.stdin })) if (line === "stop") break;
isOver = true;
say(seen);
process.exit(0);
