// WebSocket server made of the npm package ws: `FOLDER PORT1 PORT2`, for HTTP/1.1 and for extended CONNECT of HTTP/2; every message goes back.
import { createServer } from "node:http2";
import { createRequire } from "node:module";
import { join } from "node:path";

const [folder, port1, port2] = process.argv.slice(2);
const { WebSocket, WebSocketServer } = createRequire(join(folder, "package.json"))("ws");
const options = { autoPong: true, maxPayload: 0, allowSynchronousEvents: true, skipUTF8Validation: false };
const echo = (socket) =>
  socket.on("message", (data, isBinary) => socket.send(data, { binary: isBinary })).on("error", () => {});

new WebSocketServer({ perMessageDeflate: true, maxPayload: 0, port: Number(port1), host: "::" }).on("connection", echo);

// ws takes any stream once the handshake is done, which over HTTP/2 is Node's part. Messages are up to 16 MiB, and Node resets new streams of a
// connection that has 10 MB in hand.
createServer({ settings: { enableConnectProtocol: true }, maxSessionMemory: 1000 })
  .on("session", (session) => session.on("error", () => {}))
  .on("stream", (stream, fields) => {
    stream.on("error", () => {});
    if (fields[":protocol"] !== "websocket") return stream.respond({ ":status": 400 }, { endStream: true });
    stream.respond({ ":status": 200 });
    const socket = new WebSocket(null, undefined, options);
    socket.setSocket(stream, Buffer.alloc(0), options);
    echo(socket);
  })
  .listen(Number(port2), "::");
