// WebSocket server made of the npm package ws: `FOLDER PORT`; every message goes back.
import { createRequire } from "node:module";
import { join } from "node:path";

const [folder, port] = process.argv.slice(2);
const { WebSocketServer } = createRequire(join(folder, "package.json"))("ws");
const server = new WebSocketServer({ perMessageDeflate: true, maxPayload: 0, port: Number(port), host: "::" });
server.on("connection", (socket) =>
  socket.on("message", (data, isBinary) => socket.send(data, { binary: isBinary })).on("error", () => {}),
);
