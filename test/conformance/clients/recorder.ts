// Server that writes down every byte on 8080 and reads it by the letter of RFC 9112; a line "take" on 8090 gets what each connection brought since
// the last one, as a JSON list of latin1 texts.
import { createServer } from "node:net";
import { readStrictly } from "../../kit/strict-http1.ts";

interface Heard {
  all: string;
}
const heard = new Set<Heard>();

createServer((socket) => {
  const one: Heard = { all: "" };
  heard.add(one);
  let pending = Buffer.alloc(0);
  socket.on("error", () => {});
  socket.on("data", (data: Buffer) => {
    one.all += data.toString("latin1");
    pending = Buffer.concat([pending, data]);
    try {
      for (let first = readStrictly(pending); first !== undefined; first = readStrictly(pending)) {
        pending = pending.subarray(first.length);
        socket.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
      }
    } catch {
      // Whoever judges reads the same bytes and throws again.
      socket.destroy();
    }
  });
}).listen(8080, "::");

createServer((socket) => {
  socket.on("error", () => {});
  socket.on("data", () => {
    socket.end(`${JSON.stringify([...heard].map((h) => h.all).filter((text) => text !== ""))}\n`);
    for (const one of heard) one.all = "";
  });
}).listen(8090, "::");
