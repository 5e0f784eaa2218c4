// WebSocket peers made of the npm package ws: `serve FOLDER PORT` echoes; `visit FOLDER BASE AGENT` is taken through all cases of a fuzzing server.
import { createRequire } from "node:module";
import { join } from "node:path";

const [verb, folder, where, agent] = process.argv.slice(2);
const { WebSocket, WebSocketServer } = createRequire(join(folder, "package.json"))("ws");
const options = { perMessageDeflate: true, maxPayload: 0, skipUTF8Validation: false };
const echo = (socket) =>
  socket.on("message", (data, isBinary) => socket.send(data, { binary: isBinary })).on("error", () => {});

if (verb === "serve") new WebSocketServer({ ...options, port: Number(where), host: "::" }).on("connection", echo);
else {
  const visit = (path, each) =>
    new Promise((resolve, reject) => {
      const socket = new WebSocket(`ws://${where}${path}`, options);
      socket.on("error", (e) => (path.startsWith("/runCase") ? undefined : reject(e)));
      socket.on("close", resolve);
      each(socket);
    });
  let count = 0;
  const take = (socket) =>
    socket.on("message", (data) => {
      count = Number(data);
    });
  // The fuzzing server ends after one client, so nothing but this may ask whether it listens yet.
  for (let tries = 0; count === 0; tries++) {
    const failure = await visit("/getCaseCount", take).catch((e) => e);
    if (count === 0 && tries === 60) throw failure ?? new Error("it tells no number of cases");
    if (count === 0) await new Promise((resolve) => setTimeout(resolve, 500));
  }
  for (let i = 1; i <= count; i++) await visit(`/runCase?case=${i}&agent=${agent}`, echo);
  await visit(`/updateReports?agent=${agent}`, () => {});
  console.log(count);
}
