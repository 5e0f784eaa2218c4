// `PORT HOST`: lets clients of WebSocket that know HTTP/1.1 alone speak HTTP/2 to HOST: each handshake on PORT becomes an extended CONNECT of
// Node's HTTP/2, many on one connection.
import { createHash } from "node:crypto";
import { createServer } from "node:http";
import { connect } from "node:http2";

const [port, host] = process.argv.slice(2);
let session;
const sessionTo = () => {
  if (session === undefined || session.closed || session.destroyed)
    session = connect(`http://${host}`, { maxSessionMemory: 1000 }).on("error", () => {});
  return session;
};
const proofOf = (key) => createHash("sha1").update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest("base64");

createServer()
  .on("upgrade", (asked, socket, early) => {
    const line = { ":method": "CONNECT", ":protocol": "websocket", ":scheme": "http", ":authority": host };
    const stream = sessionTo().request(
      { ...line, ":path": asked.url, "sec-websocket-version": "13" },
      { endStream: false },
    );
    stream.on("error", () => socket.destroy());
    socket.on("error", () => stream.close(8));
    stream.on("response", (fields) => {
      if (fields[":status"] !== 200) return socket.end(`HTTP/1.1 ${fields[":status"]} No\r\ncontent-length: 0\r\n\r\n`);
      const proof = proofOf(asked.headers["sec-websocket-key"]);
      const own = `Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${proof}\r\n`;
      socket.write(`HTTP/1.1 101 Switching Protocols\r\n${own}\r\n`);
      if (early.length > 0) socket.unshift(early);
      socket.pipe(stream).pipe(socket);
    });
  })
  .listen(Number(port), "127.0.0.1");
